// Where the cells of a map lie in the input. The centre of cell i on an axis is start + jump * i, in samples, with the
// centre of the first sample at 0.

/** For every sample of an axis the two cells it lies between, and its share of the later one. */
function between(samples, start, jump, cells, smooth) {
  const low = new Int32Array(samples);
  const high = new Int32Array(samples);
  const share = new Float32Array(samples);
  for (let i = 0; i < samples; i += 1) {
    const at = Math.min(Math.max((i - start) / jump, 0), cells - 1);
    low[i] = smooth ? Math.floor(at) : nearest(i, start, jump, cells);
    high[i] = smooth ? Math.min(low[i] + 1, cells - 1) : low[i];
    share[i] = smooth ? at - low[i] : 0;
  }
  return { low, high, share };
}

/** The cell whose centre is nearest to a sample; halfway, the later one. */
function nearest(sample, start, jump, cells) {
  return Math.min(Math.max(Math.floor((sample - start) / jump + 0.5), 0), cells - 1);
}

/** The map at every sample of one plane of the input (of a signal: one row), linear between cells or cell by cell. */
export function atSamples({ shape, values }, geometry, { smooth, slice = 0 }) {
  const axes = geometry.input_size.map((n, axis) => between(n, geometry.start[axis], geometry.jump[axis], shape[axis], smooth));
  const cells = shape.length === 3 ? blend(values, shape[1] * shape[2], axes[0], slice) : values;
  const columns = axes.at(-1);
  const rows = shape.length === 1 ? { low: [0], high: [0], share: [0] } : axes.at(-2);
  const width = shape.at(-1);
  const plane = new Float32Array(rows.low.length * columns.low.length);
  let k = 0;
  for (let y = 0; y < rows.low.length; y += 1) {
    const line = blend(cells, width, rows, y);
    for (let x = 0; x < columns.low.length; x += 1, k += 1) {
      plane[k] = mix(line[columns.low[x]], line[columns.high[x]], columns.share[x]);
    }
  }
  return plane;
}

function blend(values, length, axis, at) {
  const first = axis.low[at] * length;
  const second = axis.high[at] * length;
  if (first === second || !axis.share[at]) return values.subarray(first, first + length);
  return values.subarray(first, first + length).map((v, i) => mix(v, values[second + i], axis.share[at]));
}

function mix(a, b, share) {
  return share ? a + (b - a) * share : a;
}

/** The cell (one index per axis) that a sample belongs to. */
export function cellAt(sample, shape, geometry) {
  return shape.map((g, axis) => nearest(sample[axis], geometry.start[axis], geometry.jump[axis], g));
}

/** Low and high edge per axis of the samples that are a cell's own; the outermost cells reach to the border. */
export function ownSamples(cell, shape, geometry) {
  return cell.map((c, axis) => {
    const centre = geometry.start[axis] + geometry.jump[axis] * c + 0.5;
    const reach = geometry.jump[axis] / 2;
    const size = geometry.input_size[axis];
    const low = c === 0 ? 0 : Math.ceil(centre - reach - 0.5);
    const high = c === shape[axis] - 1 ? size : Math.ceil(centre + reach - 0.5);
    return [Math.max(low, 0), Math.min(Math.max(high, low + 1), size)];
  });
}

/** Low and high edge per axis of what can reach a cell, inside the input; null where that is not known or everything. */
export function receptiveField(cell, geometry, field) {
  if (!field) return null;
  return cell.map((c, axis) => {
    const centre = geometry.start[axis] + geometry.jump[axis] * c + 0.5;
    return [Math.max(centre - field[axis] / 2, 0), Math.min(centre + field[axis] / 2, geometry.input_size[axis])];
  });
}

/** The place of a cell in the flat values. */
export function flat(cell, shape) {
  return cell.reduce((place, c, axis) => place * shape[axis] + c, 0);
}
