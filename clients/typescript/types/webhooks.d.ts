/**
 * @typedef {Headers | Record<string, string | string[] | undefined>} WebhookHeaders Of fetch's Request or Node's.
 */
/**
 * Returns the result that a webhook brings, or the error, after verifying who sent it and when. The same webhook may
 * come more than once; `id` of the result and `requestId` of the error tell.
 *
 * @param {string | Uint8Array | ArrayBuffer} body The request's body as it came, before any parsing.
 * @param {WebhookHeaders} headers The request's headers.
 * @param {string | readonly string[]} secret The server's TRYON_WEBHOOK_SECRET, "whsec_…"; several while it is being
 *   replaced.
 * @returns {Promise<import("./results.js").Result | import("./errors.js").TryOnError>}
 * @throws {WebhookInvalid} if a header is missing, the signature is not of this secret and body, or it is older than
 *   five minutes. Answer with 400 or 401, and do not use the body.
 * @throws {TypeError} if `secret` is not base64.
 */
export function verifyWebhook(body: string | Uint8Array | ArrayBuffer, headers: WebhookHeaders, secret: string | readonly string[]): Promise<import("./results.js").Result | import("./errors.js").TryOnError>;
/**
 * Returns the webhook's id; throws WebhookInvalid as `verifyWebhook` does.
 *
 * @param {Uint8Array} body
 * @param {WebhookHeaders} headers
 * @param {readonly string[]} secrets
 * @returns {Promise<string>}
 */
export function verifySignature(body: Uint8Array, headers: WebhookHeaders, secrets: readonly string[]): Promise<string>;
/**
 * Of fetch's Request or Node's.
 */
export type WebhookHeaders = Headers | Record<string, string | string[] | undefined>;
