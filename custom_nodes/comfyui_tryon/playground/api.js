// The server's public API: its key, its replies, and the events of a request.

import { button, dialog, element, newId } from "./dom.js";

const KEY = "tryon.key"; // in this tab's own storage only
const BASE = new URL(".", location.href);

export class ApiError extends Error {
  constructor(error, status) {
    super(error.message);
    Object.assign(this, { code: error.code, details: error.details ?? {}, requestId: error.request_id, status });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const addressOf = (path) => new URL(path, BASE).href;

// Crypto's randomUUID is missing where the page has no secure context.
export function newRequestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Asks for the key; resolves whether one was given.
export async function askForKey(wrong = false) {
  const key = await dialog("API key", (close) => {
    const id = newId("key");
    const input = element("input", { id, type: "password", autocomplete: "off", required: true, autofocus: true });
    const form = element("form", { className: "column" },
      element("p", {}, wrong
        ? "The server does not accept this key. Check it, and enter it again."
        : "This server wants its API key. It is kept in this tab only, until you close it."),
      element("label", { for: id }, "Key"), input,
      element("div", { className: "row end" },
        hasKey() && button("Forget the key", () => close("")),
        button("Cancel", () => close()),
        element("button", { className: "primary" }, "Use this key")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close(input.value.trim());
    });
    return form;
  });
  if (key === null) return false;
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  return key !== "";
}

async function problemOf(response) {
  const content = await response.json().catch(() => null);
  const text = `The server answered ${response.status}. A proxy in front of it may have refused the request.`;
  return new ApiError(content?.error ?? { code: "no_reply", message: text }, response.status);
}

// Returns the reply, if it is a good one. Asks for the key where the server wants one, and sends the request again.
export async function call(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
    let response;
    try {
      response = await fetch(new URL(path, BASE), { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (error instanceof TypeError && /header|ByteString/i.test(error.message)) {
        if (await askForKey(true)) continue;
      }
      throw new ApiError({ code: "no_reply", message: "The server cannot be reached. Check that it runs, and try again." });
    }
    if (response.ok) return response;
    if (response.status !== 401 || !(await askForKey(key !== null))) throw await problemOf(response);
  }
}

// Seeds go beyond what numbers hold exactly, so long ones become texts.
const parsed = (text) => JSON.parse(text.replace(/"seed":\s?(\d{16,})/g, '"seed":"$1"'));

// Sends a request and calls `on[name](data)` for its events; returns the reply. Throws an ApiError.
export async function tryOn(form, id, on, signal) {
  const headers = { Accept: "text/event-stream", "X-Request-Id": id };
  const response = await call("api/v1/tryon", { method: "POST", body: form, headers, signal });
  const lost = new ApiError({ code: "no_reply", message: "The connection was lost before the result came. Try again.", request_id: id });
  let name = "";
  for await (const line of linesOf(response.body, lost)) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (!line.startsWith("data: ")) continue;
    const data = parsed(line.slice(6));
    if (name === "output") return data;
    if (name === "error") throw new ApiError(data.error, response.status);
    on[name]?.(data);
  }
  throw lost;
}

// The pieces of a line are joined once: the last one has the images. Throws `lost` where the stream breaks off.
async function* linesOf(stream, lost) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let pieces = [];
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : lost;
    });
    if (done) return;
    const [first, ...others] = value.split("\n");
    pieces.push(first);
    for (const other of others) {
      yield pieces.join("");
      pieces = [other];
    }
  }
}

// Cancels a request; resolves whether the server knew it.
export async function cancel(id) {
  try {
    await call(`api/v1/tryon/${id}`, { method: "DELETE" });
    return true;
  } catch {
    return false;
  }
}

let watching = false;

// Calls `show(text, state)` until the server is ready; while it does so, another call has nothing to add.
export async function watchHealth(show) {
  if (watching) return;
  watching = true;
  for (;;) {
    const [text, state] = await health();
    show(text, state);
    if (state === "ready") break;
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
  watching = false;
}

async function health() {
  const response = await fetch(new URL("ping", BASE)).catch(() => null);
  if (response?.status === 200) return ["Ready", "ready"];
  if (response?.status !== 503) return [response ? "Warming up" : "Not reachable", "waiting"];
  const content = await response.json().catch(() => ({}));
  return [content.status === "draining" ? "Shutting down" : "Out of order", "failed"];
}
