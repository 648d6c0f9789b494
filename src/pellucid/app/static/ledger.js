// The score, row by row: the printed numbers add up to the printed sum.

import { $, h } from "./dom.js";
import { printedSum, signed, spoken } from "./words.js";

export function ledger(app) {
  let held = null; // the row whose region stays framed

  return function draw(before) {
    const { answer } = app;
    if (before && $("ledger").dataset.of === keyOf(answer)) return;
    held = null;
    $("ledger").dataset.of = keyOf(answer);
    $("ledger").replaceChildren(...(answer ? answer.ledger.length ? [table(answer), h("p", { class: "hint" }, "Every row is rounded by itself, so the last digit of the sum may differ.")] : [none(answer)] : []));
    $("text").textContent = answer?.text.short ?? "";
    $("technical").textContent = answer?.text.technical ?? "";
    $("uncalibrated").hidden = !answer?.prediction.calibrated;
  };

  function keyOf(answer) {
    return answer ? JSON.stringify([answer.input_id, answer.model, answer.method, answer.layer, answer.target, answer.input.slice]) : "";
  }

  function table({ ledger: rows, score, target, map }) {
    return h("table", { class: "ledger" },
      h("caption", {}, `Score for ${target.text}, in ${map.unit}`),
      h("thead", { class: "unseen" }, h("tr", {}, h("th", { scope: "col" }, "Part"), h("th", { scope: "col" }, "Adds"))),
      h("tbody", {}, rows.map(row)),
      h("tfoot", {},
        h("tr", {}, h("th", { scope: "row" }, "Sum of the rows"), h("td", { class: "number", id: "ledger-sum" }, signed(printedSum(rows.map((r) => r.value))))),
        h("tr", {}, h("th", { scope: "row" }, "Score of the network"), h("td", { class: "number", id: "ledger-score" }, signed(score)))));
  }

  function row({ label, value, where, box }) {
    const number = h("td", { class: "number" }, signed(value));
    if (!box) return h("tr", {}, h("th", { scope: "row" }, label), number);
    const button = h("button", {
      type: "button", class: "link", "aria-pressed": "false", title: `Frame it in the picture: ${where}`,
      onclick: () => hold(button, box),
      onmouseenter: () => app.point(box),
      onmouseleave: () => app.point(held?.box ?? null),
    }, label);
    return h("tr", {}, h("th", { scope: "row" }, button), number);
  }

  function hold(button, box) {
    const again = held?.button === button;
    held?.button.setAttribute("aria-pressed", "false");
    held = again ? null : { button, box };
    button.setAttribute("aria-pressed", String(!again));
    app.point(held?.box ?? null);
  }

  function none({ method }) {
    const adding = app.model.methods.find((m) => m.complete && !m.control && m.name !== method);
    return h("div", {},
      h("p", {}, "This method ranks places. Its values do not add up to the score, so there is no ledger."),
      adding ? h("p", {}, h("button", { type: "button", onclick: () => app.store.go({ method: adding.name }) }, `Explain by ${spoken(adding.name)} instead`)) : null);
  }
}
