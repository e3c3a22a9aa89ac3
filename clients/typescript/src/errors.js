/** The errors that the client throws. */

import { STATUS } from "./generated.js";

export const CONNECTION_FAILED = "connection_failed";
export const CONNECTION_LOST = "connection_lost";
export const NO_REPLY = "no_reply";
export const INVALID_REPLY = "invalid_reply";

// What Node names as the cause where a request cannot have arrived. Browsers name none.
const NOT_SENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"]);

const NODE_GAVE_UP = "UND_ERR_HEADERS_TIMEOUT";

/**
 * @typedef {object} Particulars
 * @property {Record<string, unknown>} [details] Machine-readable particulars, such as `field`.
 * @property {number | null} [status] The HTTP status, or null if there was no reply.
 * @property {string | null} [requestId] The id under which the server's operator finds the request in the log.
 * @property {number | null} [retryAfter] Seconds after which a retry is worthwhile, or null.
 * @property {unknown} [cause]
 */

/** Says why there is no image. */
export class TryOnError extends Error {
  /**
   * @param {import("./types.js").ErrorCode | (string & {})} code One of the API's codes. Or one of the client's:
   *   "connection_failed" if the server could not be reached, "connection_lost" if the connection broke before the
   *   reply was complete, "no_reply" if the timeout passed, "invalid_reply", and "http_502" and the like if something
   *   other than the API answered, "http_redirect" in a page, which is not told more.
   * @param {string} message What to do about it, for people.
   * @param {Particulars} [particulars]
   */
  constructor(code, message, { details = {}, status = null, requestId = null, retryAfter = null, cause } = {}) {
    super(message, { cause });
    this.name = "TryOnError";
    this.code = code;
    this.details = details;
    this.status = status;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** Says why a webhook must not be believed. */
export class WebhookInvalid extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "WebhookInvalid";
  }
}

/**
 * Returns the error that a reply stands for, whoever sent it.
 *
 * @param {Response} response
 * @param {string} text Its body.
 * @returns {TryOnError}
 */
export function ofResponse(response, text) {
  if (response.type === "opaqueredirect") {
    const message = "The address redirects to another one, which a page is not told. Use that as the url.";
    return new TryOnError("http_redirect", message);
  }
  const requestId = response.headers.get("X-Request-Id");
  const retryAfter = seconds(response.headers.get("Retry-After"));
  const error = ofContent(parsed(text), requestId);
  if (error) {
    return Object.assign(error, { status: response.status, retryAfter });
  }
  // such as a load balancer's own page
  const message = `${response.status} ${response.statusText}: ${text.slice(0, 200)}`;
  return new TryOnError(`http_${response.status}`, message, { status: response.status, requestId, retryAfter });
}

/**
 * Returns the error that an error reply, an event or a webhook describes, or null if it describes none.
 *
 * @param {any} content
 * @param {string | null} requestId
 * @returns {TryOnError | null}
 */
export function ofContent(content, requestId) {
  const error = content?.error;
  if (typeof error?.code !== "string") {
    return null;
  }
  return new TryOnError(error.code, String(error.message ?? ""), {
    details: error.details ?? {},
    status: STATUS[error.code] ?? null,
    requestId: error.request_id ?? requestId,
  });
}

/**
 * Returns the error for what `fetch` throws.
 *
 * @param {any} cause
 * @param {string | null} requestId
 * @returns {TryOnError}
 */
export function ofFetch(cause, requestId) {
  const reason = cause?.cause?.message || cause?.message || String(cause);
  if (NOT_SENT.has(cause?.cause?.code)) {
    return new TryOnError(CONNECTION_FAILED, `The server cannot be reached: ${reason}`, { requestId, cause });
  }
  if (cause?.cause?.code === NODE_GAVE_UP) {
    const message = "Node waits 300 s for a reply, whatever timeoutMs is. Use stream(), whose replies begin at once.";
    return new TryOnError(NO_REPLY, message, { requestId, cause });
  }
  const message =
    `The connection broke before the reply was complete, or there was none: ${reason}. ` +
    "A page of another site needs to be in the server's TRYON_CORS_ORIGINS.";
  return new TryOnError(CONNECTION_LOST, message, { requestId, cause });
}

/**
 * @param {string} problem
 * @param {string | null} requestId
 */
export function invalidReply(problem, requestId) {
  const message = `The reply is not the API's, ${problem}. Check the address.`;
  return new TryOnError(INVALID_REPLY, message, { requestId });
}

/**
 * Returns what a text in JSON says, or undefined if it is none.
 *
 * @param {string} text
 * @returns {any}
 */
export function parsed(text) {
  // Seeds have up to 20 digits, which JSON.parse would round.
  const exact = text.replace(/"seed":\s*(\d{16,})/g, (whole, digits) =>
    Number.isSafeInteger(Number(digits)) ? whole : `"seed":"${digits}"`,
  );
  const exactly = (/** @type {string} */ key, /** @type {unknown} */ value) =>
    key === "seed" && typeof value === "string" && /^\d{16,}$/.test(value) ? BigInt(value) : value;
  try {
    return JSON.parse(exact, exactly);
  } catch {
    return undefined;
  }
}

/**
 * Returns the seconds that a Retry-After header asks for, which has a number or a date.
 *
 * @param {string | null} retryAfter
 * @returns {number | null}
 */
function seconds(retryAfter) {
  if (!retryAfter) {
    return null;
  }
  const number = Number(retryAfter);
  const asked = Number.isNaN(number) ? (Date.parse(retryAfter) - Date.now()) / 1000 : number;
  return Number.isNaN(asked) ? null : Math.max(0, asked);
}
