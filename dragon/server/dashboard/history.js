// History: throughput, waiting and running over the last hour and day.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact.js";
import uPlot from "./uplot.js";
import { call, serverTime, withQuery } from "./api.js";
import { clock, count, duration, rate } from "./format.js";
import { Banner, Empty, Loading, When } from "./parts.js";
import { address, replace } from "./router.js";

const EVERY = 60_000; // ms between two looks
const PERIODS = [
  ["hour", "Hour"],
  ["day", "Day"],
];
const HEIGHT = 190;

/** The seconds of a sample that are over: the newest one goes on. */
const lengthOf = (sample) => Math.max(1, Math.min(sample.seconds, serverTime() - sample.start));

/** The plots: their title, what their numbers are, and their curves (name, color of the palette, number of a sample). */
const PLOTS = [
  {
    title: "Throughput",
    unit: "tasks a second",
    write: rate,
    curves: [
      ["success", "good", (sample) => sample.success / lengthOf(sample)],
      ["error", "bad", (sample) => sample.error / lengthOf(sample)],
      ["cancelled", "quiet", (sample) => sample.cancelled / lengthOf(sample)],
    ],
  },
  {
    title: "Waiting time",
    unit: "queued to started",
    write: duration,
    curves: [
      ["p50", "first", (sample) => sample.waiting_p50],
      ["p95", "second", (sample) => sample.waiting_p95],
    ],
  },
  {
    title: "Running time",
    unit: "started to completed",
    write: duration,
    curves: [
      ["p50", "first", (sample) => sample.running_p50],
      ["p95", "second", (sample) => sample.running_p95],
    ],
  },
];

