// Methods beside each other, with scores; the controls are always among them.

import { h } from "./dom.js";
import { loader, scrolling, smallPane } from "./panel.js";
import { View } from "./view.js";
import { fixed, plural, spoken } from "./words.js";

const MOST = 12;
const AT_FIRST = 4;

export function methods(app) {
  const view = new View();
  const result = h("div", { class: "result", "aria-live": "polite" });
  const load = loader(result);
  let built = "";
  let compared = "";
  let panes = [];

  return function draw(panel) {
    if (built !== app.model.id) build(panel);
    const key = keyOf();
    if (compared && compared !== key) {
      compared = "";
      panes = [];
      result.replaceChildren(h("p", { class: "hint" }, "The question has changed: compare again."));
    }
    for (const pane of panes) pane.redraw();
  };

  function keyOf() {
    const { input, model, target, against, slice } = app.question();
    return JSON.stringify([input, model, target, against, slice]);
  }

  function build(panel) {
    built = app.model.id;
    compared = "";
    result.replaceChildren();
    const real = app.model.methods.filter((m) => !m.control);
    const usual = real.filter((m) => m.passes !== null && m.passes <= 4).slice(0, AT_FIRST).map((m) => m.name);
    const controls = app.model.methods.filter((m) => m.control).map((m) => spoken(m.name));
    panel.replaceChildren(
      h("h3", {}, "Methods side by side"),
      h("p", { class: "hint" }, `Each is scored on this input, beside maps that know nothing of the decision${controls.length ? ` (${controls.join(", ")})` : ""}. A method that is no better than these explains nothing here.`),
      h("fieldset", { class: "choices" }, h("legend", {}, "Methods to compare"), real.map((m) => choice(m, usual.includes(m.name)))),
      h("p", { class: "buttons" }, h("button", { type: "button", class: "primary", id: "compare", onclick: compare }, "Compare")),
      result,
    );
  }

  function choice({ name, title, passes }, checked) {
    const cost = passes === null ? "many passes" : passes > 4 ? plural(passes, "pass", "passes") : "";
    return h("label", { class: "choice-box", title }, h("input", { type: "checkbox", name: "methods", value: name, checked }), ` ${spoken(name)} `, cost ? h("span", { class: "hint" }, cost) : null);
  }

  function compare() {
    const chosen = [...document.querySelectorAll("input[name=methods]:checked")].map((box) => box.value);
    if (!chosen.length || chosen.length > MOST) {
      result.replaceChildren(h("p", { class: "hint" }, `Choose 1 to ${MOST} methods.`));
      return;
    }
    compared = keyOf();
    load(app.answers.compare(app.question({ method: "", layer: "" }), chosen), show);
  }

  function show({ explanations, scores, metrics, failed }) {
    const controls = new Set(scores.filter((s) => s.control).map((s) => s.method));
    panes = explanations.map((answer) => smallPane(app, answer, view, [nameOf(answer.method, controls.has(answer.method))]));
    return [
      h("div", { class: "panes" }, panes.map((pane) => pane.figure)),
      scrolling("Scores of the methods and the controls", table(scores, metrics)),
      ...Object.entries(failed).map(([name, why]) => h("p", { class: "hint" }, `${spoken(name)} gave nothing: ${why}`)),
    ];
  }

  function table(scores, metrics) {
    const order = [...scores].sort((a, b) => a.control - b.control);
    const controls = scores.filter((s) => s.control);
    return h("table", { class: "scores" },
      h("caption", {}, `Scores for ${app.answer?.target.text ?? "the target"}, on this one input`),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"), metrics.map((m) => h("th", { scope: "col", class: "number" }, spoken(m.name), h("span", { class: "direction" }, direction(m)))))),
      h("tbody", {}, order.map((row) => h("tr", { class: row.control ? "control" : null },
        h("th", { scope: "row" }, nameOf(row.method, row.control)),
        metrics.map((m) => cell(row, m, controls))))));
  }

  function cell(row, { name, higher_is_better: higher }, controls) {
    const value = row.metrics[name];
    if (value === null || value === undefined) return h("td", { class: "number" }, "not defined");
    const others = controls.map((c) => c.metrics[name]).filter((v) => v !== null && v !== undefined);
    const better = higher === null || others.every((v) => (higher ? value > v : value < v));
    return h("td", { class: "number" }, fixed(value, 3), !row.control && !better ? h("span", { class: "direction" }, "no better than a control") : null);
  }
}

function nameOf(name, control) {
  return h("span", {}, spoken(name), control ? h("span", { class: "tag" }, "control") : null);
}

function direction({ higher_is_better: higher }) {
  return higher === null ? "" : higher ? "higher is better" : "lower is better";
}
