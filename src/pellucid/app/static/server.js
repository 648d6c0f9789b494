// The server that this page came from. Every failure is a Problem that says what, why and what to do.

const TOKEN = "pellucid-token";

/** An answer that is no success, in the words of RFC 9457, with the server's hint. */
class Problem extends Error {
  constructor({ title, detail = "", hint = "", status = 0 }) {
    super(title);
    Object.assign(this, { title, detail, hint, status });
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** The parsed answer of one request. */
export async function ask(path, { form, json, signal } = {}) {
  return (await request(path, { form, json, signal })).json();
}

/** A file that the server makes, and the name it gives it. */
export async function download(path, { form, json }) {
  const answer = await request(path, { form, json });
  const name = /filename="?([^";]+)"?/.exec(answer.headers.get("content-disposition") ?? "");
  return { name: name?.[1] ?? "pellucid", blob: await answer.blob() };
}

async function request(path, { form, json, signal }) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json) headers["Content-Type"] = "application/json";
  const body = form ? multipart(form) : json && JSON.stringify(json);
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body, signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "The server does not answer.",
      detail: "It may have been stopped, or the network is down.",
      hint: "See whether `pellucid serve` still runs, then try again.",
    });
  }
  if (!answer.ok) throw await problem(answer);
  return answer;
}

function multipart(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || value === null || value === "") continue;
    form.append(name, value instanceof Blob ? value : typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  return form;
}

async function problem(answer) {
  const told = await answer.json().catch(() => ({}));
  const wait = answer.headers.get("retry-after");
  return new Problem({
    title: told.title ?? `The server answered ${answer.status}.`,
    detail: typeof told.detail === "string" ? told.detail : "",
    hint: told.hint ?? (wait ? `Try again in ${wait} s.` : ""),
    status: answer.status,
  });
}
