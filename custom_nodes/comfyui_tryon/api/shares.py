"""Whose turn it is when there is not room for everybody."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

from aiohttp import web

from ..errors import ApiError
from ..keys import is_name
from .routes import CALLER

# A caller who was refused counts as one who waits for this long, as he comes back only after Retry-After.
REFUSED_S = 60.0
MAX_REFUSED = 100  # so many make each share as small as it gets


def caller_of(request: web.Request) -> str:
    """Returns whose request it is: the name of the key, if it has one, or else an address.

    That is the peer's address and, as it is a balancer's for everybody behind it, the last one that the peer has put
    into X-Forwarded-For. A caller may invent the latter, which gains a larger share, and nothing where the balancer
    adds its own. A name is nobody's to invent, and is the same from whichever address it comes.
    """
    if is_name(request[CALLER]):
        return request[CALLER]
    forwarded = request.headers.getall("X-Forwarded-For", [""])[-1].rpartition(",")[2].strip()
    return f"{request.remote} {forwarded[:64]}"


class Shares:
    """Divides a worker's places between callers, once somebody was refused for want of one.

    Nobody who has been let in is sent away. But whoever holds his share or more gets no further place until those who
    were refused have had the chance to come back: without that, a client that retries without a pause takes every place
    that becomes free.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._held: Counter[str] = Counter()
        self._refused: dict[str, float] = {}

    @contextlib.contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Holds a place for one request of `caller`, and notes if it is refused.

        Raises:
            ApiError: the caller has his share, and others have been refused.
        """
        self._check(caller)
        self._held[caller] += 1
        try:
            yield
        except ApiError as error:
            if error.code == "queue_full" and (caller in self._refused or len(self._refused) < MAX_REFUSED):
                self._refused[caller] = time.monotonic()
            raise
        finally:
            self._held[caller] -= 1
            if not self._held[caller]:
                del self._held[caller]

    def _check(self, caller: str) -> None:
        now = time.monotonic()
        self._refused = {name: at for name, at in self._refused.items() if now - at < REFUSED_S}
        if not self._refused.keys() - {caller}:
            return
        share = max(1, self._places // len(self._held.keys() | self._refused.keys() | {caller}))
        if self._held[caller] >= share:
            raise ApiError(
                "queue_full",
                f"You have {self._held[caller]} requests here, your share while others wait. Retry later.",
                retry_after=5,
            )
