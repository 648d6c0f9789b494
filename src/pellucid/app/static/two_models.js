// The same input through two networks.

import { h, options } from "./dom.js";
import { loader, scrolling, smallPane } from "./panel.js";
import { answerOf, probabilityOf } from "./prediction.js";
import { limitOf } from "./scale.js";
import { ask } from "./server.js";
import { View } from "./view.js";
import { percent, printedSum, signed, spoken } from "./words.js";

export function twoModels(app) {
  const view = new View();
  const select = h("select", { id: "second" });
  const result = h("div", { class: "result" });
  const load = loader(result);
  let asked = "";
  let panes = [];
  select.addEventListener("change", () => app.store.go({ second: select.value }));

  return function draw(panel) {
    const others = app.models.filter((m) => m.id !== app.model.id && m.input.rank === app.model.input.rank);
    if (!others.length) {
      panel.replaceChildren(h("h3", {}, "Two models"), h("p", { class: "hint" }, "One model is served that takes such inputs. Start the server with two, as in "), h("pre", {}, "pellucid serve runs/first runs/second"));
      return;
    }
    const second = others.find((m) => m.id === app.state.second) ?? others[0];
    options(select, others.map((m) => [m.id, m.title]), second.id);
    if (!panel.contains(select)) {
      panel.replaceChildren(h("h3", {}, "Two models"), h("div", { class: "field inline" }, h("label", { for: "second" }, "Beside"), select), result);
    }
    beside(second);
    for (const pane of panes) pane.redraw();
  };

  function beside(second) {
    const { answer } = app;
    const mine = app.question();
    const key = JSON.stringify([mine, second.id]);
    if (!answer || key === asked) return;
    asked = key;
    panes = [];
    const offered = second.methods.some((m) => m.name === mine.method);
    const known = (name) => (second.classes.includes(name) || name === "the rest" ? name : "");
    const name = mine.target || (answer.target.index === null ? "" : answer.prediction.classes[answer.target.index]);
    const other = { model: second.id, method: offered ? mine.method : second.default_method, target: known(name), against: known(name) && known(mine.against), layer: "" };
    load(app.answers.explain(app.question(other)), (theirs) => show(answer, theirs, second));
  }

  function show(first, second, model) {
    // One scale only where both count in the same unit.
    const shared = first.map.unit === second.map.unit && first.map.complete && second.map.complete;
    const limit = shared ? limitOf([first.map, second.map]) : undefined;
    panes = [[first, app.model], [second, model]].map(([answer, { title }]) => smallPane(app, answer, view, [h("strong", {}, title), ` · ${spoken(answer.method)}`], limit));
    return [
      scrolling("The two models in numbers", table([[first, app.model], [second, model]])),
      h("div", { class: "panes two" }, panes.map((pane) => pane.figure)),
      ...runs(model),
    ];
  }

  /** What the evaluations of the two runs say, where both were evaluated on the same inputs. */
  function runs(second) {
    const found = h("div", { class: "result" });
    const loadRuns = loader(found);
    const compare = () => loadRuns(ask(`v1/runs/comparison?${new URLSearchParams({ new: app.model.id, old: second.id })}`), showRuns);
    return [h("p", {}, h("button", { type: "button", onclick: compare }, "Compare what the runs scored on their data")), found];
  }

  function showRuns({ words, performance, scores }) {
    const rows = [...performance, ...scores].map((r) => [r.method ? `${spoken(r.name)}, ${spoken(r.method)}` : spoken(r.name), signed(r.difference, 3), `${signed(r.low, 3)} to ${signed(r.high, 3)}`, r.samples, r.verdict ?? ""]);
    return [
      ...words.map((sentence) => h("p", {}, sentence)),
      scrolling("Differences of the two runs", h("table", {},
        h("caption", {}, "New minus old on the same inputs, with 95 % intervals over patients"),
        h("thead", {}, h("tr", {}, ["Score", "Difference", "Interval", "Inputs", "Verdict"].map((w, k) => h("th", { scope: "col", class: k && k < 4 ? "number" : null }, w)))),
        h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells.map((c, k) => h("td", { class: k < 3 ? "number" : null }, c))))))),
    ];
  }

  function table(sides) {
    const row = (name, tell) => h("tr", {}, h("th", { scope: "row" }, name), sides.map(([answer, model]) => h("td", { class: "number" }, tell(answer, model))));
    return h("table", { class: "before-after" },
      h("thead", {}, h("tr", {}, h("td", {}), sides.map(([, model]) => h("th", { scope: "col", class: "number" }, model.title)))),
      h("tbody", {},
        row("Answer", ({ prediction }) => answerOf(prediction)),
        row("Its probability", ({ prediction }) => probability(prediction)),
        row("Calibrated", ({ prediction: p }) => (p.calibrated ? "yes" : "no")),
        row("Explained", ({ target }) => target.text),
        row("Score", ({ score }) => signed(score)),
        row("Ledger's sum", ({ ledger }) => (ledger.length ? signed(printedSum(ledger.map((r) => r.value))) : "adds up to nothing"))));
  }
}

function probability(prediction) {
  const p = probabilityOf(prediction, prediction.answer);
  return p === undefined ? "none" : percent(p);
}
