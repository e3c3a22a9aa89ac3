/**
 * Returns a reply of the API with camelCase names and bytes instead of base64.
 *
 * @param {string} schema The reply's name in the OpenAPI document.
 * @param {any} data
 * @returns {any}
 * @throws {Error} if it is not of that kind.
 */
export function read(schema: string, data: any): any;
/**
 * Returns the result that a reply, an event or a webhook brings.
 *
 * @param {any} data
 * @param {string | null} requestId
 * @returns {Result}
 */
export function resultOf(data: any, requestId: string | null): Result;
/**
 * Yields the events of a stream; throws TryOnError for an error among them, or if the stream stops before its last.
 *
 * @param {AsyncIterable<string>} lines
 * @param {string | null} requestId
 * @returns {AsyncGenerator<TryOnEvent, void, void>}
 */
export function eventsOf(lines: AsyncIterable<string>, requestId: string | null): AsyncGenerator<TryOnEvent, void, void>;
/**
 * One image; `bytes` and `blob` hold its file, unless it was uploaded to one of `uploadUrls`.
 */
export type ResultImage = Omit<import("./types.js").Image, "image"> & {
    bytes: Uint8Array | null;
    blob: Blob | null;
};
/**
 * The images, and a mask if `returnMask` asked for it: a PNG, white where the images may differ from the person.
 */
export type Result = Omit<import("./types.js").TryonReply, "output"> & {
    images: ResultImage[];
    mask: Uint8Array | null;
};
export type TryOnEvent = ({
    type: "status";
} & import("./types.js").StatusEvent) | ({
    type: "progress";
} & import("./types.js").ProgressEvent) | ({
    type: "preview";
} & import("./types.js").PreviewEvent) | {
    type: "output";
    result: Result;
};
