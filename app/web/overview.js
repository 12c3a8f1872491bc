// Everything at a glance: gate, events, quality, detectors, speed, cost.

import { get, ask, post, part } from "./api.js";
import { lineChart } from "./chart.js";
import { costPanel } from "./cost.js";
import { recentDecisions } from "./decisions.js";
import { confirm } from "./dialog.js";
import { byId, facts, h, keyed, s, say, sayError } from "./dom.js";
import { ago, bytes, count, duration, figure, ms, quality, rate } from "./format.js";
import { DETECTORS, MODES, OFF, STATES, WARMING, kindName, markOf } from "./words.js";

const REPLICAS_MS = 5_000;
const VERSIONS = ["shadow", "champion", "anchor"];

export function overview(live) {
  const parts = [gate(live), events(live), versions(live), detectors(live), speed(live), service(live), costPanel(), challenger(live)];
  const showRecent = recentDecisions(live);
  const trouble = byId("trouble");

  function show() {
    if (!live.sample) return;
    say(trouble, troubleOf(live.sample));
    trouble.hidden = !trouble.textContent;
    for (const part of parts) part(live.sample);
  }
  return {
    show: () => { show(); showRecent(); },
    onSample: show,
    onDecisions: showRecent,
  };
}

function troubleOf({ stopped, store, lag_s: lag, cost: { budget } }) {
  if (stopped) return `This process has stopped learning. ${stopped}`;
  if (store !== "up") return "The store does not answer: lists are served from memory, feedback is refused.";
  if (budget.is_delaying) return `Learning is delayed by its budget: lists are as of ${duration(lag)} ago. What is posted is kept, and learned later.`;
  return lag > 10 ? `This process is ${duration(lag)} behind the log.` : "";
}

// -- gate -----------------------------------------------------------------------------------------

const ACTIONS = [
  ["freeze", "Freeze", { text: "Nothing is promoted until you resume. People's own histories stay live, and a harm alarm still rolls back." }],
  ["shadow_only", "Shadow only", { text: "Everything is measured, nothing is promoted, until you resume." }],
  ["resume", "Resume", { text: "Promotions go on." }],
  ["promote", "Promote", { text: "Everybody is served what the shadow is now.", tickText: "Even against the gate's advice (in ask, in hold, frozen, or at low overlap)", isDanger: true }],
  ["rollback", "Roll back", { text: "Champion and shadow go back to the anchor. What was learned since is set aside, and can be requeued.", tickText: "I know that everybody is served the anchor from then on", mustTick: true, isDanger: true }],
];

function gate(live) {
  const panel = byId("gate-title").closest(".panel");
  const showFacts = facts(byId("gate-facts"));
  const buttons = Object.fromEntries(ACTIONS.map(([action, label, about]) => {
    const act = async (reason, isForced) => {
      const body = action === "promote" ? { reason, force: isForced } : { reason };
      live.add((await post(`v1/model/${action}`, body)).decisions);
    };
    const onclick = () => confirm({ title: `${label}?`, label, act, ...about });
    return [action, h("button", { type: "button", onclick }, label)];
  }));
  byId("gate-actions").append(...Object.values(buttons));
  let told = "";

  return ({ gate: now, at, versions: all }) => {
    panel.dataset.state = now.state;
    const name = now.state.replace(/^./, (c) => c.toUpperCase());
    say(byId("gate-state"), name);
    say(byId("gate-why"), why(now));
    const promoted = live.decisions.find(({ kind }) => kind === "promote");
    showFacts([
      ["Mode", MODES[now.mode], now.mode !== "normal"],
      ["Version", `${count(now.version)}${promoted ? `, ${ago(promoted.at, at)}` : ""}`],
      ["Anchor is behind by", `${count(all.anchor.age_events)} events`],
      ["Blessings", count(now.blessings)],
      ["Set aside", now.set_aside.length ? `${count(now.set_aside.reduce((n, [a, b]) => n + b - a + 1, 0))} events` : "nothing", now.set_aside.length],
      ["Suspects", now.suspects.length ? now.suspects.join(", ") : "none", now.suspects.length],
    ]);
    buttons.freeze.disabled = now.mode === "frozen";
    buttons.shadow_only.disabled = now.mode === "shadow_only";
    buttons.resume.disabled = now.mode === "normal";
    const news = `The gate is ${now.state}, the mode ${now.mode.replace("_", " ")}.`;
    if (told && told !== news) say(byId("gate-news"), news); // read out, when it changes
    told = news;
  };
}

