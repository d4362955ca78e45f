// The live parts of the sample page. Everything goes to this server; the api key is the demo account's, that everybody
// knows and that counts on this machine only.
import { messageOf, readLines } from "./lines.js";

const API_KEY = "654321";
const $ = (id) => document.getElementById(id);

// --- The stream -----------------------------------------------------------------------------------------------------

/** Twenty tasks that begin together and end one after another, between one and six seconds. */
const TASKS = Array.from({ length: 20 }, (_, i) => {
  const from = 3 + ((i * 7) % 20);
  const seconds = 1.2 + 4.4 * (((i * 13) % 20) / 19);
  return { task_name: "countdown", from, delay: Math.round((1000 * seconds) / from) / 1000 };
});
const FINAL = new Set(["success", "error"]);

/** An answer that says no: its message is for the reader. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

class Run {
  constructor() {
    this.rows = new Map();
    this.pending = new Map();
    this.stop = new AbortController();
    this.began = performance.now();
    this.lines = 0;
    this.ended = 0;
    this.failed = 0;
  }

  async go() {
    // A string without a Content-Type header is text/plain: no preflight, from any page.
    const response = await fetch("/v1/create_stream", {
      method: "POST",
      body: JSON.stringify({ api_key: API_KEY, tasks: TASKS }),
      signal: this.stop.signal,
    });
    if (!response.ok) throw new Refused(response.status, await messageOf(response));
    for await (const line of readLines(response)) this.take(line, JSON.parse(line));
    if (this.ended < TASKS.length) throw new Error("the stream ended before its tasks");
  }

  take(line, value) {
    this.lines += 1;
    this.last = line;
    if (Array.isArray(value)) value.forEach((status, i) => this.rows.set(status.key, rows[i]));
    for (const status of [value].flat()) {
      this.pending.set(status.key, status);
      if (FINAL.has(status.status)) this.ended += 1;
      if (status.status === "error") this.failed += 1;
    }
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  /** Once a frame at most, with the newest status of each task. */
  draw() {
    this.frame = undefined;
    if (run !== this) return;
    for (const [key, status] of this.pending) this.rows.get(key)?.show(status);
    this.pending.clear();
    $("last").firstChild.textContent = this.last;
    const seconds = ((performance.now() - this.began) / 1000).toFixed(1);
    $("count").textContent = `${this.ended} of ${TASKS.length} ended, ${this.lines} lines in ${seconds} s.`;
    if (this.ended === TASKS.length) {
      $("summary").textContent = this.failed ? `Ended, ${this.failed} with an error.` : "All succeeded.";
    }
  }
}

class Row {
  constructor(task) {
    this.item = document.createElement("li");
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = `from ${task.from}, every ${task.delay.toFixed(2)} s`;
    this.bar = document.createElement("progress");
    this.bar.max = 100;
    this.bar.setAttribute("aria-label", name.textContent);
    this.number = document.createElement("span");
    this.number.className = "number";
    this.item.append(name, this.bar, this.number);
    this.reset();
  }

  reset() {
    this.item.dataset.status = "none";
    this.bar.value = 0;
    this.number.textContent = "";
  }

  show(status) {
    this.item.dataset.status = status.status;
    this.item.title = status.status;
    if (typeof status.progress === "number") this.bar.value = status.progress;
    if (status.status === "success") this.number.textContent = "✓";
    else if (status.status === "error") {
      this.number.textContent = "✕";
      this.item.title = typeof status.result === "string" ? status.result : JSON.stringify(status.result);
    } else this.number.textContent = status.result ?? "…";
  }
}

const rows = TASKS.map((task) => new Row(task));
let run;

function explain(error) {
  const notice = $("refused");
  const said = `“${error.message}”`;
  notice.textContent = error instanceof Refused && error.status === 401
    ? `The live demo needs an account. This server said: ${said}. The demo account works only while dragon listens on ` +
      "this machine alone, and on pages at localhost or 127.0.0.1. Elsewhere, make an account with dragon account new " +
      "NAME, and use its keys in your own pages and scripts."
    : `The live demo stopped: ${said}`;
  notice.hidden = false;
}

async function start() {
  run?.stop.abort();
  const mine = new Run();
  run = mine;
  $("refused").hidden = true;
  rows.forEach((row) => row.reset());
  $("summary").textContent = "Running.";
  $("count").textContent = "";
  $("start").textContent = "Start again";
  try {
    await mine.go();
  } catch (error) {
    if (run !== mine) return; // ended by the next run
    $("summary").textContent = "Not running.";
    explain(error);
  }
}

$("tasks").append(...rows.map((row) => row.item));
$("start").addEventListener("click", start);
start();

// --- The image ------------------------------------------------------------------------------------------------------

const image = $("thumb");
const controls = $("controls");
let pause;

function query() {
  const form = new FormData(controls);
  const wanted = [["task_name", "image.thumb"]];
  for (const side of ["width", "height"]) if (form.get(side)) wanted.push([side, form.get(side)]);
  if (form.has("crop")) wanted.push(["crop", "true"]);
  if (form.get("rotation") !== "0") wanted.push(["rotation", form.get("rotation")]);
  if (form.has("poster")) wanted.push(["poster", "true"]);
  if (form.get("format") !== "jpeg") wanted.push(["format", form.get("format")]);
  wanted.push(["url", `${document.body.dataset.address}/static/sample.jpg`]);
  // Written by hand, because : and / in a querystring need no escape and are easier to read without.
  return wanted.map(([name, value]) => `${name}=${value}`).join("&");
}

function change() {
  const path = `/v1/create_file/sample.jpg?${query()}`;
  if (image.getAttribute("src") === path) return;
  $("thumb-facts").textContent = "…";
  $("tag").firstChild.textContent =
    `<img src="${document.body.dataset.address}${path.replaceAll("&", "&amp;")}">`;
  image.src = path;
}

function shown() {
  // What the browser measured, from the request to the last byte, the redirect included.
  const timing = performance.getEntriesByName(image.src).at(-1);
  const time = timing ? `, here after ${Math.round(timing.duration)} ms` : "";
  $("thumb-facts").textContent = `${image.naturalWidth} × ${image.naturalHeight} pixels${time}`;
}

async function failed() {
  $("thumb-facts").textContent = "No picture.";
  try {
    const response = await fetch(image.getAttribute("src"));
    if (response.ok) return;
    const message = await messageOf(response);
    $("thumb-facts").textContent = `No picture: ${message}`;
  } catch {
    $("thumb-facts").textContent = "No picture: the server cannot be reached.";
  }
}

image.addEventListener("load", shown);
image.addEventListener("error", failed);
// It may have ended before this script ran.
if (image.complete) (image.naturalWidth ? shown : failed)();

controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("input", () => {
  // Crop needs both sides.
  if (controls.crop.checked && !controls.height.value) controls.height.value = controls.width.value || 480;
  clearTimeout(pause);
  pause = setTimeout(() => { if (controls.checkValidity()) change(); }, 250);
});
