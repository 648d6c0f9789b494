// What is shown, kept in the part of the address after '#': a copied address shows the same view, and no server log sees it.

// A small screen has room for one picture.
const SHOW = matchMedia("(max-width: 640px)").matches ? "over" : "both";

const DEFAULTS = {
  model: "", input: "", method: "", target: "", against: "", layer: "",
  show: SHOW, opacity: 0.85, threshold: 0, smooth: true, scale: "map", centre: null, width: null, slice: null,
  panel: "methods", second: "", erase: "",
};

/** What is shown of another input: nothing that was chosen for the one before it. */
export function another(input) {
  return { input, target: "", against: "", slice: null, centre: null, width: null, erase: "" };
}

const OPTIONAL_NUMBERS = ["centre", "width", "slice"];

/** The state that an address tells; what it leaves out is as usual, what it spoils too. */
function read(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { ...DEFAULTS };
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    const text = given.get(name);
    if (text === null) continue;
    if (typeof usual === "number" || OPTIONAL_NUMBERS.includes(name)) {
      const number = Number(text);
      state[name] = text !== "" && Number.isFinite(number) ? number : usual;
    } else state[name] = typeof usual === "boolean" ? text === "true" : text;
  }
  for (const share of ["opacity", "threshold"]) state[share] = Math.min(Math.max(state[share], 0), 1);
  return state;
}

/** The address of a state: only what differs from the usual. */
function write(state) {
  const told = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  const text = new URLSearchParams(told.map(([name, value]) => [name, String(value)])).toString();
  return text ? `#${text}` : location.pathname;
}

/** Holds the state, tells listeners of changes, and keeps the address in step. */
export class Store {
  #listeners = [];

  constructor() {
    this.state = read(location.hash);
    addEventListener("popstate", () => this.#become(read(location.hash)));
  }

  listen(listener) {
    this.#listeners.push(listener);
  }

  /** A step that the browser's "back" undoes. */
  go(changes) {
    this.#change(changes, "pushState");
  }

  /** A change of how something looks. */
  tune(changes) {
    this.#change(changes, "replaceState");
  }

  #change(changes, kind) {
    const next = { ...this.state, ...changes };
    if (write(next) !== write(this.state)) history[kind](null, "", write(next));
    this.#become(next);
  }

  #become(next) {
    const before = this.state;
    this.state = next;
    for (const listener of this.#listeners) listener(next, before);
  }
}
