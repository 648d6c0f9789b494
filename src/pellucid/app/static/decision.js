// What the network answers, and how sure it is.

import { $, h } from "./dom.js";
import { likeliest, probabilityOf } from "./prediction.js";
import { percent, signed } from "./words.js";

const MOST = 5;

export function decision(app) {
  return function draw() {
    const { answer } = app;
    $("classes").replaceChildren(...(answer ? rows(answer) : []));
    $("calibration").textContent = answer ? calibration(answer.prediction) : "";
  };

  function rows({ prediction, target }) {
    const { classes, logits } = prediction;
    const shown = likeliest(prediction, MOST);
    if (target.index !== null && !shown.includes(target.index) && target.index < classes.length) shown.push(target.index);
    return shown.map((k) => row(classes[k], probabilityOf(prediction, k), logits[k], k === target.index));
  }

  function row(name, probability, logit, chosen) {
    const bar = h("span", { class: "share" });
    bar.style.setProperty("--share", probability ?? 0);
    const said = probability === undefined ? signed(logit, 3) : percent(probability);
    return h("li", {}, h("button", {
      type: "button", class: "class-row", "aria-pressed": String(chosen), title: `Show the evidence for ${name}`,
      onclick: () => app.store.go({ target: name, against: "" }),
    }, h("span", { class: "class-name" }, name), h("span", { class: "class-said" }, said), probability === undefined ? null : bar));
  }

  function calibration({ probabilities }) {
    return probabilities ? sentence(app.model.calibration) : "The network gives a number, not a probability.";
  }
}

function sentence(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}.`;
}