function why(now) {
  if (now.reason === "warming") return WARMING;
  if (now.reason === "off") return OFF;
  const reason = now.reason ? ` (${now.reason})` : "";
  const hold = now.hold?.credits !== undefined ? ` ${now.hold.credits} clicks counted.` : "";
  return `${STATES[now.state]}${reason}${hold}`;
}

// -- events ---------------------------------------------------------------------------------------

function events(live) {
  const showFacts = facts(byId("events-facts"));
  const draw = lineChart(byId("events-chart"), {
    height: 120,
    isFromZero: true,
    hasArea: true,
    format: (value) => rate(value),
    lines: [
      { key: "learned_per_second", name: "learned", kind: "main" },
      { key: "quarantined_per_second", name: "quarantined", kind: "second" },
    ],
  });
  return ({ events: { total, per_second: perSecond } }) => {
    const all = Object.values(perSecond).reduce((sum, n) => sum + n, 0);
    say(byId("events-rate"), rate(all));
    showFacts(Object.keys(total).map((status) => {
      const name = status.replace(/^./, (c) => c.toUpperCase());
      return [name, `${rate(perSecond[status])}/s of ${count(total[status])}`, status === "quarantined" && perSecond[status] > 0.1 * all];
    }));
    draw({ points: live.points, span: 900, label: `Events a second over the last 15 minutes; now ${rate(all)}.` });
  };
}

// -- quality --------------------------------------------------------------------------------------

function versions(live) {
  const metric = byId("quality-metric");
  const range = byId("quality-range");
  const format = (value, step = 0) => value.toFixed(step >= 0.1 ? 1 : step >= 0.01 ? 2 : 3);
  const charts = {};
  for (const name of ["hr_20", "dcg_20"]) {
    const box = h("div");
    byId("quality-chart").append(box);
    const lines = ["anchor", "shadow", "champion"].map((version) => ({ key: `${version}_${name}`, name: version, kind: version }));
    charts[name] = { box, draw: lineChart(box, { height: 230, lines, format }) };
  }
  const rows = keyed(byId("versions").tBodies[0], (version) => {
    const cells = Array.from({ length: 5 }, () => h("td"));
    const row = h("tr", {}, h("th", { scope: "row" }, h("span", { class: `swatch ${version}` }), version), ...cells);
    row.update = (texts) => texts.forEach((text, i) => say(cells[i], text));
    return row;
  });

  function show() {
    const sample = live.sample;
    if (!sample) return;
    rows(VERSIONS.map((version) => {
      const v = sample.versions[version];
      const figures = v.judged ? [v.hr_20, v.dcg_20, v.mrr_20, v.reward_10].map(quality) : ["–", "–", "–", "–"];
      return [version, [...figures, v.age_events ? `${count(v.age_events)} events` : "–"]];
    }));
    for (const [name, { box, draw }] of Object.entries(charts)) {
      box.hidden = name !== metric.value;
      if (box.hidden) continue;
      const label = `${metric.selectedOptions[0].text} of shadow, champion and anchor, ${range.selectedOptions[0].text}. The table below has the figures of now.`;
      // Before the first judged events there is no quality; 0 would be a claim.
      const points = live.points.filter((point) => point[`shadow_${name}`] > 0 || point[`champion_${name}`] > 0);
      draw({ points: points.map((point) => ({ ...point, [`anchor_${name}`]: point[`anchor_${name}`] || null })), span: Number(range.value), bands: bands(live.points), marks: marks(live.decisions), label });
    }
  }
  metric.addEventListener("change", show);
  range.addEventListener("change", show);
  return show;
}

