/** The client. */

import { NO_REPLY, TryOnError, invalidReply, ofFetch, ofResponse, parsed } from "./errors.js";
import { form } from "./form.js";
import { eventsOf, read, resultOf } from "./results.js";
import { Attempts } from "./retries.js";

const PATH = "/api/v1/tryon";
// The server's own deadline is 300 s by default; it answers a little later.
const TIMEOUT_MS = 330_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1; // timers that ought to take longer end at once
const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

/**
 * @typedef {object} Options
 * @property {string | URL} [url] Of the server. By default TRYON_URL of Node's environment, or the page's own origin, or
 *   http://127.0.0.1:8000.
 * @property {string} [apiKey] The server's key, sent as X-API-Key. By default TRYON_API_KEY of Node's environment. A key
 *   in a page is no secret.
 * @property {Record<string, string>} [headers] Sent with every request.
 * @property {number} [timeoutMs] How long the server may send nothing, 330,000 ms by default. Node
 *   itself waits 300,000 ms for the beginning of a reply, which is at once with `stream`.
 * @property {number} [maxRetries] How often a request is sent again if the server has no room (429, 503), cannot be
 *   reached or loses the connection; 5 by default. `Retry-After` is honoured up to a minute.
 * @property {typeof fetch} [fetch] Used instead of the global one.
 */
/**
 * @typedef {object} CallOptions
 * @property {string} [requestId] 1 to 64 of A-Za-z0-9._-, unique among your current requests; choose one to cancel it.
 * @property {AbortSignal} [signal] Closes the connection; the server then cancels the request.
 */
/** @typedef {{status: "healthy" | "starting" | "draining" | "unhealthy", reason: string | null}} Health */
/**
 * @typedef {object} Call
 * @property {string} method
 * @property {string} path
 * @property {Record<string, string>} headers
 * @property {FormData} [body]
 * @property {AbortSignal} [signal]
 */

/** A client of one server. */
export class TryOn {
  #url;
  #headers;
  #timeoutMs;
  #maxRetries;
  #fetch;

