// The picture: input and evidence side by side or over each other, the chosen cell, and what it says.

import { boxesIn, boxOf, rangesOf, spokenBox, written } from "./boxes.js";
import { $, h, say } from "./dom.js";
import { cellAt, flat, ownSamples, receptiveField } from "./field.js";
import { drawBar } from "./picture.js";
import { answerOf, probabilityOf } from "./prediction.js";
import { lookOf, paneFor, sceneOf, sliceOf } from "./scene.js";
import { LEAST } from "./scale.js";
import { SharedScale } from "./shared_scale.js";
import { View } from "./view.js";
import { brief, figure, percent, signed, spoken } from "./words.js";

const LAYERS = {
  both: { input: ["input"], evidence: ["input", "evidence"] },
  over: { evidence: ["input", "evidence"] },
  alone: { evidence: ["evidence"] },
  input: { evidence: ["input"] },
};
const ARROWS = { ArrowUp: [-1, -2], ArrowDown: [1, -2], ArrowLeft: [-1, -1], ArrowRight: [1, -1] }; // step, axis from the end
const ZOOM = 1.5;

export function stage(app) {
  const view = new View();
  const scale = new SharedScale(app, draw);
  let panes = null; // {rank, input, evidence}
  let cell = null; // one index per axis of the map's grid
  let pointed = null; // a box that another part points at
  let shown = ""; // the input and model that cell and view belong to

  app.point = (box) => {
    pointed = box;
    draw();
  };
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.addEventListener("click", () => { app.tool = button.dataset.tool; draw(); });
  }
  app.tool = "pick";
  $("zoom-in").addEventListener("click", () => view.enlarge(ZOOM));
  $("zoom-out").addEventListener("click", () => view.enlarge(1 / ZOOM));
  $("zoom-fit").addEventListener("click", () => view.fit());
  $("evidence-pane").addEventListener("keydown", onKey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  function draw() {
    const { answer, state } = app;
    if (!answer) return clear();
    const place = JSON.stringify([state.input, answer.model, answer.map.shape]);
    if (place !== shown) {
      shown = place;
      cell = pointed = null;
      view.fit();
    }
    makePanes(answer.input.rank);
    const limit = (state.scale === "classes" && scale.limit(answer)) || undefined;
    const look = lookOf(state, answer, limit);
    const marks = marksOf(answer, look.slice);
    const layers = LAYERS[state.show] ?? LAYERS.both;
    $("input-figure").hidden = !layers.input || answer.input.rank === 1;
    $("light").classList.toggle("two", !$("input-figure").hidden);
    $("light").classList.toggle("signal", answer.input.rank === 1);
    panes.input?.show(layers.input ? { ...sceneOf(answer, look, layers.input), ...marks } : null);
    panes.evidence.show({ ...sceneOf(answer, look, layers.evidence), ...marks });
    describe(answer, look);
    tools(answer);
  }

  /** Gestures belong to a canvas, so another rank gets new ones. */
  function makePanes(rank) {
    if ((panes?.rank === 1) === (rank === 1) && panes) return;
    for (const id of ["input-pane", "evidence-pane"]) {
      const old = $(id);
      const fresh = old.cloneNode();
      if (id === "evidence-pane") fresh.addEventListener("keydown", onKey);
      old.replaceWith(fresh);
    }
    const on = { pick, box: erase, window: moveWindow };
    panes = {
      rank,
      input: rank === 1 ? null : paneFor(rank, $("input-pane"), view, on),
      evidence: paneFor(rank, $("evidence-pane"), view, on),
    };
  }

  function clear() {
    panes?.input?.show(null);
    panes?.evidence.show(null);
    $("headline").textContent = "No explanation";
    for (const id of ["headline-note", "readout", "evidence-caption"]) $(id).textContent = "";
    $("remark").hidden = true;
    $("bar").hidden = true;
  }

  /** What is framed on the panes: of a volume only what reaches into the slice. */
  function marksOf(answer, slice) {
    const { geometry, map, receptive_field: field } = answer;
    const inSlice = (ranges) => (ranges?.length === 3 ? (ranges[0][0] <= slice && slice < ranges[0][1] ? ranges.slice(1) : null) : ranges);
    return {
      tool: app.tool,
      cell: inSlice(pointed ? rangesOf(pointed) : cell && ownSamples(cell, map.shape, geometry)),
      field: inSlice(!pointed && cell && receptiveField(cell, geometry, field)),
      boxes: boxesIn(app.state.erase).map((box) => inSlice(rangesOf(box))).filter(Boolean).map(boxOf),
    };
  }

  // --- words ---------------------------------------------------------------------------------------------------------

  function describe(answer, look) {
    const { prediction, target, score, map } = answer;
    $("headline").replaceChildren(...headline(prediction));
    $("headline-note").textContent = `${spoken(app.method.name)} for ${target.text} · score ${signed(score, 2)}`;
    $("remark").textContent = remark(answer);
    $("remark").hidden = !$("remark").textContent;
    $("evidence-caption").textContent = $("show").selectedOptions[0]?.value === "input" ? "Input" : `Evidence for ${target.text}`;
    $("evidence-pane").setAttribute("aria-label", `Evidence for ${target.text}. ${answer.text.short}`);
    readout(answer);
    bar(map, look);
  }

  function headline(prediction) {
    const { answer, probabilities, calibrated } = prediction;
    if (!probabilities) return [`Output ${answerOf(prediction)}`];
    if (answer === null) return [answerOf(prediction)];
    return [`${answerOf(prediction)} · ${percent(probabilityOf(prediction, answer))}`, h("span", { class: "tag" }, calibrated ? "calibrated" : "not calibrated")];
  }

  /** What has to be said of a map that shows nothing: it is not stretched until it seems to. */
  function remark({ empty, map, target, method }) {
    const total = map.values.reduce((sum, v) => sum + Math.abs(v), 0);
    return [
      empty ? `No positive evidence for ${target.text}: no place speaks for it by ${spoken(method)}.` : "",
      map.unit === "logit" && total < LEAST ? `Hardly any evidence: ${figure(Number(total.toPrecision(1)))} logit in all.` : "",
    ].filter(Boolean).join(" ");
  }

  function readout({ map, geometry, receptive_field: field }) {
    if (!cell) {
      $("readout").textContent = "Click a place of the evidence, or move to it with the arrow keys, to see what it adds.";
      return;
    }
    const value = map.values[flat(cell, map.shape)];
    const own = spokenBox(boxOf(ownSamples(cell, map.shape, geometry)));
    const seen = receptiveField(cell, geometry, field);
    const parts = [
      h("strong", { id: "cell-value" }, `${signed(value)} ${map.unit}`),
      ` at ${nameOf(cell, map.shape)} (${own})`,
      map.complete ? "" : ", which ranks places and adds up to nothing",
      seen ? `; it sees ${spokenBox(boxOf(seen))}` : "; what it sees is not known, or the whole input",
    ];
    $("readout").replaceChildren(...parts, ".");
  }

  function bar(map, { limit, threshold }) {
    $("bar").hidden = limit === 0 || app.state.show === "input";
    if ($("bar").hidden) return;
    drawBar($("bar-colours"), threshold);
    const exceeded = map.values.some((v) => Math.abs(v) > limit * (1 + 1e-6));
    const marks = [limit, limit / 2, 0, -limit / 2, -limit].map(brief);
    if (exceeded) [marks[0], marks[4]] = [`≥ ${marks[0]}`, `≤ ${marks[4]}`];
    $("bar-unit").textContent = map.complete ? map.unit : "own unit";
    $("bar-marks").replaceChildren(...marks.map((mark) => h("li", {}, mark)));
    $("bar").setAttribute("aria-label", `Colours from ${marks[4]} (blue, against) over 0 (white) to ${marks[0]} (orange, for), in ${map.unit}`);
  }

  function tools({ input }) {
    $("tool-window").hidden = !windowed(input);
    if ($("tool-window").hidden && app.tool === "window") app.tool = "pick";
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === app.tool));
    }
  }

  // --- hands ---------------------------------------------------------------------------------------------------------

  function pick(sample) {
    const { answer, state } = app;
    const place = answer.input.rank === 3 ? [sliceOf(state, answer.input), ...sample] : sample;
    choose(cellAt(place, answer.map.shape, answer.geometry));
  }

  function choose(next) {
    cell = next;
    pointed = null;
    draw();
    if (cell) say($("readout").textContent);
  }

  function erase(box) {
    const { input } = app.answer;
    const whole = input.rank === 3 ? boxOf([[0, input.size[0]], ...rangesOf(box)]) : box;
    app.store.go({ erase: written([...boxesIn(app.state.erase), whole]), panel: "eraser" });
  }

  /** dx, dy: shares of the pane; to the right is a wider window, upwards a higher centre. */
  function moveWindow(dx, dy) {
    const [low, high] = app.answer.input.range;
    const { centre, width } = lookOf(app.state, app.answer, 1).window;
    app.store.tune({
      centre: round(centre + dy * (high - low)),
      width: Math.max(round(width + 2 * dx * (high - low)), (high - low) / 1000),
    });
  }

  function onKey(event) {
    if (!app.answer || event.altKey || event.ctrlKey || event.metaKey) return;
    const { map } = app.answer;
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) view.move(...(arrow[1] === -1 ? [arrow[0] / 8 / view.zoom, 0] : [0, arrow[0] / 8 / view.zoom]));
    else if (arrow) moveCell(map.shape, ...arrow);
    else if (event.key === "+" || event.key === "=") view.enlarge(ZOOM);
    else if (event.key === "-") view.enlarge(1 / ZOOM);
    else if (event.key === "0") view.fit();
    else if (event.key === "Escape") choose(null);
    else if (event.key === "e" && cell) erase(boxOf(ownSamples(cell, map.shape, app.answer.geometry).slice(-2)));
    else return;
    event.preventDefault();
  }

  function moveCell(shape, step, axisFromEnd) {
    const axis = shape.length + axisFromEnd;
    if (axis < 0) return;
    if (!cell) return choose(shape.map((g) => Math.floor(g / 2)));
    const next = [...cell];
    next[axis] = Math.min(Math.max(next[axis] + step, 0), shape[axis] - 1);
    choose(next);
  }

  app.chosenBox = () => cell && app.answer && boxOf(ownSamples(cell, app.answer.map.shape, app.answer.geometry));
  return draw;
}

/** Whether brightness of an input is a matter of choice. */
export function windowed(input) {
  return input.rank > 1 && input.channels === 1;
}

function nameOf(cell, shape) {
  const names = { 1: ["step"], 2: ["row", "column"], 3: ["slice", "row", "column"] }[cell.length];
  return `${names.map((name, axis) => `${name} ${cell[axis] + 1}`).join(", ")} of ${shape.join(" × ")}`;
}

function round(value) {
  return Number(value.toPrecision(5));
}
