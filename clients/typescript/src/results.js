/** What a request gives: the API's replies with names and values of JavaScript. */

import { bytesOf } from "./base64.js";
import { CONNECTION_LOST, TryOnError, invalidReply, ofContent, parsed } from "./errors.js";
import { CONVERSIONS, DEFAULTS, RENAMED } from "./generated.js";

/**
 * @typedef {Omit<import("./types.js").Image, "image"> & {bytes: Uint8Array | null, blob: Blob | null}}
 *   ResultImage One image; `bytes` and `blob` hold its file, unless it was uploaded to one of `uploadUrls`.
 */
/**
 * @typedef {Omit<import("./types.js").TryonReply, "output"> &
 *   {images: ResultImage[], mask: Uint8Array | null}} Result
 *   The images, and a mask if `returnMask` asked for it: a PNG, white where the images may differ from the person.
 */
/**
 * @typedef {({type: "status"} & import("./types.js").StatusEvent)
 *   | ({type: "progress"} & import("./types.js").ProgressEvent)
 *   | ({type: "preview"} & import("./types.js").PreviewEvent)
 *   | {type: "output", result: Result}} TryOnEvent
 */

const EVENTS = new Map([
  ["status", "StatusEvent"],
  ["progress", "ProgressEvent"],
  ["preview", "PreviewEvent"],
]);

/**
 * Returns a reply of the API with camelCase names and bytes instead of base64.
 *
 * @param {string} schema The reply's name in the OpenAPI document.
 * @param {any} data
 * @returns {any}
 * @throws {Error} if it is not of that kind.
 */
export function read(schema, data) {
  if (typeof data !== "object" || data === null) {
    throw new Error(`this is no ${schema}`);
  }
  const value = structuredClone(DEFAULTS[schema] ?? {});
  for (const [key, item] of Object.entries(data)) {
    value[RENAMED[key] ?? camel(key)] = converted(CONVERSIONS[schema]?.[key], item);
  }
  return value;
}

/**
 * Returns the result that a reply, an event or a webhook brings.
 *
 * @param {any} data
 * @param {string | null} requestId
 * @returns {Result}
 */
export function resultOf(data, requestId) {
  try {
    const { output, ...reply } = read("TryonReply", data);
    return { ...reply, images: output.images.map(resultImage), mask: output.mask };
  } catch (error) {
    throw invalidReply(error instanceof Error ? error.message : String(error), requestId);
  }
}

/**
 * Yields the events of a stream; throws TryOnError for an error among them, or if the stream stops before its last.
 *
 * @param {AsyncIterable<string>} lines
 * @param {string | null} requestId
 * @returns {AsyncGenerator<TryOnEvent, void, void>}
 */
export async function* eventsOf(lines, requestId) {
  let name = "";
  /** @type {string[]} */
  let data = [];
  for await (const line of lines) {
    const [, field, value = ""] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (field === "event") {
      name = value;
    } else if (field === "data") {
      data.push(value);
    } else if (line === "" && data.length) {
      const content = parsed(data.join("\n"));
      if (name === "error") {
        throw ofContent(content, requestId) ?? invalidReply("an error event describes none", requestId);
      }
      if (name === "output") {
        yield { type: "output", result: resultOf(content, requestId) };
        return;
      }
      const schema = EVENTS.get(name); // a later server may send others
      if (schema) {
        yield eventOf(name, schema, content, requestId);
      }
      name = "";
      data = [];
    }
  }
  const message = "The connection broke before the reply was complete: the events stopped.";
  throw new TryOnError(CONNECTION_LOST, message, { requestId });
}

/**
 * @param {string} type
 * @param {string} schema
 * @param {any} content
 * @param {string | null} requestId
 * @returns {TryOnEvent}
 */
function eventOf(type, schema, content, requestId) {
  try {
    return { type, ...read(schema, content) };
  } catch (error) {
    throw invalidReply(String(error), requestId);
  }
}

/**
 * @param {import("./types.js").Image} image
 * @returns {ResultImage}
 */
function resultImage({ image, ...others }) {
  const bytes = image ?? null;
  return { ...others, bytes, blob: bytes && new Blob([/** @type {BlobPart} */ (bytes)], { type: `image/${others.format}` }) };
}

/**
 * @param {string | undefined} kind
 * @param {any} item
 * @returns {unknown}
 */
function converted(kind, item) {
  if (kind === undefined || item === null) {
    return item;
  }
  if (kind === "bytes") {
    return bytesOf(item);
  }
  return Array.isArray(item) ? item.map((each) => read(kind, each)) : read(kind, item);
}

/** @param {string} name */
function camel(name) {
  return name.replace(/_([a-z0-9])/g, (_, letter) => letter.toUpperCase());
}
