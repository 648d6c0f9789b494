// What a network answered, apart from why.

import { signed } from "./words.js";

/** The probability of a class, calibrated where that is known; undefined where the network gives none. */
export function probabilityOf({ probabilities, calibrated }, k) {
  return k === null ? undefined : (calibrated ?? probabilities)?.[k];
}

/** The class that it decides for, or the classes where there may be several; of a regression the number. */
export function answerOf(prediction) {
  const { answer, classes, logits, probabilities } = prediction;
  if (answer !== null) return classes[answer];
  if (!probabilities) return signed(logits[0], 3);
  return classes.filter((_, k) => probabilityOf(prediction, k) >= 0.5).join(", ") || "no class reaches one half";
}

/** Indices of the likeliest classes, the likeliest first. */
export function likeliest({ classes, logits, probabilities }, most) {
  const order = probabilities ?? logits; // of a single logit there are two probabilities
  return classes.map((_, k) => k).sort((a, b) => order[b] - order[a]).slice(0, most);
}
