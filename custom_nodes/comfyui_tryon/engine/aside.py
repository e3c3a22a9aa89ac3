"""Runs other packs' code where it holds up neither the event loop, nor the end of the process, nor the next call."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

# Calls that have not returned; beyond them nothing more is tried, because each holds a thread.
MAX_CALLS = 16

_calls = threading.BoundedSemaphore(MAX_CALLS)


class TooSlow(Exception):
    """A call did not return in time, or many earlier ones still have not."""


def start(function: Callable[[], T]) -> "Future[T]":
    """Starts `function`, which must raise nothing but Exceptions, in a thread that may outlive its caller.

    Raises:
        TooSlow: too many earlier calls have not returned.
    """
    if not _calls.acquire(blocking=False):
        raise TooSlow
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from here on a caller that gives up cannot cancel it

    def work() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)
        finally:
            _calls.release()

    # A pool's threads are joined when the interpreter ends, and a call that hangs would keep it from ending.
    threading.Thread(target=work, name="tryon-aside", daemon=True).start()
    return future


async def call(function: Callable[[], T], timeout_s: float) -> T:
    """Returns what `function` returns, without holding up the event loop.

    Raises:
        TooSlow: it takes longer than `timeout_s`, and goes on in its thread.
    """
    try:
        return await asyncio.wait_for(asyncio.wrap_future(start(function)), timeout_s)
    except asyncio.TimeoutError:
        raise TooSlow from None
