"""Makes ComfyUI's queue tell when it hands out a prompt, when that has ended, and when one leaves without running."""

import functools
import logging
from collections.abc import Callable
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """What is told."""

    def on_get(self) -> None: ...

    def on_start(self, prompt_id: str) -> None: ...

    def on_end(self, prompt_id: str, messages: Any) -> None: ...

    def on_removed(self, prompt_id: str) -> None: ...


def watch(queue: Any, listener: Listener) -> None:
    """Makes ComfyUI's `queue` report to `listener`, which may be told the same thing more than once.

    No hook of ComfyUI's covers this for prompts that did not come over HTTP. The queue gets a subclass of its class;
    a new queue would leave other packs with a reference to one that nobody reads. What other packs put in the place of
    its methods, earlier or later, reports too, because it need not call what it replaces.
    """

    def getting(original: Callable, *args: Any, **kwargs: Any) -> Any:
        listener.on_get()
        taken = original(*args, **kwargs)
        if taken is not None:
            listener.on_start(taken[0][1])
        return taken

    def ending(original: Callable, item_id: Any, history_result: dict, status: Any, *args: Any, **kwargs: Any) -> Any:
        running = queue.currently_running.get(item_id)
        result = original(item_id, history_result, status, *args, **kwargs)
        try:
            if running is not None:
                listener.on_end(running[1], getattr(status, "messages", ()))
        except Exception:  # it would end the executor thread
            logger.exception("The end of a prompt could not be reported")
        return result

    def wiping(original: Callable) -> None:
        with queue.mutex:
            removed = list(queue.queue)
            original()
        for item in removed:
            listener.on_removed(item[1])

    def deleting(original: Callable, function: Any) -> bool:
        with queue.mutex:
            before = list(queue.queue)
            deleted = original(function)
            left = {item[1] for item in queue.queue}
        for item in before if deleted else ():
            if item[1] not in left:
                listener.on_removed(item[1])
        return deleted

    reporting: dict[str, Callable] = {
        "get": getting,
        "task_done": ending,
        "wipe_queue": wiping,
        "delete_queue_item": deleting,
    }

    class WatchedQueue(type(queue)):  # type: ignore[misc]
        def get(self, *args: Any, **kwargs: Any) -> Any:
            return getting(super().get, *args, **kwargs)

        def task_done(self, *args: Any, **kwargs: Any) -> Any:
            return ending(super().task_done, *args, **kwargs)

        def wipe_queue(self) -> None:
            wiping(super().wipe_queue)

        def delete_queue_item(self, function: Any) -> bool:
            return deleting(super().delete_queue_item, function)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in reporting:
                value = functools.wraps(value)(functools.partial(reporting[name], value))
            super().__setattr__(name, value)

    queue.__class__ = WatchedQueue
    for name in reporting.keys() & vars(queue).keys():
        setattr(queue, name, vars(queue)[name])
