// Numbers, times and sizes as people read them.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const HUNDREDTHS = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const WHOLE_DATE = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
const NOTHING = "–";

export const count = (number) => (Number.isFinite(number) ? WHOLE.format(number) : NOTHING);

export function rate(number) {
  if (!Number.isFinite(number)) return NOTHING;
  return (number >= 100 ? WHOLE : number >= 10 ? TENTHS : HUNDREDTHS).format(number);
}

/** A noun with its number: "1 task", "2 tasks". */
export const many = (number, noun, nouns = `${noun}s`) => `${count(number)} ${number === 1 ? noun : nouns}`;

/** A length of time: "12 ms", "1.23 s", "4 min 5 s", "2 h 3 min", "5 d 2 h". */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  const s = Math.max(0, seconds);
  if (s === 0) return "0 s";
  if (s < 0.0995) return `${s < 0.00095 ? "<1" : Math.round(s * 1000)} ms`;
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 59.95) return `${(s < 9.995 ? s.toFixed(2) : s.toFixed(1))} s`;
  return coarse(s);
}

/** A length of time that goes on, in whole seconds and more. */
export function coarse(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return pair(s, 60, "min", "s");
  if (s < 86400) return pair(Math.floor(s / 60), 60, "h", "min");
  return pair(Math.floor(s / 3600), 24, "d", "h");
}

function pair(number, base, large, small) {
  const rest = number % base;
  return `${Math.floor(number / base)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

/** A length of time in one word, for narrow columns: "3 s", "4 min", "2 h". */
export function brief(seconds) {
  return coarse(seconds).split(" ").slice(0, 2).join(" ");
}

export const unix = (iso) => (iso ? Date.parse(iso) / 1000 : NaN);

/** The seconds between two dates; NaN when one is missing. */
export const between = (from, to) => unix(to) - unix(from);

/** The time of day; with the day when it is another one. */
export function clock(iso) {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return NOTHING;
  return date.toDateString() === new Date().toDateString() ? CLOCK.format(date) : DAY.format(date);
}

export function fullDate(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime()) ? "" : WHOLE_DATE.format(date);
}

export function bytes(number) {
  if (!Number.isFinite(number)) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = number;
  let unit = 0;
  for (; size >= 1024 && unit < units.length - 1; unit += 1) size /= 1024;
  return `${unit && size < 100 ? TENTHS.format(size) : WHOLE.format(Math.round(size))} ${units[unit]}`;
}

/** What `datetime-local` takes and gives, and what the API takes. */
export function toLocal(iso) {
  const date = new Date(iso ?? "");
  if (Number.isNaN(date.getTime())) return "";
  return new Date(date.getTime() - date.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

export function fromLocal(text) {
  const date = new Date(text);
  return text && !Number.isNaN(date.getTime()) ? date.toISOString() : "";
}
