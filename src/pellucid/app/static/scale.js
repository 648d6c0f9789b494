// The value at which colours are full.

import { percentile } from "./arrays.js";

const PERCENTILE = 0.995;
export const LEAST = 0.01; // logit: a map that holds less in all says nothing, and is not stretched to full colour

/** One limit for maps of one unit: the 99.5th percentile of all magnitudes, or the largest where most are zero. */
export function limitOf(maps) {
  const magnitudes = maps.flatMap((map) => Array.from(map.values, Math.abs));
  const found = percentile(magnitudes, PERCENTILE) || percentile(magnitudes, 1);
  const floor = Math.max(...maps.map((map) => (map.unit === "logit" ? LEAST / map.values.length : 0)));
  return found ? Math.max(found, floor) : 0;
}

/** At most about `most` round numbers from low to high, their step 1, 2 or 5 times a power of ten. */
export function ticks(low, high, most) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough * (1 - 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, k) => (first + k) * step);
}
