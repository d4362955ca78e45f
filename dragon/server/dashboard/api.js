// The server: calls, streams, and the key that both need. The key lives in this tab's sessionStorage and goes out in
// the Authorization header alone.

const SECRET = "dragon-secret";
const LONGEST_WAIT = 30; // seconds between two tries to reconnect
const HIDDEN_FOR = 30; // seconds after which a tab that nobody sees gives its streams back: a browser has six connections
const HEARTBEAT = Number(document.body.dataset.heartbeat) || 15;
const SILENCE = HEARTBEAT * 2 + 5; // seconds without a byte after which a stream counts as cut

/** An answer that says no; its message is for the reader. */
export class Refused extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// --- Who is here ------------------------------------------------------------------------------------------------------

let secret = read();
let left = () => {};

function read() {
  try {
    return sessionStorage.getItem(SECRET) ?? "";
  } catch {
    return "";
  }
}

export function hasSecret() {
  return secret !== "";
}

/** Tells whether a header can carry this text as a key. */
export function isSendable(text) {
  return /^[\x21-\x7e]{1,1024}$/.test(text);
}

export function keepSecret(text) {
  secret = text;
  try {
    sessionStorage.setItem(SECRET, text);
  } catch {
    // it is known until the page is left
  }
}

export function forgetSecret() {
  secret = "";
  try {
    sessionStorage.removeItem(SECRET);
  } catch {
    // nothing was kept
  }
}

/** `listener(message)` is called when the server does not take the key any more. */
export function onRefusedKey(listener) {
  left = listener;
}

// --- Calls ------------------------------------------------------------------------------------------------------------

let skew = 0;

/** Seconds since 1970 by the server's clock, as well as its Date header tells it. */
export function serverTime() {
  return Date.now() / 1000 + skew;
}

function noteClock(response) {
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (Number.isNaN(date)) return;
  const seen = (date - Date.now()) / 1000;
  skew = Math.abs(seen) > 2 ? seen : 0; // the header has whole seconds, and the answer was on its way
}

/** The sentence of an error, whichever of the contract's shapes it has. */
async function refusal(response) {
  let message = "";
  try {
    const body = await response.json();
    if (Array.isArray(body.errors)) message = body.errors.map((error) => `${error.name}: ${error.description}`).join("; ");
    else message = String(body.message ?? body.result ?? "");
  } catch {
    // no JSON: a proxy in between, or nothing
  }
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  return new Refused(response.status, message || `the server answered ${response.status}`, retryAfter);
}

function send(method, path, body, signal, key) {
  const headers = key ? { Authorization: `Secret ${key}` } : {};
  const options = { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) options.body = JSON.stringify(body);
  return fetch(path, options);
}

/** One call. `key` is for the login, which tries one that is not kept yet. */
export async function call(method, path, { body, signal, key } = {}) {
  let response;
  try {
    response = await send(method, path, body, signal, key ?? secret);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, "the server cannot be reached");
  }
  noteClock(response);
  if (response.ok) return response.json();
  const refused = await refusal(response);
  if (response.status === 401 && key === undefined && (await isKeyRefused())) left(refused.message);
  throw refused;
}

/** A 401 may be about the act and not about the key: who am I? */
async function isKeyRefused() {
  try {
    return (await send("GET", "/v1/operator/account", undefined, undefined, secret)).status === 401;
  } catch {
    return false;
  }
}

/** A path with the members that have a value. */
export function withQuery(path, members) {
  const given = Object.entries(members).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

// --- Streams ----------------------------------------------------------------------------------------------------------

/** The values of newline-delimited JSON. A chunk may end anywhere, inside a character too; a heartbeat is a space in
 * front of the next line, which JSON allows. `heard` is called for every chunk. */
async function* readValues(response, heard) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    heard();
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.trim()) yield JSON.parse(line);
  }
  if (rest.trim()) yield JSON.parse(rest);
}

/** Follows a stream and takes it up again when it is cut, until `stop()`, the stream's own end, or a refusal.
 *
 * `open()` gives [method, path, body] for each try; `value(line)` gets every line; `state({name, message, retry})` hears
 * connecting, live, reconnecting, paused, ended or refused; `ended()` tells whether a tidy end is the end. */
export function follow({ open, value, state, ended = () => false }) {
  const stopped = new AbortController();
  const stop = () => stopped.abort();
  run(open, value, state, ended, stopped.signal);
  return stop;
}

async function run(open, value, state, ended, stopped) {
  let failures = 0;
  let hidden = false;
  while (!stopped.aborted) {
    if (hidden) {
      state({ name: "paused", message: "" });
      await untilShown(stopped);
      hidden = false;
      continue;
    }
    const one = new Try(stopped);
    let message = "the stream was cut";
    let wait = 0;
    try {
      if (failures === 0) state({ name: "connecting", message: "" });
      const [method, path, body] = open();
      const response = await send(method, path, body, one.signal, secret);
      noteClock(response);
      if (!response.ok) throw await refusal(response);
      one.heard();
      for await (const line of readValues(response, () => one.heard())) {
        if (stopped.aborted) return;
        failures = 0;
        state({ name: "live", message: "" });
        value(line);
      }
      if (ended()) return state({ name: "ended", message: "" });
    } catch (error) {
      if (stopped.aborted) return;
      hidden = one.hidden;
      if (error instanceof Refused) {
        if (error.status === 401) return left(error.message);
        if (error.status < 500 && error.status !== 429) return state({ name: "refused", message: error.message, status: error.status });
        [message, wait] = [error.message, error.retryAfter];
      } else if (error instanceof TypeError && failures > 0) message = "the server cannot be reached";
    } finally {
      one.close();
    }
    if (hidden || stopped.aborted) continue;
    failures += 1;
    const seconds = Math.min(LONGEST_WAIT, Math.max(wait, 0.5 * 2 ** (failures - 1)) * (0.75 + Math.random() / 2));
    state({ name: "reconnecting", message, retry: Date.now() + seconds * 1000 });
    await pause(seconds, stopped);
  }
}

/** One connection: its signal fires when it is stopped, silent for too long, or seen by nobody. */
class Try {
  constructor(stopped) {
    this.abort = new AbortController();
    this.signal = this.abort.signal;
    this.stopped = stopped;
    this.hidden = false;
    this.end = () => this.abort.abort();
    stopped.addEventListener("abort", this.end);
    this.look = () => {
      clearTimeout(this.unseen);
      if (document.hidden) this.unseen = setTimeout(() => this.hide(), HIDDEN_FOR * 1000);
    };
    document.addEventListener("visibilitychange", this.look);
    this.look();
    this.heard();
  }

  heard() {
    clearTimeout(this.silent);
    this.silent = setTimeout(this.end, SILENCE * 1000);
  }

  hide() {
    this.hidden = true;
    this.end();
  }

  close() {
    this.end();
    clearTimeout(this.silent);
    clearTimeout(this.unseen);
    this.stopped.removeEventListener("abort", this.end);
    document.removeEventListener("visibilitychange", this.look);
  }
}

function untilShown(stopped) {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !stopped.aborted) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    stopped.addEventListener("abort", look, { once: true });
    look();
  });
}

/** Waits; not longer than until the network is back. */
function pause(seconds, stopped) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      stopped.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, seconds * 1000);
    window.addEventListener("online", done);
    stopped.addEventListener("abort", done);
  });
}
