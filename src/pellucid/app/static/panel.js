// What the panels below the picture have in common: work that takes a while, and pictures with a caption.

import { h } from "./dom.js";
import { lookOf, paneFor, sceneOf } from "./scene.js";
import { limitOf } from "./scale.js";
import { brief } from "./words.js";

/** Show that something is on its way, then what came or why nothing did. Only the last call of a place is shown. */
export function loader(place) {
  let turn = 0;
  return async function load(promise, draw) {
    const mine = (turn += 1);
    const waiting = setTimeout(() => mine === turn && place.replaceChildren(h("p", { class: "hint waiting" }, "Working…")), 150);
    try {
      const found = await promise;
      if (mine === turn) place.replaceChildren(...[draw(found)].flat());
    } catch (error) {
      if (mine === turn) place.replaceChildren(failure(error));
    } finally {
      clearTimeout(waiting);
    }
  };
}

export function failure(error) {
  if (!error.title) console.error(error);
  return h("div", { class: "problem slim" }, h("div", {},
    h("p", { class: "problem-title" }, error.title ?? "This page made a mistake."),
    h("p", {}, error.detail ?? error.message),
    error.hint ? h("p", { class: "problem-hint" }, error.hint) : null));
}

/** What is wider than a small screen, in a place of its own that scrolls, also by keyboard. */
export function scrolling(name, content) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, content);
}

/** A small pane of an answer with words below it; drawn again by its `redraw`. */
export function smallPane(app, answer, view, words, limit = limitOf([answer.map])) {
  const canvas = h("canvas", { role: "img", "aria-label": `${answer.method} for ${answer.target.text}: ${answer.text.short}` });
  const pane = paneFor(answer.input.rank, canvas, view, {});
  const figure = h("figure", { class: "pane small" }, canvas, h("figcaption", {}, ...words, h("span", { class: "scale-said" }, scaleSaid(answer.map, limit))));
  const redraw = () => pane.show(sceneOf(answer, lookOf(app.state, answer, limit), ["input", "evidence"]));
  redraw();
  return { figure, redraw };
}

function scaleSaid({ complete, unit }, limit) {
  return limit ? `full colour at ${brief(limit).replace("+", "±")} ${complete ? unit : "(own unit)"}` : "nothing to show: the map is zero";
}
