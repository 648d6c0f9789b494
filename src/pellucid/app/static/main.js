// The page: from the state in the address to a question, from its answer to what is drawn.

import { about } from "./about.js";
import { Answers } from "./answers.js";
import { complain, quiet } from "./complaints.js";
import { decision } from "./decision.js";
import { display } from "./display.js";
import { $, options, say } from "./dom.js";
import { eraser } from "./eraser.js";
import { exporting } from "./exporting.js";
import { gallery } from "./gallery.js";
import { layers } from "./layers.js";
import { ledger } from "./ledger.js";
import { methods } from "./methods.js";
import { opening } from "./opening.js";
import { answerOf, probabilityOf } from "./prediction.js";
import { question } from "./question.js";
import { ask, keepToken } from "./server.js";
import { stage } from "./stage.js";
import { Store } from "./state.js";
import { tabs } from "./tabs.js";
import { twoModels } from "./two_models.js";
import { percent } from "./words.js";

/**
 * What the parts share. answer: to the current question, null before there is one. question(changes): the current
 * question, or one that differs from it. hold(place): mark boxes of the input, or a cell.
 */
const app = {
  store: new Store(),
  answers: new Answers(),
  models: [],
  answer: null,
  get state() {
    return this.store.state;
  },
  get model() {
    return this.models.find((m) => m.id === this.state.model) ?? this.models[0];
  },
  get method() {
    return this.model.methods.find((m) => m.name === this.state.method) ?? this.model.methods.find((m) => m.name === this.model.default_method);
  },
  question(changes = {}) {
    const { input, target, against, layer, slice } = this.state;
    const usual = { input, model: this.model.id, method: this.method.name, target, against, layer: this.method.layer ? layer : "" };
    return { ...usual, slice: this.model.input.rank === 3 ? null : slice, ...changes };
  },
};

let parts = [];
let turn = 0;

async function start() {
  const served = await models();
  app.models = served.models;
  app.limits = served.limits;
  options($("model"), app.models.map((m) => [m.id, m.title]), app.model.id);
  $("model").addEventListener("change", () => changeModel($("model").value));
  $("share").addEventListener("click", share);
  parts = [stage, display, decision, question, ledger, exporting].map((part) => part(app));
  parts.push(tabs(app, { methods: methods(app), eraser: eraser(app), layers: layers(app), models: twoModels(app), about: about(app) }));
  opening(app);
  app.store.listen((next, before) => refresh(before));
  if (served.gallery) gallery(app);
  await refresh(null);
}

/** What is served; asks for the token where the server wants one. */
async function models() {
  for (;;) {
    try {
      return await ask("v1/models");
    } catch (error) {
      if (error.status !== 401) throw error;
      await askForToken();
    }
  }
}

function askForToken() {
  $("token-value").value = "";
  $("token").showModal();
  return new Promise((resolve) => {
    $("token").addEventListener("close", () => { keepToken($("token-value").value); resolve(); }, { once: true });
  });
}

/** After a change of state: ask if the question is another one, then draw. */
async function refresh(before) {
  const { input } = app.state;
  $("empty").hidden = Boolean(input);
  $("work").hidden = $("share").hidden = !input;
  $("model").value = app.model.id;
  if (!input) return;
  if (asked !== JSON.stringify(app.question())) await answerIt();
  else draw(before);
}

let asked = "";

async function answerIt() {
  const mine = (turn += 1);
  const wanted = app.question();
  asked = JSON.stringify(wanted);
  busy(true);
  try {
    const answer = await app.answers.explain(wanted);
    if (mine !== turn) return;
    app.answer = answer;
    quiet();
    draw(null);
    say(spoken(answer));
    ahead(wanted, answer);
  } catch (error) {
    if (mine !== turn) return;
    app.answer = null;
    draw(null);
    if (error.status === 404) $("empty").hidden = !($("work").hidden = true); // the input has to be opened again
    complain(error, () => { asked = ""; refresh(null); });
  } finally {
    if (mine === turn) busy(false);
  }
}

/**
 * Ask for the likeliest classes before anyone does, so that switching between them asks nothing. Only of a network's own
 * evidence: there the server runs no further pass.
 */
async function ahead(wanted, answer) {
  if (wanted.method !== "evidence") return;
  try {
    for await (const _ of app.answers.everyClass(wanted, answer)) if (asked !== JSON.stringify(wanted)) return;
  } catch {
    // It is told when somebody asks for that class.
  }
}

/** before: the state whose picture is on screen, or null where all is new. */
function draw(before) {
  for (const part of parts) part(before);
}

function busy(yes) {
  $("progress").hidden = !yes;
  $("work").setAttribute("aria-busy", String(yes));
}

function spoken({ prediction, target, method, text }) {
  const p = probabilityOf(prediction, prediction.answer);
  const decided = `Answer: ${answerOf(prediction)}${p === undefined ? "" : `, ${percent(p)}`}. `;
  return `${decided}${method} for ${target.text}. ${text.short}`;
}

/** Another network: what it does not offer goes back to the usual. */
function changeModel(id) {
  const next = app.models.find((m) => m.id === id);
  const { input, method, target, against } = app.state;
  const series = [app.answer?.input.rank ?? next.input.rank, next.input.rank].filter((rank) => rank === 1).length;
  app.store.go({
    model: id, layer: "", input: series === 1 ? "" : input, // a series is no picture
    method: next.methods.some((m) => m.name === method) ? method : "",
    target: next.classes.includes(target) ? target : "",
    against: next.classes.includes(target) && next.classes.includes(against) ? against : "",
  });
}

async function share() {
  try {
    await navigator.clipboard.writeText(location.href);
    say("Link copied.");
    $("share").textContent = "Copied";
  } catch {
    $("share").textContent = "Copy it from the address bar";
  }
  setTimeout(() => { $("share").textContent = "Copy link"; }, 2000);
}

start().catch(complain);
