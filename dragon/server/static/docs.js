// What /docs does: one language at a time, a list of contents that can be filtered and knows where the reader is, and
// forms that send a call and show its lines as they come. Everything goes to this server.

import { readLines, readText } from "./lines.js";

const $ = (id) => document.getElementById(id);
const FINAL = new Set(["success", "error"]);

/** An element with attributes, properties that are not text, and children. */
function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// --- Languages --------------------------------------------------------------------------------------------------------

const TABS = ["curl", "javascript", "python"];

/** One language everywhere on the page, for the next visit too; the place where the reader clicked does not move. */
function choose(name, at) {
  const before = at?.getBoundingClientRect().top;
  document.documentElement.dataset.tab = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  if (at) scrollBy({ top: at.getBoundingClientRect().top - before, behavior: "instant" });
  try {
    localStorage.setItem("dragon-tab", name);
  } catch { /* storage is forbidden: until the page is left */ }
}

function makeTabs(examples, number) {
  const bar = make("div", { role: "tablist", className: "tabs" });
  bar.setAttribute("aria-label", "Language of the example");
  for (const panel of examples.querySelectorAll("section")) {
    const name = panel.dataset.tab;
    panel.id = `example-${number}-${name}`;
    const tab = make("button", { type: "button", role: "tab", id: `tab-${number}-${name}` }, panel.firstChild.textContent);
    tab.dataset.tab = name;
    tab.setAttribute("aria-controls", panel.id);
    tab.addEventListener("click", () => choose(name, tab));
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    bar.append(tab);
  }
  bar.addEventListener("keydown", (event) => turn(event, [...bar.children]));
  examples.prepend(bar);
}

/** The arrows, Home and End go from tab to tab. */
function turn(event, tabs) {
  const at = tabs.indexOf(event.target);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const tab = tabs[(next + tabs.length) % tabs.length];
  choose(tab.dataset.tab, tab);
  tab.focus();
}

document.querySelectorAll(".examples").forEach(makeTabs);
choose(TABS.includes(document.documentElement.dataset.tab) ? document.documentElement.dataset.tab : "curl");

// --- Contents ---------------------------------------------------------------------------------------------------------

const contents = document.querySelector(".contents");
const lines = [...contents.querySelectorAll("li")];
const filter = $("filter");
const menu = contents.querySelector(".menu");

/** Shows the lines that have every word, in their name, summary or parameters. */
function narrow() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const line of lines) {
    const text = `${line.textContent.toLowerCase()} ${line.dataset.words}`;
    line.hidden = !words.every((word) => text.includes(word));
  }
  for (const group of contents.querySelectorAll("section")) group.hidden = !group.querySelector("li:not([hidden])");
  const none = lines.every((line) => line.hidden);
  contents.querySelector(".nothing").textContent = none ? `Nothing has “${filter.value}”.` : "";
}

function openMenu(open) {
  menu.setAttribute("aria-expanded", open);
}

contents.querySelector(".filter").hidden = false;
menu.hidden = false;
menu.addEventListener("click", () => openMenu(menu.getAttribute("aria-expanded") !== "true"));
contents.addEventListener("click", (event) => { if (event.target.closest("a")) openMenu(false); });
filter.addEventListener("input", narrow);
filter.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    filter.value = "";
    narrow();
    filter.blur();
  } else if (event.key === "Enter") {
    contents.querySelector("li:not([hidden]) a")?.click();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) return;
  event.preventDefault();
  openMenu(true);
  filter.focus();
});

/** The section at the top of the window is marked in the list. */
const links = new Map(lines.map((line) => [line.firstElementChild.hash.slice(1), line.firstElementChild]));
const articles = [...document.querySelectorAll("article")];
let marked;

function mark() {
  const edge = innerHeight * 0.25;
  const at = articles.findLast((article) => article.getBoundingClientRect().top <= edge) ?? articles[0];
  const link = links.get(at.id);
  if (link === marked) return;
  marked?.removeAttribute("aria-current");
  marked = link;
  link.setAttribute("aria-current", "true");
  // Not scrollIntoView, which would move the page too.
  const box = $("contents");
  const top = link.getBoundingClientRect().top - box.getBoundingClientRect().top;
  if (top < 40 || top > box.clientHeight - 40) box.scrollTop += top - box.clientHeight / 2;
}

