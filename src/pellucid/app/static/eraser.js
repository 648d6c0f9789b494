// Regions blurred away, and what the network says then.

import { boxesIn, spokenBox, written } from "./boxes.js";
import { h, say } from "./dom.js";
import { failure, loader, smallPane } from "./panel.js";
import { answerOf, probabilityOf } from "./prediction.js";
import { limitOf } from "./scale.js";
import { View } from "./view.js";
import { percent, signed } from "./words.js";

export function eraser(app) {
  const view = new View();
  const result = h("div", { class: "result" });
  const load = loader(result);
  let asked = "";
  let panes = [];

  return function draw(panel) {
    const { answer, state } = app;
    const boxes = boxesIn(state.erase);
    const key = JSON.stringify([app.question(), state.erase]);
    if (key !== asked || !panel.firstChild) {
      asked = key;
      panes = [];
      panel.replaceChildren(...head(boxes), result);
      if (boxes.length && answer) load(rerun(boxes, answer), (after) => show(answer, after));
      else result.replaceChildren();
    }
    for (const pane of panes) pane.redraw();
  };

  function head(boxes) {
    return [
      h("h3", {}, "What changes without a region"),
      h("p", { class: "hint" }, "Choose the tool Erase and drag over the picture, or give a box. The regions are replaced by a blurred copy, and the network runs again."),
      boxes.length ? h("ul", { class: "boxes" }, boxes.map((box, k) => h("li", {}, spokenBox(box), h("button", {
        type: "button", class: "quiet", "aria-label": `Put ${spokenBox(box)} back`, onclick: () => keep(boxes.filter((_, j) => j !== k)),
      }, "Put back")))) : null,
      form(),
      boxes.length ? h("p", { class: "buttons" }, h("button", { type: "button", onclick: () => keep([]) }, "Put everything back")) : null,
    ].filter(Boolean);
  }

  /** A box by numbers, for those who do not draw. */
  function form() {
    const size = app.answer?.input.size ?? app.model.input.size;
    const names = { 1: ["from", "to"], 2: ["left", "top", "right", "bottom"], 3: ["left", "top", "first", "right", "bottom", "last"] }[size.length];
    const most = [...size].reverse();
    return h("form", { class: "box-form", onsubmit: add },
      names.map((name, k) => h("label", {}, name, h("input", { type: "number", name, min: 0, max: most[k % size.length], step: 1, required: true, value: k < size.length ? 0 : Math.round(most[k - size.length] / 4) }))),
      h("button", { type: "submit" }, "Erase this box"),
      h("button", { type: "button", onclick: () => { const box = app.chosenBox(); if (box) keep([...boxesIn(app.state.erase), box]); else say("No cell is chosen."); } }, "Erase the chosen cell"));
  }

  function add(event) {
    event.preventDefault();
    const box = [...event.target.querySelectorAll("input")].map((input) => Number(input.value));
    const rank = box.length / 2;
    if (!box.slice(0, rank).every((low, k) => low < box[rank + k])) {
      result.replaceChildren(failure({ title: "The box holds nothing.", detail: "Its first corner lies behind its last.", hint: "Give the low corner first." }));
      return;
    }
    keep([...boxesIn(app.state.erase), box]);
  }

  function keep(boxes) {
    app.store.go({ erase: written(boxes) });
  }

  /** The same question: where the answer itself was asked for, what it was before stays the target. */
  function rerun(boxes, { prediction, target }) {
    const { target: chosen } = app.state;
    const fixed = chosen || target.index === null ? {} : { target: prediction.classes[target.index] };
    return app.answers.explain(app.question({ ...fixed, erase: boxes }));
  }

  function show(before, after) {
    const limit = limitOf([before.map, after.map]);
    panes = [
      smallPane(app, before, view, [h("strong", {}, "Before")], limit),
      smallPane(app, after, view, [h("strong", {}, "Without the regions")], limit),
    ];
    const rows = [
      ["Answer", answerOf(before.prediction), answerOf(after.prediction), ""],
      ...probabilityRow(before, after),
      [`Score for ${before.target.text}`, signed(before.score), signed(after.score), signed(after.score - before.score)],
    ];
    say(`Without the regions the score for ${before.target.text} is ${signed(after.score, 2)}, before ${signed(before.score, 2)}.`);
    return [table(rows), h("div", { class: "panes two" }, panes.map((pane) => pane.figure))];
  }

  function table(rows) {
    return h("table", { class: "before-after" },
      h("thead", {}, h("tr", {}, h("td", {}), ["Before", "After", "Change"].map((w) => h("th", { scope: "col", class: "number" }, w)))),
      h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells.map((c) => h("td", { class: "number" }, c))))));
  }

  function probabilityRow(before, after) {
    const k = before.target.index;
    const [p, q] = [before, after].map(({ prediction }) => probabilityOf(prediction, k));
    if (p === undefined) return [];
    const points = `${signed(100 * (q - p), 1)} points`;
    return [[`Probability of ${before.prediction.classes[k]}`, percent(p), percent(q), points]];
  }
}
