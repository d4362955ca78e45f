// The pieces that several views are made of. All text of users goes through text nodes; nothing is made of HTML text.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact.js";
import { brief, clock, count, fullDate, unix } from "./format.js";
import { serverTime } from "./api.js";
import { useFrame } from "./hooks.js";

// --- States -----------------------------------------------------------------------------------------------------------

/** How a status looks and what it is called. */
export const STATUSES = {
  queued: { word: "waiting", mark: "○" },
  executing: { word: "executing", mark: "◐" },
  success: { word: "success", mark: "✓" },
  error: { word: "error", mark: "✕" },
};
export const isFinal = (status) => status === "success" || status === "error";

export function Status({ status }) {
  const { word, mark } = STATUSES[status] ?? { word: String(status), mark: "?" };
  return html`<span class="status" data-status=${status}><span class="mark" aria-hidden="true">${mark}</span>${word}</span>`;
}

/** A task's progress: a bar where it is a percentage, else as it was reported. */
export function Progress({ value, label }) {
  if (value === undefined) return null;
  if (typeof value === "number" && value >= 0 && value <= 100)
    return html`<span class="progress"><progress max="100" value=${value} aria-label=${label ?? "progress"} /><span class="number">${Math.round(value)} %</span></span>`;
  return html`<span class="reported">${typeof value === "string" ? value : JSON.stringify(value)}</span>`;
}

/** A moment, as the time since then or as the time of day, with the whole date as its title. */
export function When({ at, since = false }) {
  if (!at) return html`<span class="quiet">–</span>`;
  const text = since ? `${brief(serverTime() - unix(at))} ago` : clock(at);
  return html`<time datetime=${at} title=${fullDate(at)}>${text}</time>`;
}

export const shortKey = (key) => `${key.slice(0, 8)}…`;

// --- Sentences --------------------------------------------------------------------------------------------------------

export function Banner({ kind = "warning", children }) {
  return html`<p class="banner" data-kind=${kind}><span class="mark" aria-hidden="true">${kind === "note" ? "i" : "!"}</span><span>${children}</span></p>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><p class="empty-title">${title}</p>${children && html`<p>${children}</p>`}</div>`;
}

export const Loading = ({ what = "Loading" }) => html`<p class="loading" role="status">${what}…</p>`;

// --- Values -----------------------------------------------------------------------------------------------------------

const LONG_TEXT = 400; // characters
const LONG_LIST = 40; // members
const DEEP = 12; // levels that are drawn one by one; what is deeper is one line

/** Any JSON value, pretty, with what is long folded. */
export function Json({ value, label }) {
  return html`<div class="json" tabindex="0" role="group" aria-label=${label}><${Value} value=${value} depth=${0} /></div>`;
}

function Value({ value, depth }) {
  if (typeof value === "string") return html`<${Text} text=${value} />`;
  if (value === null || typeof value !== "object") return html`<span class="json-plain">${String(value)}</span>`;
  if (depth >= DEEP) return html`<${Text} text=${JSON.stringify(value)} />`;
  return html`<${Members} value=${value} depth=${depth} />`;
}

function Members({ value, depth }) {
  const [all, setAll] = useState(false);
  const isList = Array.isArray(value);
  const [open, close] = isList ? "[]" : "{}";
  const members = isList ? value.map((item) => [null, item]) : Object.entries(value);
  if (isShort(value)) return html`<${Inline} value=${value} />`;
  const shown = all ? members : members.slice(0, LONG_LIST);
  const flows = isList && value.every((item) => typeof item !== "object" && String(item).length <= 12);
  return html`<span>${open}</span><div class=${flows ? "json-members flow" : "json-members"}>
    ${shown.map(
      ([name, item], index) =>
        html`<div>${name !== null && html`<span class="json-name">${JSON.stringify(name)}</span>: `}<${Value} value=${item} depth=${depth + 1} />${index < members.length - 1 && ", "}</div>`,
    )}
    ${shown.length < members.length && html`<button type="button" class="fold" onClick=${() => setAll(true)}>all ${count(members.length)} members</button>`}
  </div><span>${close}</span>`;
}

const SHORT = 64; // characters of JSON that stay on one line

function isShort(value) {
  const items = Object.values(value);
  if (items.some((item) => item !== null && typeof item === "object")) return false;
  if (items.length > SHORT / 2 || items.some((item) => linkTarget(item))) return false;
  return JSON.stringify(value).length <= SHORT;
}

function Inline({ value }) {
  const isList = Array.isArray(value);
  const members = Object.entries(value);
  return html`<span>${isList ? "[" : "{"}${members.map(([name, item], index) => html`${index > 0 && ", "}${!isList && html`<span class="json-name">${JSON.stringify(name)}</span>: `}<${Value} value=${item} depth=${DEEP} />`)}${isList ? "]" : "}"}</span>`;
}

