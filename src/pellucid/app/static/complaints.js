// Failures, told with what to do about them.

import { $, h } from "./dom.js";

/** Show a failure; the one before it goes. What is no Problem is a mistake of this page, and says so. */
export function complain(error, again = null) {
  if (error.name === "AbortError") return;
  const known = error.title !== undefined;
  if (!known) console.error(error);
  const card = h("div", { class: "problem" },
    h("div", {},
      h("p", { class: "problem-title" }, known ? error.title : "This page made a mistake."),
      h("p", {}, known ? error.detail : error.message),
      known && error.hint ? h("p", { class: "problem-hint" }, error.hint) : null,
    ),
    h("div", { class: "buttons" },
      again ? h("button", { type: "button", onclick: () => { quiet(); again(); } }, "Try again") : null,
      h("button", { type: "button", class: "quiet", onclick: quiet, "aria-label": "Dismiss this message" }, "Dismiss"),
    ),
  );
  $("problems").replaceChildren(card);
}

export function quiet() {
  $("problems").replaceChildren();
}
