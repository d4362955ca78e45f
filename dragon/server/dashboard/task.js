// One task: what happened to it, what it was given and what came of it, live.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact.js";
import { cancelTasks, retryTasks } from "./acts.js";
import { call, withQuery } from "./api.js";
import { between, bytes, clock, coarse, count, duration, fullDate, unix } from "./format.js";
import { useFrame, useNow, useStream } from "./hooks.js";
import { Act, ask, Banner, isFinal, Json, Loading, Progress, say, Status, When } from "./parts.js";
import { go, taskAddress } from "./router.js";

export function Task({ route }) {
  const key = route.rest[0] ?? "";
  return html`<${OneTask} key=${key} taskKey=${key} />`;
}

function OneTask({ taskKey }) {
  const [task, refused, read] = useTask(taskKey);
  const live = useLiveStatus(taskKey, task, read);
  if (refused) return html`<p class="crumb"><a href="#/tasks">Tasks</a></p><h1>Task</h1><${Banner}>${refused}<//>`;
  if (!task) return html`<h1>Task</h1><${Loading} />`;
  const status = live ?? task.status;
  return html`
    <${Title} task=${task} status=${status} read=${read} />
    <${Waiting} task=${task} status=${status} />
    <${Kin} task=${task} />
    <div class="split">
      <div>
        <${Course} task=${task} status=${status} />
        <${Result} status=${status} />
        ${task.traceback && html`<details class="panel traceback"><summary>Traceback</summary><pre tabindex="0">${task.traceback}</pre></details>`}
        <${Log} taskKey=${taskKey} isFinal=${isFinal(status.status)} />
      </div>
      <div>
        <section class="panel" aria-labelledby="parameters"><h2 id="parameters">Parameters</h2><${Json} value=${task.parameters} label="Parameters" /></section>
        ${hasMembers(task.task_metas) && html`<section class="panel" aria-labelledby="metas"><h2 id="metas">task_metas</h2><${Json} value=${task.task_metas} label="task_metas" /></section>`}
        <${Facts} task=${task} />
      </div>
    </div>
  `;
}

const hasMembers = (value) => value !== null && value !== undefined && !(typeof value === "object" && !Object.keys(value).length);

// --- What the server knows --------------------------------------------------------------------------------------------

/** The task as the operator API tells it, the sentence when it does not, and a function that reads it again. */
function useTask(key) {
  const [state, setState] = useState({ task: null, refused: "" });
  const reading = useRef(null);
  const read = async () => {
    reading.current?.abort();
    const stop = (reading.current = new AbortController());
    try {
      const task = await call("GET", `/v1/operator/tasks/${encodeURIComponent(key)}`, { signal: stop.signal });
      setState({ task, refused: "" });
    } catch (error) {
      if (stop.signal.aborted) return;
      setState((before) => (before.task ? before : { task: null, refused: error.message }));
      if (error.status === 0 || error.status >= 500) retry.current = setTimeout(read, 2000);
    }
  };
  const retry = useRef(0);
  useEffect(() => {
    read();
    return () => {
      reading.current?.abort();
      clearTimeout(retry.current);
    };
  }, []);
  return [state.task, state.refused, read];
}

/** The newest status; when the task begins, is begun anew or ends, the rest is read again too. */
function useLiveStatus(key, task, read) {
  const status = useRef(null);
  const frame = useFrame();
  const isKnown = task !== null;
  const isOver = isKnown && isFinal(task.status.status);
  const take = (line) => {
    const next = Array.isArray(line) ? line[0] : line;
    if (!next || next.key !== key) return;
    const before = status.current ?? task.status;
    status.current = next;
    if (next.status !== before.status || next.events?.started !== before.events?.started) read();
    frame();
  };
  useStream(
    () =>
      isKnown &&
      !isOver && {
        open: () => ["POST", "/v1/status_stream", { tasks: [key] }],
        value: take,
        ended: () => isFinal(status.current?.status),
      },
    [isKnown],
  );
  return status.current;
}

