// Numbers and times, for people.

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const count = (n) => (n < 100_000 ? whole.format(Math.round(n)) : compact.format(n));

/** A rate, with as many places as matter. */
export function rate(n) {
  if (n === 0) return "0";
  return n < 0.1 ? "< 0.1" : n < 10 ? n.toFixed(1) : whole.format(Math.round(n));
}

export function ms(n) {
  if (n === null || n === undefined) return "–";
  return n < 10 ? `${n.toFixed(1)} ms` : n < 1_000 ? `${Math.round(n)} ms` : `${(n / 1_000).toFixed(1)} s`;
}

export const quality = (n) => n.toFixed(4);

/** A score or statistic: three digits that mean something, whatever its size. */
export function figure(n) {
  if (typeof n !== "number") return String(n);
  if (Number.isInteger(n)) return count(n);
  const size = Math.abs(n);
  return size >= 100_000 ? compact.format(n) : size >= 100 ? whole.format(Math.round(n)) : String(Number(n.toPrecision(3)));
}

export function bytes(n) {
  if (n === null) return "–";
  return n < 2 ** 20 ? `${Math.round(n / 2 ** 10)} KiB` : n < 2 ** 30 ? `${Math.round(n / 2 ** 20)} MiB` : `${(n / 2 ** 30).toFixed(2)} GiB`;
}

/** How long something takes or is, in its largest unit. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5_400) return `${Math.round(s / 60)} min`;
  return s < 172_800 ? `${Math.round(s / 3_600)} h` : `${Math.round(s / 86_400)} days`;
}

export const ago = (time, now = Date.now()) => `${duration((now - time) / 1_000)} ago`;

const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
export const clock = (time) => clockTime.format(time);
export const moment = (time) => (Date.now() - time < 43_200_000 ? clockTime.format(time) : day.format(time));
export const minutes = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
