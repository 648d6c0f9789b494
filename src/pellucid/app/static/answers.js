// What the server said about an input, asked once per question and kept. Drawing it otherwise never asks again.

import { decode } from "./arrays.js";
import { rangeOf } from "./picture.js";
import { likeliest } from "./prediction.js";
import { ask } from "./server.js";

const KEPT = 96;
const CLASSES = 6; // that are asked for together

export class Answers {
  #kept = new Map(); // words of the question -> promise of the answer
  #files = new Map(); // input id -> the file, to be sent again when the server has let go of it
  #inputs = new Map(); // what is shown of an input -> its values, which no further answer has to repeat

  /** The answer for a file that the server has not seen yet. */
  async open(file, question) {
    const answer = await ask("v1/explain", { form: { ...fields(question), input_id: "", file } });
    const mine = { ...question, input: answer.input_id };
    this.#files.set(answer.input_id, file);
    return this.#once(mine, async () => this.#explained(answer, mine));
  }

  /** question: {input, model, method, target, against, layer, slice, erase}; empty fields mean the usual. */
  explain(question) {
    return this.#once(question, async () => {
      const known = this.#inputs.get(shownBy(question));
      const form = { ...fields(question), with_input: !known };
      return this.#explained(await this.held(question, () => ask("v1/explain", { form })), question, known);
    });
  }

  /** The answers for the other likeliest classes, of few classes for all of them; one after the other. */
  async *everyClass(question, { prediction, target }) {
    for (const k of likeliest(prediction, CLASSES)) {
      if (k !== target.index) yield await this.explain({ ...question, target: prediction.classes[k], against: "" });
    }
  }

  /** The methods beside the controls, with their scores. */
  compare(question, methods) {
    return this.#once({ ...question, methods }, async () => {
      const form = { ...fields({ ...question, method: "" }), methods };
      const found = await this.held(question, () => ask("v1/compare", { form }));
      const input = shown(found.input);
      return { ...found, explanations: found.explanations.map((answer) => ({ ...withMap(answer), input })) };
    });
  }

  featureMaps(question, k) {
    return this.#once({ ...question, k }, async () => {
      const { input_id, model, layer, target, slice } = fields(question);
      const json = { input_id, model, layer, target, slice, k };
      const found = await this.held(question, () => ask("v1/feature-maps", { json }));
      return { ...found, maps: decode(found.maps), cells: decode(found.cells) };
    });
  }

  filters(model, layer) {
    return this.#once({ model, layer, filters: true }, async () => {
      const found = await ask(`v1/models/${encodeURIComponent(model)}/filters?${new URLSearchParams({ layer })}`);
      return { ...found, kernels: decode(found.kernels) };
    });
  }

  /** Run something that speaks of an input by its id; send the file again where the server has let go of it. */
  async held({ input, model, slice }, run) {
    try {
      return await run();
    } catch (error) {
      const file = this.#files.get(input);
      if (error.status !== 404 || !file) throw error;
      await ask("v1/explain", { form: { file, model, slice, with_input: false } });
      return run();
    }
  }

  #explained(answer, question, known) {
    const found = { ...withMap(answer), input: known ?? keep(this.#inputs, shownBy(question), shown(answer.input)) };
    const { classes, answer: decided } = found.prediction;
    // Asked for by its name, the class that the network decides for is the same question.
    if (!question.target && decided !== null) keep(this.#kept, JSON.stringify({ ...question, target: classes[decided] }), Promise.resolve(found));
    return found;
  }

  #once(question, run) {
    const words = JSON.stringify(question);
    const known = this.#kept.get(words);
    if (known) return known;
    const promise = run();
    promise.catch(() => this.#kept.delete(words)); // a failure may be over the next time
    return keep(this.#kept, words, promise);
  }
}

/** A question as the fields of a form; what is empty is left to the server. */
export function fields({ input, model, method, target, against, layer, slice, erase }) {
  return {
    input_id: input, model, method, layer, slice,
    target: target && against ? `${target} against ${against}` : target,
    erase: erase?.length ? erase : null,
  };
}

/** What decides how an input looks. */
function shownBy({ input, model, slice, erase }) {
  return JSON.stringify([input, model, slice, erase]);
}

function shown(input) {
  const { values, shape } = decode(input.values);
  return { ...input, values, channels: shape[0], range: rangeOf(values, shape[0]) };
}

function withMap(answer) {
  return { ...answer, map: { ...decode(answer.map), unit: answer.map.unit, complete: answer.map.complete } };
}

/** Put into a map of limited size; what came first goes. */
function keep(map, key, value) {
  map.set(key, value);
  if (map.size > KEPT) map.delete(map.keys().next().value);
  return value;
}
