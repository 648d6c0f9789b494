// A signal along its time axis: a lane per channel on the evidence as coloured ground, and below them the evidence as steps
// from zero.

import { extremes } from "./arrays.js";
import { rangesOf } from "./boxes.js";
import { diverging } from "./colour.js";
import { theme } from "./dom.js";
import { shareOf } from "./picture.js";
import { ticks } from "./scale.js";
import { clamp, Sheet } from "./sheet.js";
import { brief, figure } from "./words.js";

const LANES = 12; // channels that are drawn
const [LEFT, RIGHT, TOP, GAP, STRIP, FOOT] = [56, 8, 8, 24, 88, 40];
const INNER = 0.08; // of a lane's height, above and below the curve

/**
 * scene: {input; cells: the map's value at every sample, or null; limit, opacity, threshold; unit; tool; cell, field:
 * [[low, high]] or null; boxes: [[x0, x1]]}.
 */
export class SignalPane extends Sheet {
  layOut({ input, cells }) {
    const lanes = Math.min(input.channels, LANES);
    const height = TOP + lanes * (lanes === 1 ? 240 : 72) + (cells ? GAP + STRIP : 0) + FOOT;
    this.canvas.classList.add("plot");
    this.canvas.style.aspectRatio = "auto";
    this.canvas.style.height = `${height}px`;
  }

  paint(pen, wide, high) {
    pen.font = "12px system-ui, sans-serif";
    const colour = theme();
    const strip = this.scene.cells ? GAP + STRIP : 0;
    const ground = high - FOOT - strip;
    if (strip) this.#evidence(pen, ground);
    this.#lanes(pen, colour, ground);
    if (strip) this.#steps(pen, colour, ground + GAP);
    this.#time(pen, colour, ground + strip);
    this.#marks(pen, colour, ground);
  }

  #evidence(pen, bottom) {
    const { cells, limit, opacity, threshold } = this.scene;
    this.#columns((x, sample) => {
      const share = shareOf(cells[sample], limit, threshold);
      pen.fillStyle = `rgba(${diverging(Math.sign(share)).join()}, ${opacity * Math.abs(share)})`;
      pen.fillRect(x, TOP, 1, bottom - TOP);
    });
  }

  #lanes(pen, colour, bottom) {
    const { input } = this.scene;
    const [samples] = input.size;
    const count = Math.min(input.channels, LANES);
    const lane = (bottom - TOP) / count;
    for (let c = 0; c < count; c += 1) {
      const values = input.values.subarray(c * samples, (c + 1) * samples);
      const top = TOP + c * lane;
      const [low, high] = extremes(values);
      const y = (v) => top + lane * (1 - INNER - (1 - 2 * INNER) * (high > low ? (v - low) / (high - low) : 0.5));
      this.#frame(pen, colour, top, lane);
      for (const tick of ticks(low, high, Math.min(lane / 40, 4))) this.#mark(pen, colour, y(tick), figure(tick));
      this.#curve(pen, colour, values, y);
    }
  }

  #curve(pen, colour, values, y) {
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, this.#wide(), this.canvas.clientHeight);
    pen.clip();
    pen.beginPath();
    values.forEach((v, i) => pen.lineTo(this.#x(i + 0.5), y(Number.isFinite(v) ? v : 0)));
    pen.strokeStyle = colour("ink");
    pen.lineWidth = 1.5;
    pen.lineJoin = "round";
    pen.stroke();
    pen.restore();
  }

  #steps(pen, colour, top) {
    const { cells, limit, threshold, unit } = this.scene;
    const middle = top + STRIP / 2;
    this.#columns((x, sample) => {
      const share = shareOf(cells[sample], limit, threshold);
      const reach = (share * STRIP) / 2;
      pen.fillStyle = `rgb(${diverging(Math.sign(share)).join()})`;
      pen.fillRect(x, Math.min(middle, middle - reach), 1, Math.abs(reach));
    });
    this.#frame(pen, colour, top, STRIP);
    const marks = [[top + 6, limit], [middle, 0], [top + STRIP - 6, -limit]];
    for (const [y, value] of marks) this.#mark(pen, colour, y, brief(value));
    pen.textAlign = "left";
    pen.textBaseline = "bottom";
    pen.fillText(`evidence (${unit})`, LEFT, top - 4);
  }

  #time(pen, colour, y) {
    const { size: [samples], rate, rate_unit: unit } = this.scene.input;
    const perUnit = rate ?? 1;
    const from = (this.view.x - 0.5 / this.view.zoom) * samples;
    const to = (this.view.x + 0.5 / this.view.zoom) * samples - 1;
    pen.fillStyle = colour("faint");
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (const tick of ticks(from / perUnit, to / perUnit, Math.max(this.#wide() / 96, 2))) {
      pen.fillRect(this.#x(tick * perUnit + 0.5), y, 1, 4);
      pen.fillText(figure(tick), this.#x(tick * perUnit + 0.5), y + 6);
    }
    pen.fillText(`time (${rate ? (unit ?? "s") : "samples"})`, LEFT + this.#wide() / 2, y + 22);
  }

  #marks(pen, colour, bottom) {
    const { cell, field, boxes } = this.scene;
    const placed = ([[low, high]]) => [this.#x(low), TOP, this.#x(high) - this.#x(low), bottom - TOP];
    pen.fillStyle = colour("erased");
    for (const box of this.marking ? [...boxes, this.marking] : boxes) pen.fillRect(...placed(rangesOf(box)));
    pen.strokeStyle = colour("mark-line");
    pen.lineWidth = 2;
    for (const [range, dashes] of [[field, [6, 4]], [cell, []]]) {
      pen.setLineDash(dashes);
      if (range) pen.strokeRect(...placed(range));
    }
  }

  #frame(pen, colour, top, height) {
    pen.strokeStyle = colour("rule");
    pen.lineWidth = 1;
    pen.strokeRect(LEFT + 0.5, top + 0.5, this.#wide() - 1, height);
  }

  #mark(pen, colour, y, words) {
    pen.fillStyle = colour("faint");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.fillText(words, LEFT - 8, y);
  }

  /** Every column of the picture, and the sample it shows. */
  #columns(draw) {
    for (let x = 0; x < this.#wide(); x += 1) draw(LEFT + x, this.sampleAt({ x: LEFT + x + 0.5 })[0]);
  }

  #wide() {
    return Math.max(this.canvas.clientWidth - LEFT - RIGHT, 1);
  }

  #x(sample) {
    return LEFT + this.#wide() * (0.5 + (sample / this.scene.input.size[0] - this.view.x) * this.view.zoom);
  }

  shareAt({ x }) {
    return [this.view.x + ((x - LEFT) / this.#wide() - 0.5) / this.view.zoom, 0.5];
  }

  sampleAt(at) {
    const [samples] = this.scene.input.size;
    return [clamp(Math.floor(this.shareAt(at)[0] * samples), 0, samples - 1)];
  }

  moved(by) {
    return [-by.x / this.#wide() / this.view.zoom, 0];
  }
}