function marks(decisions) {
  return decisions
    .map((decision) => ({ at: decision.at, kind: markOf(decision.kind), text: `${kindName(decision.kind)}: ${decision.reason}` }))
    .filter(({ kind }) => kind);
}

/** When the gate was not open, as stretches of time. */
function bands(points) {
  const found = [];
  for (const { at, state } of points) {
    const last = found.at(-1);
    if (last && last.isOpen) {
      last.to = at;
      last.isOpen = last.kind === state;
    }
    if (state !== "open" && !(last && last.isOpen)) found.push({ from: at, to: at, kind: state, isOpen: true });
  }
  return found;
}

// -- detectors ------------------------------------------------------------------------------------

function detectors() {
  const show = keyed(byId("detectors"), (name) => (name.endsWith("*") ? groupRow(name) : DETECTORS[name] && name.startsWith("adwin") ? driftRow(name) : gaugeRow(name)));
  return ({ detectors: all }) => {
    const gauges = all.filter(({ threshold }) => threshold !== null);
    const drifts = all.filter(({ threshold }) => threshold === null);
    show([
      ...gauges.map((detector) => [detector.name, detector]),
      ["Drift: rings at a change, whatever the level*", null],
      ...drifts.map((detector) => [detector.name, detector]),
    ]);
  };
}

function groupRow(name) {
  const row = h("li", { class: "group" }, name.slice(0, -1));
  row.update = () => {};
  return row;
}

