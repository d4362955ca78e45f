// The dashboard: who is here, which view is shown, and the frame around it.

import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./preact.js";
import { call, forgetSecret, hasSecret, isSendable, keepSecret, onRefusedKey } from "./api.js";
import { Failures } from "./failures.js";
import { useKeys, useNow, useStreamState } from "./hooks.js";
import { History } from "./history.js";
import { Now } from "./now.js";
import { Banner, Loading, Notices, Questions } from "./parts.js";
import { go, useRoute } from "./router.js";
import { Task } from "./task.js";
import { Tasks } from "./tasks.js";

const VIEWS = { now: Now, tasks: Tasks, task: Task, failures: Failures, history: History };
const TABS = [
  ["now", "Now"],
  ["tasks", "Tasks"],
  ["failures", "Failures"],
  ["history", "History"],
];
/** What only operators see is of all accounts together. */
const FOR_OPERATORS = ["history"];
const TITLES = { now: "now", tasks: "tasks", task: "task", failures: "failures", history: "history" };
const DEMO = document.body.dataset.demo;

function App() {
  const [account, setAccount] = useState(null);
  const [message, setMessage] = useState("");
  const [isKnown, setKnown] = useState(!hasSecret());
  const leave = (why = "") => {
    forgetSecret();
    setAccount(null);
    setMessage(why);
    setKnown(true);
  };
  useEffect(() => {
    onRefusedKey(leave);
    if (hasSecret()) enter(setAccount, leave, () => setKnown(true));
  }, []);
  if (!isKnown) return html`<${Loading} what="Logging in" />`;
  if (!account) return html`<${Login} message=${message} onEnter=${setAccount} />`;
  return html`<${Frame} account=${account} onLeave=${() => leave()} /><${Questions} /><${Notices} />`;
}

