"""A request between its arrival and its answer, the events that it causes, and its result."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from .engine.interface import Progress, Run
from .errors import ApiError
from .keys import ANYBODY
from .log import RequestLog
from .reply_models import Caution, Report, Timings
from .schema import ImageFormat
from .workflows.binding import Workflow

logger = logging.getLogger(__name__)

# Requests that wait for others' servers. They take no place in the queue, but hold bodies or images.
MAX_ELSEWHERE = 32


@dataclass(frozen=True)
class Status:
    """Says where a request is: queued, with the number of requests ahead of it, or running."""

    status: str
    position: int | None = None


@dataclass
class Result:
    """Holds the encoded images of a finished request, and how many seconds each stage took.

    Attributes:
        seed: makes the same images again; None if it made none of them.
        seeds: for each image the seed that makes it alone, if there is one.
        first_seed: makes the first image again; None if it did not make it.
        reports: for each image what was done to the person image, if that is known.
        mask: a PNG of where the images may have changed, if it was asked for.
        urls: where the images have been uploaded to, if they have.
    """

    images: list[bytes]
    sizes: list[tuple[int, int]]
    seed: int | None
    seeds: list[int | None]
    first_seed: int | None
    workflow: Workflow
    timings: Timings
    output_format: ImageFormat
    stages: dict[str, float]
    reports: list[Report | None]
    mask: bytes | None
    warnings: list[Caution]
    urls: list[str] = field(default_factory=list)


class Transfers(Protocol):
    """Does for one request what involves others' servers; each method raises ApiError if it cannot be done."""

    async def fetch(self) -> None:
        """Puts images into the request's fields that it named by URL."""

    async def upload(self, result: Result) -> None:
        """Sends the images of `result` where the request said, and notes it there."""


class PendingRequest:
    """Follows a request from its arrival to its answer.

    Attributes:
        id: the caller's or a new one; in the reply and the log.
        caller: whose it is.
        on_event: called with each Status and Progress, on the event loop.
        previews: whether the progress should come with previews.
        timeout_s: how long it may take; None for the server's usual deadline.
        transfers: its part on others' servers, if it has one.
        is_elsewhere: whether it waits for somebody else's server, and takes no place in this one's queue.
        is_detached: whether its client has been told that a webhook will have the answer.
        workflow, seed: what it is answered with, once that is known.
        sizes: width and height of what it was sent as, and of the images that it is answered with.
    """

    def __init__(
        self,
        request_id: str,
        on_event: Callable[[Status | Progress], None] = lambda event: None,
        previews: bool = False,
        caller: str = ANYBODY,
        timeout_s: float | None = None,
    ) -> None:
        self.id = request_id
        self.caller = caller
        self.log = RequestLog(logger, request_id, caller)
        self.on_event = on_event
        self.previews = previews
        self.timeout_s = timeout_s
        self.position: int | None = None
        self.arrived = time.perf_counter()
        self.fetched = self.decoded = self.queued = self.started = self.ended = self.encoded = self.uploaded = 0.0
        self.workflow: Workflow | None = None
        self.seed: int | None = None
        self.sizes: dict[str, list] = {}
        self.transfers: Transfers | None = None
        self.is_elsewhere = self.is_detached = False
        self.run: Run | None = None
        self.cancel_reason: ApiError | None = None
        self._task: asyncio.Task[Result] | None = None

    def stages(self) -> dict[str, float]:
        """Returns how many seconds each stage has taken that the request has reached, and all of them."""
        now = time.perf_counter()
        times = {
            "fetch": (self.fetched and self.arrived, self.fetched),
            "decode": (self.decoded and (self.fetched or self.arrived), self.decoded),
            "queue": (self.queued, self.started),
            "execute": (self.started, self.ended),
            "encode": (self.encoded and self.ended, self.encoded),
            "upload": (self.uploaded and self.encoded, self.uploaded),
            "total": (self.arrived, self.encoded),
        }
        return {name: (end or now) - start for name, (start, end) in times.items() if start}

    def account(self) -> dict[str, Any]:
        """Returns what the log says of the request beside its outcome."""
        found: dict[str, Any] = {"stages": {name: round(value, 4) for name, value in self.stages().items()}}
        if self.workflow:
            found |= {"workflow": self.workflow.name, "version": self.workflow.version}
        return found | {"seed": self.seed, "sizes": self.sizes}

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Takes the request out of the queue while the block runs."""
        self.is_elsewhere = True
        try:
            yield
        finally:
            self.is_elsewhere = False

    async def result(self, work: Coroutine[Any, Any, Result], timeout_s: float) -> Result:
        """Waits for `work` until it is done, canceled or late; who was told of a cancellation never gets a result.

        Raises:
            ApiError: what `work` raises, the reason of the cancellation, or timeout.
        """
        task = self._task = asyncio.create_task(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({task}, timeout=timeout_s)
            if self.cancel_reason:
                raise self.cancel_reason
            if not task.done():
                raise ApiError("timeout", f"No image within {timeout_s:g} s. Retry later.")
            return task.result()
        finally:
            task.cancel()

    def cancel(self, reason: ApiError) -> None:
        self.cancel_reason = self.cancel_reason or reason
        if self._task:
            self._task.cancel()


class PendingRequests:
    """Holds the requests that wait or run. An id is its caller's own: others can neither use it up nor cancel it."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], PendingRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[PendingRequest]:
        return iter([*self._requests.values()])

    @property
    def queue(self) -> list[PendingRequest]:
        """Those that this server works for."""
        return [request for request in self if not request.is_elsewhere]

    @property
    def at_engine(self) -> list[PendingRequest]:
        """Those that the engine has, in its order, which is not that of arrival: some images take long to decode."""
        queued = [request for request in self.queue if request.queued]
        return sorted(queued, key=lambda request: (not request.started, request.queued))

    def check_elsewhere(self) -> None:
        """Raises ApiError queue_full if more requests wait for other servers than may."""
        if len(self) - len(self.queue) > MAX_ELSEWHERE:
            raise ApiError("queue_full", "Many requests wait for other servers. Retry later.", retry_after=10)

    def check_id(self, caller: str, request_id: str) -> None:
        """Raises ApiError conflict if that caller has a request with that id."""
        if (caller, request_id) in self._requests:
            raise ApiError("conflict", f"A request with the id {request_id!r} is under way. Use a new X-Request-Id.")

    @contextlib.contextmanager
    def holding(self, request: PendingRequest) -> Iterator[None]:
        """Holds `request` within a block; raises ApiError conflict if its caller has another one with that id."""
        self.check_id(request.caller, request.id)
        name = (request.caller, request.id)
        self._requests[name] = request
        try:
            yield
        finally:
            del self._requests[name]

    def cancel_all(
        self, reason: Callable[[], ApiError], which: Callable[[PendingRequest], bool] = lambda request: True
    ) -> None:
        """Cancels all requests, or those of which `which` is true, each with a `reason` of its own."""
        for request in filter(which, self):
            request.cancel(reason())

    def cancel(self, caller: str, request_id: str, reason: ApiError) -> bool:
        """Cancels one request; returns False if that caller has none with that id."""
        request = self._requests.get((caller, request_id))
        if request is None:
            return False
        request.cancel(reason)
        return True
