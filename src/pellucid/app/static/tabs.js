// Tabs as the ARIA practices describe them: arrows move, one panel shows, and it is filled only when it is looked at.

import { $ } from "./dom.js";

/** panels: name -> {draw(panel)}, called whenever the open one may have changed. */
export function tabs(app, panels) {
  const names = Object.keys(panels);
  for (const name of names) $(`tab-${name}`).addEventListener("click", () => app.store.tune({ panel: name }));
  $("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = names[(names.indexOf(open()) + step + names.length) % names.length];
    app.store.tune({ panel: next });
    $(`tab-${next}`).focus();
  });

  function open() {
    return names.includes(app.state.panel) ? app.state.panel : names[0];
  }

  return function draw() {
    for (const name of names) {
      const chosen = name === open();
      $(`tab-${name}`).setAttribute("aria-selected", String(chosen));
      $(`tab-${name}`).tabIndex = chosen ? 0 : -1;
      $(`panel-${name}`).hidden = !chosen;
    }
    panels[open()]($(`panel-${open()}`));
  };
}
