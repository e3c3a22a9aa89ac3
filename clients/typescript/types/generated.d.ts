export const VERSION: "0.2.0";
/** The HTTP status of each error code.
 * @type {Record<string, number>} */
export const STATUS: Record<string, number>;
/** What the values of a schema's properties are, other than plain JSON.
 * @type {Record<string, Record<string, string>>} */
export const CONVERSIONS: Record<string, Record<string, string>>;
/** What properties are called that have other names in the API.
 * @type {Record<string, string>} */
export const RENAMED: Record<string, string>;
/** What absent properties stand for.
 * @type {Record<string, Record<string, unknown>>} */
export const DEFAULTS: Record<string, Record<string, unknown>>;
