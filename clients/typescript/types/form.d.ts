/**
 * Returns the form of a request, which can be sent several times.
 *
 * @param {TryOnRequest & {webhookUrl?: string}} request
 * @returns {FormData}
 */
export function form(request: TryOnRequest & {
    webhookUrl?: string;
}): FormData;
/**
 * An image: a Blob or File, the bytes of a file, or the URL of one: https:// if the server allows the host, or data:.
 */
export type ImageSource = Blob | ArrayBuffer | Uint8Array | URL | string;
/**
 * A person, up to four garments, and the API's optional fields.
 */
export type TryOnRequest = import("./types.js").Fields & {
    person: ImageSource;
    garment: ImageSource | readonly ImageSource[];
    mask?: ImageSource | null;
};
