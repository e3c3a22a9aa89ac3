"""Where a request's pictures wait for its nodes: a prompt carries only a token, never a picture."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np


@dataclass
class ImageExchange:
    """The pictures of one request on their way in, and who takes those on their way out; uint8 RGB (H, W, 3)."""

    images: dict[str, np.ndarray]
    deliver: Callable[[np.ndarray], None]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))


_open: dict[str, ImageExchange] = {}


@contextmanager
def opened(exchange: ImageExchange) -> Iterator[ImageExchange]:
    """Makes `exchange` reachable by its token for the time of the block."""
    _open[exchange.token] = exchange
    try:
        yield exchange
    finally:
        del _open[exchange.token]


def find(token: str) -> ImageExchange:
    """The open exchange with `token`.

    Raises:
        LookupError: the request has ended.
    """
    try:
        return _open[token]
    except KeyError:
        raise LookupError("The request that this prompt belongs to has ended.") from None
