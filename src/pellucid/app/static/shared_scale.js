// One colour scale for all classes of a network, or for the likeliest where it has many.

import { limitOf } from "./scale.js";

export class SharedScale {
  #key = "";
  #limit = null;

  /** ready: called when the limit of an answer has become known. */
  constructor(app, ready) {
    this.app = app;
    this.ready = ready;
  }

  /** The limit, or null as long as the other classes' maps are on their way. */
  limit(answer) {
    const { input, model, method, layer, slice } = this.app.question();
    const key = JSON.stringify([input, model, method, layer, slice, answer.target.index]);
    if (key !== this.#key) {
      this.#key = key;
      this.#limit = null;
      this.#find(answer, key);
    }
    return this.#limit;
  }

  async #find(answer, key) {
    try {
      const maps = [answer.map];
      for await (const other of this.app.answers.everyClass(this.app.question(), answer)) maps.push(other.map);
      if (key !== this.#key) return;
      this.#limit = limitOf(maps);
      this.ready();
    } catch {
      this.#key = ""; // the map's own scale stays
    }
  }
}