function gaugeRow(name) {
  const title = DETECTORS[name] ?? name;
  const value = h("span");
  const fill = h("div", { class: "gauge-fill" });
  const ticks = s("svg", { class: "gauge-ticks", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const bar = h("div", { class: "gauge-bar", role: "meter", "aria-label": title, "aria-valuemin": "0" }, fill, ticks);
  const row = h("li", {}, h("div", { class: "gauge-head" }, h("span", {}, title), value), bar);
  row.update = ({ statistic, threshold, armed }) => {
    const share = Math.min(1, Math.log10(1 + statistic) / Math.log10(1 + threshold));
    const text = armed ? `${figure(statistic)} of ${figure(threshold)}` : "not armed";
    say(value, text);
    fill.style.setProperty("transform", `scaleX(${armed ? share.toFixed(3) : 0})`);
    fill.classList.toggle("near", share >= 0.8 && share < 1);
    fill.classList.toggle("over", share >= 1);
    row.classList.toggle("unarmed", !armed);
    bar.setAttribute("aria-valuemax", threshold);
    bar.setAttribute("aria-valuenow", Math.min(statistic, threshold));
    bar.setAttribute("aria-valuetext", text);
    if (!ticks.firstChild) {
      for (let power = 1; power < Math.log10(1 + threshold); power += 1) {
        const x = (power / Math.log10(1 + threshold)) * 100;
        ticks.append(s("path", { d: `M${x} 0V1`, "vector-effect": "non-scaling-stroke" }));
      }
    }
  };
  return row;
}

function driftRow(name) {
  const value = h("span");
  const row = h("li", {}, h("div", { class: "gauge-head" }, h("span", {}, DETECTORS[name]), value));
  row.update = ({ statistic, armed }) => {
    say(value, armed ? `mean ${figure(statistic)}` : "not armed");
    row.classList.toggle("unarmed", !armed);
  };
  return row;
}

// -- speed, service, challenger -----------------------------------------------------------------

const SPEEDS = [
  ["recommend", "A list (GET)"],
  ["feedback", "Feedback (POST)"],
  ["freshness", "Until it is felt"],
];

function speed(live) {
  const rows = keyed(byId("speed").tBodies[0], (name) => {
    const cells = [h("td"), h("td"), h("td")];
    const row = h("tr", {}, h("th", { scope: "row" }, SPEEDS.find(([key]) => key === name)[1]), ...cells);
    row.update = (texts) => texts.forEach((text, i) => say(cells[i], text));
    return row;
  });
  const showFacts = facts(byId("speed-facts"));
  const draw = lineChart(byId("speed-chart"), {
    height: 110,
    isFromZero: true,
    format: (value) => ms(value).replace(".0", ""),
    lines: [
      { key: "recommend_p99_ms", name: "list", kind: "main" },
      { key: "freshness_p99_ms", name: "felt", kind: "anchor" },
    ],
  });
  return ({ latency, lag_s: lag }) => {
    rows(SPEEDS.map(([name]) => [name, [ms(latency[name].p50_ms), ms(latency[name].p99_ms), rate(latency[name].per_second)]]));
    showFacts([["Behind the log", lag < 0.05 ? "no" : `${lag.toFixed(1)} s`, lag > 5]]);
    draw({ points: live.points, span: 900, label: "Slowest one in a hundred over the last 15 minutes: lists, and until feedback is felt." });
  };
}

function service(live) {
  const showFacts = facts(byId("service-facts"));
  const error = byId("replicas-error");
  const rows = keyed(byId("replicas"), () => {
    const name = h("span");
    const about = h("span", { class: "hint" });
    const row = h("li", {}, name, about);
    row.update = ({ host, pid, lag_s: lag, stopped }) => {
      say(name, `${host}, process ${pid}`);
      say(about, stopped ? "stopped" : lag < 0.05 ? "up to date" : `${lag.toFixed(1)} s behind`);
    };
    return row;
  });
  let askedAt = 0;

  async function readReplicas() {
    try {
      const { replicas } = await get("v1/replicas");
      rows(replicas.map((replica) => [replica.name, replica]));
      sayError(error, null);
    } catch (problem) {
      sayError(error, problem);
    }
  }

  return ({ process, users, items, semantics, store }) => {
    showFacts([
      ["CPU, last 10 s", `${(process.cpu * 100).toFixed(0)} % of a core`],
      ["Memory", bytes(process.memory_bytes)],
      ["Users", count(users)],
      ["Items", count(items)],
      ["Store", store, store !== "up"],
      ["Semantics", String(semantics)],
    ]);
    if (Date.now() - askedAt > REPLICAS_MS) {
      askedAt = Date.now();
      void readReplicas();
    }
  };
}

function challenger(live) {
  const panel = byId("challenger-panel");
  const showFacts = facts(byId("challenger-facts"));
  const adopt = () => confirm({
    title: "Adopt the challenger?", label: "Adopt", isDanger: true,
    text: "It takes the place of the champion's learner, for everybody.",
    tickText: "Even though it is not proven",
    act: async (reason, force) => live.add((await post("v1/model/adopt", { reason, force })).decisions),
  });
  const stop = () => confirm({
    title: "Stop the challenger?", label: "Stop it", isDanger: true,
    text: "What it has learned is forgotten.",
    act: async (reason) => live.add((await ask("DELETE", `v1/model/challenger?reason=${part(reason)}`)).decisions),
  });
  byId("challenger-actions").append(
    h("button", { type: "button", onclick: adopt }, "Adopt"),
    h("button", { type: "button", onclick: stop }, "Stop it"),
  );
  return ({ challenger: running }) => {
    panel.hidden = !running;
    if (!running) return;
    const dcg = (name) => running.prequential[name]?.recent.dcg_20 ?? 0;
    showFacts([
      ["Number", count(running.number)],
      ["Otherwise", Object.entries(running.changes).map(([name, value]) => `${name}: ${value}`).join(", ")],
      ["Verdict", running.verdict],
      ["Better", `${figure(running.statistic)} of ${figure(running.threshold)}`],
      ["Worse", `${figure(running.statistic_worse)} of ${figure(running.threshold)}`],
      ["DCG@20, its and the champion's", `${quality(dcg("challenger"))}, ${quality(dcg("champion"))}`],
      ["Learned", `${count(running.learned)} events`],
    ]);
  };
}
