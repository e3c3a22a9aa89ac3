/**
 * Returns the error that a reply stands for, whoever sent it.
 *
 * @param {Response} response
 * @param {string} text Its body.
 * @returns {TryOnError}
 */
export function ofResponse(response: Response, text: string): TryOnError;
/**
 * Returns the error that an error reply, an event or a webhook describes, or null if it describes none.
 *
 * @param {any} content
 * @param {string | null} requestId
 * @returns {TryOnError | null}
 */
export function ofContent(content: any, requestId: string | null): TryOnError | null;
/**
 * Returns the error for what `fetch` throws.
 *
 * @param {any} cause
 * @param {string | null} requestId
 * @returns {TryOnError}
 */
export function ofFetch(cause: any, requestId: string | null): TryOnError;
/**
 * @param {string} problem
 * @param {string | null} requestId
 */
export function invalidReply(problem: string, requestId: string | null): TryOnError;
/**
 * Returns what a text in JSON says, or undefined if it is none.
 *
 * @param {string} text
 * @returns {any}
 */
export function parsed(text: string): any;
export const CONNECTION_FAILED: "connection_failed";
export const CONNECTION_LOST: "connection_lost";
export const NO_REPLY: "no_reply";
export const INVALID_REPLY: "invalid_reply";
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
    constructor(code: import("./types.js").ErrorCode | (string & {}), message: string, { details, status, requestId, retryAfter, cause }?: Particulars);
    code: import("./types.js").ErrorCode | (string & {});
    details: Record<string, unknown>;
    status: number | null;
    requestId: string | null;
    retryAfter: number | null;
}
/** Says why a webhook must not be believed. */
export class WebhookInvalid extends Error {
    /** @param {string} message */
    constructor(message: string);
}
export type Particulars = {
    /**
     * Machine-readable particulars, such as `field`.
     */
    details?: Record<string, unknown> | undefined;
    /**
     * The HTTP status, or null if there was no reply.
     */
    status?: number | null | undefined;
    /**
     * The id under which the server's operator finds the request in the log.
     */
    requestId?: string | null | undefined;
    /**
     * Seconds after which a retry is worthwhile, or null.
     */
    retryAfter?: number | null | undefined;
    cause?: unknown;
};
