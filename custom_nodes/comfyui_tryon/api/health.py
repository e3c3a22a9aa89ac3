"""Whether this worker can answer: starting, ready, draining or failed for good."""

from typing import Any

from ..tryon import DRAINING, FAILED_WORKER, TryOn


class Health:
    def __init__(self, tryon: TryOn) -> None:
        self._tryon = tryon
        self._warm = False
        self._draining = False
        self._failure: str | None = None

    def warmed(self) -> None:
        self._warm = True

    def drain(self) -> None:
        self._draining = True

    def fail(self, reason: str) -> None:
        """Latches a fault that only a new process mends."""
        self._failure = self._failure or reason

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def failure(self) -> str | None:
        if fault := self._tryon.fault():
            self.fail(fault)
        return self._failure

    def ping(self) -> tuple[int, Any]:
        """Status and body of /ping; a body of None is an empty one."""
        if self.failure:
            return 503, {"status": "unhealthy", "reason": self.failure}
        if self._draining:
            return 503, {"status": "draining"}
        return (200, {"status": "healthy"}) if self._warm else (204, None)

    def live(self) -> tuple[int, Any]:
        """503 only when this process must be replaced."""
        if self.failure:
            return 503, {"status": "unhealthy", "reason": self.failure}
        return 200, {"status": "healthy"}

    def ready(self) -> tuple[int, Any]:
        """200 when requests are answered at once, else 503."""
        status, content = self.ping()
        return (status, content) if content else (503, {"status": "starting"})

    def check_accepting(self) -> None:
        """Raises ApiError draining or not_ready when a new request would not be answered."""
        if self.failure:
            raise FAILED_WORKER
        if self._draining:
            raise DRAINING