export function History({ route }) {
  const period = route.query.get("period") === "day" ? "day" : "hour";
  const name = route.query.get("name") ?? "";
  const [found, error, read] = useHistory(period, name);
  const set = (members) => replace(address("history", { period, name, ...members }));
  const names = found?.names ?? [];
  const isEmpty = found && !found.samples.some((sample) => sample.success + sample.error + sample.cancelled > 0);
  return html`
    <div class="title"><h1>History</h1><p class="quiet" role="status">${found && html`as of <${When} at=${found.at} />`}</p></div>
    <form class="filters" aria-label="What the plots show" onSubmit=${(event) => event.preventDefault()}>
      <div class="segments" role="group" aria-label="Period">${PERIODS.map(([value, word]) => html`<button type="button" key=${value} aria-pressed=${value === period} onClick=${() => set({ period: value })}>${word}</button>`)}</div>
      <label class="field"><span class="hidden">Task name</span><select value=${name} onChange=${(event) => set({ name: event.currentTarget.value })}>
        <option value="" selected=${!name}>All task names</option>
        ${[...new Set([...names, ...(name ? [name] : [])])].sort().map((known) => html`<option key=${known} value=${known} selected=${known === name}>${known}</option>`)}
      </select></label>
      <button type="button" class="small" onClick=${read}>Refresh</button>
    </form>
    ${error && html`<${Banner}>${error}<//>`}
    ${!found && !error && html`<${Loading} />`}
    ${isEmpty && html`<${Empty} title="Nothing ended in this time">The plots fill as tasks end.<//>`}
    ${found && !isEmpty && html`<div class="plots">${PLOTS.map((plot) => html`<${Plot} key=${plot.title} plot=${plot} samples=${found.samples} period=${period} />`)}</div>`}
  `;
}

function useHistory(period, name) {
  const [state, setState] = useState({ found: null, error: "" });
  const reading = useRef(null);
  const read = async () => {
    reading.current?.abort();
    const stop = (reading.current = new AbortController());
    try {
      const found = await call("GET", withQuery("/v1/operator/history", { period, name }), { signal: stop.signal });
      setState({ found: { ...found, at: new Date().toISOString() }, error: "" });
    } catch (error) {
      if (!stop.signal.aborted) setState((before) => ({ ...before, error: error.message }));
    }
  };
  useEffect(() => {
    read();
    const timer = setInterval(() => document.hidden || read(), EVERY);
    return () => {
      clearInterval(timer);
      reading.current?.abort();
    };
  }, [period, name]);
  return [state.found, state.error, read];
}

// --- A plot -----------------------------------------------------------------------------------------------------------

function Plot({ plot, samples, period }) {
  const id = `plot-${plot.title.toLowerCase().replace(" ", "-")}`;
  const box = useRef(null);
  const chart = useRef(null);
  const data = [samples.map((sample) => sample.start), ...plot.curves.map(([, , pick]) => samples.map(pick))];
  const newest = useRef(data);
  newest.current = data;
  useLayoutEffect(() => {
    const draw = () => {
      chart.current?.destroy();
      chart.current = new uPlot(optionsOf(plot, box.current), newest.current, box.current);
    };
    draw();
    const sizes = new ResizeObserver(() => chart.current.setSize({ width: box.current.clientWidth, height: HEIGHT }));
    sizes.observe(box.current);
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", draw);
    window.addEventListener("dragon-theme", draw);
    return () => {
      sizes.disconnect();
      system.removeEventListener("change", draw);
      window.removeEventListener("dragon-theme", draw);
      chart.current.destroy();
    };
  }, []);
  useLayoutEffect(() => chart.current.setData(newest.current), [samples]);
  return html`<section class="panel plot" aria-labelledby=${id}>
    <h2 id=${id}>${plot.title} <span class="aside">${plot.unit}</span></h2>
    <ul class="legend">${plot.curves.map(([name, color, pick]) => html`<li key=${name}><span class="swatch" data-color=${color} aria-hidden="true" />${name} <b>${plot.write(last(samples, pick))}</b></li>`)}</ul>
    <div class="chart" ref=${box} role="img" aria-label=${`${plot.title} of the last ${period}; the numbers stand in the table below`} />
    <details><summary>As a table</summary><${Numbers} plot=${plot} samples=${samples} /></details>
  </section>`;
}

function last(samples, pick) {
  for (let at = samples.length - 1; at >= 0; at -= 1) {
    const value = pick(samples[at]);
    if (value !== null && value !== undefined && samples[at].success + samples[at].error + samples[at].cancelled > 0) return value;
  }
  return NaN;
}

/** The colors are those of the legend, so that both palettes stand in the style sheet alone. */
function optionsOf(plot, box) {
  const panel = box.closest(".panel");
  const colorOf = (name) => getComputedStyle(panel.querySelector(`.swatch[data-color="${name}"]`)).backgroundColor;
  const ink = getComputedStyle(panel.querySelector(".aside")).color;
  const line = getComputedStyle(panel).borderTopColor;
  const axis = { stroke: ink, font: "12px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    width: box.clientWidth,
    height: HEIGHT,
    padding: [8, 18, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 7 } },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, size: 28, values: (_, moments) => moments.map((moment) => clock(new Date(moment * 1000).toISOString()).slice(-8, -3) || "") },
      { ...axis, size: 64, values: (_, numbers) => numbers.map((number) => (number === 0 ? "0" : plot.write(number))) },
    ],
    series: [{}, ...plot.curves.map(([label, color]) => ({ label, stroke: colorOf(color), width: 2, spanGaps: false, fill: color === "good" ? faint(colorOf(color)) : undefined, points: { size: 5, space: 40, filter: alone } }))],
    plugins: [tip(plot)],
  };
}

/** The numbers that have no neighbour: a line through them would not be seen. */
function alone(chart, series, areAllShown) {
  if (areAllShown) return null;
  const numbers = chart.data[series];
  const isMissing = (index) => numbers[index] === null || numbers[index] === undefined;
  return [...numbers.keys()].filter((index) => !isMissing(index) && isMissing(index - 1) && isMissing(index + 1));
}

const faint = (color) => color.replace(/^rgb\((.*)\)$/, "rgba($1, 0.12)");

/** What stands under the pointer, in words. */
function tip(plot) {
  let note;
  return {
    hooks: {
      init: (chart) => {
        note = document.createElement("div");
        note.className = "tip";
        note.hidden = true;
        chart.over.append(note);
      },
      setCursor: (chart) => {
        const { idx, left } = chart.cursor;
        note.hidden = idx === null || idx === undefined || left < 0;
        if (note.hidden) return;
        const moment = clock(new Date(chart.data[0][idx] * 1000).toISOString());
        const parts = plot.curves.map(([name], index) => `${name} ${plot.write(chart.data[index + 1][idx] ?? NaN)}`);
        note.textContent = `${moment} · ${parts.join(" · ")}`;
        note.style.left = `${Math.max(0, Math.min(left + 10, chart.over.clientWidth - note.offsetWidth))}px`;
      },
    },
  };
}

function Numbers({ plot, samples }) {
  const full = samples.filter((sample) => sample.success + sample.error + sample.cancelled > 0).reverse();
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${`${plot.title} as a table`}><table>
    <thead><tr><th scope="col">From</th>${plot.curves.map(([name]) => html`<th scope="col" class="n" key=${name}>${name}</th>`)}<th scope="col" class="n">Tasks</th></tr></thead>
    <tbody>${full.map((sample) => html`<tr key=${sample.start}><th scope="row">${clock(new Date(sample.start * 1000).toISOString())}</th>${plot.curves.map(([name, , pick]) => html`<td class="n" key=${name}>${plot.write(pick(sample) ?? NaN)}</td>`)}<td class="n">${count(sample.success + sample.error + sample.cancelled)}</td></tr>`)}</tbody>
  </table></div>`;
}
