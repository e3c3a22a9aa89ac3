"""Puts the API onto an aiohttp application: middleware, warm-up, shutdown."""

import asyncio
import contextlib
import gc
import hmac
import logging
import math
import re
import signal
import time
import uuid

import numpy as np
from aiohttp import web

from . import images, log, metrics
from .api.handlers import HEALTH_PATHS, Api, Handler
from .api.health import Health
from .engine.interface import Engine
from .errors import ApiError
from .schema import TryonRequest
from .settings import Settings
from .tryon import Request, TryOn
from .weights import search as weights
from .workflows.store import Workflows

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Server:
    """The API on one application, ComfyUI's or its own."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._workflows = Workflows(settings.workflows_dir, engine)
        self._tryon = TryOn(settings, engine, self._workflows)
        self._health = Health(self._tryon)
        self._api = Api(settings, self._tryon, self._workflows, self._health)
        metrics.watch(self._tryon.__len__, engine.device_memory)
        self._exact, self._with_segment = _split(self._api.routes())
        self._aliases = self._api.aliases()
        self._tasks: set[asyncio.Task] = set()
        self._in_flight = 0

    def attach(self, app: web.Application) -> None:
        """Makes `app` serve the API; its middleware is the outermost, so nothing of `app` is reached but through it."""
        app.middlewares.insert(0, self.middleware)
        app.on_startup.append(self._start)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in HEALTH_PATHS and "Content-Encoding" not in request.headers:
            return await self._respond(request, handler)
        self._in_flight += 1
        started = time.perf_counter()
        try:
            response = await self._respond(request, handler)
            try:
                await _send(request, response)
            finally:  # a client that never takes it all leaves its line too
                spent = time.perf_counter() - started
                log.RequestLog(logger, request["id"]).info(
                    "%s %s -> %d in %.3f s", request.method, request.path, response.status, spent
                )
            return response
        finally:
            self._in_flight -= 1

    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("X-Request-Id", "")
        request["id"] = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        try:
            response = await self._dispatch(request, handler)
        except ApiError as error:
            response = _error_response(error)
        except (web.HTTPException, asyncio.CancelledError):
            raise
        except Exception:
            log.RequestLog(logger, request["id"]).exception("%s %s failed", request.method, request.path)
            response = _error_response(
                ApiError(
                    "internal_error", "The server failed. Retry; if it persists, tell the operator the request id."
                )
            )
        if not response.prepared:
            response.headers["X-Request-Id"] = request["id"]
        return response

    async def _dispatch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = self._aliases.get(request.rel_url.raw_path, request.rel_url.raw_path)
        methods = self._exact.get(path)
        if methods is None:
            parent, _, segment = path.rpartition("/")
            if (methods := self._with_segment.get(parent)) and REQUEST_ID.fullmatch(segment):
                request["segment"] = segment
            else:
                methods = None
        if methods is None and not self._settings.dev:
            raise ApiError("not_found", "There is nothing here. See POST /api/v1/tryon.")
        if path not in HEALTH_PATHS:
            self._check_key(request)
        if methods is None:
            return await handler(request)
        own = methods.get("GET" if request.method == "HEAD" else request.method)
        if own is None:
            raise ApiError("method_not_allowed", f"Use {' or '.join(methods)} here.", allow=list(methods))
        return await own(request)

    def _check_key(self, request: web.Request) -> None:
        key = self._settings.api_key
        if key is None:
            return
        bearer = request.headers.get("Authorization", "")
        scheme, _, token = bearer.partition(" ")
        given = [request.headers.get("X-API-Key", ""), token.strip() if scheme.lower() == "bearer" else ""]
        wanted = key.get_secret_value().encode()
        if not any([hmac.compare_digest(value.encode("utf-8", "surrogateescape"), wanted) for value in given]):
            raise ApiError("unauthorized", "Send this server's key in X-API-Key or as Authorization: Bearer.")

    async def _start(self, app: web.Application) -> None:
        if self._settings.log_format == "json":
            log.use_json()
        self._engine.watch_progress()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError):
                loop.add_signal_handler(name, self._on_signal)
        port_health = self._settings.port_health
        if port_health and port_health != self._settings.port:
            await self._serve_health(port_health)
        self._spawn(self._warm_up())

    async def _serve_health(self, port: int) -> None:
        app = web.Application()
        for path, methods in self._api.health_routes().items():
            app.router.add_get(path, methods["GET"])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        for host in self._settings.listen.split(","):
            await web.TCPSite(runner, host, port).start()

    async def _warm_up(self) -> None:
        logger.info("Try-on API on the %s, workflow %s", self._engine.name, self._settings.workflow)
        try:
            if self._settings.warmup:
                await self._run_warm_up()
        except Exception as error:
            reason = error.message if isinstance(error, ApiError) else str(error)
            logger.exception("The warm-up failed. Mend the cause above and start again.")
            self._health.fail(f"warm-up failed: {reason}")
            return
        _spare_the_collector()
        self._health.warmed()
        logger.info("Ready on port %d", self._settings.port)
        if notice := weights.demo_notice():
            logger.warning(notice)

    async def _run_warm_up(self) -> None:
        """Sends real requests through the queue, with a mask and without, so that every model is loaded and has run."""
        workflow = await self._tryon.workflow(self._settings.workflow)
        person, garment, mask = _warm_up_pictures()
        masks = [mask] if workflow.mask_required else [None, mask] if workflow.inputs.get("mask_image") else [None]
        for number, mask_image in enumerate(masks):
            fields = TryonRequest(
                person_image=person,
                garment_image=garment,
                mask_image=mask_image,
                num_inference_steps=1 if "num_inference_steps" in workflow.parameters else None,
            )
            try:
                await self._tryon.answer(Request(f"warm-up-{number + 1}"), fields)
            except ApiError as error:
                if error.code != "no_person_found":
                    raise

    def _on_signal(self) -> None:
        if self._health.draining:
            _stop()
        self._health.drain()
        self._spawn(self._drain())

    async def _drain(self) -> None:
        logger.info("Draining: %d requests to finish", self._in_flight)
        deadline = time.monotonic() + self._settings.drain_s
        while self._in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await self._tryon.stop(STOP_TIMEOUT_S)
        await asyncio.sleep(0.2)  # the last answers leave the socket
        logger.info("Stopped")
        asyncio.get_running_loop().call_soon(_stop)

    def _spawn(self, coroutine) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """Waits until the client has it all, so that a worker which is shutting down knows when it may."""
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
        if "Content-Encoding" in request.headers:  # aiohttp would inflate what is left of the body
            request.protocol.force_close()
        elif request.transport is not None:
            request.transport.set_write_buffer_limits(0)
            await request.writer.drain()


def _spare_the_collector() -> None:
    """Takes what is there now, half a million objects of imported code, out of Python's garbage collection.

    ComfyUI starts a full one every ten seconds, which held up everything, /ping too, for a quarter of a second. A model
    that is dropped later is in no cycle, and is freed as before.
    """
    gc.collect()
    gc.freeze()


def _stop() -> None:
    raise KeyboardInterrupt


def _split(
    routes: dict[str, dict[str, Handler]],
) -> tuple[dict[str, dict[str, Handler]], dict[str, dict[str, Handler]]]:
    exact = {path: methods for path, methods in routes.items() if not path.endswith("/{id}")}
    return exact, {path.removesuffix("/{id}"): methods for path, methods in routes.items() if path.endswith("/{id}")}


def _error_response(error: ApiError) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.code == "method_not_allowed":
        headers["Allow"] = ", ".join(error.details["allow"])
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(error.body(), status=error.status, reason=error.reason, headers=headers)


def _warm_up_pictures() -> tuple[bytes, bytes, bytes]:
    """A grey figure, a grey garment and a mask: enough for every model to run once."""
    person = np.full((512, 384, 3), 230, np.uint8)
    person[60:480, 130:254] = 120
    garment = np.full((512, 384, 3), 255, np.uint8)
    garment[100:400, 80:300] = 90
    mask = np.zeros((512, 384, 3), np.uint8)
    mask[140:300, 120:264] = 255
    return tuple(images.encode(pixels, "png", 100) for pixels in (person, garment, mask))
