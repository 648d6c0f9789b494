// Files of what is shown.

import { complain } from "./complaints.js";
import { fields } from "./answers.js";
import { $, h, say } from "./dom.js";
import { download } from "./server.js";

const FORMATS = [
  ["png", "PNG", "the picture"],
  ["npz", "NPZ", "the numbers"],
  ["nifti", "NIfTI", "the map on the input's grid"],
  ["dicom-pm", "DICOM map", "a Parametric Map"],
  ["dicom-seg", "DICOM SEG", "the regions as segments"],
  ["pdf", "PDF", "one page on this case"],
];

export function exporting(app) {
  $("exports").replaceChildren(...FORMATS.map(([format, name, what]) =>
    h("button", { type: "button", title: what, "data-format": format, onclick: (event) => save(event.currentTarget, format) }, name)));

  async function save(button, format) {
    button.disabled = true;
    try {
      const question = app.question();
      const { name, blob } = await app.answers.held(question, () => download("v1/export", { form: { ...fields(question), format } }));
      offer(name, blob);
      say(`${name} is ready.`);
    } catch (error) {
      complain(error);
    } finally {
      button.disabled = false;
    }
  }

  return function draw() {
    for (const button of $("exports").children) button.disabled = !app.answer;
  };
}

function offer(name, blob) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
