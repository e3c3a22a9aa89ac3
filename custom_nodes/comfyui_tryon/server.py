"""Puts the parts together and onto an aiohttp application, ComfyUI's or one of its own."""

import asyncio
import logging
from collections import Counter
from pathlib import Path

from aiohttp import web

from . import metrics
from .api.answering import Answering
from .api.connections import Connections
from .api.docs import DocsApi
from .api.health import Health
from .api.lock import Lock
from .api.playground import PlaygroundApi, to_playground
from .api.routes import Route, add_to, free
from .api.tryon import TryonApi
from .api.workflows import WorkflowsApi
from .engine.interface import Engine
from .lifecycle import Lifecycle
from .outbound import Outbound
from .outbound.network import Network
from .settings import TEMPLATES, Settings, SettingsError
from .tryon import TryOn
from .workflows.store import Workflows

logger = logging.getLogger(__name__)

ENGINE_CHECK_S = 1.0
USER_WORKFLOWS = "tryon_workflows"


class Server:
    """The API on an engine; `network` is how it gets at what clients name by URL."""

    def __init__(self, settings: Settings, engine: Engine, network: Network | None = None) -> None:
        self._settings = settings
        self._engine = engine
        self._workflows = Workflows(_published(settings, engine), engine, settings.workflows_dir)
        self._tryon = TryOn(settings, engine, self._workflows)
        self._health = Health(self._tryon)
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        self._outbound = Outbound(settings.hosts(), secret, network or Network())
        metrics.watch(
            engine.name,
            ready=lambda: self._health.is_ready,
            failed=lambda: self._health.failure is not None,
            queue_depth=lambda: self._tryon.depth,
            requests_waiting=lambda: self._tryon.depth - self._tryon.running,
            requests_running=lambda: self._tryon.running,
            webhooks_pending=lambda: self._outbound.webhooks.pending,
            workflows_refused=self._workflows.refused,
            gpu_memory_bytes=lambda: engine.device_memory()[0],
            gpu_memory_total_bytes=lambda: engine.device_memory()[1],
        )

    def attach(self, app: web.Application) -> None:
        """Makes `app` serve the API.

        In a ComfyUI that is not locked it only adds routes. Locked, the process belongs to the API: nothing else of
        `app` is reached, the models are warmed up, and signals drain it.
        """
        answering = Answering(self._settings.keys(), self._settings.origins())
        app.on_startup.append(self._start)
        app.on_cleanup.append(self._close)
        if self._settings.locked:
            routes = add_to(app.router, self.routes(), answering.wrap)
            self._engine.take_over()
            lock = Lock(routes, answering, to_playground if self._settings.playground else None)
            app.middlewares.insert(0, lock.middleware)
            app.on_startup.append(Connections(self._settings.max_queue).guard)
            webhooks = self._outbound.webhooks
            lifecycle = Lifecycle(
                self._settings, self._engine.name, self._tryon, self._health, lock, answering, webhooks
            )
            app.on_startup.append(lock.check)
            app.on_startup.append(lifecycle.start)
        else:
            self._health.warmed()

            async def add_routes(app: web.Application) -> None:
                add_to(app.router, free(app.router, self.routes()), answering.wrap)

            # Of two routes of one path the first answers. By then those of ComfyUI and of the other packs are there.
            app.on_startup.append(add_routes)
            app.on_startup.append(self._say_ready)
        app.on_startup.append(self._tell_who_may_call)

    def routes(self) -> list[Route]:
        routes = self._health.routes()
        other = self._settings.health_route
        if other and other not in {route.path for route in routes}:
            routes.append(Route("GET", other, self._health.ready, health=True))
        for part in (
            TryonApi(self._settings, self._tryon, self._health, self._outbound),
            WorkflowsApi(self._settings, self._workflows),
            DocsApi(self._settings),
        ):
            routes += part.routes()
        if self._settings.playground:
            routes += PlaygroundApi().routes()
        _check_distinct(routes)
        return routes

    async def _start(self, app: web.Application) -> None:
        self._engine.watch_progress()
        self._watching = asyncio.create_task(self._watch_engine())  # the event loop holds tasks weakly

    async def _close(self, app: web.Application) -> None:
        await self._outbound.close()

    async def _say_ready(self, app: web.Application) -> None:
        logger.info("Ready: POST /api/v1/tryon on port %d", self._settings.port)

    async def _tell_who_may_call(self, app: web.Application) -> None:
        advice = "Everybody who reaches this port may use the API; set TRYON_API_KEY to a key to change that."
        if self._settings.key_is_empty:
            logger.warning("TRYON_API_KEY is set but empty. %s", advice)
        elif self._settings.locked and not self._settings.api_key:
            logger.info("TRYON_API_KEY is not set. %s", advice)

    async def _watch_engine(self) -> None:
        while True:
            await asyncio.sleep(ENGINE_CHECK_S)
            self._tryon.check_engine()


def _check_distinct(routes: list[Route]) -> None:
    """Raises SettingsError if one that a platform names is another one, too."""
    for (method, path), count in Counter((route.method, route.path) for route in routes).items():
        if count > 1:
            raise SettingsError(
                f"AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE: {method} {path} is another of the API's paths. Choose "
                "others, such as /health and /predict"
            )


def _published(settings: Settings, engine: Engine) -> Path:
    """Returns the folder that workflows are published to: never the pack's own templates, which an update replaces."""
    user = engine.user_folder()
    if settings.workflows_dir == TEMPLATES and user:
        return user / USER_WORKFLOWS
    return settings.workflows_dir
