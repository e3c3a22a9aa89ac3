"""Looks up the addresses of hosts, however long the system takes for it."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

LOOKUP_S = 5.0
# Names that are looked up at a time. Each holds a thread until the system answers, which may take half a minute.
LOOKUPS = 16

Lookup = Callable[[str], Awaitable[list[str]]]


class SystemLookup:
    """Asks the system's resolver."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(LOOKUPS)

    async def __call__(self, host: str) -> list[str]:
        """Returns the addresses of `host`.

        Raises:
            OSError: it has none, or they are not told in time.
        """
        await self._turns.acquire()
        answers = asyncio.wrap_future(_started(host))
        answers.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.shield(answers), LOOKUP_S)
        except asyncio.TimeoutError:
            raise OSError("the name was not looked up in time") from None

    def _ended(self, answers: "asyncio.Future[list[str]]") -> None:
        self._turns.release()
        answers.cancelled() or answers.exception()


def _started(host: str) -> Future[list[str]]:
    found: Future[list[str]] = Future()
    found.set_running_or_notify_cancel()

    def work() -> None:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.set_result([str(answer[4][0]) for answer in answers])
        except Exception as error:
            found.set_exception(error)

    # A pool's threads are joined when the interpreter ends, and asyncio's own are needed for forms and masks.
    threading.Thread(target=work, name="tryon-dns", daemon=True).start()
    return found
