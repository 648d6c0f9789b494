// Numbers and names as people read them.

const MINUS = "\u2212";
const SPACE = "\u00a0"; // where a line must not break

/** With its sign and four decimals, as in the ledger of a report; zero has no sign of its own. */
export function signed(value, places = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "not defined";
  const digits = Math.abs(value).toFixed(places);
  const sign = Number(digits) === 0 || value > 0 ? "+" : MINUS;
  return sign + digits;
}

/** Short, for the marks of a scale. */
export function brief(value) {
  if (!value) return "0";
  const digits = Number(Math.abs(value).toPrecision(2));
  return (value > 0 ? "+" : MINUS) + (digits >= 1e5 || digits < 1e-3 ? digits.toExponential() : String(digits));
}

/** With this many decimals. */
export function fixed(value, places) {
  return value.toFixed(places).replace("-", MINUS);
}

/** A plain number, for the marks of an axis. */
export function figure(value) {
  return String(Number(value.toPrecision(6))).replace("-", MINUS);
}

export function percent(probability) {
  const share = 100 * probability;
  if (probability > 0 && share < 0.1) return `<${SPACE}0.1${SPACE}%`;
  if (probability < 1 && share > 99.9) return `>${SPACE}99.9${SPACE}%`;
  return `${share.toFixed(1)}${SPACE}%`;
}

/** The sum of numbers as they are printed, so that a reader who adds the column gets it. */
export function printedSum(values, places = 4) {
  const unit = 10 ** places;
  return values.reduce((sum, v) => sum + Math.sign(v) * Number(Math.abs(v).toFixed(places)) * unit, 0) / unit;
}

/** "grad_cam_plus_plus" as a title. */
export function spoken(name) {
  return name.replaceAll("_", " ");
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}