// --- The head ---------------------------------------------------------------------------------------------------------

function Title({ task, status, read }) {
  const key = status.key;
  const isOver = isFinal(status.status);
  const retry = async () => {
    const [answer] = await retryTasks([key]);
    if (answer?.retried_as) go(taskAddress(answer.retried_as));
    else read();
  };
  const cancel = async () => {
    const sure = await ask({ title: "Cancel this task?", text: status.status === "executing" ? "It executes: its executor is ended. Its clients get the error “cancelled”." : "It is dropped from its queue. Its clients get the error “cancelled”.", action: "Cancel it", danger: true });
    if (!sure) return;
    await cancelTasks([key]);
    read();
  };
  return html`
    <p class="crumb"><a href="#/tasks">Tasks</a> <span aria-hidden="true">/</span> <a href=${`#/tasks?${new URLSearchParams({ name: task.task_name })}`}>${task.task_name}</a></p>
    <div class="title">
      <h1>${task.task_name} <${Status} status=${status.status} /></h1>
      <div class="acts">
        ${status.status === "error" && !task.retried_as && html`<${Act} onAct=${retry}>Retry<//>`}
        ${!isOver && html`<${Act} class="danger-text" onAct=${cancel}>Cancel<//>`}
      </div>
    </div>
    <p class="whole-key"><code>${key}</code> <${Copy} text=${key} /></p>
    <p class="hidden" role="status">${`The task is ${status.status}.`}</p>
    ${status.progress !== undefined && !isOver && html`<div class="big-progress"><${Progress} value=${status.progress} label="Progress" /></div>`}
  `;
}

function Copy({ text }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("The key is copied.");
    } catch {
      say("The browser does not let this page copy: select the key.", "error");
    }
  };
  return html`<button type="button" class="small" onClick=${copy} aria-label="Copy the key">Copy</button>`;
}

function Waiting({ task, status }) {
  if (status.status !== "queued") return null;
  const position = status.position ?? task.position;
  const eta = status.eta ?? task.eta;
  return html`
    ${task.waiting_for && html`<${Banner}>It waits: ${task.waiting_for}.<//>`}
    ${Number.isFinite(position) && html`<${Banner} kind="note">${position === 1 ? "It is the next" : `It is number ${count(position)}`} in the queue ${task.queue}${Number.isFinite(eta) ? `; it should end in about ${coarse(eta)}` : ""}.<//>`}
  `;
}

function Kin({ task }) {
  return html`
    ${task.retry_of && html`<${Banner} kind="note">This is a retry of <a href=${taskAddress(task.retry_of)}><code>${task.retry_of}</code></a>.<//>`}
    ${task.retried_as && html`<${Banner} kind="note">It was retried as <a href=${taskAddress(task.retried_as)}><code>${task.retried_as}</code></a>.<//>`}
  `;
}

// --- The course of things ---------------------------------------------------------------------------------------------

/** Every event with the time since the one before it. */
function eventsOf(task, status) {
  const { queued, started, completed } = status.events ?? {};
  const events = [{ at: queued, name: "Queued", text: task.queue ? `in ${task.queue}` : "" }];
  for (const attempt of task.attempts ?? []) {
    const name = `Attempt ${attempt.attempt}`;
    if (attempt.started) events.push({ at: attempt.started, name: `${name} started`, text: attempt.worker ? `by ${attempt.worker}` : "" });
    if (attempt.ended && attempt.ended !== completed) events.push({ at: attempt.ended, name: `${name} ended`, text: attempt.ending, kind: "bad" });
  }
  const isTold = events.some((event) => event.at === started);
  if (started && !isTold) events.push({ at: started, name: `Attempt ${task.attempt ?? 1} started`, text: task.worker ? `by ${task.worker}` : "" });
  if (completed) events.push(endOf(task, status, completed));
  return events.filter((event) => event.at).sort((a, b) => unix(a.at) - unix(b.at));
}

function endOf(task, status, completed) {
  const last = (task.attempts ?? []).find((attempt) => attempt.ended === completed);
  const isGood = status.status === "success";
  return { at: completed, name: isGood ? "Success" : "Error", text: last && !isGood ? last.ending : "", kind: isGood ? "good" : "bad" };
}

function Course({ task, status }) {
  const events = eventsOf(task, status);
  return html`<section class="panel" aria-labelledby="course">
    <h2 id="course">Timeline</h2>
    <${Lengths} task=${task} status=${status} />
    <ol class="course">
      ${events.map(
        (event, index) => html`<li key=${`${event.name}${event.at}`} data-kind=${event.kind ?? ""}>
          <time datetime=${event.at} title=${fullDate(event.at)}>${clock(event.at)}</time>
          <span class="after">${index > 0 && `+${duration(between(events[index - 1].at, event.at))}`}</span>
          <span class="event"><b>${event.name}</b> <span class="quiet">${event.text}</span></span>
        </li>`,
      )}
    </ol>
  </section>`;
}

/** When the first attempt began; the status tells of the last one. */
function firstStart(task, status) {
  const starts = [status.events?.started, ...(task.attempts ?? []).map((attempt) => attempt.started)].filter(Boolean);
  return starts.sort((a, b) => unix(a) - unix(b))[0];
}

/** Waiting and running, as lengths beside each other. */
function Lengths({ task, status }) {
  const now = useNow();
  const { queued, completed } = status.events ?? {};
  const started = firstStart(task, status);
  const end = completed ? unix(completed) : now;
  const waited = Math.max(0, (started ? unix(started) : end) - unix(queued));
  const ran = started ? Math.max(0, end - unix(started)) : 0;
  const whole = waited + ran || 1;
  const goes = (seconds) => (completed ? duration(seconds) : duration(Math.floor(seconds)));
  const share = (seconds) => ({ flexGrow: Math.max(seconds / whole, 0.004) });
  return html`<div class="lengths">
    <div class="lengths-bar" aria-hidden="true"><span class="waited" style=${share(waited)} />${started && html`<span class="ran" data-status=${status.status} style=${share(ran)} />`}</div>
    <p><span class="swatch waited" aria-hidden="true" />waited <b>${started ? duration(waited) : goes(waited)}</b>${started && html`<span class="swatch ran" data-status=${status.status} aria-hidden="true" />${completed ? "ran" : "runs for"} <b>${goes(ran)}</b>`}${task.attempt > 1 && `in ${task.attempt} attempts`}</p>
  </div>`;
}

function Facts({ task }) {
  const facts = [
    ["Queue", task.queue],
    ["Account", task.account],
    ["Worker", task.worker],
    ["Attempt", task.max_attempts ? `${task.attempt ?? 0} of ${task.max_attempts}` : task.attempt],
    ["Timeout", Number.isFinite(task.timeout) ? duration(task.timeout) : null],
    ["Output", task.bytes ? bytes(task.bytes) : null],
    ["Trace", task.traceparent],
    ["Kept until", task.expires && html`<${When} at=${isoOf(task.expires)} />`],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  return html`<section class="panel" aria-labelledby="facts"><h2 id="facts">Facts</h2>
    <dl class="facts">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
  </section>`;
}

const isoOf = (moment) => (typeof moment === "number" ? new Date(moment * 1000).toISOString() : moment);

// --- The result -------------------------------------------------------------------------------------------------------

function Result({ status }) {
  if (status.result === undefined) return null;
  const isError = status.status === "error";
  const title = isError ? "Error" : status.status === "success" ? "Result" : "Result so far";
  return html`<section class="panel" aria-labelledby="result" data-kind=${isError ? "bad" : ""}>
    <h2 id="result">${title}</h2>
    <${Files} files=${filesOf(status.result)} />
    ${isError && typeof status.result === "string" ? html`<p class="error-text">${status.result}</p>` : html`<${Json} value=${status.result} label=${title} />`}
  </section>`;
}

const PICTURE = /\.(avif|gif|jpe?g|png|svg|webp)$/i;
const FILE = /^\/files\/[A-Z2-7]{26}\/[^/?#]+$/;
const OURS = new Set([location.origin, originOf(document.body.dataset.address)]);
const MOST_FILES = 60;

function originOf(text) {
  try {
    return new URL(text).origin;
  } catch {
    return "";
  }
}

/** The output files that a result names. Their paths are asked from this origin, whichever of its names the URL has. */
export function filesOf(value, path = "", found = []) {
  if (found.length >= MOST_FILES) return found;
  if (typeof value === "string") {
    const file = fileOf(value, path);
    if (file) found.push(file);
  } else if (value && typeof value === "object") for (const [name, item] of Object.entries(value)) filesOf(item, path ? `${path}.${name}` : name, found);
  return found;
}

function fileOf(text, name) {
  if (!text.startsWith("http")) return null;
  try {
    const url = new URL(text);
    if (!OURS.has(url.origin) || !FILE.test(url.pathname)) return null;
    return { name, path: url.pathname, file: url.pathname.split("/").pop(), isPicture: PICTURE.test(url.pathname) };
  } catch {
    return null;
  }
}

function Files({ files }) {
  if (!files.length) return null;
  return html`<ul class="files">${files.map(
    ({ name, path, file, isPicture }) => html`<li key=${name}><a href=${path} target="_blank" rel="noopener">
      ${isPicture && html`<${Picture} path=${path} name=${name} />`}
      <span class="file-name">${name || file} <span class="quiet">${file}</span></span>
    </a></li>`,
  )}</ul>`;
}

function Picture({ path, name }) {
  const [isGone, setGone] = useState(false);
  return html`<span class="picture">${isGone ? html`<span class="quiet">not there any more</span>` : html`<img src=${path} alt=${`output file ${name}`} onError=${() => setGone(true)} />`}</span>`;
}

// --- Log lines --------------------------------------------------------------------------------------------------------

const MOST_LINES = 1000;

function Log({ taskKey, isFinal }) {
  const log = useRef({ lines: [], after: 0, isOver: false });
  const [isMissing, setMissing] = useState(false);
  const over = useRef(isFinal);
  over.current = isFinal;
  const frame = useFrame();
  const box = useRef(null);
  const follows = useRef(true);
  useStream(
    () => ({
      open: () => ["GET", withQuery("/v1/log", { task: taskKey, follow: "true", after: log.current.after })],
      value: (line) => {
        if (!Number.isFinite(line.number) || line.number <= log.current.after) return;
        log.current.after = line.number;
        log.current.lines.push(line);
        if (log.current.lines.length > MOST_LINES * 1.2) log.current.lines.splice(0, log.current.lines.length - MOST_LINES);
        frame();
      },
      state: (state) => state.name === "refused" && setMissing(true),
      ended: () => over.current,
    }),
    [],
  );
  useLayoutEffect(() => {
    if (follows.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  });
  const scroll = ({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
    follows.current = scrollTop + clientHeight >= scrollHeight - 8;
  };
  const lines = log.current.lines.slice(-MOST_LINES);
  if (isMissing || (!lines.length && isFinal)) return null;
  return html`<section class="panel" aria-labelledby="log">
    <h2 id="log">Log <span class="aside">${lines.length > 0 && count(log.current.after)}</span></h2>
    ${!lines.length && html`<p class="quiet">No line yet.</p>`}
    ${lines.length > 0 &&
    html`<div class="log" ref=${box} tabindex="0" role="log" aria-label="Log lines" aria-live="off" onScroll=${scroll}>
      ${lines.map((line, index) => html`${line.attempt !== (lines[index - 1]?.attempt ?? 1) && html`<p class="attempt" key=${`a${line.attempt}`}>attempt ${line.attempt}</p>`}<p key=${line.number}><time datetime=${line.time}>${clock(line.time)}</time><span>${line.text}</span></p>`)}
    </div>`}
  </section>`;
}
