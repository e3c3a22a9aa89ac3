"""Waiting for what a server does by itself, instead of sleeping for a time that is too short on a busy machine."""

import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 60


def until(condition: Callable[[], Any], what: str = "it did not come about") -> Any:
    """Returns the first true value of `condition`; fails with `what` after a minute."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return value
