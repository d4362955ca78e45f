// What the views share and that draws nothing: frames, clocks, keys, streams.

import { useCallback, useEffect, useRef, useState } from "./preact.js";
import { follow, serverTime } from "./api.js";

/** A function that has the component drawn anew, once a frame however often it is called. */
export function useFrame() {
  const [, setCount] = useState(0);
  const frame = useRef(0);
  useEffect(() => () => cancelAnimationFrame(frame.current), []);
  return useCallback(() => {
    if (frame.current) return;
    frame.current = requestAnimationFrame(() => {
      frame.current = 0;
      setCount((count) => count + 1);
    });
  }, []);
}

const tickers = new Set();
setInterval(() => {
  if (!document.hidden) for (const tick of tickers) tick();
}, 1000);

/** The server's time in seconds; the component is drawn anew each second. */
export function useNow() {
  const frame = useFrame();
  useEffect(() => {
    tickers.add(frame);
    return () => tickers.delete(frame);
  }, []);
  return serverTime();
}

/** Calls `handle(event)` for keys that no field and no dialog wants. */
export function useKeys(handle) {
  const latest = useRef(handle);
  latest.current = handle;
  useEffect(() => {
    const press = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      if (event.target.closest?.("input:not([type=checkbox]), select, textarea, dialog, summary")) return;
      latest.current(event);
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
}

// --- The state of the streams, for the page's head --------------------------------------------------------------------

const states = new Map();
const watchers = new Set();
const SEVERITY = ["reconnecting", "connecting", "paused", "refused", "live", "ended"];

function setState(id, state) {
  const before = states.get(id);
  if (before?.name === state.name && before.message === state.message && before.retry === state.retry) return;
  states.set(id, state);
  for (const watch of watchers) watch();
}

function dropState(id) {
  states.delete(id);
  for (const watch of watchers) watch();
}

/** The state that concerns the reader most, or null when the view has no stream. */
export function useStreamState() {
  const frame = useFrame();
  useEffect(() => {
    watchers.add(frame);
    return () => watchers.delete(frame);
  }, []);
  const all = [...states.values()].sort((a, b) => SEVERITY.indexOf(a.name) - SEVERITY.indexOf(b.name));
  return all[0] ?? null;
}

/** Follows a stream while the component is there and `keys` stay the same. */
export function useStream(makeOptions, keys) {
  useEffect(() => {
    const options = makeOptions();
    if (!options) return undefined;
    const id = Symbol("stream");
    let alive = true;
    const stop = follow({
      ...options,
      state: (state) => {
        if (!alive) return;
        setState(id, state);
        options.state?.(state);
      },
    });
    return () => {
      alive = false;
      stop();
      dropState(id);
    };
  }, keys);
}
