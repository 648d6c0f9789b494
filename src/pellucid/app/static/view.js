// Which part of the input panes show: a zoom and a centre, shared by panes that lie side by side.

const MOST = 32;

export class View {
  #listeners = [];
  zoom = 1;
  x = 0.5; // of the input's width
  y = 0.5;

  listen(listener) {
    this.#listeners.push(listener);
  }

  fit() {
    this.#become(1, 0.5, 0.5);
  }

  /** Enlarge by a factor, keeping a place (as shares of the input) where it is. */
  enlarge(factor, x = this.x, y = this.y) {
    const zoom = Math.min(Math.max(this.zoom * factor, 1), MOST);
    const kept = this.zoom / zoom;
    this.#become(zoom, x + (this.x - x) * kept, y + (this.y - y) * kept);
  }

  /** Move by shares of the input. */
  move(dx, dy) {
    this.#become(this.zoom, this.x + dx, this.y + dy);
  }

  #become(zoom, x, y) {
    const half = 0.5 / zoom;
    this.zoom = zoom;
    this.x = Math.min(Math.max(x, half), 1 - half);
    this.y = Math.min(Math.max(y, half), 1 - half);
    for (const listener of this.#listeners) listener();
  }
}
