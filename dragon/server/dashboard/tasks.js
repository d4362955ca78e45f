// Tasks: a live list with filters in the address, of which only what is on the screen is drawn.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./preact.js";
import { cancelTasks, retryTasks } from "./acts.js";
import { call } from "./api.js";
import { between, coarse, count, duration, fromLocal, many, toLocal, unix } from "./format.js";
import { useFrame, useKeys, useNow, useStream } from "./hooks.js";
import { Act, ask, Banner, Check, Empty, isFinal, Loading, Progress, shortKey, Status, When } from "./parts.js";
import { address, go, replace, taskAddress } from "./router.js";
import { TaskList } from "./task_list.js";

const STATES = [
  ["", "All"],
  ["waiting", "Waiting"],
  ["executing", "Executing"],
  ["success", "Success"],
  ["error", "Error"],
  ["ended", "Ended"],
];
const FILTERS = ["state", "name", "account", "text", "since", "until"];
const TYPING = 350; // ms without a key before a filter counts
const AROUND = 12; // rows that are drawn above and below the screen

export function Tasks({ route, account }) {
  const filters = Object.fromEntries(FILTERS.map((name) => [name, route.query.get(name) ?? ""]));
  const id = JSON.stringify(filters);
  return html`
    <div class="title"><h1>Tasks</h1></div>
    <${Filters} filters=${filters} account=${account} />
    <${List} key=${id} filters=${filters} account=${account} />
  `;
}

// --- Filters ----------------------------------------------------------------------------------------------------------

/** What stands in the fields, which the address follows, and a function that sets one of them.
 *
 * Letters may come between two drawings: they are added to what was typed last, not to what was drawn. An address that
 * is not of these fields' making (a link, a step back) takes their place. */
function useDraft(filters) {
  const frame = useFrame();
  const here = useRef({ id: "", draft: filters, timer: 0 }).current;
  const id = JSON.stringify(filters);
  if (here.id !== id) {
    clearTimeout(here.timer);
    Object.assign(here, { id, draft: filters });
  }
  useEffect(() => () => clearTimeout(here.timer), []);
  const set = (name, value, wait = TYPING) => {
    here.draft = { ...here.draft, [name]: value };
    clearTimeout(here.timer);
    here.timer = setTimeout(() => {
      here.id = JSON.stringify(here.draft);
      replace(address("tasks", here.draft));
    }, wait);
    frame();
  };
  return [here.draft, set];
}

function Filters({ filters, account }) {
  const [draft, set] = useDraft(filters);
  const [more, setMore] = useState(Boolean(filters.since || filters.until || filters.account));
  const type = (name) => (event) => set(name, event.currentTarget.value.trim());
  const pick = (name) => (event) => set(name, fromLocal(event.currentTarget.value), 0);
  const isFiltered = Object.values(filters).some(Boolean);
  return html`<form class="filters" role="search" aria-label="Filter the tasks" onSubmit=${(event) => event.preventDefault()}>
    <div class="segments" role="group" aria-label="State">
      ${STATES.map(([state, word]) => html`<button type="button" key=${state} aria-pressed=${filters.state === state} onClick=${() => set("state", state, 0)}>${word}</button>`)}
    </div>
    <label class="field grow"><span class="hidden">Text or key</span><input id="filter-text" type="search" placeholder="Text or key" value=${draft.text} onInput=${type("text")} autocomplete="off" spellcheck=${false} /></label>
    <${NameField} name=${filters.name} onPick=${(value) => set("name", value, 0)} />
    <button type="button" aria-expanded=${more} aria-controls="more-filters" onClick=${() => setMore(!more)}>${more ? "Fewer" : "More"}</button>
    ${isFiltered && html`<a class="clear" href="#/tasks">Clear filters</a>`}
    <div id="more-filters" class="more-filters" hidden=${!more}>
      ${account.operator && html`<label class="field"><span>Account</span><input id="filter-account" type="search" value=${draft.account} onInput=${type("account")} autocomplete="off" spellcheck=${false} /></label>`}
      <label class="field"><span>Queued since</span><input type="datetime-local" step="1" value=${toLocal(draft.since)} onChange=${pick("since")} /></label>
      <label class="field"><span>Queued until</span><input type="datetime-local" step="1" value=${toLocal(draft.until)} onChange=${pick("until")} /></label>
    </div>
  </form>`;
}

