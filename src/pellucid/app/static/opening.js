// Files by choice, by drop and by paste, and the strip of those that are open.

import { complain } from "./complaints.js";
import { $, h, say } from "./dom.js";
import { drawEvidence, drawInput, planeSize, usualWindow } from "./picture.js";
import { answerOf } from "./prediction.js";
import { limitOf } from "./scale.js";
import { another } from "./state.js";

export function opening(app) {
  const opened = []; // {name, id, thumbnail, said}; id "" while the server reads it
  const strip = $("strip");

  $("open").addEventListener("click", () => $("files").click());
  $("choose").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => {
    open([...$("files").files]);
    $("files").value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    open([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) open([...event.clipboardData.files]);
  });
  app.store.listen(draw);

  /** One after the other, so that a folder of files does not crowd out others; the first one is shown at once. */
  async function open(files) {
    const entries = files.map((file) => ({ file, name: file.name, id: "" }));
    opened.push(...entries);
    draw();
    $("progress").hidden = false;
    for (const [k, entry] of entries.entries()) await read(entry, k === 0);
    $("progress").hidden = true;
    if (files.length > 1) say(`${files.length} files opened.`);
  }

  async function read(entry, show) {
    try {
      const answer = await app.answers.open(entry.file, app.question({ target: "", against: "", slice: null }));
      Object.assign(entry, { id: answer.input_id, thumbnail: thumbnail(answer), said: answerOf(answer.prediction), file: null });
      if (show) app.store.go(another(entry.id));
    } catch (error) {
      opened.splice(opened.indexOf(entry), 1);
      complain(named(error, entry.name));
    }
    draw();
  }

  function draw() {
    strip.hidden = opened.length < 2;
    strip.replaceChildren(...opened.map((entry) =>
      h("button", {
        type: "button", class: "thumb", disabled: !entry.id, "aria-current": entry.id === app.state.input ? "true" : null,
        onclick: () => app.store.go(another(entry.id)),
      },
      entry.thumbnail ?? h("span", { class: "thumb-blank" }),
      h("span", { class: "thumb-name" }, entry.name),
      h("span", { class: "thumb-said" }, entry.said ?? "reading…"),
      )));
  }
}

/** Of several files one has to know which failed. */
function named(error, name) {
  if (error.title && !error.title.includes(name)) error.title = `${name}: ${error.title}`;
  return error;
}

/** The input with its evidence, as small as the strip needs it. */
function thumbnail({ input, map, geometry }) {
  const [height, width] = planeSize(input.size);
  const small = h("canvas", { width: 96, height: 64, "aria-hidden": "true" });
  const slice = input.rank === 3 ? Math.floor(input.size[0] / 2) : 0;
  const style = { limit: limitOf([map]), opacity: 0.85, threshold: 0, smooth: true, slice };
  const pen = small.getContext("2d");
  const layers = input.rank === 1 ? [] : [drawInput(input, usualWindow(input), { slice, grey: true })];
  const factor = input.rank === 1 ? [96 / width, 64] : Array(2).fill(Math.min(96 / width, 64 / height));
  const [w, hgt] = [width * factor[0], height * factor[1]];
  for (const layer of [...layers, drawEvidence(map, geometry, style)]) pen.drawImage(layer, (96 - w) / 2, (64 - hgt) / 2, w, hgt);
  return small;
}
