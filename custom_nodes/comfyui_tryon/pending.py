"""A request between its arrival and its answer, the events that it causes, and its result."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from .engine.interface import Progress, Run
from .errors import ApiError
from .log import RequestLog
from .schema import SEED_MAX, ImageFormat, Timings
from .workflows.binding import Workflow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """Says where a request is: queued, with the number of requests ahead of it, or running."""

    status: str
    position: int | None = None


@dataclass
class Result:
    """Holds the encoded images of a finished request, and how many seconds each stage took."""

    images: list[bytes]
    sizes: list[tuple[int, int]]
    seed: int
    workflow: Workflow
    timings: Timings
    output_format: ImageFormat
    stages: dict[str, float]

    def seeds(self) -> list[int]:
        return [(self.seed + index) % (SEED_MAX + 1) for index in range(len(self.images))]


class PendingRequest:
    """Follows a request from its arrival to its answer.

    Attributes:
        id: the caller's or a new one; in the reply and the log.
        on_event: called with each Status and Progress, on the event loop.
        previews: whether the progress should come with previews.
    """

    def __init__(
        self,
        request_id: str,
        on_event: Callable[[Status | Progress], None] = lambda event: None,
        previews: bool = False,
    ) -> None:
        self.id = request_id
        self.log = RequestLog(logger, request_id)
        self.on_event = on_event
        self.previews = previews
        self.position: int | None = None
        self.arrived = time.perf_counter()
        self.queued = self.started = self.ended = 0.0
        self.decoding: asyncio.Future | None = None
        self.run: Run | None = None
        self.cancel_reason: ApiError | None = None
