// What the service costs: money a day, CPU by stage, memory by part.

import { byId, facts, h, keyed, say } from "./dom.js";
import { bytes, figure } from "./format.js";
import { PARTS, STAGES } from "./words.js";

export function costPanel() {
  const showFacts = facts(byId("cost-facts"));
  const showStages = keyed(byId("cost-stages").tBodies[0], (name, [unit]) => tableRow(STAGES[name] ?? name, 3, unit));
  const showParts = keyed(byId("cost-memory").tBodies[0], (name) => tableRow(PARTS[name] ?? name, 2, null));

  return ({ cost }) => {
    say(byId("cost-per-day"), money(cost.per_day));
    say(byId("cost-window"), `CPU of the last ${Math.max(1, Math.round(cost.window_s / 60))} min, of this process and its copies.`);
    showFacts([
      ["CPU", `${percent(cost.cpu)} of a core`],
      ["An hour of a core", money(cost.core_hour_price)],
      ["Memory of the process", bytes(cost.memory.process_bytes)],
      ["Learning uses", `${percent(cost.budget.used)} of a core`],
      ["It may use", cost.budget.learning === null ? "all it needs" : `${percent(cost.budget.learning)} of a core`, cost.budget.is_delaying],
      ["Events judged", cost.budget.judge_share === 1 ? "all" : `${percent(cost.budget.judge_share)}`, cost.budget.thinned < 1],
    ]);
    showStages(Object.entries(cost.stages).map(([name, stage]) => [name, [
      stage.unit,
      percent(stage.cpu),
      milliseconds(stage.per_1000),
      milliseconds(stage.per_1000_since_start),
    ]]));
    const parts = Object.entries(cost.memory.parts).filter(([, part]) => part.reserved >= 1_024).sort(([, a], [, b]) => b.held - a.held);
    showParts(parts.map(([name, part]) => [name, [null, bytes(part.held), bytes(part.reserved)]]));
  };
}

function tableRow(title, n, unit) {
  const cells = Array.from({ length: n }, () => h("td"));
  const row = h("tr", {}, h("th", { scope: "row" }, title, unit && h("span", { class: "hint" }, ` ${unit}`)), ...cells);
  row.update = ([, ...texts]) => texts.forEach((text, i) => say(cells[i], text));
  return row;
}

const percent = (cores) => `${(cores * 100).toFixed(cores < 0.1 ? 1 : 0)} %`;
const money = (amount) => (amount < 0.01 && amount > 0 ? "under 0.01" : amount.toFixed(2));
const milliseconds = (seconds) => (seconds === null ? "–" : figure(seconds * 1_000));
