// The one dialog: asks for a reason, and says what went wrong in the place where it did.

import { byId, say, sayError } from "./dom.js";

const dialog = byId("dialog");
const form = byId("dialog-form");
const reason = byId("dialog-reason");
const tick = byId("dialog-tick");
const go = byId("dialog-go");
const error = byId("dialog-error");
let run = null;

/**
 * Ask, and do `act(reason, isTicked)`; the dialog stays open as long as that throws.
 *
 * `tickText` is what must be ticked before, if `mustTick`, or may be.
 */
export function confirm({ title, text, label, act, isDanger = false, needsReason = true, tickText = "", mustTick = false }) {
  say(byId("dialog-title"), title);
  say(byId("dialog-text"), text);
  say(byId("dialog-tick-text"), tickText);
  say(go, label);
  go.className = isDanger ? "danger" : "primary";
  byId("dialog-reason-row").hidden = !needsReason;
  byId("dialog-tick-row").hidden = !tickText;
  reason.required = needsReason;
  tick.required = Boolean(tickText) && mustTick;
  reason.value = "";
  tick.checked = false;
  sayError(error, null);
  run = () => act(reason.value, tick.checked);
  dialog.showModal();
  (needsReason ? reason : go).focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  go.disabled = true;
  sayError(error, null);
  try {
    await run();
    dialog.close();
  } catch (problem) {
    sayError(error, problem);
  } finally {
    go.disabled = false;
  }
});
byId("dialog-cancel").addEventListener("click", () => dialog.close());
