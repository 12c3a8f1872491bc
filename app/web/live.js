// What the service says of itself, as it happens; and what it said in the last hour, here only.

import { get } from "./api.js";
import { ROUTINE, isRoutine } from "./words.js";

const HOUR_MS = 3_600_000;
const FINE_MS = 300_000;
const COARSE_MS = 9_500;
// Promotions may come every second, and are drawn a few pixels apart.
const KEPT = { routine: 300, other: 1_000 };
const SILENT_MS = 8_000;
const RETRY_MS = 3_000;

/**
 * Keeps the newest sample, points of the last hour and the decisions, all of them bounded.
 *
 * Fires `sample`, `decisions` and `connection`; `connection` is connecting, live or lost.
 */
export class Live extends EventTarget {
  sample = null;
  points = [];
  decisions = [];
  connection = "connecting";
  #source = null;
  #heardAt = 0;
  #timer = null;
  #isWanted = false;

  start() {
    this.#isWanted = true;
    this.#open();
    this.#timer ??= setInterval(() => this.#look(), 1_000);
  }

  stop() {
    this.#isWanted = false;
    this.#source?.close();
    clearInterval(this.#timer);
    this.#timer = null;
  }

  #open() {
    this.#source?.close();
    this.#heardAt = Date.now();
    const source = new EventSource("v1/stream");
    source.addEventListener("open", () => this.#readDecisions());
    source.addEventListener("history", (event) => this.#takeHistory(JSON.parse(event.data)));
    source.addEventListener("metrics", (event) => this.#takeSample(JSON.parse(event.data)));
    source.addEventListener("decision", (event) => this.add([JSON.parse(event.data)]));
    source.addEventListener("error", () => this.#fail(source));
    this.#source = source;
  }

  /** The browser tries again by itself, unless it was refused: then we do. */
  #fail(source) {
    this.#set("lost");
    if (source.readyState !== EventSource.CLOSED || source !== this.#source) return;
    setTimeout(async () => {
      if (!this.#isWanted || source !== this.#source) return;
      await get("v1/decisions", { n: 1 }).catch(() => {}); // says if it is a key that is missing
      if (this.#isWanted) this.#open();
    }, RETRY_MS);
  }

  /** A connection may die without a word. */
  #look() {
    if (this.connection === "live" && Date.now() - this.#heardAt > SILENT_MS) {
      this.#set("lost");
      this.#open();
    }
  }

  #set(connection) {
    if (this.connection === connection) return;
    this.connection = connection;
    this.dispatchEvent(new Event("connection"));
  }

  async #readDecisions() {
    try {
      const pages = await Promise.all([
        get("v1/decisions", { n: KEPT.routine }),
        get("v1/decisions", { n: KEPT.routine, without: ROUTINE }),
      ]);
      this.add(pages.flatMap((page) => page.decisions));
    } catch {
      // The stream goes on, and brings what is new.
    }
  }

  /** Take decisions, in any order, known ones among them. */
  add(decisions) {
    const byNumber = new Map(this.decisions.map((decision) => [decision.number, decision]));
    for (const decision of decisions) byNumber.set(decision.number, timed(decision));
    const newestFirst = [...byNumber.values()].sort((a, b) => b.number - a.number);
    // However many promotions there are, what matters is kept.
    const left = { ...KEPT };
    this.decisions = newestFirst.filter(({ kind }) => left[isRoutine(kind) ? "routine" : "other"]-- > 0);
    this.dispatchEvent(new Event("decisions"));
  }

  #takeHistory({ columns, rows }) {
    const past = rows.map((row) => {
      const { time, ...point } = Object.fromEntries(columns.map((name, i) => [name, row[i]]));
      return { ...point, at: Date.parse(time) };
    });
    const last = past.at(-1)?.at ?? 0;
    const first = past[0]?.at ?? Infinity;
    const ours = this.points.filter((point) => point.at < first || point.at > last);
    this.points = [...past, ...ours].sort((a, b) => a.at - b.at);
  }

  #takeSample(sample) {
    this.#heardAt = Date.now();
    this.#set("live");
    this.sample = { ...sample, at: Date.parse(sample.time) };
    if (this.sample.at > (this.points.at(-1)?.at ?? 0)) this.points.push(pointOf(this.sample));
    this.points = thinned(this.points, this.sample.at);
    this.dispatchEvent(new Event("sample"));
  }
}

/** A decision, with its time as a number. */
export const timed = (decision) => ({ ...decision, at: Date.parse(decision.time) });

/** A sample in the form of the service's history. */
function pointOf(sample) {
  const point = { at: sample.at, state: sample.gate.state, lag_s: sample.lag_s, cpu: sample.process.cpu };
  for (const [name, version] of Object.entries(sample.versions)) {
    point[`${name}_hr_20`] = version.hr_20;
    point[`${name}_dcg_20`] = version.dcg_20;
  }
  for (const [status, value] of Object.entries(sample.events.per_second)) point[`${status}_per_second`] = value;
  point.recommend_per_second = sample.latency.recommend.per_second;
  point.recommend_p99_ms = sample.latency.recommend.p99_ms;
  point.freshness_p99_ms = sample.latency.freshness.p99_ms;
  return point;
}

/** The last five minutes second by second, before that a point every ten seconds, and one hour. */
function thinned(points, now) {
  let last = -Infinity;
  return points.filter(({ at }) => {
    if (at < now - HOUR_MS) return false;
    if (at < now - FINE_MS && at - last < COARSE_MS) return false;
    last = at;
    return true;
  });
}
