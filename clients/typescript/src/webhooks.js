/** Verifies what a server sends to `webhookUrl`, by the Standard Webhooks scheme. */

import { bytesOf } from "./base64.js";
import { WebhookInvalid, ofContent, parsed } from "./errors.js";
import { resultOf } from "./results.js";

const TOLERANCE_S = 5 * 60;
const PREFIX = "whsec_";
const VERSION = "v1,";

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
export async function verifyWebhook(body, headers, secret) {
  const content = typeof body === "string" ? new TextEncoder().encode(body) : new Uint8Array(body);
  const id = await verifySignature(content, headers, typeof secret === "string" ? [secret] : secret);
  const data = parsed(new TextDecoder().decode(content));
  const error = ofContent(data, data?.id ?? id);
  if (error) {
    return error;
  }
  try {
    return resultOf(data, id);
  } catch (problem) {
    throw new WebhookInvalid(`The signature is right, but the body is not a result: ${problem}`);
  }
}

/**
 * Returns the webhook's id; throws WebhookInvalid as `verifyWebhook` does.
 *
 * @param {Uint8Array} body
 * @param {WebhookHeaders} headers
 * @param {readonly string[]} secrets
 * @returns {Promise<string>}
 */
export async function verifySignature(body, headers, secrets) {
  const keys = secrets.map(keyOf);
  const [id, timestamp, signatures] = ["id", "timestamp", "signature"].map((name) => header(headers, `webhook-${name}`));
  if (!timestamp || !/^\d{1,15}$/.test(timestamp)) {
    throw new WebhookInvalid("The header webhook-timestamp is not a number of seconds.");
  }
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) {
    throw new WebhookInvalid("The webhook is older than five minutes, or this machine's clock is wrong.");
  }
  const signed = await new Blob([`${id}.${timestamp}.`, /** @type {BlobPart} */ (body)]).arrayBuffer();
  const given = (signatures ?? "").split(" ").filter((text) => text.startsWith(VERSION));
  const { subtle } = await webCrypto();
  for (const secret of keys) {
    const key = await subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
    for (const text of given) {
      const signature = decoded(text.slice(VERSION.length));
      if (signature && (await subtle.verify("HMAC", key, signature, signed))) {
        return id ?? "";
      }
    }
  }
  throw new WebhookInvalid("The signature is not one of this secret and body. Pass the body exactly as it came.");
}

/**
 * @param {WebhookHeaders} headers
 * @param {string} name
 * @returns {string}
 */
function header(headers, name) {
  const given =
    headers instanceof Headers
      ? headers.get(name)
      : Object.entries(headers).find(([key]) => key.toLowerCase() === name)?.[1];
  const value = Array.isArray(given) ? given[0] : given;
  if (typeof value !== "string") {
    throw new WebhookInvalid(`The header ${name} is missing.`);
  }
  return value;
}

/** @param {string} secret */
function keyOf(secret) {
  const key = decoded(secret.replace(PREFIX, ""));
  if (!key?.length) {
    throw new TypeError('The secret must be base64, after "whsec_".');
  }
  return key;
}

/**
 * @param {string} text
 */
function decoded(text) {
  try {
    return bytesOf(text);
  } catch {
    return undefined;
  }
}

/**
 * Returns Web Crypto, which Node 18 has in a module only.
 *
 * @returns {Promise<Crypto>}
 */
async function webCrypto() {
  if (globalThis.crypto?.subtle) {
    return globalThis.crypto;
  }
  const name = "node:crypto"; // in a variable, so that bundlers do not look for it
  return (await import(/* webpackIgnore: true */ /* @vite-ignore */ name)).webcrypto;
}
