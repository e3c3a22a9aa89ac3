"""When models are read: that takes as long as their volume takes, and tells nobody how far it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .. import metrics

LONGEST_S = 1800  # from a slow volume on a busy machine

# Monotonic time. One executor reads one model at a time.
_began: float | None = None
_ended = 0.0


@contextmanager
def reading(model: str) -> Iterator[None]:
    """Lasts as long as a model is read, for `last_sign` and the metrics."""
    global _began, _ended
    _began = time.monotonic()
    try:
        with metrics.model_load.labels(model).time():
            yield
    finally:
        _ended = time.monotonic()  # first: the event loop may look in between
        _began = None


def last_sign() -> float:
    """Returns the monotonic time up to which the executor need not have reported progress: now, while it reads."""
    began = _began
    return _ended if began is None else min(time.monotonic(), began + LONGEST_S)
