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
    /** @param {Options} [options] */
    constructor({ url, apiKey, headers, timeoutMs, maxRetries, fetch }?: Options);
    /**
     * Dresses the person in the garment, or in up to four of them, one after the other.
     *
     * @param {import("./form.js").TryOnRequest} request
     * @param {CallOptions} [options]
     * @returns {Promise<import("./results.js").Result>}
     * @throws {TryOnError}
     */
    tryOn(request: import("./form.js").TryOnRequest, options?: CallOptions): Promise<import("./results.js").Result>;
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
    stream(request: import("./form.js").TryOnRequest, options?: CallOptions): AsyncGenerator<import("./results.js").TryOnEvent, void, void>;
    /**
     * Does as `tryOn`, but returns the request's id as soon as it is queued. The result goes to `webhookUrl`, an https://
     * URL whose host the server allows; see `verifyWebhook`.
     *
     * @param {import("./form.js").TryOnRequest & {webhookUrl: string}} request
     * @param {CallOptions} [options]
     * @returns {Promise<string>}
     * @throws {TryOnError}
     */
    submit(request: import("./form.js").TryOnRequest & {
        webhookUrl: string;
    }, options?: CallOptions): Promise<string>;
    /**
     * Cancels a request that waits or runs; returns false if the server has none with this id.
     *
     * @param {string} requestId
     * @returns {Promise<boolean>}
     * @throws {TryOnError}
     */
    cancel(requestId: string): Promise<boolean>;
    /**
     * Returns the server's workflows with the parameters that each takes.
     *
     * @returns {Promise<import("./types.js").BoundWorkflow[]>}
     * @throws {TryOnError}
     */
    workflows(): Promise<import("./types.js").BoundWorkflow[]>;
    /**
     * Returns whether the server answers requests, without retries.
     *
     * @returns {Promise<Health>}
     * @throws {TryOnError}
     */
    health(): Promise<Health>;
    #private;
}
export type Options = {
    /**
     * Of the server. By default TRYON_URL of Node's environment, or the page's own origin, or
     * http://127.0.0.1:8000.
     */
    url?: string | URL | undefined;
    /**
     * The server's key, sent as X-API-Key. By default TRYON_API_KEY of Node's environment. A key
     * in a page is no secret.
     */
    apiKey?: string | undefined;
    /**
     * Sent with every request.
     */
    headers?: Record<string, string> | undefined;
    /**
     * How long the server may send nothing, 330,000 ms by default. Node
     * itself waits 300,000 ms for the beginning of a reply, which is at once with `stream`.
     */
    timeoutMs?: number | undefined;
    /**
     * How often a request is sent again if the server has no room (429, 503), cannot be
     * reached or loses the connection; 5 by default. `Retry-After` is honoured up to a minute.
     */
    maxRetries?: number | undefined;
    /**
     * Used instead of the global one.
     */
    fetch?: typeof fetch | undefined;
};
export type CallOptions = {
    /**
     * 1 to 64 of A-Za-z0-9._-, unique among your current requests; choose one to cancel it.
     */
    requestId?: string | undefined;
    /**
     * Closes the connection; the server then cancels the request.
     */
    signal?: AbortSignal | undefined;
};
export type Health = {
    status: "healthy" | "starting" | "draining" | "unhealthy";
    reason: string | null;
};
export type Call = {
    method: string;
    path: string;
    headers: Record<string, string>;
    body?: FormData | undefined;
    signal?: AbortSignal | undefined;
};
