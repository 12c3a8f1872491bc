// Decisions as a list, with the numbers that each was made by.

import { get } from "./api.js";
import { byId, h, keyed, sayError } from "./dom.js";
import { figure, moment } from "./format.js";
import { timed } from "./live.js";
import { ROUTINE, isRoutine, kindName, tone } from "./words.js";

const PAGE = 100;
const MOST = 2_000;

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
  row.update = () => {}; // what was decided stays as it is
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
  const withRoutine = byId("decisions-routine");
  const error = byId("decisions-error");
  const older = byId("decisions-older");
  const show = keyed(list, (_, decision) => decisionRow(decision));
  const rows = new Map();
  let next = null;

  const isWanted = ({ kind }) => withRoutine.checked || !isRoutine(kind);

  async function read(cursor) {
    try {
      const without = withRoutine.checked ? [] : ROUTINE;
      const page = await get("v1/decisions", { n: PAGE, cursor, without });
      if (!cursor) rows.clear();
      for (const decision of page.decisions) rows.set(decision.number, timed(decision));
      next = page.next;
      sayError(error, null);
    } catch (problem) {
      sayError(error, problem);
    }
    draw();
  }

  function draw() {
    const newestFirst = [...rows.values()].sort((a, b) => b.number - a.number);
    show(newestFirst.map((decision) => [decision.number, decision]));
    byId("decisions-none").hidden = newestFirst.length > 0;
    older.hidden = next === null;
  }

  /** Take what has just been decided; the list of who watches for days stays bounded. */
  function takeNew() {
    const newest = Math.max(0, ...rows.keys());
    for (const decision of live.decisions) {
      if (decision.number > newest && isWanted(decision)) rows.set(decision.number, decision);
    }
    for (const number of [...rows.keys()].sort((a, b) => a - b).slice(0, -MOST)) rows.delete(number);
    draw();
  }

  withRoutine.addEventListener("change", () => read(null));
  older.addEventListener("click", () => read(next));
  return { show: () => read(null), onDecisions: takeNew };
}

export function recentDecisions(live) {
  const list = byId("recent");
  return () => {
    const rows = live.decisions.filter(({ kind }) => !isRoutine(kind)).slice(0, 6);
    list.replaceChildren(...rows.map((decision) => decisionRow(decision, { isShort: true })));
    if (!rows.length) list.append(h("li", { class: "empty" }, "None but routine promotions."));
  };
}
