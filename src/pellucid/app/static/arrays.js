// Numbers as the server sends them: {shape, dtype, data}, the data base64 of little-endian values.

const READERS = {
  float64: (view, i) => view.getFloat64(8 * i, true),
  float32: (view, i) => view.getFloat32(4 * i, true),
  float16: (view, i) => fromHalf(view.getUint16(2 * i, true)),
  int16: (view, i) => view.getInt16(2 * i, true),
  uint16: (view, i) => view.getUint16(2 * i, true),
  uint8: (view, i) => view.getUint8(i),
};

/** The array as {shape, values: Float32Array}. */
export function decode({ shape, dtype, data }) {
  const read = READERS[dtype];
  if (!read) throw new TypeError(`Arrays of ${dtype} are not known.`);
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < values.length; i += 1) values[i] = read(view, i);
  return { shape, values };
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Lowest and highest finite value; [0, 1] where there is none. */
export function extremes(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const v of values) {
    if (v < low && v !== -Infinity) low = v;
    if (v > high && v !== Infinity) high = v;
  }
  return low <= high ? [low, high] : [0, 1];
}

/** The value that a share of all finite values does not exceed: of the two neighbours the higher one. */
export function percentile(values, share) {
  const sorted = Float32Array.from(values).filter(Number.isFinite).sort();
  return sorted.length ? sorted[Math.ceil(share * (sorted.length - 1) - 1e-9)] : 0;
}
