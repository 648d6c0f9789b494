// A canvas that shows a scene at a view that it may share with others. A picture (`Pane`) and a signal (`SignalPane`) each
// say how they lay out, paint and find a sample.

import { gestures } from "./gestures.js";

export class Sheet {
  scene = null;
  marking = null; // the box that is being drawn with the eraser

  /** on: {pick(sample), box(box), window(dx, dy)}; samples, one index per axis, and boxes in the input's own coordinates. */
  constructor(canvas, view, on = {}) {
    this.canvas = canvas;
    this.view = view;
    view.listen(() => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas);
    gestures(canvas, {
      click: (at) => this.scene && on.pick?.(this.sampleAt(at)),
      pinch: (factor, at) => this.scene && view.enlarge(factor, ...this.shareAt(at)),
      drag: (drag) => this.scene && this.#drag(drag, on),
    });
  }

  /** null shows nothing. */
  show(scene) {
    this.scene = scene;
    if (scene) this.layOut(scene);
    this.draw();
  }

  draw() {
    const ratio = devicePixelRatio || 1;
    const [wide, high] = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.canvas.width = Math.max(Math.round(wide * ratio), 1); // which also clears it
    this.canvas.height = Math.max(Math.round(high * ratio), 1);
    if (!this.scene) return;
    this.canvas.classList.toggle("grabs", this.view.zoom > 1 || this.scene.tool !== "pick");
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    this.paint(pen, wide, high);
  }

  #drag({ from, to, by, done }, on) {
    const { tool } = this.scene;
    if (tool === "window") on.window?.(by.x / this.canvas.clientWidth, -by.y / this.canvas.clientHeight);
    else if (tool === "erase") this.#mark(from, to, done, on);
    else this.view.move(...this.moved(by));
  }

  #mark(from, to, done, on) {
    const corners = [this.sampleAt(from), this.sampleAt(to)].map((sample) => sample.reverse());
    const low = corners[0].map((v, axis) => Math.min(v, corners[1][axis]));
    const high = corners[0].map((v, axis) => Math.max(v, corners[1][axis]) + 1);
    this.marking = done ? null : [...low, ...high];
    if (done) on.box?.([...low, ...high]);
    this.draw();
  }
}

export function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
