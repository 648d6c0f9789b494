// Boxes in samples of the input, as the server writes them: low corner, then high corner, the last axis first; for a
// picture [x0, y0, x1, y1], for a signal [x0, x1].

/** Low and high edge per axis, in the order of the axes. */
export function rangesOf(box) {
  const rank = box.length / 2;
  return Array.from({ length: rank }, (_, axis) => [box[rank - 1 - axis], box[2 * rank - 1 - axis]]);
}

export function boxOf(ranges) {
  const last = [...ranges].reverse();
  return [...last.map(([low]) => low), ...last.map(([, high]) => high)];
}

/** The boxes that the address holds. */
export function boxesIn(text) {
  const boxes = text.split(";").filter(Boolean).map((box) => box.split(",").map(Number));
  return boxes.filter((box) => [2, 4, 6].includes(box.length) && box.every(Number.isFinite));
}

export function written(boxes) {
  return boxes.map((box) => box.join()).join(";");
}

/** "x 12 to 40, y 0 to 32" */
export function spokenBox(box) {
  const names = ["x", "y", "z"];
  const rank = box.length / 2;
  const axes = Array.from({ length: rank }, (_, k) => [names[k], box[k], box[rank + k]]);
  return axes.map(([name, low, high]) => `${rank === 1 ? "samples" : name} ${Math.round(low)} to ${Math.round(high)}`).join(", ");
}
