"""Bodies on their way in: how long each may take, and how much memory all of them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from ..errors import ApiError
from .pace import Pace

Fields = TypeVar("Fields")
Reader = Callable[[web.Request, int, Callable[[int], None]], Awaitable[Fields]]
"""Reads a body of at most so many bytes, and calls a function with the length of each piece as it comes."""

# Memory for bodies, in those of the largest size. Bytes are counted as they come: one that only begins costs nothing.
BODIES = 8
# For each 64 KiB: 52 kbit/s.
BODY_STEP_S = 10.0
# While others need the memory, a body may be given up that is slower than 0.5 Mbit/s.
CROWDED_STEP_S = 1.0


class Stalled(Exception):
    """What was to arrive has stopped, or comes too slowly."""


class _Arrival:
    def __init__(self, is_complete: Callable[[], bool]) -> None:
        self._is_complete = is_complete
        self.pace = Pace()
        self.held = 0
        self.given_up = False
        self.task: asyncio.Future | None = None

    @property
    def waited_s(self) -> float:
        """How long the body has kept this server waiting; it does not once it has arrived and is parsed."""
        return 0.0 if self._is_complete() else self.pace.waited_s

    def give_up(self) -> None:
        self.given_up = True
        if self.task:
            self.task.cancel()


class Arrivals:
    """Receives bodies of at most `max_bytes` each.

    Attributes:
        held: how many bytes the bodies on their way in hold.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._budget = BODIES * max_bytes
        self.held = 0
        self._arriving: set[_Arrival] = set()

    async def receive(self, request: web.Request, read: Reader[Fields]) -> Fields:
        """Has `read` read the body, as long as it keeps coming and there is memory for it.

        Raises:
            ApiError
        """
        with contextlib.ExitStack() as held:
            try:
                return await self.follow(
                    request.content.is_eof, lambda on_bytes: read(request, self._max_bytes, on_bytes), held
                )
            except Stalled:
                message = "The body stopped arriving, or came too slowly. Send it again."
                raise ApiError("invalid_request", message) from None

    async def follow(
        self,
        is_complete: Callable[[], bool],
        read: Callable[[Callable[[int], None]], Awaitable[Fields]],
        held: contextlib.ExitStack,
    ) -> Fields:
        """Has `read` read something, as long as it keeps coming; its memory counts until `held` is closed.

        Raises:
            ApiError: what `read` raises, or queue_full.
            Stalled
        """
        arrival = _Arrival(is_complete)
        self._arriving.add(arrival)
        held.callback(self._forget, arrival)
        arrival.task = task = asyncio.ensure_future(read(lambda count: self._count(arrival, count)))
        try:
            while not (await asyncio.wait({task}, timeout=BODY_STEP_S / 4))[0]:
                if arrival.waited_s > BODY_STEP_S:
                    raise Stalled
            if arrival.given_up:
                raise _crowded()
            return task.result()
        finally:
            task.cancel()
            arrival.task = None  # breaks a circle, which would hold the body until Python's collector comes by

    def _forget(self, arrival: _Arrival) -> None:
        self._arriving.discard(arrival)
        self.held -= arrival.held

    def _count(self, arrival: _Arrival, count: int) -> None:
        if self.held + count > self._budget:
            slowest = max(self._arriving - {arrival}, key=lambda other: other.waited_s * bool(other.held), default=None)
            if slowest is None or slowest.waited_s < CROWDED_STEP_S:
                raise _crowded()
            self.held -= slowest.held
            slowest.held = 0
            slowest.give_up()
        arrival.pace.moved(count)
        arrival.held += count
        self.held += count


def _crowded() -> ApiError:
    return ApiError("queue_full", "Too many large bodies are arriving at once. Retry shortly.", retry_after=1)