  /** @param {Options} [options] */
  constructor({ url, apiKey, headers = {}, timeoutMs = TIMEOUT_MS, maxRetries = 5, fetch } = {}) {
    const address = String(url ?? environment("TRYON_URL") ?? ownOrigin() ?? "http://127.0.0.1:8000");
    if (!/^https?:\/\//i.test(address)) {
      throw new TypeError(`The server's URL must begin with http:// or https://, not ${JSON.stringify(address)}.`);
    }
    const key = apiKey ?? environment("TRYON_API_KEY");
    this.#url = new URL(address).href.replace(/\/+$/, "");
    this.#headers = { Accept: "application/json", ...(key ? { "X-API-Key": key } : {}), ...headers };
    checkHeaders(this.#headers);
    this.#timeoutMs = timeoutMs;
    this.#maxRetries = maxRetries;
    this.#fetch = fetch ?? ((/** @type {string} */ input, /** @type {RequestInit} */ init) => globalThis.fetch(input, init));
  }

  /**
   * Dresses the person in the garment, or in up to four of them, one after the other.
   *
   * @param {import("./form.js").TryOnRequest} request
   * @param {CallOptions} [options]
   * @returns {Promise<import("./results.js").Result>}
   * @throws {TryOnError}
   */
  async tryOn(request, options) {
    withoutWebhook(request);
    const call = tryOnCall(request, options);
    const { text, requestId } = await this.#send(call, new Attempts(this.#maxRetries));
    return resultOf(parsed(text), requestId);
  }

  /**
   * Does as `tryOn`, and yields events of the types status, progress and preview on the way to one of the type output.
   *
   * The request is sent when the first event is asked for, and canceled if the loop is left early. Events begin again
   * if it is sent again.
   *
   * @param {import("./form.js").TryOnRequest} request
   * @param {CallOptions} [options]
   * @returns {AsyncGenerator<import("./results.js").TryOnEvent, void, void>}
   * @throws {TryOnError}
   */
  async *stream(request, options) {
    withoutWebhook(request);
    const call = tryOnCall(request, options, { Accept: "text/event-stream" });
    const attempts = new Attempts(this.#maxRetries);
    for (;;) {
      let pauseMs;
      try {
        yield* this.#events(call);
        return;
      } catch (error) {
        pauseMs = attempts.pauseAfter(error);
      }
      await pause(pauseMs, call.signal);
    }
  }

  /**
   * Does as `tryOn`, but returns the request's id as soon as it is queued. The result goes to `webhookUrl`, an https://
   * URL whose host the server allows; see `verifyWebhook`.
   *
   * @param {import("./form.js").TryOnRequest & {webhookUrl: string}} request
   * @param {CallOptions} [options]
   * @returns {Promise<string>}
   * @throws {TryOnError}
   */
  async submit(request, options) {
    const call = tryOnCall(request, options);
    const attempts = new Attempts(this.#maxRetries, { awaitsConflict: false });
    try {
      const { response, text, requestId } = await this.#send(call, attempts);
      const id = parsed(text)?.id;
      if (response.status === 202 && typeof id === "string") {
        return id;
      }
      throw invalidReply("it does not say that the request was accepted", requestId);
    } catch (error) {
      if (error instanceof TryOnError && error.code === "conflict" && attempts.lost) {
        return call.headers["X-Request-Id"] ?? ""; // the reply that was lost had accepted it
      }
      throw error;
    }
  }

  /**
   * Cancels a request that waits or runs; returns false if the server has none with this id.
   *
   * @param {string} requestId
   * @returns {Promise<boolean>}
   * @throws {TryOnError}
   */
  async cancel(requestId) {
    const call = { method: "DELETE", path: `${PATH}/${encodeURIComponent(requestId)}`, headers: {} };
    try {
      await this.#send(call, new Attempts(this.#maxRetries));
      return true;
    } catch (error) {
      if (error instanceof TryOnError && error.code === "not_found") {
        return false;
      }
      throw error;
    }
  }

  /**
   * Returns the server's workflows with the parameters that each takes.
   *
   * @returns {Promise<import("./types.js").BoundWorkflow[]>}
   * @throws {TryOnError}
   */
  async workflows() {
    const call = { method: "GET", path: "/api/v1/workflows", headers: {} };
    const { text, requestId } = await this.#send(call, new Attempts(this.#maxRetries));
    const list = parsed(text);
    if (!Array.isArray(list?.workflows)) {
      throw invalidReply("it lists no workflows", requestId);
    }
    return read("WorkflowList", list).workflows;
  }

  /**
   * Returns whether the server answers requests, without retries.
   *
   * @returns {Promise<Health>}
   * @throws {TryOnError}
   */
  async health() {
    const { response, text } = await this.#once({ method: "GET", path: "/ping", headers: {} });
    const content = response.status === 204 ? { status: "starting" } : parsed(text);
    if (typeof content?.status !== "string") {
      throw ofResponse(response, text);
    }
    return { status: content.status, reason: content.reason ?? null };
  }

  /**
   * @param {Call} call
   * @param {Attempts} attempts
   */
  async #send(call, attempts) {
    for (;;) {
      let pauseMs;
      try {
        const reply = await this.#once(call);
        if (reply.response.ok) {
          return reply;
        }
        throw ofResponse(reply.response, reply.text);
      } catch (error) {
        pauseMs = attempts.pauseAfter(error);
      }
      await pause(pauseMs, call.signal);
    }
  }

  /** @param {Call} call */
  async #once(call) {
    const connection = new Connection(this.#timeoutMs, call);
    try {
      const response = await connection.wait(this.#fetch(this.#url + call.path, this.#init(call, connection)));
      const text = await connection.wait(response.text());
      return { response, text, requestId: response.headers.get("X-Request-Id") };
    } finally {
      connection.end();
    }
  }

  /**
   * @param {Call} call
   * @returns {AsyncGenerator<import("./results.js").TryOnEvent, void, void>}
   */
  async *#events(call) {
    const connection = new Connection(this.#timeoutMs, call);
    try {
      const response = await connection.wait(this.#fetch(this.#url + call.path, this.#init(call, connection)));
      if (!response.ok) {
        throw ofResponse(response, await connection.wait(response.text()));
      }
      const requestId = response.headers.get("X-Request-Id") ?? call.headers["X-Request-Id"] ?? null;
      if (!response.body || !response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
        throw invalidReply("it is no event stream", requestId);
      }
      yield* eventsOf(linesOf(response.body, connection), requestId);
    } finally {
      connection.end();
    }
  }

  /**
   * @param {Call} call
   * @param {Connection} connection
   * @returns {RequestInit}
   */
  #init(call, connection) {
    const { method, body } = call;
    const headers = { ...this.#headers, ...call.headers };
    return { method, headers, signal: connection.signal, redirect: "manual", ...(body ? { body } : {}) };
  }
}

/** One attempt's connection, which ends when its time is up, its caller says so, or nobody listens any more. */
class Connection {
  #controller = new AbortController();
  #timedOut = false;
  #timeoutMs;
  #call;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #abort = () => this.#controller.abort(this.#call.signal?.reason);

  /**
   * @param {number} timeoutMs
   * @param {Call} call
   */
  constructor(timeoutMs, call) {
    this.#timeoutMs = timeoutMs;
    this.#call = call;
    call.signal?.throwIfAborted();
    call.signal?.addEventListener("abort", this.#abort);
  }

  get signal() {
    return this.#controller.signal;
  }

  /**
   * Returns what `promise` gives, unless nothing comes for too long.
   *
   * @template Value
   * @param {Promise<Value>} promise
   * @returns {Promise<Value>}
   */
  async wait(promise) {
    if (this.#timeoutMs <= LONGEST_TIMER_MS) {
      this.#timer = setTimeout(() => {
        this.#timedOut = true;
        this.#controller.abort();
      }, this.#timeoutMs);
    }
    const requestId = this.#call.headers["X-Request-Id"] ?? null;
    try {
      return await promise;
    } catch (error) {
      this.#call.signal?.throwIfAborted();
      if (this.#timedOut) {
        const message = `The server sent nothing for ${this.#timeoutMs / 1000} s. Allow more by timeoutMs.`;
        throw new TryOnError(NO_REPLY, message, { requestId, cause: error });
      }
      throw ofFetch(error, requestId);
    } finally {
      clearTimeout(this.#timer);
    }
  }

  /** Closes the connection if the reply is not complete. */
  end() {
    this.#call.signal?.removeEventListener("abort", this.#abort);
    this.#controller.abort();
  }
}

/**
 * @param {ReadableStream<Uint8Array>} body
 * @param {Connection} connection
 * @returns {AsyncGenerator<string, void, void>}
 */
async function* linesOf(body, connection) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  /** @type {string[]} */
  let begun = []; // in pieces, since an image in one line would be joined and searched again with each
  for (;;) {
    const { done, value } = await connection.wait(reader.read());
    if (done) {
      return;
    }
    const [first = "", ...others] = decoder.decode(value, { stream: true }).split("\n");
    begun.push(first);
    for (const next of others) {
      yield begun.join("").replace(/\r$/, "");
      begun = [next];
    }
  }
}

/**
 * @param {import("./form.js").TryOnRequest} request
 * @param {CallOptions} [options]
 * @param {Record<string, string>} [headers]
 * @returns {Call}
 */
function tryOnCall(request, { requestId, signal } = {}, headers = {}) {
  // An id of its own, so that the server knows the same request when it comes again.
  const id = requestId ?? newId();
  if (!REQUEST_ID.test(id)) {
    throw new TypeError("requestId must be 1 to 64 of A-Za-z0-9._-.");
  }
  const call = { method: "POST", path: PATH, headers: { "X-Request-Id": id, ...headers }, body: form(request) };
  return signal ? { ...call, signal } : call;
}

/**
 * Throws a TypeError for what no header can carry. It names the header only: the value may be a key.
 *
 * @param {Record<string, string>} headers
 */
function checkHeaders(headers) {
  for (const [name, value] of Object.entries(headers)) {
    try {
      new Headers({ [name]: value });
    } catch {
      throw new TypeError(`The header ${JSON.stringify(name)} cannot be sent: it has characters that headers must not have.`);
    }
  }
}

/** @param {object} request */
function withoutWebhook(request) {
  if ("webhookUrl" in request && request.webhookUrl) {
    throw new TypeError("With webhookUrl the result does not come as the reply: call submit() instead.");
  }
}

/** Returns an id that nobody else has; randomUUID is for pages of https only, and not in Node 18. */
function newId() {
  const part = () => Math.floor(Math.random() * 2 ** 48).toString(16).padStart(12, "0");
  return globalThis.crypto?.randomUUID?.() ?? `${part()}-${part()}`;
}

/**
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.aborted ? abort() : signal?.addEventListener("abort", abort);
  });
}

/**
 * @param {string} name
 * @returns {string | undefined}
 */
function environment(name) {
  return /** @type {any} */ (globalThis).process?.env?.[name] || undefined;
}

/** @returns {string | undefined} */
function ownOrigin() {
  const origin = /** @type {any} */ (globalThis).location?.origin;
  return typeof origin === "string" && origin.startsWith("http") ? origin : undefined;
}
