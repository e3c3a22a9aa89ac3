"""The lock: nothing of the application is reached but the API's routes, each by its one spelling."""

import contextlib
from collections.abc import Mapping

from aiohttp import web

from ..errors import ApiError
from ..guard import open_ports
from .answering import Answering
from .routes import Handler, Route


class Lock:
    """A middleware to be the application's outermost.

    Attributes:
        in_flight: how many requests are being answered, until the client has received all of the answer.
    """

    def __init__(
        self, routes: Mapping[web.AbstractRoute, Route], answering: Answering, welcome: Handler | None = None
    ) -> None:
        """`welcome` takes the place of a refusal where somebody opens the bare address in a browser."""
        self._routes = routes
        self._refuse = answering.wrap(_not_found, public=True)
        self._welcome = answering.wrap(welcome, public=True) if welcome else self._refuse
        self.in_flight = 0

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        route = self._route(request)
        # Called here, past the host's own middlewares, which may answer in the API's place.
        answer = request.match_info.handler if route else self._welcome if _is_visit(request) else self._refuse
        if route and route.health:
            return await answer(request)
        self.in_flight += 1
        try:
            response = await answer(request)
            await _send(request, response)
            return response
        finally:
            self.in_flight -= 1

    async def check(self, app: web.Application) -> None:
        """Lets the process listen if the lock is in place; an on_startup signal, after which no middleware is added."""
        if app.middlewares[0] != self.middleware:
            raise RuntimeError("another pack has put a middleware around the lock")
        open_ports()

    def _route(self, request: web.Request) -> Route | None:
        # aiohttp routes by the decoded path: /%70ing would pass for /ping here, and for something else in a proxy.
        if request.rel_url.raw_path != request.path:
            return None
        return self._routes.get(request.match_info.route)


def _is_visit(request: web.Request) -> bool:
    """Says whether a person opens the bare address, which is no path of the API, and a program finds nothing at."""
    visit = request.method == "GET" and request.rel_url.raw_path == "/"
    return visit and "text/html" in request.headers.get("Accept", "")


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise ApiError("not_found", "There is nothing here. See POST /api/v1/tryon.")


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """Waits until the client has received all of the response, so that a draining worker knows when it may end."""
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
        if request.transport is not None:
            request.transport.set_write_buffer_limits(0)
            await request.writer.drain()
