// dragon's client: what it is for is in dragon.d.ts, how it works in README.md.

const RANK = { queued: 0, executing: 1, success: 2, error: 2 };
const LATER = [408, 429, 502, 503, 504];
const STREAMS = 3; // at once; browsers have six connections
const KEYS = 1000;
const BUFFERED = 300; // seconds without streams
const env = globalThis.process?.env ?? {};

const now = () => performance.now() / 1000;
const isFinal = (status) => RANK[status.status] > 1;
const age = (status) => RANK[status.status] + (status.events?.started ?? "");
const named = (path, name) => (name ? `${path}/${encodeURIComponent(name)}` : path);

/** After a cut a stream begins with what is stored: maybe known, and without the place in the queue. */
function isNewer(status, seen) {
  if (!seen || age(status) > age(seen)) return true;
  if (age(status) < age(seen) || ("position" in seen && !("position" in status))) return false;
  return JSON.stringify(status) !== JSON.stringify(seen);
}

export class TaskError extends Error {
  name = "TaskError";
  constructor(status) {
    const { key, result } = status, parameters = result?.parameters ?? {};
    const problems = Object.entries(parameters).map(([name, texts]) => `${name}: ${texts.join(", ")}`);
    super(problems.join("; ") || (typeof result === "string" ? result : JSON.stringify(result)));
    Object.assign(this, { status, key, parameters });
  }
}

export class DragonError extends Error {
  name = "DragonError";
  constructor(status, { message, errors = [] }, retryAfter) {
    super(errors.map((error) => error.description).join("; ") || message || `the server answered ${status}`);
    Object.assign(this, { status, errors, retryAfter });
  }
}

/** A stream or polls for `keys`; `calls` are still to be created, under `id`. */
const newPump = (calls, id = `${crypto.getRandomValues(new Uint32Array(4))}`) => ({ calls, id, keys: new Set(), stop: new AbortController() });

/** What a caller has not taken yet, and keys that are not final. */
class Follower {
  queue = [];
  keys = new Set();
  isGone = false;
  wake() {}
  push(status) {
    // Far behind: the newest of each task.
    if (this.queue.push(status) > 2000 + 2 * this.keys.size) {
      this.queue = [...new Map(this.queue.map((one) => [one.key ?? one.number, one])).values()];
    }
    if (isFinal(status)) this.keys.delete(status.key);
    this.wake();
  }
  end(error) {
    Object.assign(this, { error, isComplete: true }).wake();
  }
}

export class Dragon {
  #url;
  #options;
  #tasks = new Map(); // followed: { pump, followers, seen }
  #pumps = new Set();
  #calls = []; // of this tick
  #next = []; // pumps of this tick
  #timer;
  #buffered = 0;

  constructor({ url, secret, apiKey, ...options } = {}) {
    const { origin } = new URL(import.meta.url);
    url ??= origin.startsWith("http") ? origin : env.DRAGON_URL;
    if (url == null) throw new TypeError("url is missing");
    this.#url = new URL(url, globalThis.location?.href).href.replace(/\/*$/, "/v1/");
    if (!apiKey) secret ??= env.DRAGON_SECRET;
    this.#options = { fetch: (...given) => fetch(...given), timeout: 300, heartbeat: 15, ...options, secret, apiKey };
  }

