"""What a process goes through that belongs to the API: warm-up, ready, draining after a signal, end."""

import asyncio
import contextlib
import gc
import itertools
import logging
import signal
import time
from collections.abc import Callable, Coroutine

import numpy as np
from aiohttp import web
from PIL import ImageFile

from . import cpus, images, log
from .api.answering import Answering
from .api.health import Health
from .api.lock import Lock
from .api.routes import add_to
from .errors import ApiError, draining, failed_worker
from .guard import end
from .outbound.webhooks import Webhooks
from .pending import PendingRequest
from .schema import TryonRequest
from .settings import Settings
from .tryon import TryOn
from .weights.reading import LONGEST_S
from .weights.search import demo_notice

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5
LAST_ANSWERS_S = 1
# Of a drain's time: what webhooks get for their last attempt.
WEBHOOKS_SHARE, LONGEST_WEBHOOKS_S = 0.2, 5.0
WARM_UP_TIMEOUT_S = LONGEST_S  # not a client's deadline: models are read
LONGEST_PAUSE_S = 60
FAILURE_CHECK_S = 1
EXIT_DELAY_S = 5  # after a failure, for the last answers, and for those who watch to see the reason
# Why a warm-up may succeed the next time.
PASSING = {"timeout", "out_of_memory", "queue_full", "canceled"}
# No key can have this name, so no client can cancel the warm-up or use its ids.
THIS_SERVER = "this server"


