"""The HTTP handlers, one per path."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from . import body, tryon
from .errors import ApiError
from .health import Health
from .settings import Settings
from .tryon import MEDIA_TYPES, Request, Result, TryOn
from .workflows import Workflows

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TRYON = "/api/v1/tryon"
HEALTH_PATHS = frozenset({"/ping", "/healthz", "/readyz", "/health"})
DISCONNECT_POLL_S = 0.2


class Api:
    def __init__(self, settings: Settings, tryon: TryOn, workflows: Workflows, health: Health) -> None:
        self._settings = settings
        self._tryon = tryon
        self._workflows = workflows
        self._health = health

    def routes(self) -> dict[str, dict[str, Handler]]:
        """Handlers by path and method; a path ending in `/{id}` takes one more segment."""
        return {
            **self.health_routes(),
            TRYON: {"POST": self.tryon},
            TRYON + "/{id}": {"DELETE": self.cancel},
        }

    def health_routes(self) -> dict[str, dict[str, Handler]]:
        return {
            "/ping": {"GET": self.ping},
            "/healthz": {"GET": self.live},
            "/readyz": {"GET": self.ready},
            "/health": {"GET": self.ready},
        }

    async def ping(self, request: web.Request) -> web.Response:
        """200 ready, 204 starting, 503 never again or draining."""
        status, content = self._health.ping()
        return web.Response(status=204) if content is None else web.json_response(content, status=status)

    async def live(self, request: web.Request) -> web.Response:
        status, content = self._health.live()
        return web.json_response(content, status=status)

    async def ready(self, request: web.Request) -> web.Response:
        status, content = self._health.ready()
        return web.json_response(content, status=status)

    async def tryon(self, request: web.Request) -> web.StreamResponse:
        self._health.check_accepting()
        self._tryon.check_room()
        fields = await body.read(request, int(self._settings.max_body_mb * 1e6))
        wanted = raw_format(request.headers.get("Accept", ""))
        if wanted:
            fields.output_format = wanted
        job = Request(request["id"])
        result = await self._while_connected(request, self._tryon.answer(job, fields))
        seed = {"X-Seed": str(result.seed)}
        if wanted:
            return web.Response(body=result.images[0], content_type=MEDIA_TYPES[wanted], headers=seed)
        content = await asyncio.to_thread(lambda: tryon.reply(job.id, result).model_dump_json(exclude_none=True).encode())
        return web.Response(body=content, content_type="application/json", headers=seed)

    async def cancel(self, request: web.Request) -> web.Response:
        if not self._tryon.cancel(request["segment"]):
            raise ApiError("not_found", "No request with that id is waiting or running.")
        return web.Response(status=204)

    async def _while_connected(self, request: web.Request, answer: Awaitable[Result]) -> Result:
        """Awaits `answer`, and cancels it when the client goes away, which a ComfyUI server does not by itself."""
        task = asyncio.ensure_future(answer)
        try:
            while not (await asyncio.wait({task}, timeout=DISCONNECT_POLL_S))[0]:
                if request.transport is None or request.transport.is_closing():
                    raise ApiError("canceled", "The client went away.")
            return task.result()
        finally:
            task.cancel()


def raw_format(accept: str) -> str | None:
    """The picture format that an Accept header asks for before anything else, or None for JSON."""
    first = accept.split(",")[0].split(";")[0].strip().lower()
    return next((name for name, media_type in MEDIA_TYPES.items() if media_type == first), None)
