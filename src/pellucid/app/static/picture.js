// What lies on a pane: the input as a picture, and the evidence as a coloured sheet to lay over it. Both are canvases of
// one pixel per sample; a pane enlarges them.

import { diverging } from "./colour.js";
import { extremes } from "./arrays.js";
import { atSamples } from "./field.js";

const LUMA = [0.299, 0.587, 0.114];

/** Height and width of what a pane shows of an input: of a volume one slice. */
export function planeSize(size) {
  return size.length === 1 ? [1, size[0]] : size.slice(-2);
}

/** The range of an input's values when nobody has set a window. */
export function usualWindow(input) {
  if (input.window) return { centre: input.window.center, width: input.window.width };
  const [low, high] = input.range;
  return { centre: (low + high) / 2, width: high - low || 1 };
}

/** Lowest and highest value of an input; a photograph has the range of its kind, so that dark ones stay dark. */
export function rangeOf(values, channels) {
  const [low, high] = extremes(values);
  if (channels !== 3 || low < 0) return [low, high];
  return high <= 1 ? [0, 1] : high <= 255 ? [0, 255] : [low, high];
}

/** One plane of the input through a window, in colour where it has three channels and `grey` is not asked for. */
export function drawInput(input, { centre, width }, { slice = 0, grey = false }) {
  const [height, wide] = planeSize(input.size);
  const planes = planesOf(input, slice, height * wide);
  const [red, green, blue] = planes.length === 3 && !grey ? planes : Array(3).fill(inGrey(planes));
  const sheet = new ImageData(wide, height);
  const low = centre - width / 2;
  const gain = 255 / width;
  for (let i = 0; i < red.length; i += 1) {
    sheet.data[4 * i] = gain * (red[i] - low);
    sheet.data[4 * i + 1] = gain * (green[i] - low);
    sheet.data[4 * i + 2] = gain * (blue[i] - low);
    sheet.data[4 * i + 3] = 255;
  }
  return canvasOf(sheet);
}

function planesOf({ values, size, channels }, slice, area) {
  const depth = size.length === 3 ? size[0] : 1;
  return Array.from({ length: channels }, (_, c) => {
    const start = (c * depth + (depth > 1 ? slice : 0)) * area;
    return values.subarray(start, start + area);
  });
}

/** How light a colour is; of any other number of channels the mean. */
function inGrey(planes) {
  if (planes.length === 1) return planes[0];
  const shares = planes.length === 3 ? LUMA : planes.map(() => 1 / planes.length);
  return planes[0].map((_, i) => shares.reduce((sum, share, c) => sum + share * planes[c][i], 0));
}

/**
 * The evidence as a sheet: the full colour of each sign, let through in proportion, so that weak evidence leaves no haze
 * over a dark picture. Alone, without a picture, it is the colour map itself, on white.
 */
export function drawEvidence(map, geometry, { limit, opacity, threshold, smooth, slice, alone }) {
  const values = atSamples(map, geometry, { smooth, slice });
  const [height, width] = planeSize(geometry.input_size);
  const sheet = new ImageData(width, height);
  for (let i = 0; i < values.length; i += 1) {
    const share = shareOf(values[i], limit, threshold);
    const [red, green, blue] = diverging(alone ? share : Math.sign(share));
    sheet.data[4 * i] = red;
    sheet.data[4 * i + 1] = green;
    sheet.data[4 * i + 2] = blue;
    sheet.data[4 * i + 3] = alone ? 255 : 255 * opacity * Math.abs(share);
  }
  return canvasOf(sheet);
}

/** A value as a share of the limit, between -1 and 1; nothing below the threshold. */
export function shareOf(value, limit, threshold) {
  const share = limit > 0 ? Math.min(Math.max(value / limit, -1), 1) : 0;
  return Math.abs(share) >= threshold ? share : 0;
}

/** The colour bar, the full orange at the top. */
export function drawBar(canvas, threshold) {
  const sheet = new ImageData(1, 256);
  for (let y = 0; y < 256; y += 1) {
    const share = 1 - (2 * y) / 255;
    sheet.data.set([...diverging(Math.abs(share) >= threshold ? share : 0), 255], 4 * y);
  }
  canvas.width = 1;
  canvas.height = 256;
  canvas.getContext("2d").putImageData(sheet, 0, 0);
}

function canvasOf(sheet) {
  const canvas = document.createElement("canvas");
  canvas.width = sheet.width;
  canvas.height = sheet.height;
  canvas.getContext("2d").putImageData(sheet, 0, 0);
  return canvas;
}