/** A task name out of the catalogue, or the one that stands in the address. */
export function NameField({ name, onPick }) {
  const [names, setNames] = useState([]);
  useEffect(() => {
    const stop = new AbortController();
    call("GET", "/v1/tasks", { signal: stop.signal }).then(
      (catalogue) => setNames(namesOf(catalogue)),
      () => {}, // all names remain
    );
    return () => stop.abort();
  }, []);
  const known = [...new Set(name ? [...names, name] : names)].sort();
  return html`<label class="field"><span class="hidden">Task name</span><select id="filter-name" value=${name} onChange=${(event) => onPick(event.currentTarget.value)}>
    <option value="" selected=${!name}>All task names</option>
    ${known.map((word) => html`<option key=${word} value=${word} selected=${word === name}>${word}</option>`)}
  </select></label>`;
}

function namesOf(catalogue) {
  const tasks = Array.isArray(catalogue) ? catalogue : catalogue.tasks ?? [];
  return tasks.map((task) => task.name ?? task.task_name).filter(Boolean).sort();
}

// --- The list ---------------------------------------------------------------------------------------------------------

function List({ filters, account }) {
  const frame = useFrame();
  useNow(); // "3 s ago" stays true
  const list = useMemo(() => new TaskList(filters, frame), []);
  const [selected, setSelected] = useState(new Set());
  const [isPaused, setPaused] = useState(false);
  const [refused, setRefused] = useState("");
  const body = useRef(null);
  const seen = useWindow(body, list);
  const current = useRef(null);
  useEffect(() => () => list.stop(), []);
  useStream(
    () => ({
      open: () => list.open(),
      value: (line) => list.value(line),
      state: (state) => setRefused(state.name === "refused" ? state.message : ""),
    }),
    [],
  );
  list.holding = list.rows.length > 0 && (isPaused || seen.isAway);
  list.settle();
  if (!list.holding && list.held.size) list.release();
  useEffect(() => {
    if (seen.isNearEnd && !list.loading && !list.error && !list.asksToGoOn) list.older();
  });
  useListKeys(list, current, body, (key) => setSelected(toggled(selected, key)));
  const select = (key) => setSelected(toggled(selected, key));
  const { rows } = list;
  const show = () => {
    setPaused(false);
    window.scrollTo({ top: 0 });
    list.release();
    frame();
  };
  if (refused) return html`<${Banner}>${refused}<//>`;
  return html`
    <${Bar} list=${list} selected=${selected} setSelected=${setSelected} isPaused=${isPaused} setPaused=${setPaused} />
    ${list.held.size > 0 && html`<div class="news"><button type="button" class="primary" onClick=${show}>↑ ${many(list.held.size, "new task")}</button></div>`}
    <div class="panel" ref=${body}>
      <table class="tasks" aria-rowcount=${list.complete ? rows.length + 1 : -1}>
        <${Head} list=${list} selected=${selected} setSelected=${setSelected} account=${account} />
        <tbody>
          ${seen.first > 0 && html`<${Spacer} key="above" rows=${seen.first} height=${seen.height} />`}
          ${rows.slice(seen.first, seen.last).map(
            (row, index) =>
              html`<${Row} key=${row.key} row=${row} number=${seen.first + index + 2} isSelected=${selected.has(row.key)} isCurrent=${current.current === row.key} onSelect=${select} account=${account} />`,
          )}
          ${seen.last < rows.length && html`<${Spacer} key="below" rows=${rows.length - seen.last} height=${seen.height} />`}
        </tbody>
      </table>
    </div>
    <${Foot} list=${list} />
  `;
}

function toggled(set, key) {
  const next = new Set(set);
  if (!next.delete(key)) next.add(key);
  return next;
}