function Text({ text }) {
  const [all, setAll] = useState(false);
  const target = linkTarget(text);
  if (target) return html`<a class="json-text" href=${target} target="_blank" rel="noopener noreferrer nofollow">${JSON.stringify(text)}</a>`;
  if (all || text.length <= LONG_TEXT) return html`<span class="json-text">${JSON.stringify(text)}</span>`;
  return html`<span class="json-text">${JSON.stringify(text.slice(0, LONG_TEXT)).slice(0, -1)}</span>… <button type="button" class="fold" onClick=${() => setAll(true)}>all ${count(text.length)} characters</button>`;
}

/** The address when a text is nothing but one of http(s); never a javascript: or data: one. */
function linkTarget(text) {
  if (typeof text !== "string" || !/^https?:\/\/\S+$/.test(text) || text.length > 2048 || text.includes("…")) return null;
  try {
    return new URL(text).href;
  } catch {
    return null;
  }
}

// --- A box for a choice, and for a question -----------------------------------------------------------------------------

/** A checkbox that can stand between yes and no. */
export function Check({ checked, some = false, label, onChange }) {
  const box = useRef(null);
  useLayoutEffect(() => {
    box.current.indeterminate = some;
  }, [some]);
  return html`<label class="check"><input ref=${box} type="checkbox" checked=${checked} aria-label=${label} onChange=${(event) => onChange(event.currentTarget.checked)} /></label>`;
}

let showQuestion = async () => false;

/** Asks before something that cannot be taken back; true when the answer is yes. */
export const ask = (question) => showQuestion(question);

export function Questions() {
  const [open, setOpen] = useState(null);
  const dialog = useRef(null);
  showQuestion = (question) => new Promise((resolve) => setOpen({ ...question, resolve }));
  useLayoutEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
  }, [open]);
  if (!open) return null;
  const answer = (yes) => {
    open.resolve(yes);
    setOpen(null);
  };
  const cancel = (event) => {
    event.preventDefault();
    answer(false);
  };
  return html`<dialog ref=${dialog} aria-labelledby="question" aria-describedby="question-text" onCancel=${cancel}>
    <h2 id="question">${open.title}</h2>
    <p id="question-text">${open.text}</p>
    <div class="buttons">
      <button type="button" onClick=${() => answer(false)}>Keep as it is</button>
      <button type="button" class=${open.danger ? "danger" : "primary"} onClick=${() => answer(true)}>${open.action}</button>
    </div>
  </dialog>`;
}

// --- What has happened --------------------------------------------------------------------------------------------------

const NOTICE_LIFE = 8; // seconds; errors stay until they are sent away
let notices = [];
let noticesChanged = () => {};
let lastNotice = 0;

/** Says something in the corner: `say("3 tasks retried")`, `say("...", "error")`. */
export function say(text, kind = "note", link = null) {
  const id = (lastNotice += 1);
  notices = [...notices.slice(-3), { id, text, kind, link }];
  noticesChanged();
  if (kind !== "error") setTimeout(() => dismiss(id), NOTICE_LIFE * 1000);
}

function dismiss(id) {
  notices = notices.filter((notice) => notice.id !== id);
  noticesChanged();
}

export function Notices() {
  noticesChanged = useFrame();
  return html`<div class="notices" role="status" aria-live="polite" aria-label="Notices">
    ${notices.map(
      ({ id, text, kind, link }) =>
        html`<p key=${id} class="notice" data-kind=${kind}><span>${text}${link && html` <a href=${link.href}>${link.text}</a>`}</span><button type="button" class="plain" aria-label="Dismiss" onClick=${() => dismiss(id)}>✕</button></p>`,
    )}
  </div>`;
}

/** Runs an act of the operator; what goes wrong is said. Returns its result, or undefined. */
export async function act(work) {
  try {
    return await work();
  } catch (error) {
    say(error.message, "error");
    return undefined;
  }
}

/** A button that is busy while its act runs. */
export function Act({ onAct, children, ...rest }) {
  const [busy, setBusy] = useState(false);
  const alive = useRef(true);
  useEffect(() => () => (alive.current = false), []);
  const press = async () => {
    if (busy) return;
    setBusy(true);
    await act(onAct);
    if (alive.current) setBusy(false);
  };
  return html`<button type="button" ...${rest} aria-busy=${busy} onClick=${press}>${children}</button>`;
}

// --- A line through numbers -----------------------------------------------------------------------------------------------

/** A small curve; it says nothing that the number beside it does not say better. */
export function Spark({ values }) {
  const [width, height] = [120, 28];
  const top = Math.max(...values, 1e-9) * 1.25;
  const step = width / Math.max(values.length - 1, 1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`);
  if (values.length < 2) return html`<svg class="spark" viewBox="0 0 ${width} ${height}" aria-hidden="true" />`;
  return html`<svg class="spark" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" aria-hidden="true">
    <polygon points=${`0,${height} ${points.join(" ")} ${width},${height}`} />
    <polyline points=${points.join(" ")} vector-effect="non-scaling-stroke" />
  </svg>`;
}
