"""Whether this worker can answer: starting, ready, draining or failed; and the paths that say so."""

from typing import Any

from aiohttp import web

from ..errors import draining, failed_worker, starting
from ..tryon import TryOn
from .routes import Route


class Health:
    def __init__(self, tryon: TryOn) -> None:
        self._tryon = tryon
        self._warm = False
        self._failure: str | None = None
        self.draining = False

    def warmed(self) -> None:
        self._warm = True

    def drain(self) -> None:
        self.draining = True

    def fail(self, reason: str) -> None:
        """Makes this worker unhealthy until its process is replaced."""
        self._failure = self._failure or reason

    @property
    def failure(self) -> str | None:
        return self._failure or self._tryon.fault

    @property
    def is_ready(self) -> bool:
        """Whether a new request would be answered."""
        return self._state()[0] == 200

    def check_accepting(self) -> None:
        """Raises ApiError draining or not_ready if a new request would not be answered."""
        if self.failure:
            raise failed_worker()
        if self.draining:
            raise draining()
        if not self._warm:
            raise starting()

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/ping", self.ping, health=True),
            Route("GET", "/healthz", self.live, health=True),
            Route("GET", "/readyz", self.ready, health=True),
            Route("GET", "/health", self.ready, health=True),
        ]

    async def ping(self, request: web.Request) -> web.StreamResponse:
        """200 ready, 204 starting, 503 failed or draining."""
        status, content = self._state()
        return web.Response(status=204) if status == 204 else web.json_response(content, status=status)

    async def live(self, request: web.Request) -> web.StreamResponse:
        """200, or 503 if this process must be replaced."""
        status, content = self._state() if self.failure else (200, {"status": "healthy"})
        return web.json_response(content, status=status)

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """200 if requests are answered at once, else 503."""
        status, content = self._state()
        return web.json_response(content, status=503 if status == 204 else status)

    def _state(self) -> tuple[int, dict[str, Any]]:
        if self.failure:
            return 503, {"status": "unhealthy", "reason": self.failure}
        if self.draining:
            return 503, {"status": "draining"}
        return (200, {"status": "healthy"}) if self._warm else (204, {"status": "starting"})