let marking;
addEventListener("scroll", () => {
  marking ??= requestAnimationFrame(() => { marking = undefined; mark(); });
}, { passive: true });
mark();

// --- The key ----------------------------------------------------------------------------------------------------------

const DEMO = document.body.dataset.demo;
const keyForm = $("key");
const keyValue = $("key-value");
const keyKind = $("key-kind");

/** Kept until the tab is closed, for this page alone. */
const kept = {
  get: (name) => { try { return sessionStorage.getItem(name) ?? ""; } catch { return ""; } },
  set: (name, value) => { try { sessionStorage.setItem(name, value); } catch { /* then only in the field */ } },
};

function authorization() {
  if (keyValue.value) return `${keyKind.value} ${keyValue.value}`;
  return DEMO ? `Secret ${DEMO}` : "";
}

function explainKey() {
  if (DEMO && !keyValue.value) {
    keyNote.textContent = "Left empty: the demo account's key, which counts on this machine only.";
  } else if (!keyValue.value) {
    keyNote.textContent = "Needed to create tasks: dragon account new NAME makes one.";
  } else {
    keyNote.textContent = "Kept until this tab is closed, and sent to this server only.";
  }
}

const keyNote = $("key-note");
keyValue.value = kept.get("dragon-key");
keyKind.value = kept.get("dragon-key-kind") || "Secret";
keyValue.placeholder = DEMO || "";
keyForm.hidden = false;
keyForm.addEventListener("submit", (event) => event.preventDefault());
keyForm.addEventListener("input", () => {
  kept.set("dragon-key", keyValue.value);
  kept.set("dragon-key-kind", keyKind.value);
  explainKey();
});
explainKey();

// --- Values of a form -------------------------------------------------------------------------------------------------

const EXAMPLE_KEY = document.body.dataset.exampleKey;

/** What cannot be read is sent as it was typed: the server's own sentence says what is wrong with it. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const asNumber = (text) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : text);
const asLines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

/** How the text of a field becomes a value, by the field's kind. */
const READ = {
  integer: asNumber,
  number: asNumber,
  boolean: parsed,
  choice: parsed,
  json: parsed,
  lines: (text, field) => asLines(text).map(["integer", "number"].includes(field.dataset.item) ? asNumber : String),
  pairs: (text) => asLines(text).map((line) => line.split(/=(.*)/s).slice(0, 2)),
  keys: (text) => text.split(/[\s,]+/).filter(Boolean),
};

function valueOf(field) {
  return (READ[field.dataset.kind] ?? String)(field.value, field);
}

/** Where the parameters go: the path, the querystring, headers, or the task definition. */
function gather(form) {
  const { method, path, auth, task } = form.dataset;
  const query = new URLSearchParams();
  const asked = { method, headers: {}, path };
  const definition = { task_name: task };
  for (const field of form.querySelectorAll("[data-place]")) {
    const { name, dataset: { place, kind } } = field;
    if (place === "path") {
      // Without a value its part of the path goes too: /v1/file/{filename} is /v1/file then.
      asked.path = field.value
        ? asked.path.replace(`{${name}}`, encodeURIComponent(field.value))
        : asked.path.replace(`/{${name}}`, "");
    } else if (field.value === "") continue;
    else if (place === "header") asked.headers[name] = field.value;
    else if (place === "task") definition[name] = valueOf(field);
    else if (kind === "pairs") for (const [key, value] of valueOf(field)) query.append(key, value ?? "");
    else for (const value of [valueOf(field)].flat()) query.append(name, value);
  }
  if (task) asked.body = JSON.stringify({ tasks: definition });
  else if (form.elements.body) asked.body = form.elements.body.value;
  if (query.size) asked.path += `?${query}`;
  if (auth && authorization()) asked.headers.Authorization = authorization();
  return asked;
}

// --- Sending ----------------------------------------------------------------------------------------------------------

const MOST_LINES = 500;
const PICTURE = /\.(jpe?g|png|gif|webp|avif|svg)$/i;

function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

