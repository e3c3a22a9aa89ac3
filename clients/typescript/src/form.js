/** The multipart form of a request: images as files, a third smaller than in base64. */

/**
 * An image: a Blob or File, the bytes of a file, or the URL of one: https:// if the server allows the host, or data:.
 *
 * @typedef {Blob | ArrayBuffer | Uint8Array | URL | string} ImageSource
 */

/**
 * A person, up to four garments, and the API's optional fields.
 *
 * @typedef {import("./types.js").Fields & {
 *   person: ImageSource,
 *   garment: ImageSource | readonly ImageSource[],
 *   mask?: ImageSource | null,
 * }} TryOnRequest
 */

const IMAGES = new Map([
  ["person", "person_image"],
  ["garment", "garment_image"],
  ["mask", "mask_image"],
]);
const TEXTS = /^(https?:\/\/|data:)/i;

/**
 * Returns the form of a request, which can be sent several times.
 *
 * @param {TryOnRequest & {webhookUrl?: string}} request
 * @returns {FormData}
 */
export function form(request) {
  const parts = new FormData();
  for (const [key, given] of Object.entries(request)) {
    const image = IMAGES.get(key);
    for (const value of Array.isArray(given) ? given : [given]) {
      if (value === null || value === undefined) {
        continue;
      }
      if (image === undefined) {
        parts.append(snake(key), String(value));
      } else {
        const content = imageContent(value);
        typeof content === "string" ? parts.append(image, content) : parts.append(image, content, image);
      }
    }
  }
  return parts;
}

/** @param {string} name */
function snake(name) {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/**
 * @param {unknown} source
 * @returns {Blob | string}
 */
function imageContent(source) {
  if (source instanceof Blob) {
    return source;
  }
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) {
    return new Blob([/** @type {BlobPart} */ (source)]);
  }
  const text = typeof source === "string" || source instanceof URL ? String(source) : "";
  if (TEXTS.test(text)) {
    return text;
  }
  throw new TypeError(
    "An image is a Blob, bytes, or an https:// or data: URL. For a file in Node: await fs.openAsBlob(path).",
  );
}