  async #fetch(path, init) {
    const response = await this.#options.fetch(new URL(path, this.#url), init);
    if (response.ok) return response;
    const body = await response.json().catch(() => ({}));
    throw body.key ? new TaskError(body) : new DragonError(response.status, body, +response.headers.get("retry-after"));
  }

  /** The JSON values of an answer, one a line; a chunk may end anywhere. */
  async *#values(path, body, signal, tries, init) {
    const control = new AbortController(), decoder = new TextDecoder();
    let timer, rest = "", heard = false;
    const expect = (beats) => {
      clearTimeout(timer);
      const silence = Object.assign(new Error("the server is silent"), { heard });
      timer = setTimeout(() => control.abort(silence), beats * this.#options.heartbeat * 1000);
    };
    signal?.addEventListener("abort", () => control.abort(signal.reason), control);
    try {
      expect(1);
      // A string is text/plain: no preflight.
      const response = await this.#fetch(path, { ...(body && { method: "POST", body }), ...init, signal: control.signal });
      const reader = response.body.getReader();
      for (let chunk; !(chunk = await reader.read()).done; ) {
        heard = true;
        tries.since = now();
        expect(2);
        const lines = decoder.decode(chunk.value, { stream: true }).split("\n");
        for (const line of lines.splice(0, lines.length - 1)) {
          rest += line;
          if (rest.trim()) yield JSON.parse(rest);
          rest = "";
        }
        rest += lines[0];
      }
      if (rest.trim()) yield JSON.parse(rest); // throws for half a line
    } finally {
      clearTimeout(timer);
      control.abort();
    }
  }

  async #again(signal, work) {
    for (const tries = { count: 0, since: now() }; ; ) {
      signal?.throwIfAborted();
      try {
        return await work(tries);
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof TaskError || (error.status && !LATER.includes(error.status))) throw error;
        const wait = Math.max(error.retryAfter || 0, Math.random() * Math.min(10, 2 ** tries.count++ / 4));
        if (now() + wait > tries.since + this.#options.timeout) throw error;
        this.#options.onRetry?.(error, wait);
        const control = new AbortController();
        let timer;
        await new Promise((resolve) => {
          timer = setTimeout(resolve, wait * 1000);
          signal?.addEventListener("abort", resolve, control);
        });
        clearTimeout(timer);
        control.abort();
      }
    }
  }

  #ask(path, body, signal, init) {
    return this.#again(signal, async (tries) => {
      for await (const value of this.#values(path, body && JSON.stringify(body), signal, tries, init)) return value;
      throw new Error("the answer was empty");
    });
  }

  #watch(key, follower, pump) {
    const task = this.#tasks.get(key) ?? { pump, followers: new Set() };
    this.#tasks.set(key, task);
    task.pump.keys.add(key);
    task.followers.add(follower);
    follower.keys.add(key);
    if (task.seen) follower.push(task.seen);
  }

  #leave(follower) {
    follower.isGone = true;
    for (const key of follower.keys) {
      const { followers, pump } = this.#tasks.get(key) ?? {};
      followers?.delete(follower);
      if (followers?.size === 0) this.#forget(key, pump);
    }
  }

  #forget(key, pump) {
    this.#tasks.delete(key);
    pump.keys.delete(key);
    if (!pump.keys.size && !pump.calls) pump.stop.abort();
  }

  #tell(status) {
    const { key } = status, task = this.#tasks.get(key);
    if (!task || !isNewer(status, task.seen)) return false;
    task.seen = status;
    for (const follower of task.followers) follower.push(status);
    if (isFinal(status)) this.#forget(key, task.pump);
    return true;
  }

  #created(pump, statuses) {
    for (const call of pump.calls) {
      const own = statuses.splice(0, call.texts.length);
      if (call.follower?.isGone === false) for (const { key } of own) this.#watch(key, call.follower, pump);
      call.answer(own);
    }
    pump.calls = undefined;
    this.#merge();
  }

  async #start(pump) {
    this.#pumps.add(pump);
    try {
      await this.#again(pump.stop.signal, (tries) => this.#turn(pump, tries));
    } catch (error) {
      const { calls = [] } = pump, half = calls.length >> 1;
      // A wrong definition, or too many, must not fail what travels with it.
      if (half && ([400, 413].includes(error.status) || /in one call/.test(error.message))) {
        this.#start(newPump(calls.slice(0, half)));
        this.#start(newPump(calls.slice(half)));
      } else for (const call of calls) call.reject(error);
      for (const key of pump.keys) {
        for (const follower of this.#tasks.get(key).followers) follower.end(error);
        this.#tasks.delete(key);
      }
    }
    this.#pumps.delete(pump);
  }

  /** Reads streams or, where they are buffered, polls. */
  async #turn(pump, tries) {
    while (pump.calls || pump.keys.size) {
      const polls = now() < this.#buffered, { calls } = pump;
      const streams = !polls && (!calls || calls.some((call) => call.follower));
      const path = (calls ? "create" : "status") + (streams ? "_stream" : "");
      try {
        for await (const value of this.#values(path, this.#body(pump, polls), pump.stop.signal, tries)) {
          const statuses = [value].flat();
          if (pump.calls) this.#created(pump, [...statuses]);
          const told = statuses.filter((status) => this.#tell(status));
          tries.count = told.length ? 0 : Math.min(2, tries.count);
          if (!pump.keys.size) return;
        }
      } catch (error) {
        if (!streams || error.heard !== false) throw error;
        this.#buffered = now() + BUFFERED;
        continue;
      }
      if (streams) throw new Error("the stream was cut");
    }
  }

  #body({ calls, id, keys }, polls) {
    const { secret, apiKey: api_key, heartbeat } = this.#options;
    if (!calls) return JSON.stringify({ tasks: [...keys], ...(polls && { block: true, timeout: Math.min(2, heartbeat / 2) }) });
    const head = JSON.stringify({ secret, api_key, idempotency_key: id });
    return `${head.slice(0, -1)},"tasks":[${calls.flatMap((call) => call.texts)}]}`;
  }

  #soon() {
    this.#timer ??= setTimeout(() => {
      const pumps = [...this.#next, newPump(this.#calls.filter((call) => !call.signal?.aborted))];
      this.#timer = undefined;
      [this.#calls, this.#next] = [[], []];
      for (const pump of pumps) if (pump.calls?.length || pump.keys.size) this.#start(pump);
      this.#merge();
    });
  }

  /** Makes one stream of many. */
  #merge() {
    const old = [...this.#pumps].filter((pump) => !pump.calls), keys = old.flatMap((pump) => [...pump.keys]);
    if (this.#pumps.size <= STREAMS || old.length < 2 || keys.length > KEYS) return;
    const pump = newPump();
    for (const key of keys) this.#tasks.get(key).pump = pump;
    for (const { keys, stop } of old) stop.abort(keys.clear());
    pump.keys = new Set(keys);
    this.#start(pump);
  }

  async *#iterate(follower, signal, control) {
    try {
      for (;;) {
        signal?.throwIfAborted();
        if (follower.queue.length) yield follower.queue.shift();
        else if (follower.error) throw follower.error;
        else if (follower.isComplete && !follower.keys.size) return;
        else await new Promise((resolve) => (follower.wake = resolve));
      }
    } finally {
      control.abort();
      this.#leave(follower);
    }
  }

  #create(definitions, { signal, idempotencyKey: id }, follower) {
    const texts = [definitions].flat().map((definition) => JSON.stringify(definition));
    signal?.throwIfAborted();
    const control = new AbortController();
    return new Promise((resolve, reject) => {
      if (!texts.length) return resolve([]);
      signal?.addEventListener("abort", () => reject(signal.reason), control);
      const answer = (own) => resolve(signal?.aborted ? this.#cancelAll(own.map((status) => status.key)) : own);
      const call = { texts, signal, follower, answer, reject };
      id ? this.#next.push(newPump([call], id)) : this.#calls.push(call);
      this.#soon();
    }).finally(() => control.abort());
  }

  #cancelAll(keys) {
    for (const key of keys) this.cancel(key).catch(() => {});
  }

  async create(definitions, options = {}) {
    return this.#create(definitions, options);
  }

  stream(wanted, options = {}) {
    const { signal } = options, list = [wanted].flat(), follower = new Follower(), control = new AbortController();
    const creates = typeof list[0] === "object";
    signal?.addEventListener("abort", () => {
      if (creates) this.#cancelAll(follower.keys);
      this.#leave(follower);
      follower.wake();
    }, control);
    if (creates) this.#create(list, options, follower).then(() => follower.end(), (error) => follower.end(error));
    else {
      for (const key of list) {
        if (!(this.#next.at(-1)?.keys.size % KEYS)) this.#next.push(newPump());
        this.#watch(key, follower, this.#next.at(-1));
      }
      this.#soon(follower.end());
    }
    return this.#iterate(follower, signal, control);
  }

  follow(keys, options) {
    return this.stream(keys, options);
  }

  async run(name, params, { signal, onProgress, onStatus, metas } = {}) {
    let last, before;
    for await (last of this.stream({ ...params, task_name: name, task_metas: metas }, { signal })) {
      onStatus?.(last);
      const progress = JSON.stringify(last.progress);
      if (progress !== before) onProgress?.(last.progress, last);
      before = progress;
    }
    if (last.status === "error") throw new TaskError(last);
    return last.result;
  }

  async status(keys, { block, timeout = 300, details, signal } = {}) {
    for (const ends = now() + timeout; ; ) {
      const left = Math.max(0, Math.min(ends - now(), this.#options.heartbeat / 2));
      const statuses = await this.#ask("status", { tasks: keys, details, block, timeout: left }, signal);
      if (!block || !left || statuses.every(isFinal)) return statuses;
    }
  }

  cancel(key, { signal } = {}) {
    const { secret, apiKey } = this.#options;
    const headers = { Authorization: secret ? `Secret ${secret}` : `Api-Key ${apiKey}` };
    return this.#ask(named("tasks", key), undefined, signal, { method: "DELETE", headers });
  }

  async file(key, name, { signal } = {}) {
    for await (const _ of this.stream(key, { signal })); // redirects wait ten minutes at most
    return this.fetch(`${named("file", name)}?task=${key}`, { signal });
  }

  fetch(path, init) {
    return this.#again(init?.signal, () => this.#fetch(path, init));
  }

  imgUrl(name, params = {}, { filename } = {}) {
    const { apiKey } = this.#options, query = new URLSearchParams({ task_name: name, ...(apiKey && { api_key: apiKey }) });
    for (const [member, value] of Object.entries(params)) for (const one of [value ?? []].flat()) query.append(member, one);
    return `${this.#url}${named("create_file", filename)}?${query}`;
  }

  log(key, { after = 0, follow, signal } = {}) {
    const follower = new Follower(), control = new AbortController(), path = `log?task=${key}&after=`;
    signal?.addEventListener("abort", () => follower.wake(control.abort()), control);
    const read = async (tail, tries) => {
      let value;
      for await (value of this.#values(path + after + tail, undefined, control.signal, tries)) {
        for (const line of value.lines ?? [value]) follower.push(line, (after = line.number));
      }
      return value;
    };
    const work = async (tries) => {
      for (let page; follow ? !page?.ended : page?.lines.length !== 0; ) {
        if (follow) await read("&follow=true", tries);
        page = await read("", tries);
      }
    };
    this.#again(control.signal, work).then(() => follower.end(), (error) => follower.end(error));
    return this.#iterate(follower, signal, control);
  }
}