/** One call, from Send to the end of its answer. */
class Trial {
  constructor(form) {
    this.form = form;
    this.send = form.querySelector(".send");
    this.halt = form.querySelector(".stop");
    this.facts = form.querySelector(".facts");
    this.answer = form.querySelector(".answer");
    this.list = make("ol");
    this.box = make("div", { className: "lines", tabIndex: 0, role: "region" }, this.list);
    this.box.setAttribute("aria-label", "Lines of the answer");
    this.bars = make("ul", { className: "bars" });
    this.sent = make("p", { className: "sent" });
    this.shown = make("div", { className: "shown" });
    this.answer.append(this.sent, this.bars, this.box, this.shown);
    form.addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.run();
    });
    this.halt.addEventListener("click", () => this.stop?.abort());
    form.hidden = false;
  }

  async run() {
    this.stop?.abort();
    const stop = new AbortController();
    this.stop = stop;
    this.clear();
    this.running(true);
    try {
      await this.fillKeys(stop.signal);
      await this.call(gather(this.form), stop.signal);
    } catch (error) {
      if (this.stop !== stop) return; // the next one runs already
      if (stop.signal.aborted) this.finish("stopped");
      else this.finish(error.message, "bad");
    } finally {
      if (this.stop === stop) this.running(false);
    }
  }

  running(is) {
    this.form.classList.toggle("running", is);
    this.halt.hidden = !is;
    if (!is && document.activeElement === this.halt) this.send.focus();
  }

  clear() {
    for (const place of [this.sent, this.bars, this.list, this.shown]) place.replaceChildren();
    this.box.hidden = true;
    this.rows = new Map();
    this.waiting = [];
    this.count = 0;
    this.code = this.first = undefined;
    this.answer.hidden = false;
    this.began = performance.now();
    this.facts.textContent = "Sent.";
  }

  /** A call that needs a task's key gets a new task's, unless the reader gave one. */
  async fillKeys(signal) {
    const wanting = [...this.form.querySelectorAll("[data-kind=key], [data-kind=keys]")].filter((field) => !field.value);
    const body = this.form.elements.body;
    const inBody = body?.value.includes(EXAMPLE_KEY);
    if (!wanting.length && !inBody) return;
    const key = await this.makeTask(signal);
    for (const field of wanting) field.value = key;
    if (inBody) body.value = body.value.replaceAll(EXAMPLE_KEY, key);
    this.began = performance.now();
  }

  async makeTask(signal) {
    const name = this.form.dataset.makes;
    const parameters = name === "countdown"
      ? { from: this.form.dataset.method === "DELETE" ? 1000 : 12, delay: 0.3 }
      : { url: new URL("/static/sample.jpg", location).href, width: 480 };
    const response = await fetch("/v1/create", {
      method: "POST",
      headers: authorization() ? { Authorization: authorization() } : {},
      body: JSON.stringify({ tasks: { task_name: name, ...parameters } }),
      signal,
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(`No task could be made for its key: ${answer.message}`);
    return answer[0].key;
  }

  async call({ method, path, headers, body }, signal) {
    this.sent.append(make("b", {}, method), ` ${path}`);
    if (body && this.form.dataset.task) this.sent.append(make("code", {}, body));
    const response = await fetch(path, { method, headers, body, signal });
    this.code = response.status;
    if (response.redirected) this.sent.append(make("span", {}, ` → ${new URL(response.url).pathname}`));
    this.tell();
    await this.read(response);
    this.finish();
  }

  /** By what comes: lines as they come, a picture, or a body when it is whole. */
  async read(response) {
    const type = (response.headers.get("Content-Type") ?? "").split(";")[0];
    if (type.startsWith("image/")) return this.showPicture(new URL(response.url).pathname, response);
    if (type === "application/x-ndjson" || type === "text/event-stream") {
      for await (const line of readLines(response)) this.take(line);
      return undefined;
    }
    let text = "";
    if (response.body) {
      for await (const part of readText(response)) {
        if (part.trim()) this.heard();
        text += part;
      }
    }
    return this.showText(text, type);
  }

  heard() {
    this.first ??= performance.now() - this.began;
  }

  // Lines

  take(line) {
    this.heard();
    this.count += 1;
    const value = parsed(line);
    this.waiting.push([performance.now() - this.began, line, value]);
    for (const status of [value].flat()) if (status?.key) this.rows.set(status.key, { ...this.rows.get(status.key), status });
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  /** At most once a frame, and only what is new. */
  draw() {
    this.frame = undefined;
    const follows = this.box.scrollTop + this.box.clientHeight >= this.box.scrollHeight - 8;
    this.box.hidden = false;
    this.list.append(...this.waiting.slice(-MOST_LINES).map(lineItem));
    this.waiting = [];
    while (this.list.children.length > MOST_LINES) this.list.firstChild.remove();
    if (follows) this.box.scrollTop = this.box.scrollHeight;
    for (const [key, row] of this.rows) this.drawBar(key, row);
    this.tell();
  }

  drawBar(key, row) {
    if (!row.item) {
      row.bar = make("progress", { max: 100, value: 0 });
      row.bar.setAttribute("aria-label", `Task ${key}`);
      row.text = make("span");
      row.item = make("li", {}, make("code", { title: key }, `${key.slice(0, 6)}…`), row.bar, row.text);
      this.bars.append(row.item);
    }
    const { status, progress, result } = row.status;
    row.item.dataset.status = status;
    row.text.textContent = status;
    if (typeof progress === "number") row.bar.value = progress;
    if (FINAL.has(status)) row.bar.value = 100;
    if (status === "success" && !row.files) {
      row.files = true;
      this.showFiles(result);
    }
  }

  /** Output files that a result names: pictures are shown, others can be opened. */
  showFiles(result) {
    for (const value of Object.values(result && typeof result === "object" ? result : {})) {
      const path = typeof value === "string" && /^https?:/.test(value) ? new URL(value).pathname : "";
      if (!path.startsWith("/files/")) continue;
      if (PICTURE.test(path)) this.showPicture(path);
      else this.shown.append(make("a", { href: path }, path));
    }
  }

  showPicture(path, response) {
    this.heard();
    response?.body?.cancel();
    const image = make("img", { src: path, alt: "The output file" });
    const caption = make("figcaption", {}, path);
    image.addEventListener("load", () => {
      caption.textContent = `${image.naturalWidth} × ${image.naturalHeight} pixels, ${path}`;
    });
    this.shown.append(make("figure", {}, image, caption));
  }

  showText(text, type) {
    if (!text.trim()) return;
    const value = type === "application/json" ? parsed(text) : undefined;
    const whole = value === undefined ? text : JSON.stringify(value, null, 2);
    const most = 60_000;
    const cut = whole.length > most ? `${whole.slice(0, most)}\n… ${whole.length - most} more characters` : whole;
    const pre = make("pre", { tabIndex: 0 }, make("code", {}, cut));
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", "Answer");
    this.shown.append(pre);
    for (const status of [value].flat()) if (status?.status === "success") this.showFiles(status.result);
  }

  // Facts

  tell(ending, kind) {
    const parts = [];
    if (this.first !== undefined) parts.push(`first ${this.count ? "line" : "byte"} after ${duration(this.first)}`);
    if (this.count) parts.push(`${this.count} ${this.count === 1 ? "line" : "lines"}`);
    if (ending !== undefined) parts.push(...(ending ? [ending] : []), duration(performance.now() - this.began));
    const facts = make("span", { className: kind ?? "" }, parts.join(" · "));
    if (this.code === undefined) this.facts.replaceChildren(facts);
    else {
      const code = make("b", { className: `code ${this.code < 400 ? "good" : "bad"}` }, String(this.code));
      this.facts.replaceChildren(code, " ", facts);
    }
    if (this.code === 401 && ending !== undefined) this.facts.append(" ", make("a", { href: "#key" }, "Give a key"));
  }

  finish(ending = "", kind = undefined) {
    cancelAnimationFrame(this.frame);
    if (this.waiting.length) this.draw();
    this.frame = undefined;
    this.tell(ending, kind);
  }
}

function lineItem([after, line, value]) {
  const item = make("li", {}, make("span", { className: "after" }, `+${duration(after)}`), make("code", {}, line));
  if (!Array.isArray(value) && value?.status) item.dataset.status = value.status;
  return item;
}

for (const form of document.querySelectorAll("form.trial")) new Trial(form);
