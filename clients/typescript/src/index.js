/** Client of the virtual try-on API for browsers and Node. */

export { TryOn } from "./client.js";
export { TryOnError, WebhookInvalid } from "./errors.js";
export { VERSION } from "./generated.js";
export { verifyWebhook } from "./webhooks.js";

/** @typedef {import("./client.js").Options} Options */
/** @typedef {import("./client.js").CallOptions} CallOptions */
/** @typedef {import("./client.js").Health} Health */
/** @typedef {import("./form.js").ImageSource} ImageSource */
/** @typedef {import("./form.js").TryOnRequest} TryOnRequest */
/** @typedef {import("./results.js").Result} Result */
/** @typedef {import("./results.js").ResultImage} ResultImage */
/** @typedef {import("./results.js").TryOnEvent} TryOnEvent */
/** @typedef {import("./types.js").BoundWorkflow} BoundWorkflow */
/** @typedef {import("./types.js").Caution} Caution */
/** @typedef {import("./types.js").ErrorCode} ErrorCode */
/** @typedef {import("./types.js").Fields} Fields */
/** @typedef {import("./types.js").Report} Report */
