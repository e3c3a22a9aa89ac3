"""Makes ComfyUI's queue tell when it hands out a prompt, when that has ended, and when one leaves without running."""

import logging
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """What is told."""

    def on_get(self) -> None: ...

    def on_start(self, prompt_id: str) -> None: ...

    def on_end(self, prompt_id: str, messages: Any) -> None: ...

    def on_removed(self, prompt_id: str) -> None: ...


def watch(queue: Any, listener: Listener) -> None:
    """Makes ComfyUI's `queue` report to `listener`.

    No hook of ComfyUI's covers this for prompts that did not come over HTTP. The queue gets a subclass of its class;
    a new queue would leave other packs with a reference to one that nobody reads.
    """

    class WatchedQueue(type(queue)):  # type: ignore[misc]
        def get(self, timeout: float | None = None) -> Any:
            listener.on_get()
            taken = super().get(timeout)
            if taken is not None:
                listener.on_start(taken[0][1])
            return taken

        def task_done(self, item_id: Any, history_result: dict, status: Any, **others: Any) -> None:
            prompt_id = self.currently_running[item_id][1]
            super().task_done(item_id, history_result, status, **others)
            try:
                listener.on_end(prompt_id, getattr(status, "messages", ()))
            except Exception:  # it would end the executor thread
                logger.exception("The end of a prompt could not be reported")

        def wipe_queue(self) -> None:
            with self.mutex:
                removed = list(self.queue)
                super().wipe_queue()
            for item in removed:
                listener.on_removed(item[1])

        def delete_queue_item(self, function: Any) -> bool:
            with self.mutex:
                before = list(self.queue)
                deleted = super().delete_queue_item(function)
                left = {item[1] for item in self.queue}
            for item in before if deleted else ():
                if item[1] not in left:
                    listener.on_removed(item[1])
            return deleted

    queue.__class__ = WatchedQueue
