// Views and their addresses: #/now, #/tasks?state=error, #/task/KEY, #/failures, #/history.

import { useEffect, useState } from "./preact.js";

export function currentRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [view, ...rest] = path.split("/");
  return { view: view || "now", rest: rest.map(decoded), query: new URLSearchParams(query) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // typed by hand
  }
}

/** The address of a view; members without a value are left out. */
export function address(view, members = {}) {
  const given = Object.entries(members).filter(([, value]) => value);
  return `#/${view}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

export const taskAddress = (key) => `#/task/${encodeURIComponent(key)}`;

export function go(hash) {
  location.hash = hash;
}

/** Another address for the same view, without a step in the history. */
export function replace(hash) {
  if (location.hash === hash) return;
  history.replaceState(null, "", hash);
  window.dispatchEvent(new Event("hashchange"));
}

export function useRoute() {
  const [route, setRoute] = useState(currentRoute);
  useEffect(() => {
    const look = () => setRoute(currentRoute());
    window.addEventListener("hashchange", look);
    return () => window.removeEventListener("hashchange", look);
  }, []);
  return route;
}
