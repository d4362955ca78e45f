// Failures: those that say the same together, with the way back for all of them.

import { html, useEffect, useRef, useState } from "./preact.js";
import { retryGroups } from "./acts.js";
import { call, withQuery } from "./api.js";
import { count, many } from "./format.js";
import { useNow, useStream } from "./hooks.js";
import { Act, ask, Banner, Check, Empty, Loading, shortKey, When } from "./parts.js";
import { address, replace, taskAddress } from "./router.js";
import { NameField } from "./tasks.js";

const SPANS = [
  ["", "All that is kept", 0],
  ["hour", "The last hour", 3600],
  ["day", "The last day", 86400],
  ["week", "The last week", 7 * 86400],
];
const MOST_AT_ONCE = 1000; // tasks of one group in one call
const AT_MOST_EVERY = 4000; // ms between two looks, however many tasks fail

export function Failures({ route }) {
  const span = route.query.get("since") ?? "";
  const name = route.query.get("name") ?? "";
  return html`<${Groups} key=${`${span} ${name}`} span=${span} name=${name} />`;
}

function Groups({ span, name }) {
  const [found, error, read] = useFailures(span, name);
  const [selected, setSelected] = useState(new Set());
  const set = (members) => replace(address("failures", { since: span, name, ...members }));
  const groups = found?.groups ?? [];
  const chosen = groups.filter((group) => selected.has(group.group));
  const retry = async (which) => {
    const left = which.reduce((sum, group) => sum + group.count - (group.retried ?? 0), 0);
    const sure = await ask({
      title: `Retry ${many(left, "task")}?`,
      text: `Each becomes a new task with the same parameters${which.some((group) => group.count > MOST_AT_ONCE) ? `, the newest ${count(MOST_AT_ONCE)} of each group` : ""}. What was retried before is left alone.`,
      action: "Retry them",
    });
    if (!sure) return;
    await retryGroups(which.map((group) => group.group), MOST_AT_ONCE);
    setSelected(new Set());
    await read();
  };
  return html`
    <div class="title"><h1>Failures</h1></div>
    <form class="filters" role="search" aria-label="Filter the failures" onSubmit=${(event) => event.preventDefault()}>
      <label class="field"><span class="hidden">Since</span><select value=${span} onChange=${(event) => set({ since: event.currentTarget.value })}>${SPANS.map(([value, word]) => html`<option key=${value} value=${value} selected=${value === span}>${word}</option>`)}</select></label>
      <${NameField} name=${name} onPick=${(value) => set({ name: value })} />
    </form>
    ${error && html`<${Banner}>${error}<//>`}
    ${!found && !error && html`<${Loading} what="Grouping the failures" />`}
    ${found && !groups.length && html`<${Empty} title="No failure">${found.complete === false ? `None among the newest ${many(found.scanned, "failed task")}.` : "Nothing that is kept has failed."}<//>`}
    ${groups.length > 0 && html`<${Table} groups=${groups} found=${found} chosen=${chosen} selected=${selected} setSelected=${setSelected} retry=${retry} />`}
  `;
}

/** The groups, an error, and a function that reads them again; read again by itself when tasks fail. */
function useFailures(span, name) {
  const [state, setState] = useState({ found: null, error: "" });
  const place = useRef({ timer: 0, last: 0, stop: new AbortController() });
  const read = async () => {
    const { stop } = place.current;
    place.current.last = Date.now();
    const seconds = SPANS.find(([value]) => value === span)?.[2] ?? 0;
    const since = seconds ? new Date(Date.now() - seconds * 1000).toISOString() : "";
    try {
      const found = await call("GET", withQuery("/v1/operator/failures", { since, name }), { signal: stop.signal });
      setState({ found, error: "" });
    } catch (error) {
      if (!stop.signal.aborted) setState((before) => ({ ...before, error: error.message }));
    }
  };
  const soon = () => {
    const here = place.current;
    if (here.timer) return;
    here.timer = setTimeout(() => {
      here.timer = 0;
      read();
    }, Math.max(300, here.last + AT_MOST_EVERY - Date.now()));
  };
  useEffect(() => () => {
    clearTimeout(place.current.timer);
    place.current.stop.abort();
  }, []);
  useStream(() => {
    let next = read; // whenever it was opened, at once
    return {
      open: () => {
        next = read;
        return ["GET", withQuery("/v1/operator/tasks_stream", { state: "error", name, limit: 1 })];
      },
      value: () => {
        next();
        next = soon;
      },
    };
  }, []);
  return [state.found, state.error, read];
}

function Table({ groups, found, chosen, selected, setSelected, retry }) {
  useNow(); // "3 s ago" stays true
  const all = groups.every((group) => selected.has(group.group));
  const turn = (id) => {
    const next = new Set(selected);
    if (!next.delete(id)) next.add(id);
    setSelected(next);
  };
  const total = groups.reduce((sum, group) => sum + group.count, 0);
  return html`
    <div class="bar">
      <p class="quiet" role="status">${chosen.length ? `${many(chosen.length, "group")} selected` : `${many(total, "failed task")} in ${many(groups.length, "group")}${found.complete === false ? `, the newest ${count(found.scanned)} looked at` : ""}`}</p>
      ${chosen.length > 0 && html`<${Act} class="small" onAct=${() => retry(chosen)}>Retry the selected<//>`}
    </div>
    <div class="panel"><table class="failures">
      <thead><tr>
        <th scope="col" class="tick"><${Check} checked=${all} some=${chosen.length > 0 && !all} label="Select all groups" onChange=${(on) => setSelected(new Set(on ? groups.map((group) => group.group) : []))} /></th>
        <th scope="col" class="what">What they say</th>
        <th scope="col" class="n count">Tasks</th>
        <th scope="col" class="n count wide">Retried</th>
        <th scope="col" class="when wide">First</th>
        <th scope="col" class="when wide">Last</th>
        <th scope="col" class="end wide"><span class="hidden">Actions</span></th>
      </tr></thead>
      <tbody>${groups.map((group) => html`<${Group} key=${group.group} group=${group} isSelected=${selected.has(group.group)} onSelect=${() => turn(group.group)} retry=${retry} />`)}</tbody>
    </table></div>
  `;
}

function Group({ group, isSelected, onSelect, retry }) {
  const left = group.count - (group.retried ?? 0);
  const button = html`<${Act} class="small" onAct=${() => retry([group])} disabled=${left <= 0} aria-label=${`Retry ${many(left, "task")}: ${group.task_name}`}>Retry<//>`;
  return html`<tr data-group=${group.group} data-selected=${isSelected}>
    <td class="tick"><${Check} checked=${isSelected} label=${`Select the group ${group.task_name}: ${group.message}`} onChange=${onSelect} /></td>
    <th scope="row" class="what">
      <a href=${address("tasks", { state: "error", name: group.task_name })}>${group.task_name}</a>
      <p class="error-text">${group.message}</p>
      <details><summary>The newest ${Math.min(group.keys.length, group.count)}</summary><ul class="keys">${group.keys.map((key) => html`<li key=${key}><a href=${taskAddress(key)}><code>${shortKey(key)}</code></a></li>`)}</ul></details>
      <span class="narrow">${button}<${When} at=${group.last} since /></span>
    </th>
    <td class="n count">${count(group.count)}</td>
    <td class="n count wide">${group.retried ? count(group.retried) : "–"}</td>
    <td class="when wide"><${When} at=${group.first} since /></td>
    <td class="when wide"><${When} at=${group.last} since /></td>
    <td class="end wide">${button}</td>
  </tr>`;
}
