// Cases of a data set, worst first.

import { $, h } from "./dom.js";
import { failure } from "./panel.js";
import { ask } from "./server.js";
import { another } from "./state.js";
import { percent, plural } from "./words.js";

const STEP = 24;
const PAUSE = 3000; // milliseconds between looks at how far the server is

export function gallery(app) {
  let items = [];
  let turn = 0;
  let model = app.model.id;
  $("gallery").hidden = false;
  if (app.models.length < 2) $("gallery-sort").querySelector("[value=disagreement]").remove();
  $("gallery-sort").addEventListener("change", restart);
  $("gallery-again").addEventListener("click", restart);
  $("gallery-more").addEventListener("click", more);
  app.store.listen(() => {
    if (app.model.id !== model) {
      model = app.model.id;
      restart();
    }
    mark();
  });
  restart();

  function restart() {
    items = [];
    more();
  }

  /** The next ones; the first ones again and again as long as the server has looked at few. */
  async function more() {
    const mine = (turn += 1);
    try {
      const found = await page(items.length, STEP);
      if (mine !== turn) return;
      items = [...items, ...found.items];
      $("gallery-items").replaceChildren(...items.map(card));
      mark();
      tell(found);
      if (found.looked_at < found.total) setTimeout(() => watch(mine), PAUSE);
    } catch (error) {
      if (mine !== turn) return;
      $("gallery-items").replaceChildren();
      $("gallery-more").hidden = $("gallery-again").hidden = true;
      // A network of other inputs has no cases here, which is no failure.
      $("gallery-note").replaceChildren(error.status === 422 ? `${error.title} ${error.detail}` : failure(error));
    }
  }

  async function watch(mine) {
    if (mine !== turn) return;
    if (items.length < STEP) return restart();
    const found = await page(0, 1).catch(() => null); // a server that has gone is told by what people ask of it
    if (!found || mine !== turn) return;
    tell(found);
    if (found.looked_at < found.total) setTimeout(() => watch(mine), PAUSE);
  }

  function page(offset, limit) {
    return ask(`v1/gallery?${new URLSearchParams({ model: app.model.id, sort: $("gallery-sort").value, offset, limit })}`);
  }

  function tell({ total, looked_at: seen, failed }) {
    const waiting = seen < total;
    const usable = seen - failed;
    $("gallery-note").textContent = [
      total ? `${items.length} of ${plural(total, "case")}${waiting ? `, of those ${seen} that were looked at so far` : ""}.` : "Looking at the data set…",
      failed ? `${plural(failed, "case")} could not be used with the served models.` : "",
    ].join(" ");
    $("gallery-more").hidden = items.length >= usable;
    $("gallery-again").hidden = !waiting;
  }

  function card(item) {
    return h("li", {}, h("button", {
      type: "button", class: "case", "data-id": item.input_id,
      onclick: () => {
        app.store.go(another(item.input_id));
        $("main").scrollIntoView();
      },
    },
    item.thumbnail ? h("img", { src: item.thumbnail, alt: "", loading: "lazy" }) : h("span", { class: "thumb-blank" }),
    h("span", { class: "case-name" }, item.name),
    h("span", { class: "case-said" }, `${item.prediction}${item.probability === null ? "" : ` ${percent(item.probability)}`}`),
    item.label === null ? null : label(item),
    h("span", { class: "case-figures" }, figures(item).join(" · "))));
  }

  /** A class that the network does not know is not what it missed. */
  function label({ label: name, prediction }) {
    const wrong = name !== prediction && app.model.classes.includes(name);
    return h("span", { class: wrong ? "case-label wrong" : "case-label" }, `${wrong ? "but is" : "is"} ${name}`);
  }

  function figures({ loss, outside, disagreement }) {
    return [
      loss === null ? null : `loss ${loss.toFixed(2)}`,
      outside === null ? null : `${percent(outside)} outside`,
      disagreement === null ? null : `differs by ${percent(disagreement)}`,
    ].filter(Boolean);
  }

  function mark() {
    for (const button of $("gallery-items").querySelectorAll("button")) {
      if (button.dataset.id === app.state.input) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }
}
