// The tasks that a list holds: pages of older ones, and every new or changed one as the stream tells it.
//
// The stream tells once a second what is new on its first page, and the whole page as a list when nothing of the one before
// is on it: there may have been more in between. What stands below it is then forgotten, and read again in pages.
//
// It is asked without the state, because a task that leaves a state has to leave the list: the state is looked at
// here. New tasks wait in `held` while the reader is further down, so that nothing moves under the finger.

import { call, withQuery } from "./api.js";
import { isFinal } from "./parts.js";
import { unix } from "./format.js";

const PAGE = 100; // rows of one call
const STREAMED = 200; // rows of the stream's first page
const MOST_LIVE = 2000; // rows that are kept while nobody scrolls: older ones are read again when they are wanted
const MOST_ROWS = 100_000;
const PIECES = 20; // calls without a find after which the reader is asked whether to go on

/** Which rows a state shows. */
const IN_STATE = {
  "": () => true,
  waiting: (row) => row.status === "queued",
  executing: (row) => row.status === "executing",
  success: (row) => row.status === "success",
  error: (row) => row.status === "error",
  ended: (row) => isFinal(row.status),
};

export class TaskList {
  constructor(filters, changed) {
    this.filters = filters;
    this.fits = IN_STATE[filters.state ?? ""] ?? IN_STATE[""];
    this.changed = changed;
    this.rows = []; // newest first
    this.known = new Map(); // key -> row
    this.incoming = new Map(); // new since the last frame
    this.held = new Map();
    this.holding = false;
    this.cursor = undefined; // undefined: unknown, null: there is nothing older
    this.loading = false;
    this.started = false;
    this.searched = 0; // tasks that were looked at for the pages so far
    this.fruitless = 0; // calls in a row that found nothing
    this.error = "";
    this.stale = false;
    this.gap = false; // between the rows and the held ones there may be others
    this.opening = false; // the stream's next list is its first
    this.cut = ""; // below this date something may be missing
    this.stopped = new AbortController();
  }

  get complete() {
    return this.cursor === null;
  }

  get asksToGoOn() {
    return this.fruitless >= PIECES;
  }

  stop() {
    this.stopped.abort();
  }

  // --- From the stream ---

  open() {
    this.opening = true;
    return ["GET", withQuery("/v1/operator/tasks_stream", { ...this.filters, state: undefined, limit: STREAMED })];
  }

  value(line) {
    if (!Array.isArray(line)) return this.take(line);
    const isFirst = this.opening;
    this.opening = false;
    const joins = isFirst && (!this.started || line.some((row) => this.known.has(row.key) || this.held.has(row.key)));
    if (!joins && line.length) this.cut = line.map((row) => row.queued).sort()[0];
    for (const row of line) this.take(row);
    return isFirst ? this.refresh() : undefined;
  }

  /** One row of the stream. */
  take(row) {
    if (this.known.has(row.key)) this.replace(row);
    else if (this.held.has(row.key)) this.put(this.held, row);
    else this.put(this.incoming, row);
    this.changed();
  }

  put(place, row) {
    if (this.fits(row)) place.set(row.key, row);
    else place.delete(row.key);
  }

  replace(row) {
    if (this.fits(row)) {
      const old = this.known.get(row.key);
      this.rows[this.indexOf(old)] = row;
      this.known.set(row.key, row);
    } else this.remove(row.key);
  }

  remove(key) {
    const at = this.indexOf(this.known.get(key));
    if (at >= 0) this.rows.splice(at, 1);
    this.known.delete(key);
  }

  /** Where a row stands: found by its time, then among those of the same moment. */
  indexOf(row) {
    let at = this.placeOf(row.queued);
    while (at < this.rows.length && this.rows[at].key !== row.key) at += 1;
    return at < this.rows.length ? at : -1;
  }

