// Decisions as a list, with the numbers that each was made by.

import { get } from "./api.js";
import { byId, h, sayError } from "./dom.js";
import { figure, moment } from "./format.js";
import { isRoutine, kindName, tone } from "./words.js";

const SHOWN = 200;

export function decisionRow(decision, { isShort = false } = {}) {
  const at = new Date(decision.at);
  const asked = decision.asked_by === "gate" ? "" : ` (${decision.asked_by})`;
  const head = h(
    "div", { class: "decision-head" },
    h("span", { class: `tag ${tone(decision.kind)}` }, kindName(decision.kind)),
    h("span", { class: "decision-reason" }, `${decision.reason}${asked}`),
    h("time", { dateTime: at.toISOString(), title: `event ${decision.event}` }, moment(at)),
  );
  const row = h("li", {}, head);
  if (!isShort) row.append(evidence(decision));
  row.update = () => {};
  return row;
}

function evidence(decision) {
  const rows = { number: decision.number, event: decision.event, cursor: decision.cursor, ...decision.evidence };
  const list = h("dl", { class: "evidence" });
  for (const [name, value] of Object.entries(rows)) {
    list.append(h("dt", {}, name), h("dd", {}, typeof value === "object" ? JSON.stringify(value) : figure(value)));
  }
  return h("details", {}, h("summary", {}, "Evidence"), list);
}

export function decisionsView(live) {
  const list = byId("decisions-list");
  const withRoutine = byId("decisions-quiet");
  const error = byId("decisions-error");
  const older = byId("decisions-older");
  let drawn = "";
  let nMore = 0;

  function show() {
    const wanted = live.decisions.filter(({ kind }) => withRoutine.checked || !isRoutine(kind));
    const rows = wanted.slice(0, SHOWN + nMore);
    const key = rows.map(({ number }) => number).join();
    older.hidden = !(live.decisions.at(-1)?.number > 1);
    if (key === drawn) return;
    drawn = key;
    const isOpen = new Set([...list.querySelectorAll("details[open]")].map((node) => node.closest("li").dataset.number));
    list.replaceChildren(...rows.map((decision) => {
      const row = decisionRow(decision);
      row.dataset.number = decision.number;
      if (isOpen.has(String(decision.number))) row.querySelector("details").open = true;
      return row;
    }));
    if (!rows.length) {
      const nPromotions = live.decisions.length;
      list.append(h("li", { class: "empty" }, nPromotions
        ? `Nothing but ${nPromotions} routine promotions.`
        : "Nothing was decided yet: the gate first warms up."));
    }
  }

  withRoutine.addEventListener("change", show);
  older.addEventListener("click", async () => {
    try {
      const page = await get("v1/decisions", { n: 200, cursor: live.decisions.at(-1)?.number });
      nMore += page.decisions.length;
      live.add(page.decisions);
      older.hidden = page.next === null;
      sayError(error, null);
    } catch (problem) {
      sayError(error, problem);
    }
  });
  return { show, onDecisions: show };
}

export function recentDecisions(live) {
  const list = byId("recent");
  return () => {
    const rows = live.decisions.filter(({ kind }) => !isRoutine(kind)).slice(0, 6);
    list.replaceChildren(...rows.map((decision) => decisionRow(decision, { isShort: true })));
    if (!rows.length) list.append(h("li", { class: "empty" }, "None but routine promotions."));
  };
}
