"""What ComfyUI's executor caches of a request, and how it is made to drop it."""

import functools
import logging
from collections.abc import Iterable
from typing import Any

logger = logging.getLogger(__name__)


class Caches:
    """Those of the executor, of a class that makes new ones in `reset`."""

    def __init__(self, executor: type[Any]) -> None:
        self._latest: Any = None
        original = executor.reset

        @functools.wraps(original)
        def reset(executor: Any) -> None:
            original(executor)
            self._latest = executor.caches

        executor.reset = reset

    def forget(self, kept: Iterable[str]) -> None:
        """Drops what is held of the last prompt by a cache that goes on from prompt to prompt, but for nodes `kept`.

        Those are `--cache-lru` and the one by memory pressure, which newer releases have by default. They would keep a
        request's images for any time. The classic cache drops by itself what the next prompt lacks.

        Call it in the executor thread, which goes on whatever a release has changed about its caches.
        """
        try:
            cache = self._latest and self._latest.outputs
            if not hasattr(cache, "used_generation") or not cache.initialized:
                return
            keys = cache.cache_key_set
            for node in set(keys.all_node_ids()) - set(kept):
                for held in (cache.cache, cache.used_generation, cache.children, getattr(cache, "timestamps", {})):
                    held.pop(keys.get_data_key(node), None)
        except Exception:
            logger.exception("ComfyUI's cache keeps what it has of a request.")
