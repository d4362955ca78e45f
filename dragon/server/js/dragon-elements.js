// <dragon-img> and <dragon-progress>: README.md says how to use them. Styles are set by script, so that a page's
// Content-Security-Policy may forbid inline ones.
import { Dragon, TaskError } from "./dragon.js";

const clients = new Map();

/** Elements with the same server and key share a client: what they create in one tick is one request. */
function clientOf(element) {
  const [url, apiKey] = ["server", "api-key"].map((name) => element.getAttribute(name) ?? undefined);
  const name = JSON.stringify([url, apiKey]);
  if (!clients.has(name)) clients.set(name, new Dragon({ url, apiKey }));
  return clients.get(name);
}

const make = (tag, part, style) => {
  const made = document.createElement(tag);
  if (part) made.part = part;
  made.style.cssText = style;
  return made;
};

// Node has none, and imports this without harm.
class DragonElement extends (globalThis.HTMLElement ?? class {}) {
  static observedAttributes = ["task", "params", "task-key", "api-key", "server", "filename", "alt", "label", "width", "height"];
  #change;

  constructor(display) {
    super();
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`:host{display:${display}}:host([hidden]){display:none}`);
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [sheet];
  }

  connectedCallback() {
    this.attributeChangedCallback();
  }

  /** Attributes that are set one after another are one change. */
  attributeChangedCallback() {
    this.#change ??= Promise.resolve().then(() => {
      this.#change = undefined;
      if (!this.isConnected) return;
      try {
        this.update();
      } catch (error) {
        this.fail(error);
      }
    });
  }

  get params() {
    const text = this.getAttribute("params") || "{}";
    try {
      return JSON.parse(text);
    } catch {
      throw new TypeError(`params is not JSON: ${text}`);
    }
  }

  set state(state) {
    this.setAttribute("state", state);
  }

  fail(error) {
    this.state = "error";
    this.showError(error.message);
    this.dispatchEvent(new ErrorEvent("error", { error, message: error.message }));
  }
}

/** An image that a task makes, or has made before. */
class DragonImg extends DragonElement {
  #box = make("span", "", "display:block;max-width:100%;overflow:hidden");
  #slot = make("slot", "", "");
  #image = make("img", "image", "display:none;max-width:100%;vertical-align:top");
  #error = make("span", "error", "display:none;overflow-wrap:anywhere");

  constructor() {
    super("inline-block");
    this.#error.setAttribute("role", "alert");
    this.#box.append(this.#slot, this.#image, this.#error);
    this.shadowRoot.append(this.#box);
    this.#image.addEventListener("load", () => this.#show(this.#image, "ready") && this.dispatchEvent(new Event("load")));
    this.#image.addEventListener("error", () => this.#explain(this.#image.src));
  }

  update() {
    for (const side of ["width", "height"]) {
      // The space is taken before the image is there, so that nothing on the page moves when it comes.
      const size = this.getAttribute(side);
      this.#box.style[side] = size ? `${size}px` : "";
      size ? this.#image.setAttribute(side, size) : this.#image.removeAttribute(side);
    }
    this.#image.alt = this.getAttribute("alt") ?? "";
    const filename = this.getAttribute("filename") ?? undefined;
    const source = clientOf(this).imgUrl(this.getAttribute("task"), this.params, { filename });
    if (this.#image.src === source) return;
    if (this.getAttribute("state") !== "ready") this.#show(this.#slot, "loading");
    this.#image.src = source;
  }

  #show(shown, state) {
    for (const part of [this.#slot, this.#image, this.#error]) part.style.display = part === shown ? "" : "none";
    this.state = state;
    return true;
  }

  /** An <img> does not say what is wrong: the same is asked once more by a call that does, and that waits if told to. */
  async #explain(source) {
    try {
      const { url } = await clientOf(this).fetch(source);
      if (this.#image.src !== source) return;
      if (url === source) throw new TypeError("the output file is no image");
      this.#image.src = url;
    } catch (error) {
      if (this.#image.src === source) this.fail(error);
    }
  }

  showError(message) {
    this.#error.textContent = message;
    this.#show(this.#error, "error");
  }
}

/** A bar of a task's progress: of an existing one, or of one that it creates. */
class DragonProgress extends DragonElement {
  #track = make("span", "track", "display:block;background:#8884;border-radius:.25em;overflow:hidden");
  #bar = make("span", "bar", "display:block;height:.5em;width:0;background:currentColor;transition:width .2s");
  #text = make("span", "text", "display:block");
  #key;
  #stop;

  constructor() {
    super("block");
    this.#track.append(this.#bar);
    this.shadowRoot.append(this.#track, this.#text);
  }

  disconnectedCallback() {
    this.#stop?.abort();
    this.#key = undefined;
  }

  update() {
    for (const [name, value] of [["role", "progressbar"], ["aria-valuemin", 0], ["aria-valuemax", 100]]) this.setAttribute(name, value);
    const label = this.getAttribute("label") ?? this.getAttribute("task") ?? "progress";
    this.setAttribute("aria-label", label);
    const key = this.getAttribute("task-key");
    if (key && key === this.#key) return;
    this.#stop?.abort();
    const { signal } = (this.#stop = new AbortController());
    this.#follow(key, signal).catch((error) => signal.aborted || this.fail(error));
  }

  async #follow(key, signal) {
    const client = clientOf(this);
    if (!key) {
      const [created] = await client.create({ ...this.params, task_name: this.getAttribute("task") });
      // From now on it is this task that is shown, wherever on the page the element is moved.
      key = created.key;
      if (signal.aborted) return;
      this.#key = key;
      this.setAttribute("task-key", key);
    }
    this.#key = key;
    let last;
    for await (last of client.follow(key, { signal })) this.#draw(last);
    if (last.status === "error") throw new TaskError(last);
    this.dispatchEvent(new CustomEvent("success", { detail: last.result }));
  }

  #draw(status) {
    this.state = status.status;
    const value = status.status === "success" ? 100 : status.progress;
    const isKnown = typeof value === "number";
    const percent = Math.round(Math.min(100, Math.max(0, value)));
    this.#bar.style.width = isKnown ? `${percent}%` : "0";
    isKnown ? this.setAttribute("aria-valuenow", percent) : this.removeAttribute("aria-valuenow");
    const place = status.position ? `queued, number ${status.position}` : status.status;
    this.#say(isKnown ? `${status.status}, ${percent} %` : place);
    this.dispatchEvent(new CustomEvent("status", { detail: status }));
  }

  #say(text) {
    this.#text.textContent = text;
    this.setAttribute("aria-valuetext", text);
  }

  showError(message) {
    this.#say(message);
  }
}

if (globalThis.customElements) {
  customElements.define("dragon-img", DragonImg);
  customElements.define("dragon-progress", DragonProgress);
}
