/**
 * Returns the bytes of a base64 text; throws if it is none.
 *
 * @param {string} text
 */
export function bytesOf(text: string): Uint8Array<ArrayBuffer>;
