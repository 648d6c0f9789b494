// How the picture is drawn: nothing here asks the server, but for a slice of a file that the server reads.

import { $ } from "./dom.js";
import { lookOf, sliceOf } from "./scene.js";
import { windowed } from "./stage.js";
import { brief } from "./words.js";

const NAMES = { 1: "Series", 2: "Slice or image", 3: "Slice" };

export function display(app) {
  const { store } = app;
  if (innerWidth < 720) $("display").open = false;
  for (const name of ["opacity", "threshold", "centre", "width"]) {
    $(name).addEventListener("input", () => store.tune({ [name]: Number($(name).value) }));
  }
  for (const name of ["show", "scale"]) $(name).addEventListener("change", () => store.tune({ [name]: $(name).value }));
  $("smooth").addEventListener("change", () => store.tune({ smooth: $("smooth").checked }));
  $("slice").addEventListener("input", () => {
    $("slice-said").textContent = `${Number($("slice").value) + 1} of ${Number($("slice").max) + 1}`;
    if (app.answer?.input.rank === 3) store.tune({ slice: Number($("slice").value) });
  });
  $("slice").addEventListener("change", () => store.go({ slice: Number($("slice").value), erase: "" }));

  return function draw() {
    const { state, answer } = app;
    for (const name of ["show", "scale", "opacity", "threshold"]) $(name).value = state[name];
    $("smooth").checked = state.smooth;
    $("opacity-said").textContent = `${Math.round(100 * state.opacity)} %`;
    $("threshold-said").textContent = `${Math.round(100 * state.threshold)} % of the scale`;
    if (!answer) return;
    $("scale").disabled = answer.prediction.classes.length < 2;
    $("show-field").hidden = answer.input.rank === 1;
    drawWindow(state, answer);
    drawSlice(state, answer.input);
  };

  function drawWindow(state, answer) {
    const shown = windowed(answer.input);
    for (const field of document.querySelectorAll(".windowed")) field.hidden = !shown;
    if (!shown) return;
    const { centre, width } = lookOf(state, answer, 1).window;
    const [low, high] = answer.input.range;
    const span = high - low || 1;
    range($("centre"), low, high, span / 500, centre);
    range($("width"), span / 500, 2 * span, span / 500, width);
    const unit = answer.input.unit ? ` ${answer.input.unit}` : "";
    $("centre-said").textContent = brief(centre).replace("+", "") + unit;
    $("width-said").textContent = brief(width).replace("+", "") + unit;
  }

  function drawSlice(state, input) {
    const count = input.rank === 3 ? input.size[0] : input.slices;
    document.querySelector(".sliced").hidden = count < 2;
    $("slice-name").textContent = NAMES[input.rank];
    range($("slice"), 0, Math.max(count - 1, 0), 1, sliceOf(state, input));
    $("slice-said").textContent = `${Number($("slice").value) + 1} of ${count}`;
  }
}

function range(input, low, high, step, value) {
  Object.assign(input, { min: low, max: high, step });
  input.value = value;
}
