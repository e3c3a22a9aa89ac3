/** When a request is sent again. */

import { CONNECTION_FAILED, CONNECTION_LOST, TryOnError } from "./errors.js";

const NO_ROOM = [429, 503];
const FIRST_PAUSE_S = 1;
const LONGEST_PAUSE_S = 10;
// A server that asks for more is not coming back while somebody waits for the image.
const LONGEST_RETRY_AFTER_S = 60;
const JITTER = 0.25;

/** Decides for one request whether to send it again, under the same id, and when. */
export class Attempts {
  /** Whether a connection broke after the request may have arrived, so that it may still be in progress. */
  lost = false;
  #left;
  #awaitsConflict;
  #pauseS = FIRST_PAUSE_S;

  /**
   * @param {number} maxRetries How often to send it again.
   * @param {{awaitsConflict?: boolean}} [options] Whether to wait for the end of what a lost connection left in
   *   progress.
   */
  constructor(maxRetries, { awaitsConflict = true } = {}) {
    this.#left = maxRetries;
    this.#awaitsConflict = awaitsConflict;
  }

  /**
   * Returns the milliseconds to wait before the next attempt; throws `error` if another one is not worthwhile.
   *
   * @param {unknown} error
   * @returns {number}
   */
  pauseAfter(error) {
    if (!(error instanceof TryOnError)) {
      throw error;
    }
    this.lost ||= error.code === CONNECTION_LOST;
    const asked = error.retryAfter;
    if (this.#left <= 0 || !this.#mayPass(error) || (asked ?? 0) > LONGEST_RETRY_AFTER_S) {
      throw error;
    }
    this.#left -= 1;
    const pauseS = this.#pauseS;
    this.#pauseS = Math.min(2 * pauseS, LONGEST_PAUSE_S);
    // never earlier than the server asks
    const waitS = asked === null ? pauseS * (1 - JITTER * Math.random()) : asked * (1 + JITTER * Math.random());
    return 1000 * waitS;
  }

  /** @param {TryOnError} error */
  #mayPass(error) {
    if (NO_ROOM.includes(error.status ?? 0) || [CONNECTION_FAILED, CONNECTION_LOST].includes(error.code)) {
      return true;
    }
    // The server notices a lost connection, and cancels the request, a moment later than the client does.
    return error.code === "conflict" && this.lost && this.#awaitsConflict;
  }
}
