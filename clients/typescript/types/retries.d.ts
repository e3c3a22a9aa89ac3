/** Decides for one request whether to send it again, under the same id, and when. */
export class Attempts {
    /**
     * @param {number} maxRetries How often to send it again.
     * @param {{awaitsConflict?: boolean}} [options] Whether to wait for the end of what a lost connection left in
     *   progress.
     */
    constructor(maxRetries: number, { awaitsConflict }?: {
        awaitsConflict?: boolean;
    });
    /** Whether a connection broke after the request may have arrived, so that it may still be in progress. */
    lost: boolean;
    /**
     * Returns the milliseconds to wait before the next attempt; throws `error` if another one is not worthwhile.
     *
     * @param {unknown} error
     * @returns {number}
     */
    pauseAfter(error: unknown): number;
    #private;
}