/** Which rows are on the screen. */
function useWindow(body, list) {
  const [view, setView] = useState({ top: 0, height: 0 });
  const rowHeight = useRef(44);
  useLayoutEffect(() => {
    const row = body.current?.querySelector("tbody tr[data-key]");
    if (row) rowHeight.current = row.getBoundingClientRect().height || rowHeight.current;
  });
  useLayoutEffect(() => {
    let frame = 0;
    const look = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        const table = body.current?.getBoundingClientRect();
        if (table) setView({ top: Math.max(0, -table.top), height: window.innerHeight });
      });
    };
    look();
    window.addEventListener("scroll", look, { passive: true });
    window.addEventListener("resize", look);
    return () => {
      cancelAnimationFrame(frame);
      window.removeEventListener("scroll", look);
      window.removeEventListener("resize", look);
    };
  }, []);
  const height = rowHeight.current;
  const onScreen = Math.ceil((view.height || window.innerHeight) / height) + 1;
  const top = Math.floor(view.top / height);
  const first = Math.max(0, Math.min(top - AROUND, list.rows.length - onScreen));
  const last = Math.min(list.rows.length, top + onScreen + AROUND);
  return { first, last, height, isAway: view.top > height * 2, isNearEnd: top + onScreen * 2 >= list.rows.length };
}

const Spacer = ({ rows, height }) => html`<tr class="spacer" aria-hidden="true"><td style=${{ height: `${rows * height}px` }} /></tr>`;

function Head({ list, selected, setSelected, account }) {
  const all = list.rows.length > 0 && list.rows.every((row) => selected.has(row.key));
  const turn = (on) => setSelected(on ? new Set(list.rows.map((row) => row.key)) : new Set());
  return html`<thead><tr>
    <th scope="col" class="tick"><${Check} checked=${all} some=${selected.size > 0 && !all} label="Select all loaded tasks" onChange=${turn} /></th>
    <th scope="col" class="state">State</th>
    <th scope="col" class="what">Task</th>
    <th scope="col" class="message wide">Message</th>
    ${account.operator && html`<th scope="col" class="account wide">Account</th>`}
    <th scope="col" class="when">Queued</th>
    <th scope="col" class="n time wide">Waited</th>
    <th scope="col" class="n time wide">Ran</th>
  </tr></thead>`;
}

function Row({ row, number, isSelected, isCurrent, onSelect, account }) {
  return html`<tr data-key=${row.key} data-status=${row.status} aria-rowindex=${number} class=${isCurrent ? "current" : ""} data-selected=${isSelected}>
    <td class="tick"><${Check} checked=${isSelected} label=${`Select ${row.task_name} ${row.key}`} onChange=${() => onSelect(row.key)} /></td>
    <td class="state"><${Status} status=${row.status} /></td>
    <th scope="row" class="what"><a href=${taskAddress(row.key)}>${row.task_name}</a><span class="key">${shortKey(row.key)}</span><span class="narrow"><${Message} row=${row} /></span></th>
    <td class="message wide"><${Message} row=${row} /></td>
    ${account.operator && html`<td class="account wide">${row.account}</td>`}
    <td class="when"><${When} at=${row.queued} since /></td>
    <td class="n time wide"><${Waited} row=${row} /></td>
    <td class="n time wide"><${Ran} row=${row} /></td>
  </tr>`;
}

/** What there is to say in a row: how far it is, why it failed, that it was retried. */
function Message({ row }) {
  if (row.status === "executing" && row.progress !== undefined) return html`<${Progress} value=${row.progress} label=${`progress of ${row.task_name}`} />`;
  return html`<span class="text" title=${row.message ?? ""}>${row.retried_as && html`<span class="tag">retried</span> `}${row.attempt > 1 && html`<span class="tag">attempt ${row.attempt}</span> `}${row.message}</span>`;
}

function Waited({ row }) {
  if (row.started) return duration(between(row.queued, row.started));
  return isFinal(row.status) ? "–" : html`<${Since} at=${row.queued} />`;
}

function Ran({ row }) {
  if (!row.started) return "–";
  return row.completed ? duration(between(row.started, row.completed)) : html`<${Since} at=${row.started} />`;
}

function Since({ at }) {
  return html`<span class="going">${coarse(useNow() - unix(at))}</span>`;
}