/** With the key of before: asked again while the server is away. */
async function enter(setAccount, leave, done) {
  for (;;) {
    try {
      setAccount(await call("GET", "/v1/operator/account"));
      return done();
    } catch (error) {
      if (error.status >= 400 && error.status < 500) return leave(error.message);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

// --- The door ---------------------------------------------------------------------------------------------------------

function Login({ message, onEnter }) {
  const [error, setError] = useState(message);
  const [busy, setBusy] = useState(false);
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  const enter = async (event) => {
    event.preventDefault();
    const key = field.current.value.trim();
    if (!isSendable(key)) return setError(key ? "This cannot be a secret key: it has characters that no key has." : "The secret key is missing.");
    setBusy(true);
    setError("");
    try {
      const account = await call("GET", "/v1/operator/account", { key });
      keepSecret(key);
      onEnter(account);
    } catch (refused) {
      setError(`${refused.message[0].toUpperCase()}${refused.message.slice(1)}.`.replace(/\.\.$/, "."));
      setBusy(false);
      field.current.select();
    }
  };
  return html`<main class="door">
    <p class="brand"><img src="/static/icon.svg" alt="" width="32" height="32" />dragon</p>
    <h1>Dashboard</h1>
    <form onSubmit=${enter} aria-busy=${busy}>
      <label for="secret">Secret key</label>
      <input type="text" name="username" autocomplete="username" value="dragon" hidden />
      <input id="secret" ref=${field} type="password" autocomplete="current-password" spellcheck=${false} aria-describedby="secret-help secret-error" aria-invalid=${Boolean(error)} />
      <p id="secret-error" class="error" role="alert">${error}</p>
      <button type="submit" class="primary" disabled=${busy}>${busy ? "Asking…" : "Log in"}</button>
      <p id="secret-help" class="quiet">${DEMO ? html`On this machine the demo key <code>${DEMO}</code> works.` : html`One that <code>dragon account new NAME --operator</code> has made sees everything; another one its own tasks.`} It is kept in this tab until you log out or close it.</p>
    </form>
  </main>`;
}

// --- The frame --------------------------------------------------------------------------------------------------------

function Frame({ account, onLeave }) {
  const route = useRoute();
  const [helps, setHelps] = useState(false);
  const tab = route.view === "task" ? "tasks" : route.view;
  const maySee = (view) => account.operator || !FOR_OPERATORS.includes(view);
  const tabs = TABS.filter(([view]) => maySee(view));
  const View = (maySee(route.view) && VIEWS[route.view]) || Nowhere;
  const place = `${route.view}/${route.rest.join("/")}`;
  useEffect(() => {
    document.title = `${TITLES[route.view] ?? "?"} · dragon`;
    window.scrollTo({ top: 0 });
  }, [place]);
  useKeys((event) => {
    const number = Number(event.key);
    if (event.key === "?") setHelps(true);
    else if (number >= 1 && number <= tabs.length) go(`#/${tabs[number - 1][0]}`);
    else return;
    event.preventDefault();
  });
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the contents</a>
    <header>
      <a class="brand" href="#/now"><img src="/static/icon.svg" alt="" width="24" height="24" />dragon</a>
      <nav aria-label="Views">${tabs.map(([view, word]) => html`<a key=${view} href=${`#/${view}`} aria-current=${view === tab ? "page" : undefined}>${word}</a>`)}</nav>
      <${State} />
      <div class="tools">
        <${Theme} />
        <button type="button" class="small help" aria-label="Keyboard" title="Keyboard (?)" onClick=${() => setHelps(true)}>?</button>
        <span class="who" title=${account.operator ? "an operator" : "sees its own tasks only"}>${account.name ?? account.id}</span>
        <button type="button" class="small" onClick=${onLeave}>Log out</button>
      </div>
    </header>
    <main id="main" tabindex="-1"><${Careful} key=${route.view}><${View} route=${route} account=${account} /><//></main>
    ${helps && html`<${Help} onClose=${() => setHelps(false)} />`}
  `;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

/** What goes wrong in a view is said in its place, and the rest of the page stays. */
function Careful({ children }) {
  const [error] = useErrorBoundary((thrown) => console.error(thrown));
  return error ? html`<h1>Something went wrong here</h1><${Banner}>${String(error.message ?? error)}<//>` : children;
}

const Nowhere = () => html`<h1>There is no such view</h1><p><a href="#/now">To what happens now</a></p>`;

const STATE_WORDS = { live: "live", connecting: "connecting", reconnecting: "reconnecting", paused: "paused", refused: "refused" };

/** Whether what is on the page is what is. */
function State() {
  const state = useStreamState();
  useNow();
  if (!state || state.name === "ended") return html`<p class="stream" data-state="none" />`;
  const wait = state.retry ? Math.ceil((state.retry - Date.now()) / 1000) : 0;
  return html`<div class="stream" data-state=${state.name}>
    <p><span class="dot" aria-hidden="true" /><span role="status">${STATE_WORDS[state.name]}</span></p>
    ${state.name === "reconnecting" && html`<p class="why" role="alert">${state.message}<span aria-hidden="true">${wait > 0 && ` · again in ${wait} s`}</span></p>`}
  </div>`;
}

const NEXT_THEME = { auto: "light", light: "dark", dark: "auto" };
const THEME_MARKS = { auto: "◐", light: "☀", dark: "☾" };

function Theme() {
  const [choice, setChoice] = useState(window.dragonTheme.chosen());
  const turn = () => {
    window.dragonTheme.choose(NEXT_THEME[choice]);
    setChoice(NEXT_THEME[choice]);
  };
  return html`<button type="button" class="small theme" onClick=${turn} aria-label=${`Colors: ${choice}`} title=${`Colors: ${choice}`}><span aria-hidden="true">${THEME_MARKS[choice]}</span></button>`;
}

const KEYS = [
  ["j, ↓ / k, ↑", "the next, the previous task of the list"],
  ["Enter", "open it"],
  ["x", "select it"],
  ["/", "to the filter"],
  ["1 2 3 4", "Now, Tasks, Failures, History"],
  ["?", "this help"],
];

function Help({ onClose }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} aria-labelledby="help" onClose=${onClose}>
    <h2 id="help">Keyboard</h2>
    <dl class="help-keys">${KEYS.map(([keys, what]) => html`<div key=${keys}><dt>${keys}</dt><dd>${what}</dd></div>`)}</dl>
    <form method="dialog" class="buttons" onSubmit=${(event) => { event.preventDefault(); dialog.current.close(); }}><button type="submit" class="primary">Close</button></form>
  </dialog>`;
}

render(html`<${App} />`, document.getElementById("app"));
