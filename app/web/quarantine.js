// Events that were not learned: look, and learn one after all.

import { get, part, post } from "./api.js";
import { confirm } from "./dialog.js";
import { byId, h, say, sayError } from "./dom.js";
import { count, moment } from "./format.js";

const PAGE = 100;
const MOST = 2_000;

export function quarantineView() {
  const body = byId("quarantine-table").tBodies[0];
  const reason = byId("quarantine-reason");
  const status = byId("quarantine-status");
  const error = byId("quarantine-error");
  const older = byId("quarantine-older");
  let records = [];
  let next = null;

  async function read(cursor) {
    try {
      const page = await get("v1/quarantine", { n: PAGE, cursor });
      records = cursor ? [...records, ...page.records].slice(-MOST) : page.records;
      next = page.next;
      sayError(error, null);
    } catch (problem) {
      sayError(error, problem);
    }
    draw();
  }

  function draw() {
    const reasons = [...new Set(records.map((record) => record.reason))].sort();
    const chosen = reasons.includes(reason.value) ? reason.value : "";
    reason.replaceChildren(h("option", { value: "" }, "any"), ...reasons.map((name) => h("option", { value: name }, name)));
    reason.value = chosen;
    const shown = records.filter((record) => !chosen || record.reason === chosen);
    body.replaceChildren(...shown.map(row));
    if (!shown.length) body.append(h("tr", {}, h("td", { class: "empty", colSpan: 6 }, "Nothing is in quarantine. What cannot be learned from will be here, with its reason.")));
    older.hidden = next === null;
  }

  function row(record) {
    const { user_id: user = "–", item_id: item = "–", type = "–" } = record.event ?? {};
    const about = [user, item, type].map(String);
    const release = () => confirm({
      title: "Learn this event after all?",
      text: `${about[2]} of ${about[0]} on ${about[1]}. It was refused: ${record.message ?? record.reason}.`,
      label: "Learn it",
      needsReason: false,
      act: () => learn(record),
    });
    return h(
      "tr", {},
      h("td", {}, h("span", { class: "tag warn", title: record.message ?? "" }, record.reason)),
      ...about.map((text) => h("td", { class: "id" }, text)),
      h("td", {}, moment(Number(record.id.split("-")[0]))),
      h("td", {}, h("button", { type: "button", "aria-label": `Release the ${about[2]} of ${about[0]} on ${about[1]}`, onclick: release }, "Release")),
    );
  }

  async function learn(record) {
    const { results } = await post(`v1/quarantine/${part(record.id)}/release`);
    const [{ status: outcome, reason: why }] = results;
    if (outcome === "quarantined" || outcome === "late") throw new Error(`It was refused again: ${why ?? outcome}.`);
    records = records.filter(({ id }) => id !== record.id);
    say(status, outcome === "learned" ? "It was learned." : `It is a ${outcome}: nothing changed.`);
    draw();
  }

  reason.addEventListener("change", draw);
  byId("quarantine-refresh").addEventListener("click", async () => {
    await read(null);
    say(status, `${count(records.length)} shown.`);
  });
  older.addEventListener("click", () => read(next));
  return { show: () => read(null) };
}
