// The signed colour map of the reports: blue speaks against, white says nothing, orange speaks for.
// Lightness falls evenly on both sides, so a step in value is the same step to the eye wherever it is.

// CIELAB (L, a, b) at 0, 1/4, 1/2, 3/4 and 1 of the scale.
const AGAINST = [[100, 0, 0], [89, -2.1, -11], [78, -2.7, -22.3], [67, -1.2, -33.7], [56, 2.4, -44.9]];
const FOR = [[100, 0, 0], [89, 6.3, 17.4], [78, 15, 33.8], [67, 26.1, 49], [56, 38.7, 63.1]];
const HALF = 255; // steps on either side of zero
const UNKNOWN = [128, 128, 128];

const TABLE = [...half(AGAINST).slice(1).reverse(), ...half(FOR)];

/** Red, green and blue of a share of the scale: -1 the full blue, 0 white, 1 the full orange; grey where it is no number. */
export function diverging(share) {
  if (!Number.isFinite(share)) return UNKNOWN;
  return TABLE[Math.round(Math.min(Math.max(share, -1), 1) * HALF) + HALF];
}

function half(knots) {
  return Array.from({ length: HALF + 1 }, (_, k) => {
    const at = (k / HALF) * (knots.length - 1);
    const low = Math.min(Math.floor(at), knots.length - 2);
    return toRgb(knots[low].map((v, axis) => v + (at - low) * (knots[low + 1][axis] - v)));
  });
}

function toRgb([lightness, a, b]) {
  const middle = (lightness + 16) / 116;
  const [x, y, z] = [middle + a / 500, middle, middle - b / 200].map((f, axis) => {
    const linear = f > 6 / 29 ? f ** 3 : 3 * (6 / 29) ** 2 * (f - 4 / 29);
    return linear * [0.95047, 1, 1.08883][axis];
  });
  const linear = [
    3.2404542 * x - 1.5371385 * y - 0.4985314 * z,
    -0.969266 * x + 1.8760108 * y + 0.041556 * z,
    0.0556434 * x - 0.2040259 * y + 1.0572252 * z,
  ];
  return linear.map((value) => {
    const v = Math.min(Math.max(value, 0), 1);
    return Math.round(255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055));
  });
}
