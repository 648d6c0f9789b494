// Inside the network: what a layer's filters look like, and which of its channels make up the score.

import { diverging } from "./colour.js";
import { h, options } from "./dom.js";
import { loader } from "./panel.js";
import { plural, signed } from "./words.js";

const CHANNELS = 12; // for the target, and as many as stand against it
const INPUTS = 6; // channels that are shown of a filter that sees many

export function layers(app) {
  const select = h("select", { id: "look-layer" });
  const channels = h("div", { class: "result", id: "channels" });
  const filters = h("div", { class: "result", id: "filters" });
  const loads = { channels: loader(channels), filters: loader(filters) };
  let built = "";
  let asked = "";
  select.addEventListener("change", () => { asked = ""; ask(); });

  return function draw(panel) {
    if (built !== app.model.id) {
      built = app.model.id;
      asked = "";
      const last = app.model.layers.at(-1)?.name ?? "";
      options(select, app.model.layers.map((l) => [l.name, `${l.name} · ${plural(l.channels, "channel")}, ${l.grid.join(" × ")}`]), last);
      panel.replaceChildren(
        h("h3", {}, "Inside the network"),
        h("div", { class: "field inline" }, h("label", { for: "look-layer" }, "Layer"), select),
        channels, filters,
      );
    }
    ask();
  };

  function ask() {
    const { input, model, slice, target, against } = app.question();
    const layer = select.value;
    const key = JSON.stringify([input, model, slice, target, against, layer]);
    if (key === asked || !app.answer) return;
    asked = key;
    loads.channels(app.answers.featureMaps(app.question({ layer }), CHANNELS), showChannels);
    const facts = app.model.layers.find((l) => l.name === layer);
    if (facts?.convolution) loads.filters(app.answers.filters(model, layer), showFilters);
    else filters.replaceChildren(h("p", { class: "hint" }, "This layer is a block, not a single convolution: it has no filters of its own to show."));
  }

  function showChannels({ channels: found, maps, cells, complete, target, score, total, layer }) {
    const limits = [limit(maps.values), limit(cells.values)];
    return [
      h("h4", {}, `Channels of ${layer} that make up the score for ${target}`),
      h("p", { class: "hint" }, `${found.length} of ${total} channels, by what they add to the score ${signed(score, 2)}. ${complete ? "All channels and the constant add up to it." : "Contributions are first-order here: they rank channels and add up to nothing."} Above: the response; below: what each place adds.`),
      h("ul", { class: "tiles" }, found.map(({ channel, contribution }, k) => h("li", {},
        ...[maps, cells].map((stack, j) => tile(part(stack, k), stack.shape.slice(1), limits[j], `${j ? "Contribution" : "Response"} of channel ${channel}`)),
        h("span", { class: "tile-name" }, `channel ${channel}`), h("span", { class: "tile-said" }, signed(contribution, 3))))),
    ];
  }

  function showFilters({ kernels, channels: found, norms, colour, pointwise, total, layer }) {
    if (pointwise) return [h("h4", {}, `Filters of ${layer}`), h("p", { class: "hint" }, `Its ${plural(total, "filter")} cover one place each: they mix channels, and have no shape to show.`)];
    const [, inputs] = kernels.shape;
    const what = colour ? "Red, green and blue weights; grey is zero, each at its own contrast." : inputs > INPUTS ? `Of each the ${INPUTS} channels that it weighs most; blue is negative, orange positive.` : "Blue is negative, orange positive.";
    const shape = kernels.shape.slice(2);
    const full = limit(kernels.values);
    return [
      h("h4", {}, `Filters of ${layer}`),
      h("p", { class: "hint" }, `${found.length} of ${total}, longest first. ${what}`),
      h("ul", { class: colour || inputs === 1 ? "tiles" : "tiles wide" }, found.map((channel, k) => h("li", {},
        colour ? colourTile(part(kernels, k), shape, `Filter ${channel}`) : h("span", { class: "row-of-tiles" }, strongest(part(kernels, k), inputs).map((plane) => tile(plane, shape, full, `Filter ${channel}`))),
        h("span", { class: "tile-name" }, `filter ${channel}`), h("span", { class: "tile-said" }, `length ${norms[k].toFixed(2)}`)))),
    ];
  }
}

function part({ values, shape }, k) {
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  return values.subarray(k * size, (k + 1) * size);
}

/** The planes of a kernel that weigh most. */
function strongest(kernel, inputs) {
  const size = kernel.length / inputs;
  const planes = Array.from({ length: inputs }, (_, c) => kernel.subarray(c * size, (c + 1) * size));
  const weight = (plane) => plane.reduce((sum, v) => sum + v * v, 0);
  return planes.sort((a, b) => weight(b) - weight(a)).slice(0, INPUTS);
}

function limit(values) {
  return values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
}

/** A plane of signed values; a signal is one row high, of a volume the middle slice is shown. */
function tile(values, shape, full, label) {
  const [height, width] = shape.length === 1 ? [1, shape[0]] : shape.slice(-2);
  const plane = shape.length === 3 ? values.subarray(Math.floor(shape[0] / 2) * height * width) : values;
  return painted(height, width, label, (i) => diverging(full ? plane[i] / full : 0));
}

function colourTile(kernel, [height, width], label) {
  const full = limit(kernel) || 1;
  const size = height * width;
  return painted(height, width, label, (i) => [0, 1, 2].map((c) => Math.round(127.5 + (127.5 * kernel[c * size + i]) / full)));
}

function painted(height, width, label, colourAt) {
  const canvas = h("canvas", { width, height, class: height === 1 ? "tile flat" : "tile", role: "img", "aria-label": label });
  const sheet = new ImageData(width, height);
  for (let i = 0; i < height * width; i += 1) {
    sheet.data.set(colourAt(i), 4 * i);
    sheet.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(sheet, 0, 0);
  return canvas;
}
