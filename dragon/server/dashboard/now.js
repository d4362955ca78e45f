// Now: what waits, who works, how fast.

import { html, useRef } from "./preact.js";
import { call } from "./api.js";
import { brief, bytes, coarse, count, duration, many, rate, unix } from "./format.js";
import { useFrame, useNow, useStream } from "./hooks.js";
import { Act, ask, Banner, Empty, Loading, say, Spark, When } from "./parts.js";
import { address, taskAddress } from "./router.js";

const REMEMBERED = 120; // snapshots that the small curves show
const TASKS_SHOWN = 6; // of one executor; an executor of `async def` tasks may have a hundred

export function Now({ account }) {
  const seen = useRef({ snapshot: null, past: [] });
  const frame = useFrame();
  useNow();
  useStream(
    () => ({
      open: () => ["GET", "/v1/operator/overview_stream"],
      value: (snapshot) => {
        seen.current.snapshot = snapshot;
        seen.current.past = [...seen.current.past.slice(1 - REMEMBERED), snapshot];
        frame();
      },
    }),
    [],
  );
  const { snapshot, past } = seen.current;
  if (!snapshot) return html`<h1>Now</h1><${Loading} what="Waiting for the first snapshot" />`;
  return html`
    <h1>Now</h1>
    <${Problems} snapshot=${snapshot} operator=${account.operator} />
    <${Figures} snapshot=${snapshot} past=${past} />
    <${Queues} queues=${snapshot.queues} operator=${account.operator} />
    ${account.operator && html`<${Workers} workers=${snapshot.workers} />`}
    <${Below} snapshot=${snapshot} />
  `;
}

