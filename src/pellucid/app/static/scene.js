// From an answer and the way it is looked at to what a pane shows.

import { atSamples } from "./field.js";
import { Pane } from "./pane.js";
import { drawEvidence, drawInput, usualWindow } from "./picture.js";
import { limitOf } from "./scale.js";
import { SignalPane } from "./signal.js";

/** How the state says that pictures are looked at; limit: the value at which the colours of this answer are full. */
export function lookOf(state, answer, limit = limitOf([answer.map])) {
  const { opacity, threshold, smooth } = state;
  const window = usualWindow(answer.input);
  return {
    opacity, threshold, smooth, limit,
    slice: answer.input.rank === 3 ? sliceOf(state, answer.input) : 0,
    window: { centre: state.centre ?? window.centre, width: state.width ?? window.width },
  };
}

/** The slice of a volume that is shown, or of a file with several inputs the one that was read. */
export function sliceOf(state, input) {
  if (input.rank !== 3) return input.slice;
  return Math.min(state.slice ?? Math.floor(input.size[0] / 2), input.size[0] - 1);
}

/** layers: which of "input" and "evidence" are shown. Evidence alone is drawn on white, as in the colour bar. */
export function sceneOf(answer, look, layers) {
  const { input, map, geometry } = answer;
  const evidence = layers.includes("evidence");
  const { limit, opacity, threshold } = look;
  if (input.rank === 1) {
    const cells = evidence ? atSamples(map, geometry, look) : null;
    return { ...UNMARKED, input, cells, limit, opacity, threshold, unit: map.unit };
  }
  const grey = evidence;
  return {
    ...UNMARKED,
    picture: layers.includes("input") ? drawInput(input, look.window, { slice: look.slice, grey }) : null,
    evidence: evidence ? drawEvidence(map, geometry, { ...look, alone: !layers.includes("input") }) : null,
    smooth: look.smooth,
    aspect: aspectOf(input.spacing),
  };
}

const UNMARKED = { tool: "pick", cell: null, field: null, boxes: [] };

function aspectOf(spacing) {
  const [down, across] = spacing?.slice(-2) ?? [1, 1];
  return down > 0 && across > 0 ? across / down : 1;
}

/** A pane for inputs of this rank. */
export function paneFor(rank, canvas, view, on) {
  return rank === 1 ? new SignalPane(canvas, view, on) : new Pane(canvas, view, on);
}