class Lifecycle:
    def __init__(
        self,
        settings: Settings,
        engine_name: str,
        tryon: TryOn,
        health: Health,
        lock: Lock,
        answering: Answering,
        webhooks: Webhooks,
    ) -> None:
        self._settings = settings
        self._engine_name = engine_name
        self._tryon = tryon
        self._health = health
        self._lock = lock
        self._answering = answering
        self._webhooks = webhooks
        self._hurry = False
        self._tasks: set[asyncio.Task] = set()  # the event loop holds tasks weakly

    async def start(self, app: web.Application) -> None:
        """Takes the process over; an aiohttp on_startup signal."""
        log.take_over(as_json=self._settings.log_format == "json")
        # Nodes of ComfyUI may let Pillow fill truncated files with grey; a request's image is whole or refused.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError):
                loop.add_signal_handler(name, self._on_signal)
        port = self._settings.port_health
        if port and port != self._settings.port:
            await self._serve_health(port)
        self._spawn(self._warm_up())
        if self._settings.exit_when_failed:
            self._spawn(self._exit_when_failed())

    async def _serve_health(self, port: int) -> None:
        app = web.Application()
        lock = Lock(add_to(app.router, self._health.routes(), self._answering.wrap), self._answering)
        app.middlewares.append(lock.middleware)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            for host in self._settings.listen.split(","):
                await web.TCPSite(runner, host, port).start()
        except OSError as error:
            logger.critical("Cannot start: %s. PORT_HEALTH and LISTEN say where to listen.", error.strerror or error)
            end(1)

    async def _warm_up(self) -> None:
        cores = cpus.available()
        logger.info(
            "Try-on API on the %s, workflow %s, %d CPU cores", self._engine_name, self._settings.workflow, cores
        )
        for attempt in itertools.count():
            pause_s = min(2**attempt, LONGEST_PAUSE_S)
            try:
                if self._settings.warmup:
                    await self._run_warm_up()
                break
            except Exception as error:
                if self._health.draining:
                    return
                if not isinstance(error, ApiError) or error.code not in PASSING:
                    reason = error.message if isinstance(error, ApiError) else str(error)
                    logger.exception("The warm-up failed. Fix the error above and restart.")
                    self._health.fail(f"warm-up failed: {reason}")
                    return
                logger.warning("The warm-up did not succeed: %s It is tried again in %d s.", error.message, pause_s)
            await asyncio.sleep(pause_s)
        _spare_the_collector()
        self._health.warmed()
        logger.info("Ready on port %d", self._settings.port)
        if self._settings.playground:
            logger.info("Try it: %s/playground", self._settings.local_url())
        if notice := demo_notice():
            logger.warning(notice)

    async def _run_warm_up(self) -> None:
        """Sends real requests through the queue, with a mask and without, so that every model is loaded and has run."""
        workflow = await self._tryon.workflow(self._settings.workflow)
        person, garment, mask = _warm_up_images()
        masks = [mask] if workflow.mask_required else [None, mask] if workflow.inputs.get("mask_image") else [None]
        for number, mask_image in enumerate(masks):
            fields = TryonRequest(
                person_image=person,
                garment_image=[garment],
                mask_image=mask_image,
                cloth_type=[workflow.choices.get("cloth_type", ["upper"])[0]],
                num_inference_steps=1 if "num_inference_steps" in workflow.parameters else None,
            )
            try:
                name = f"warm-up-{number + 1}"
                await self._tryon.answer(PendingRequest(name, caller=THIS_SERVER, timeout_s=WARM_UP_TIMEOUT_S), fields)
            except ApiError as error:
                if error.code != "no_person_found":
                    raise

    def _on_signal(self) -> None:
        if self._health.draining:
            self._hurry = True
            return
        self._health.drain()
        self._spawn(self._drain())

    async def _drain(self) -> None:
        """Lets accepted requests finish. At the deadline or a second signal the rest get 503 draining.

        Those that a webhook answers get it a little earlier, for the webhook to be delivered until then.
        """
        logger.info("Draining: %d requests and %d webhooks to finish", self._lock.in_flight, self._webhooks.pending)
        webhooks_s = min(self._settings.drain_s * WEBHOOKS_SHARE, LONGEST_WEBHOOKS_S)
        await _while(self._has_work, self._settings.drain_s - webhooks_s)
        self._tryon.stop_detached()
        self._webhooks.hurry()
        await _while(self._has_work, webhooks_s)
        await self._end_requests(draining, LAST_ANSWERS_S)
        await _while(lambda: self._tryon.executing and not self._hurry, STOP_TIMEOUT_S)
        await self._close_answers()
        logger.info("Stopped")
        asyncio.get_running_loop().call_soon(_stop)

    async def _end_requests(self, reason: Callable[[], ApiError], answers_s: float) -> None:
        """Answers every request with `reason`, which it and its webhook have `answers_s` to be told."""
        self._tryon.stop(reason)  # event streams end in an event, which takes their handlers
        await _while(lambda: self._lock.in_flight or self._webhooks.pending, answers_s)
        self._answering.abort(reason)  # those that are being received or written
        await _while(lambda: self._lock.in_flight, LAST_ANSWERS_S)

    async def _close_answers(self) -> None:
        await self._webhooks.close()
        await asyncio.sleep(0.2)  # the last answers leave the socket

    def _has_work(self) -> bool:
        return bool(self._lock.in_flight or self._webhooks.pending) and not self._hurry

    async def _exit_when_failed(self) -> None:
        while not self._health.failure:
            await asyncio.sleep(FAILURE_CHECK_S)
        await asyncio.sleep(EXIT_DELAY_S)
        logger.critical("Exiting, because TRYON_EXIT_WHEN_FAILED is set: %s", self._health.failure)
        self._webhooks.hurry()
        await self._end_requests(failed_worker, LONGEST_WEBHOOKS_S)
        await self._close_answers()
        end(1)

    def _spawn(self, coroutine: Coroutine) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _while(condition: Callable[[], object], timeout_s: float) -> None:
    """Waits until `condition` does not hold any more, at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def _stop() -> None:
    # ComfyUI has no other way to end: it catches this around its event loop, and so does aiohttp's run_app.
    raise KeyboardInterrupt


def _spare_the_collector() -> None:
    """Takes all present objects, half a million of imported code, out of Python's garbage collection.

    ComfyUI starts a full one every ten seconds, which held up everything, /ping too, for a quarter of a second. A model
    that is dropped later is in no cycle, and is freed as before.
    """
    gc.collect()
    gc.freeze()


def _warm_up_images() -> tuple[bytes, bytes, bytes]:
    """Draws a grey figure, a grey garment and a mask: enough for every model to run once."""
    person = np.full((512, 384, 3), 230, np.uint8)
    person[60:480, 130:254] = 120
    garment = np.full((512, 384, 3), 255, np.uint8)
    garment[100:400, 80:300] = 90
    mask = np.zeros((512, 384, 3), np.uint8)
    mask[140:300, 120:264] = 255
    return images.encode(person, "png", 100), images.encode(garment, "png", 100), images.encode(mask, "png", 100)