function Problems({ snapshot, operator }) {
  const left = snapshot.queues.filter((queue) => queue.waiting > 0 && queue.workers === 0);
  return html`
    ${snapshot.suspended && html`<${Banner}>RQ is suspended: no worker takes a task until <code>rq resume</code>.<//>`}
    ${left.map((queue) => html`<${Banner} key=${queue.name}>No worker serves the queue <b>${queue.name}</b>: ${many(queue.waiting, "task waits", "tasks wait")} there.<//>`)}
    ${operator && !snapshot.workers.length && !left.length && html`<${Banner}>No worker is registered. Start one with <code>dragon worker</code>.<//>`}
  `;
}

function Figures({ snapshot, past }) {
  const { counts, rates } = snapshot;
  const curve = (pick) => past.map((old) => pick(old) ?? 0);
  const waiting = (old) => old.counts.waiting;
  const executing = (old) => old.counts.executing;
  const ended = counts.success === null ? null : counts.success + counts.error;
  return html`<dl class="figures" aria-label="Figures">
    <${Figure} name="Waiting" value=${count(counts.waiting)} curve=${curve(waiting)} href=${address("tasks", { state: "waiting" })} />
    <${Figure} name="Executing" value=${count(counts.executing)} curve=${curve(executing)} href=${address("tasks", { state: "executing" })} />
    <${Figure} name="Tasks a second" value=${rate(rates.per_second)} curve=${curve((old) => old.rates.per_second)} />
    <${Figure} name="Errors a second" value=${rate(rates.errors_per_second)} curve=${curve((old) => old.rates.errors_per_second)} kind=${rates.errors_per_second > 0 ? "bad" : ""} href="#/failures" />
    <${Figure} name="Waiting time" value=${duration(rates.waiting_p50)} more=${`p95 ${duration(rates.waiting_p95)}`} />
    <${Figure} name="Ended" value=${count(ended)} more=${`${count(counts.error)} in an error`} />
  </dl>`;
}

function Figure({ name, value, more, curve, href, kind }) {
  return html`<div class="figure" data-kind=${kind}>
    <dt>${href ? html`<a href=${href}>${name}</a>` : name}</dt>
    <dd><span class="value">${value}</span>${more && html`<span class="more">${more}</span>`}${curve && html`<${Spark} values=${curve} />`}</dd>
  </div>`;
}

// --- Queues -----------------------------------------------------------------------------------------------------------

function Queues({ queues, operator }) {
  return html`<section aria-labelledby="queues">
    <h2 id="queues">Queues</h2>
    ${!queues.length && html`<${Empty} title="No queue yet">A queue appears with its first task or its first worker.<//>`}
    ${queues.length > 0 &&
    html`<div class="panel"><table class="queues">
      <thead><tr><th scope="col">Queue</th><th scope="col" class="n">Waiting</th><th scope="col" class="n wide">Executing</th><th scope="col" class="n wide">Oldest</th><th scope="col" class="n wide">Workers</th>${operator && html`<th scope="col" class="end"><span class="hidden">Actions</span></th>`}</tr></thead>
      <tbody>${queues.map((queue) => html`<${Queue} key=${queue.name} queue=${queue} operator=${operator} />`)}</tbody>
    </table></div>`}
  </section>`;
}

function Queue({ queue, operator }) {
  const oldest = queue.oldest === null ? "–" : coarse(queue.oldest);
  return html`<tr data-queue=${queue.name}>
    <th scope="row"><span class="name">${queue.name}</span>${queue.paused && html` <span class="tag" data-kind="warning">paused</span>`}</th>
    <td class="n">${count(queue.waiting)}<span class="narrow quiet">${count(queue.executing)} executing</span></td>
    <td class="n wide">${count(queue.executing)}</td>
    <td class="n wide">${oldest}</td>
    <td class="n wide">${queue.workers === 0 && queue.waiting > 0 ? html`<b class="bad">none</b>` : count(queue.workers)}</td>
    ${operator && html`<td class="end"><${QueueActs} queue=${queue} /></td>`}
  </tr>`;
}

function QueueActs({ queue }) {
  const send = (action) => call("POST", `/v1/operator/queues/${encodeURIComponent(queue.name)}`, { body: { action } });
  const turn = async () => {
    const answer = await send(queue.paused ? "resume" : "pause");
    say(`The queue ${answer.queue} ${answer.paused ? "is paused: what waits stays, what executes goes on" : "goes on"}.`);
  };
  const clear = async () => {
    const sure = await ask({
      title: `Clear the queue ${queue.name}?`,
      text: `Every task that waits there is cancelled: ${many(queue.waiting, "task")} at this moment. Their clients get the error “cancelled”. Tasks that execute go on.`,
      action: "Cancel what waits",
      danger: true,
    });
    if (sure) say(`${many((await send("clear")).cleared, "task")} of the queue ${queue.name} cancelled.`);
  };
  return html`<div class="acts">
    <${Act} class="small" onAct=${turn} aria-label=${`${queue.paused ? "Resume" : "Pause"} the queue ${queue.name}`}>${queue.paused ? "Resume" : "Pause"}<//>
    <${Act} class="small danger-text" onAct=${clear} aria-label=${`Clear the queue ${queue.name}`}>Clear<//>
  </div>`;
}

// --- Workers ----------------------------------------------------------------------------------------------------------

function Workers({ workers }) {
  const busy = workers.reduce((sum, worker) => sum + worker.executors.filter((executor) => executor.tasks.length).length, 0);
  const all = workers.reduce((sum, worker) => sum + worker.executors.length, 0);
  return html`<section aria-labelledby="workers">
    <h2 id="workers">Workers <span class="aside">${workers.length > 0 && `${count(busy)} of ${many(all, "executor")} busy`}</span></h2>
    ${!workers.length && html`<${Empty} title="No worker">Nothing is executed until one starts.<//>`}
    <ul class="workers">${workers.map((worker) => html`<${Worker} key=${worker.id} worker=${worker} />`)}</ul>
  </section>`;
}

function Worker({ worker }) {
  return html`<li class="panel worker">
    <h3><span class="name">${worker.hostname ?? "?"}</span> <span class="quiet">pid ${worker.pid ?? "?"}</span> ${worker.kind === "rq" && html`<span class="tag">rq worker</span>`}</h3>
    <p class="quiet">${worker.queues.join(", ")}<span class="lease"> · lease ${Number.isFinite(worker.lease) ? duration(worker.lease) : "–"}</span></p>
    <ul class="executors">${worker.executors.map((executor) => html`<${Executor} key=${executor.pid} executor=${executor} />`)}</ul>
  </li>`;
}

function Executor({ executor }) {
  const { pid, kind, tasks } = executor;
  const shown = tasks.slice(0, TASKS_SHOWN);
  return html`<li class="executor" data-busy=${tasks.length > 0}>
    <span class="pid">${pid} <span class="kind">${kind}</span></span>
    ${!tasks.length && html`<span class="idle">idle</span>`}
    ${tasks.length > 0 &&
    html`<ul class="doing">
      ${shown.map((task) => html`<li key=${task.key}><a href=${taskAddress(task.key)}>${task.name}</a> <${Running} since=${task.started} /></li>`)}
      ${tasks.length > shown.length && html`<li class="quiet">and ${count(tasks.length - shown.length)} more</li>`}
    </ul>`}
  </li>`;
}

function Running({ since }) {
  const now = useNow();
  return html`<span class="since" title=${since}>${Number.isFinite(unix(since)) ? brief(now - unix(since)) : "–"}</span>`;
}

function Below({ snapshot }) {
  const { redis, streams } = snapshot;
  const facts = [
    redis.version && `Redis ${redis.version}`,
    redis.memory_bytes && bytes(redis.memory_bytes),
    redis.persistence && `persistence: ${redis.persistence}`,
    `${many(streams, "stream")} open`,
  ];
  return html`<p class="below">${facts.filter(Boolean).join(" · ")} · last change <${When} at=${snapshot.time} /></p>`;
}
