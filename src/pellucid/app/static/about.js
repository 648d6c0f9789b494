// What is behind the numbers: the network, its certificate, the input, and what it takes to repeat them.

import { h } from "./dom.js";
import { spoken } from "./words.js";

export function about(app) {
  return function draw(panel) {
    const { model, answer } = app;
    panel.replaceChildren(
      h("h3", {}, "About these numbers"),
      h("div", { class: "facts" },
        facts("Network", { name: model.title, network: model.network, kind: model.kind, task: model.task, "classes": model.classes.length, input: `${model.input.channels} × ${model.input.size.join(" × ")}`, calibration: model.calibration }),
        model.certificate ? facts("Certificate of the conversion", model.certificate) : null,
        answer ? facts("Input", { name: answer.input.name, id: answer.input_id, size: answer.input.size.join(" × "), spacing: answer.input.spacing?.map((mm) => `${Number(mm.toPrecision(3))} mm`).join(" × "), unit: answer.input.unit }) : null,
        answer ? facts("To repeat this", { method: answer.method, layer: answer.layer, ...answer.provenance }) : null),
      notes([...model.notes, ...(answer?.notes ?? [])]),
      h("h4", {}, "Keys"),
      h("p", { class: "hint" }, "On the evidence: arrows move between cells, Shift with arrows moves the picture, + and − zoom, 0 fits, E erases the chosen cell, Escape lets go. Ctrl and the wheel zoom; so does a pinch."),
    );
  };
}

function notes(found) {
  return found.length ? h("ul", { class: "notes" }, found.map((note) => h("li", {}, note))) : "";
}

function facts(title, values) {
  const told = Object.entries(values).filter(([, v]) => v !== null && v !== undefined && v !== "" && !(Array.isArray(v) && !v.length));
  return h("section", {}, h("h4", {}, title), h("dl", {}, told.map(([name, value]) => [h("dt", {}, spoken(name)), h("dd", {}, plain(value))]).flat()));
}

function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(", ");
  if (typeof value === "object") return Object.entries(value).map(([k, v]) => `${spoken(k)} ${plain(v)}`).join("; ");
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value);
}