  /** The first place whose row is not newer. */
  placeOf(queued) {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].queued > queued) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** What came in since the last frame joins the list, or waits to be let in. */
  settle() {
    if (this.cut) this.cutBelow();
    if (!this.incoming.size) return;
    const place = this.holding ? this.held : this.known;
    const fresh = [...this.incoming.values()];
    this.incoming.clear();
    if (place === this.held) this.hold(fresh);
    else this.insert(fresh);
  }

  /** There may be tasks between the new rows and those below that nobody has told of. */
  cutBelow() {
    if (this.holding) this.gap = true;
    else {
      this.rows = this.rows.filter((row) => row.queued >= this.cut || !this.known.delete(row.key));
      this.cursor = undefined;
    }
    this.cut = "";
  }

  hold(fresh) {
    const newest = this.rows[0]?.queued ?? "";
    this.insert(fresh.filter((row) => row.queued < newest)); // older ones are not news, and stand further down
    for (const row of fresh) if (row.queued >= newest) this.held.set(row.key, row);
    for (const key of this.held.keys()) {
      if (this.held.size <= MOST_LIVE) break;
      this.held.delete(key);
      this.gap = true;
    }
  }

  release() {
    const fresh = [...this.held.values()];
    this.held.clear();
    if (this.gap) this.restart();
    this.gap = false;
    this.insert(fresh);
    this.trim();
  }

  insert(fresh) {
    if (!fresh.length) return;
    for (const row of fresh) this.known.set(row.key, row);
    const all = fresh.sort((a, b) => (a.queued < b.queued ? 1 : a.queued > b.queued ? -1 : 0));
    this.rows = merged(all, this.rows);
    if (!this.holding) this.trim();
  }

  trim() {
    if (this.rows.length <= MOST_LIVE * 2) return;
    for (const row of this.rows.slice(MOST_LIVE)) this.known.delete(row.key);
    this.rows = this.rows.slice(0, MOST_LIVE);
    this.cursor = undefined;
  }

  restart() {
    this.rows = [];
    this.known.clear();
    this.cursor = undefined;
    this.fruitless = 0;
  }

  // --- Pages ---

  /** The first page again, whenever the stream was opened: what came and changed while it was not open. */
  async refresh() {
    this.stale = true;
    while (this.stale && !this.loading && !this.stopped.signal.aborted) {
      this.stale = false;
      await this.load(() => this.readFirst());
    }
  }

  async readFirst() {
    const page = await this.ask({});
    const overlaps = page.tasks.some((row) => this.known.has(row.key));
    if (!overlaps && this.rows.length) this.restart(); // away for longer than a page: the list begins anew
    if (!this.started || !overlaps) this.cursor = page.next;
    this.takePage(page);
    if (this.started) await this.readRunning(new Set(page.tasks.map((row) => row.key)));
    this.started = true;
  }

  /** Rows that have not ended, as far as this list knows, and that stand further down than the first page. */
  async readRunning(seen) {
    const keys = this.rows.filter((row) => !isFinal(row.status) && !seen.has(row.key)).map((row) => row.key);
    for (let at = 0; at < Math.min(keys.length, MOST_LIVE); at += PAGE) {
      const tasks = keys.slice(at, at + PAGE);
      const statuses = await call("POST", "/v1/status", { body: { tasks }, signal: this.stopped.signal });
      for (const status of statuses) if (this.known.has(status.key)) this.replace(withStatus(this.known.get(status.key), status));
    }
  }

  /** The next older page. */
  async older() {
    if (this.complete || !this.started || this.rows.length >= MOST_ROWS) return;
    await this.load(async () => this.goOn(await this.ask(this.whereNext())));
    if (this.stale) await this.refresh();
  }

  goOn(page) {
    this.cursor = page.next;
    this.takePage(page);
  }

  whereNext() {
    if (this.cursor) return { after: this.cursor };
    const last = this.rows.at(-1);
    // A second more, for all that were queued in the same moment; what is known already is left out again.
    return last ? { until: new Date((unix(last.queued) + 1) * 1000).toISOString() } : {};
  }

  ask(more) {
    const path = withQuery("/v1/operator/tasks", { ...this.filters, limit: PAGE, ...more });
    return call("GET", path, { signal: this.stopped.signal });
  }

  takePage(page) {
    const fresh = [];
    for (const row of page.tasks) {
      if (this.known.has(row.key)) this.replace(later(this.known.get(row.key), row));
      else if (!this.held.has(row.key)) fresh.push(later(this.incoming.get(row.key), row));
      this.incoming.delete(row.key);
    }
    this.searched += page.scanned ?? 0;
    this.fruitless = fresh.length ? 0 : this.fruitless + 1;
    const holding = this.holding;
    this.holding = true; // a page that was asked for is not trimmed
    this.insert(fresh.filter(this.fits));
    this.holding = holding;
  }

  async load(work) {
    if (this.loading) return;
    this.loading = true;
    this.changed();
    try {
      await work();
      this.error = "";
    } catch (error) {
      if (this.stopped.signal.aborted) return;
      this.error = error.message;
    } finally {
      this.loading = false;
      this.changed();
    }
  }

  goOnSearching() {
    this.fruitless = 0;
    this.error = "";
    return this.older();
  }
}

/** Two lists, newest first, as one; of the same moment the first list's stand first. */
function merged(a, b) {
  if (!b.length || a.at(-1).queued >= b[0].queued) return a.concat(b);
  const all = [];
  let j = 0;
  for (const row of a) {
    while (j < b.length && b[j].queued > row.queued) all.push(b[j++]);
    all.push(row);
  }
  while (j < b.length) all.push(b[j++]);
  return all;
}

const RANK = { queued: 0, executing: 1, success: 2, error: 2 };

/** The row that tells the later state: a page and the stream may cross on their way. */
function later(a, b) {
  if (!a) return b;
  const [final, other] = [isFinal(a.status), isFinal(b.status)];
  if (final !== other) return final ? a : b;
  if (a.attempt !== b.attempt) return a.attempt > b.attempt ? a : b;
  return RANK[a.status] > RANK[b.status] ? a : b;
}

/** A row with what a status of the public API says. */
function withStatus(row, status) {
  const { started = null, completed = null } = status.events ?? {};
  const message = status.status === "error" && typeof status.result === "string" ? status.result : row.message;
  return { ...row, status: status.status, started, completed, message, progress: status.progress };
}
