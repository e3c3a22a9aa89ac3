"""When a request is sent again."""

import random

from ._errors import CONNECTION_FAILED, CONNECTION_LOST, TryOnError

NO_ROOM = (429, 503)
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
# A server that asks for more is not coming back while somebody waits for the image.
LONGEST_RETRY_AFTER_S = 60.0
JITTER = 0.25


class Attempts:
    """Decides for one request whether to send it again, under the same id, and when.

    Args:
        max_retries: how often to send it again.
        awaits_conflict: whether to wait for the end of what a lost connection left in progress.

    Attributes:
        lost: whether a connection broke after the request may have arrived, so that it may still be in progress.
    """

    def __init__(self, max_retries: int, awaits_conflict: bool = True) -> None:
        self._left = max_retries
        self._awaits_conflict = awaits_conflict
        self._pause = FIRST_PAUSE_S
        self.lost = False

    def pause_after(self, error: TryOnError) -> float:
        """Returns the seconds to wait before the next attempt; raises `error` if another one is not worthwhile."""
        self.lost = self.lost or error.code == CONNECTION_LOST
        asked = error.retry_after
        if not self._left or not self._may_pass(error) or (asked or 0) > LONGEST_RETRY_AFTER_S:
            raise error
        self._left -= 1
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_S)
        if asked is not None:
            return asked * random.uniform(1, 1 + JITTER)  # never earlier than the server asks
        return pause * random.uniform(1 - JITTER, 1)

    def _may_pass(self, error: TryOnError) -> bool:
        if error.status in NO_ROOM or error.code in (CONNECTION_FAILED, CONNECTION_LOST):
            return True
        # The server notices a lost connection, and cancels the request, a moment later than the client does.
        return error.code == "conflict" and self.lost and self._awaits_conflict
