"""Whether a transfer goes on. What moves a byte now and then would otherwise hold its memory for hours."""

import time

STEP_BYTES = 65_536


class Pace:
    """Follows a transfer, which must move `STEP_BYTES`, or end, within the time that it is given."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._since = time.monotonic()
        self._left = STEP_BYTES

    def moved(self, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            self.restart()

    @property
    def waited_s(self) -> float:
        """How long the present step has taken."""
        return time.monotonic() - self._since
