"""Holds a request's images for its nodes: a prompt carries only a token, never an image."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Framed:
    """Says what a result was pasted into.

    Attributes:
        window: x, y, width and height of the part of the person image that the sampler saw.
        before: uint8 RGB (H, W, 3), the person image in the frame of the result.
    """

    window: tuple[int, int, int, int]
    before: np.ndarray


@dataclass
class ImageExchange:
    """Carries one run's images to its nodes and their results back; every image is uint8 RGB (H, W, 3).

    Attributes:
        images: the decoded images by field name, such as person_image.
        deliver: called by `TryOnOutput`, on the executor's thread, with each result and the place of its output node
            among the graph's outputs.
        wants_mask: whether `TryOnOutput` shall set `mask`.
        mask: bool (H, W), true where the first output's images may differ from the person image.
        warnings: codes of what nodes found that the caller should know.
        framed: what nodes have pasted results into, by their ids.
        token: names this exchange in the prompt; hard to guess, because other prompts may come from strangers.
    """

    images: dict[str, np.ndarray]
    deliver: Callable[[np.ndarray, int], None]
    wants_mask: bool = False
    mask: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)
    framed: dict[str, Framed] = field(default_factory=dict)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))


_open: dict[str, ImageExchange] = {}


@contextmanager
def opened(exchange: ImageExchange) -> Iterator[ImageExchange]:
    """Lets nodes find `exchange` by its token while the block runs."""
    _open[exchange.token] = exchange
    try:
        yield exchange
    finally:
        del _open[exchange.token]


def find(token: str) -> ImageExchange:
    """Returns the open exchange with `token`.

    Raises:
        LookupError: the request has ended.
    """
    try:
        return _open[token]
    except KeyError:
        raise LookupError("The request that this prompt belongs to has ended.") from None
