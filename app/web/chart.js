// Lines over time, as SVG: small enough to be ours, styled by the style sheet, sharp at any size.

import { s, h } from "./dom.js";
import { clock, minutes } from "./format.js";

// A page that has just been opened has little to show: the axis grows with it.
const LEAST_MS = 60_000;
const PAD = { left: 44, right: 8, top: 8, bottom: 22 };

/**
 * Make a picture in `parent`.
 *
 * `lines`: [{ key, name, kind }] of the points; `format`: a value as text; `isFromZero`: where the
 * axis begins. `update({ points, span, bands, marks, label })` draws it.
 */
export function lineChart(parent, { lines, height, format, isFromZero = false, hasArea = false }) {
  const svg = s("svg", { height, role: "img" });
  const under = s("g");
  const ruled = s("g");
  const area = s("path", { class: "area" });
  const paths = lines.map(({ kind }) => s("path", { class: `line ${kind}` }));
  const over = s("g");
  const cross = s("path", { class: "cross" });
  const readout = h("p", { class: "readout", hidden: true, "aria-hidden": "true" });
  svg.append(under, ruled, ...(hasArea ? [area] : []), ...paths, over, cross);
  parent.append(svg, readout);

  let drawn = null;
  let pointerX = null;

  function update(given) {
    const width = parent.clientWidth;
    if (!width) return;
    const { points, span, bands = [], marks = [], label } = given;
    const end = points.at(-1)?.at ?? Date.now();
    const begin = Math.max(end - span * 1_000, Math.min(points[0]?.at ?? end, end - LEAST_MS));
    const seen = points.filter(({ at }) => at >= begin);
    const [low, high, step] = scale(seen, lines, isFromZero);
    const x = (at) => PAD.left + ((at - begin) / (end - begin)) * (width - PAD.left - PAD.right);
    const y = (value) => height - PAD.bottom - ((value - low) / (high - low)) * (height - PAD.top - PAD.bottom);
    drawn = { given, seen, x, y, width, begin, end };

    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", label);
    under.replaceChildren(...bands.map(({ from, to, kind }) => band(x(Math.max(from, begin)), x(Math.min(to, end)), kind)));
    ruled.replaceChildren(...rules(low, high, step, y, width, format), ...times(begin, end, x));
    lines.forEach(({ key }, i) => paths[i].setAttribute("d", line(seen, key, x, y)));
    if (hasArea) area.setAttribute("d", filled(seen, lines[0].key, x, y, height - PAD.bottom));
    over.replaceChildren(...thinned(marks, begin, end, x).map((mark) => symbol(mark, x(mark.at), height)));
    point();
  }

  const band = (from, to, kind) => s("rect", { class: `band-${kind}`, x: from, width: Math.max(1, to - from), y: PAD.top, height: height - PAD.top - PAD.bottom });

  /** Say what was at the pointer. */
  function point() {
    const nearest = pointerX === null || !drawn ? null : closest(drawn.seen, drawn.x, pointerX);
    readout.hidden = !nearest;
    cross.setAttribute("d", nearest ? `M${drawn.x(nearest.at)} ${PAD.top}V${height - PAD.bottom}` : "");
    if (!nearest) return;
    const values = lines.filter(({ key }) => nearest[key] !== null && nearest[key] !== undefined);
    readout.textContent = [clock(nearest.at), ...values.map(({ key, name }) => `${name} ${format(nearest[key])}`)].join(" · ");
    const left = drawn.x(nearest.at);
    readout.style.setProperty("left", left < drawn.width / 2 ? `${left + 8}px` : "auto");
    readout.style.setProperty("right", left < drawn.width / 2 ? "auto" : `${drawn.width - left + 8}px`);
  }

  svg.addEventListener("pointermove", (event) => {
    pointerX = event.clientX - svg.getBoundingClientRect().left;
    point();
  });
  svg.addEventListener("pointerleave", () => {
    pointerX = null;
    point();
  });
  new ResizeObserver(() => drawn && update(drawn.given)).observe(parent);
  return update;
}

function closest(points, x, at) {
  let best = null;
  for (const each of points) {
    if (!best || Math.abs(x(each.at) - at) < Math.abs(x(best.at) - at)) best = each;
  }
  return best;
}

/** The axis: from, to, and the step of its rules, all of them round numbers. */
function scale(points, lines, isFromZero) {
  const values = points.flatMap((each) => lines.map(({ key }) => each[key])).filter((value) => Number.isFinite(value));
  let low = isFromZero || !values.length ? 0 : Math.min(...values);
  let high = values.length ? Math.max(...values) : 1;
  if (high - low < 1e-9) high = low + (isFromZero ? 1 : 0.02);
  const raw = (high - low) / 3;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = size * [1, 2, 5, 10].find((factor) => size * factor >= raw);
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  return [low, high, step];
}

function rules(low, high, step, y, width, format) {
  const nodes = [];
  for (let value = low; value <= high + step / 2; value += step) {
    const at = Math.round(y(value)) + 0.5;
    nodes.push(s("path", { class: "grid-line", d: `M${PAD.left} ${at}H${width - PAD.right}` }));
    nodes.push(s("text", { x: PAD.left - 8, y: at + 4, "text-anchor": "end" }, format(value, step)));
  }
  return nodes;
}

function times(begin, end, x) {
  const every = [60_000, 300_000, 900_000].find((step) => (end - begin) / step <= 6.5);
  const nodes = [];
  for (let at = Math.ceil(begin / every) * every; at <= end; at += every) {
    const place = x(at);
    const anchor = place > x(end) - 16 ? "end" : "middle";
    nodes.push(s("text", { x: place, y: "100%", dy: -4, "text-anchor": anchor }, minutes.format(at)));
  }
  return nodes;
}

/** A path through the points; a gap where there is no value, or nothing was heard for a minute. */
function line(points, key, x, y) {
  let path = "";
  let last = null;
  for (const each of points) {
    const value = each[key];
    if (!Number.isFinite(value)) continue;
    const isGap = last === null || each.at - last > 60_000;
    path += `${isGap ? "M" : "L"}${x(each.at).toFixed(1)} ${y(value).toFixed(1)}`;
    last = each.at;
  }
  return path;
}

function filled(points, key, x, y, floor) {
  const known = points.filter((each) => Number.isFinite(each[key]));
  if (known.length < 2) return "";
  const top = known.map((each) => `L${x(each.at).toFixed(1)} ${y(each[key]).toFixed(1)}`).join("");
  return `M${x(known[0].at).toFixed(1)} ${floor}${top}L${x(known.at(-1).at).toFixed(1)} ${floor}Z`;
}

/** Of many marks of a kind, one for each few pixels. */
function thinned(marks, begin, end, x) {
  const last = {};
  return marks
    .filter(({ at }) => at >= begin && at <= end)
    .sort((a, b) => a.at - b.at)
    .filter(({ at, kind }) => {
      const place = x(at);
      if (kind in last && place - last[kind] < (kind === "promotion" ? 4 : 9)) return false;
      last[kind] = place;
      return true;
    });
}

const SHAPES = {
  promotion: (x, floor) => `M${x} ${floor}v-7`,
  blessing: (x, floor) => `M${x} ${floor - 16}l5 6-5 6-5-6z`,
  alarm: (x) => `M${x} ${PAD.top}l6 11h-12z`,
  rollback: (x) => `M${x - 6} ${PAD.top}h12l-6 11z`,
};

function symbol({ kind, text }, x, height) {
  const path = s("path", { class: `mark-${kind}`, d: SHAPES[kind](Math.round(x), height - PAD.bottom) });
  path.append(s("title", {}, text));
  return path;
}
