"""When models are read: that takes as long as their volume takes, and tells nobody how far it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from .. import metrics

LONGEST_S = 1800  # from a slow volume on a busy machine

_began, _ended = inf, -inf  # monotonic time; one executor reads one model at a time


@contextmanager
def reading(model: str) -> Iterator[None]:
    """Lasts as long as a model is read, for `last_sign` and the metrics."""
    global _began, _ended
    _began = time.monotonic()
    try:
        with metrics.model_load.labels(model).time():
            yield
    finally:
        _began, _ended = inf, time.monotonic()


def last_sign() -> float:
    """Returns the monotonic time up to which the executor need not have reported progress: now, while it reads."""
    return max(_ended, min(time.monotonic(), _began + LONGEST_S) if _began < inf else -inf)
