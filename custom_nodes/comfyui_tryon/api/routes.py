"""The table of the API's paths, and how it is put on an aiohttp router."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ..errors import ApiError

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ID = "{id:[A-Za-z0-9._-]{1,64}}"
"""One more segment of a path: a request's id or a workflow's name."""

# What is stored on a request: its id, whose it is, when its head had come by `time.perf_counter`, and the outcome of
# one whose status does not tell it.
REQUEST_ID: Any = web.RequestKey("tryon_id", str) if hasattr(web, "RequestKey") else "tryon_id"
CALLER: Any = web.RequestKey("tryon_caller", str) if hasattr(web, "RequestKey") else "tryon_caller"
ARRIVED: Any = web.RequestKey("tryon_arrived", float) if hasattr(web, "RequestKey") else "tryon_arrived"
OUTCOME: Any = web.RequestKey("tryon_outcome", str) if hasattr(web, "RequestKey") else "tryon_outcome"
# The headers of its reply, whatever that is.
HEADERS: Any = web.RequestKey("tryon_headers", dict) if hasattr(web, "RequestKey") else "tryon_headers"
# What the log says of it beside its outcome; several accounts where it has several instances.
ACCOUNTS: Any = web.RequestKey("tryon_accounts", list) if hasattr(web, "RequestKey") else "tryon_accounts"


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        health: whether it answers while the worker drains; such a path is public too.
        public: whether it needs no key and leaves no log line.
        counted: whether it makes images, and the metrics count its requests.
    """

    method: str
    path: str
    handler: Handler
    health: bool = False
    public: bool = False
    counted: bool = False


def add_to(
    router: web.UrlDispatcher, routes: Iterable[Route], wrap: Callable[..., Handler]
) -> dict[web.AbstractRoute, Route]:
    """Registers `routes`, each handler wrapped, and for every other method of their paths a 405.

    Returns:
        The router's own route objects, by which a middleware can tell that a request is for one of `routes`.
    """
    added: dict[web.AbstractRoute, Route] = {}
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    for path, its_routes in by_path.items():
        resource = router.add_resource(path)
        methods = [route.method for route in its_routes]
        for route in its_routes:
            handler = wrap(route.handler, route.health or route.public, methods, route.counted)
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                added[resource.add_route(method, handler)] = route
        health, public = its_routes[0].health, its_routes[0].health or its_routes[0].public
        refuse = _not_allowed(methods)
        added[resource.add_route("*", wrap(refuse, public, methods))] = Route("*", path, refuse, health, public)
    return added


def free(router: web.UrlDispatcher, routes: Iterable[Route]) -> list[Route]:
    """Returns those of `routes` whose paths nobody else has; the others are logged, and stay as they are."""
    routes = list(routes)
    taken = {route.path for route in routes if any(found.raw_match(route.path) for found in router.resources())}
    for path in sorted(taken):
        logger.warning("%s is answered by ComfyUI or another node pack, and not by the try-on API.", path)
    return [route for route in routes if route.path not in taken]


def _not_allowed(methods: list[str]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise ApiError("method_not_allowed", f"Use {' or '.join(methods)} here.", allow=methods)

    return refuse