function Foot({ list }) {
  const { rows } = list;
  if (list.error) return html`<${Banner}>${list.error} <button type="button" class="small" onClick=${() => list.goOnSearching()}>Try again</button><//>`;
  if (!list.started || (list.loading && !rows.length)) return html`<${Loading} what=${list.searched ? `Searching, ${many(list.searched, "task")} so far` : "Loading"} />`;
  if (list.asksToGoOn && !list.complete) return html`<p class="foot">Searched ${many(list.searched, "task")}. <button type="button" class="small" onClick=${() => list.goOnSearching()}>Search on</button></p>`;
  if (!rows.length && list.complete) return html`<${Empty} title="No task here">None matches these filters now; a new one appears by itself.<//>`;
  return html`<p class="foot" role="status">${list.complete ? `${many(rows.length, "task")}, that is all.` : list.loading ? "Loading older tasks…" : ""}</p>`;
}

// --- Many at once -----------------------------------------------------------------------------------------------------

function Bar({ list, selected, setSelected, isPaused, setPaused }) {
  const chosen = selected.size ? list.rows.filter((row) => selected.has(row.key)) : [];
  const failed = chosen.filter((row) => row.status === "error" && !row.retried_as).map((row) => row.key);
  const going = chosen.filter((row) => !isFinal(row.status)).map((row) => row.key);
  const retry = async () => {
    if (failed.length > 1 && !(await ask({ title: `Retry ${many(failed.length, "task")}?`, text: "Each becomes a new task with the same parameters.", action: "Retry" }))) return;
    await retryTasks(failed);
    setSelected(new Set());
  };
  const cancel = async () => {
    const sure = await ask({ title: `Cancel ${many(going.length, "task")}?`, text: "What waits is dropped, what executes is ended. Their clients get the error “cancelled”.", action: "Cancel them", danger: true });
    if (!sure) return;
    await cancelTasks(going);
    setSelected(new Set());
  };
  return html`<div class="bar">
    <p class="quiet" role=${chosen.length ? "status" : undefined}>${chosen.length ? `${count(chosen.length)} selected` : `${count(list.rows.length)}${list.complete ? "" : "+"} loaded`}</p>
    ${chosen.length > 0 &&
    html`<${Act} class="small" onAct=${retry} disabled=${!failed.length}>Retry ${failed.length || ""}<//>
      <${Act} class="small danger-text" onAct=${cancel} disabled=${!going.length}>Cancel ${going.length || ""}<//>
      <button type="button" class="small" onClick=${() => setSelected(new Set())}>Select none</button>`}
    <button type="button" class="small push" aria-pressed=${isPaused} onClick=${() => setPaused(!isPaused)} title="New tasks wait above the list">Hold</button>
  </div>`;
}

// --- The keyboard -------------------------------------------------------------------------------------------------------

function useListKeys(list, current, body, select) {
  const frame = useFrame();
  const wanted = useRef(null);
  const move = (step) => {
    if (!list.rows.length) return;
    const at = list.known.has(current.current) ? list.indexOf(list.known.get(current.current)) : -1;
    const next = Math.max(0, Math.min(list.rows.length - 1, at + step));
    current.current = wanted.current = list.rows[next].key;
    showRow(body.current, next);
    frame();
  };
  useLayoutEffect(() => {
    const link = wanted.current && body.current?.querySelector(`tr[data-key="${CSS.escape(wanted.current)}"] a`);
    if (!link) return;
    wanted.current = null;
    link.focus({ preventScroll: true });
  });
  const keys = {
    j: () => move(1),
    ArrowDown: () => move(1),
    k: () => move(-1),
    ArrowUp: () => move(-1),
    x: () => current.current && select(current.current),
    Enter: () => current.current && go(taskAddress(current.current)),
    "/": () => document.getElementById("filter-text")?.focus(),
  };
  useKeys((event) => {
    if (!(event.key in keys) || (event.key === "Enter" && event.target.closest("a, button, input"))) return;
    event.preventDefault();
    keys[event.key]();
  });
}

/** Scrolls so that a row is on the screen, drawn or not. */
function showRow(body, index) {
  const head = body.querySelector("thead").getBoundingClientRect().height;
  const height = body.querySelector("tbody tr[data-key]")?.getBoundingClientRect().height ?? 44;
  const top = body.getBoundingClientRect().top + head + index * height;
  if (top < head + height) window.scrollBy(0, top - head - height * 2);
  else if (top + height * 2 > window.innerHeight) window.scrollBy(0, top + height * 3 - window.innerHeight);
}
