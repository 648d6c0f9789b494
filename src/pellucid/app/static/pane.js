// A picture with evidence over it.

import { rangesOf } from "./boxes.js";
import { theme } from "./dom.js";
import { clamp, Sheet } from "./sheet.js";

const PIXELS_FROM = 6; // screen pixels per sample above which samples are shown as squares

/**
 * scene: {picture, evidence: canvases or null; smooth; aspect: how much wider than high a sample is; tool; cell, field: low
 * and high edge in rows and columns, or null; boxes: [[x0, y0, x1, y1]]}.
 */
export class Pane extends Sheet {
  layOut({ picture, evidence, aspect }) {
    const { width, height } = picture ?? evidence;
    this.canvas.style.aspectRatio = `${width * aspect} / ${height}`;
  }

  paint(pen) {
    const { picture, evidence, smooth } = this.scene;
    const { left, top, across, down, width, height } = this.#placed();
    for (const [sheet, blurred] of [[picture, down < PIXELS_FROM], [evidence, smooth]]) {
      if (!sheet) continue;
      pen.imageSmoothingEnabled = blurred;
      pen.imageSmoothingQuality = "high";
      pen.drawImage(sheet, left, top, width * across, height * down);
    }
    this.#marks(pen, ([[y0, y1], [x0, x1]]) => [left + x0 * across, top + y0 * down, (x1 - x0) * across, (y1 - y0) * down]);
  }

  #marks(pen, placed) {
    const colour = theme();
    const frame = (ranges, shade, dashes) => {
      for (const [line, width] of [["#000", 3.5], [shade, 1.75]]) { // light on dark is seen on every picture
        pen.strokeStyle = line;
        pen.lineWidth = width;
        pen.setLineDash(dashes);
        pen.strokeRect(...placed(ranges));
      }
    };
    const { cell, field, boxes } = this.scene;
    for (const box of this.marking ? [...boxes, this.marking] : boxes) {
      pen.fillStyle = colour("erased");
      pen.fillRect(...placed(rangesOf(box)));
      frame(rangesOf(box), "#fff", []);
    }
    if (field) frame(field, colour("mark"), [6, 4]);
    if (cell) frame(cell, colour("mark"), []);
  }

  /** Where the input lies on the canvas, and how large a sample is. */
  #placed() {
    const { picture, evidence, aspect } = this.scene;
    const { width, height } = picture ?? evidence;
    const [wide, high] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const down = this.view.zoom * Math.min(wide / (width * aspect), high / height);
    const across = down * aspect;
    return { width, height, across, down, left: wide / 2 - this.view.x * width * across, top: high / 2 - this.view.y * height * down };
  }

  shareAt(at) {
    const { left, top, across, down, width, height } = this.#placed();
    return [(at.x - left) / (width * across), (at.y - top) / (height * down)];
  }

  sampleAt(at) {
    const { width, height } = this.#placed();
    const [x, y] = this.shareAt(at);
    return [clamp(Math.floor(y * height), 0, height - 1), clamp(Math.floor(x * width), 0, width - 1)];
  }

  moved(by) {
    const { across, down, width, height } = this.#placed();
    return [-by.x / (width * across), -by.y / (height * down)];
  }
}
