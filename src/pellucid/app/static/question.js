// Which class, against which, by which method, at which layer.

import { $, h, options } from "./dom.js";
import { spoken } from "./words.js";

const LISTED = 40; // classes that fit a menu; more are typed
const REST = "the rest";

export function question(app) {
  $("method").addEventListener("change", () => app.store.go({ method: $("method").value }));
  $("layer").addEventListener("change", () => app.store.go({ layer: $("layer").value }));
  let built = "";

  return function draw() {
    const { model, method, state, answer } = app;
    options($("method"), groups(model.methods), method.name);
    $("method-note").textContent = note(method);
    $("layer-field").hidden = !method.layer || !model.layers.length;
    const grids = model.layers.filter((layer) => layer.grid.length);
    options($("layer"), [["", "the last one"], ...grids.map((l) => [l.name, `${l.name} (${l.grid.join(" × ")})`])], state.layer);
    const classes = model.classes.length ? model.classes : (answer?.prediction.classes ?? []);
    build(model, classes);
    if (answer) {
      fill("target", classes, [["", "the answer"]]);
      fill("against", classes, [["", "nothing else"], [REST, REST]]);
    }
  };

  /** Menus for few classes, fields with suggestions for many; made again only for another set of classes. */
  function build(model, classes) {
    $("target-field").hidden = classes.length < 2;
    $("against-field").hidden = model.task !== "multiclass" || classes.length < 3; // of two, one is always against the other
    if (built === JSON.stringify(classes)) return;
    built = JSON.stringify(classes);
    for (const name of ["target", "against"]) {
      const control = classes.length > LISTED
        ? h("input", { id: name, list: `${name}-names`, autocomplete: "off", spellcheck: "false" })
        : h("select", { id: name });
      control.addEventListener("change", () => changed(name, classes, control));
      $(`${name}-choice`).replaceChildren(control, classes.length > LISTED
        ? h("datalist", { id: `${name}-names` }, classes.map((c) => h("option", { value: c })), name === "against" ? h("option", { value: REST }) : null)
        : "");
    }
  }

  function fill(name, classes, first) {
    const control = $(name);
    if (control.tagName === "SELECT") options(control, [...first, ...classes.map((c) => [c, c])], app.state[name]);
    else {
      control.placeholder = first[0][1];
      control.value = app.state[name];
      control.setCustomValidity("");
    }
  }

  function changed(name, classes, control) {
    const value = control.value.trim();
    if (value && value !== REST && !classes.includes(value)) {
      control.setCustomValidity(`There is no class "${value}". Choose one of the suggestions.`);
      control.reportValidity();
      return;
    }
    const { prediction } = app.answer;
    // "Against" needs a class to stand against: the answer, where none is chosen.
    const target = name === "against" && value && !app.state.target ? prediction.classes[prediction.answer] : app.state.target;
    app.store.go({ target, [name]: value, ...(name === "target" && value === app.state.against ? { against: "" } : {}) });
  }

  function note(method) {
    const sums = method.complete ? "Adds up to the score." : method.control ? "A control: it knows nothing of the decision." : "Ranks places.";
    const title = method.title[0].toUpperCase() + method.title.slice(1);
    return `${title}. ${sums} ${method.paper}`;
  }
}

function groups(methods) {
  return [...methods].sort((a, b) => a.control - b.control).map((m) => [m.name, m.control ? `${spoken(m.name)} (control)` : spoken(m.name)]);
}
