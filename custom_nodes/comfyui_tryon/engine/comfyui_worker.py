"""ComfyUI's executor thread: what its nodes raise is kept from ending it, and where it ends all the same, another one
takes its place."""

import contextlib
import functools
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from .. import metrics
from .interface import REQUEST_FAULTS, Run
from .raised import let_go, text_of, trace_of, type_name

logger = logging.getLogger(__name__)

# A thread that cannot even finish one prompt in so many lives is not ended by single nodes.
MAX_DEATHS_IN_A_ROW = 10
MAX_SHOWN = 16_000


class ExecutorThread:
    """Watches ComfyUI's executor thread, whatever ends it.

    Attributes:
        replaces: whether another thread takes the place of one that has ended; where the process is not the API's
            alone, it stays as ComfyUI leaves it.
        fault: why there is no executor thread any more, or None.
    """

    def __init__(self, on_death: Callable[[], None]) -> None:
        """`on_death` is called, in any thread, when the executor thread has ended and before it is replaced."""
        self.replaces = False
        self.fault: str | None = None
        self._on_death = on_death
        self._deaths = 0
        self._thread: threading.Thread | None = None

    def on_get(self) -> None:
        """Called in the executor thread whenever it asks for a prompt."""
        if self._thread is None:
            self._thread = threading.current_thread()
            # ComfyUI's main module, which has the function, goes by a name that depends on how it was started.
            target, arguments = getattr(self._thread, "_target", None), getattr(self._thread, "_args", ())
            watch = functools.partial(self._watch, self._thread, target, arguments)
            threading.Thread(target=watch, name="tryon-executor-watch", daemon=True).start()

    def on_end(self) -> None:
        """Called in the executor thread when it has finished a prompt, well or not."""
        self._deaths = 0

    def _watch(self, thread: threading.Thread, target: Callable | None, arguments: tuple) -> None:
        while True:
            thread.join()
            self._deaths += 1
            if not self.replaces or target is None or self._deaths >= MAX_DEATHS_IN_A_ROW:
                self.fault = "ComfyUI's executor thread has ended"
                return
            logger.error("ComfyUI's executor thread has ended. Another one takes its place.")
            metrics.executor_restarts.inc()
            self._on_death()
            thread = self._thread = threading.Thread(target=target, args=arguments, daemon=True)
            thread.start()


def guard_nodes(
    execution: Any,
    interruption: type[BaseException],
    running: Callable[[], Run | None],
    on_requests_fault: Callable[[BaseException], None],
) -> None:
    """Has ComfyUI receive only ordinary exceptions with a short text from the nodes of prompts that are this pack's.

    Anything else ends ComfyUI's executor thread or fills its log, and ComfyUI has no hook around a node. What is the
    request's fault it takes for an interruption, since it writes a traceback to its log for everything else. What the
    nodes held is freed first, so that ComfyUI has the memory when it unloads the models.

    A run that was canceled executes no further node: ComfyUI forgets an interruption that comes just before a prompt.

    Args:
        execution: ComfyUI's module of that name.
        interruption: what nodes raise where their prompt has been canceled.
        running: returns the run that is executed, or None where the prompt is not this pack's.
        on_requests_fault: called with what a node raised of which the request is the cause.
    """
    original = execution.get_output_data

    @contextlib.contextmanager
    def guard() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            let_go(error)
            if isinstance(error, interruption):
                raise
            if type_name(error) in REQUEST_FAULTS:
                on_requests_fault(error)
                raise interruption from None
            if not _is_ordinary(error):
                raise _stand_in(error) from None
            raise

    async def guarded_result(result: Awaitable) -> Any:
        with guard():
            return await result

    # No coroutine function: where ComfyUI awaits nodes, the tracebacks that the page shows of its own prompts have no
    # frame of this pack then. Nor need what another pack has put in the place of the original be one.
    @functools.wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        run = running()
        if run is None:
            return original(*args, **kwargs)
        if run.is_canceled:
            raise interruption
        with guard():
            result = original(*args, **kwargs)
        return guarded_result(result) if inspect.isawaitable(result) else result

    if inspect.iscoroutinefunction(original) and hasattr(inspect, "markcoroutinefunction"):  # which other packs ask
        inspect.markcoroutinefunction(guarded)
    execution.get_output_data = guarded


def _is_ordinary(error: BaseException) -> bool:
    """Whether ComfyUI can handle `error` and write its text and traceback to log and history as they are."""
    try:
        shown = str(error) + "".join(traceback.format_exception(type(error), error, error.__traceback__))
        shown.encode()
    except BaseException:  # the exception's class may do anything
        return False
    return isinstance(error, Exception) and not isinstance(error, MemoryError) and len(shown) < MAX_SHOWN


def _stand_in(error: BaseException) -> Exception:
    """Logs `error` and returns an ordinary exception of its name and text."""
    logger.error("A node raised what ComfyUI cannot handle or show:\n%s", trace_of(error))
    return type(type_name(error), (RuntimeError,), {})(text_of(error))
