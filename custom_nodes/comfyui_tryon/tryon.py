"""One request's way: images in, a prompt on the engine's queue, images out."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import exchange
from .decoding.budget import Share
from .decoding.decoder import Decoder
from .delivery import Delivery
from .engine.interface import Engine, EngineDead, GraphError, Interrupted, NodeFailed, Progress, Run
from .errors import ApiError, canceled, draining, failed_worker
from .failures import node_error
from .fields import check_fields, draw_seed, images_of, values_of
from .pending import PendingRequest, PendingRequests, Result, Status
from .schema import IMAGE_FIELDS, SEED_MAX, SEVERAL_FIELDS, TryonRequest
from .settings import Settings
from .weights.reading import last_sign
from .workflows.binding import Workflow
from .workflows.format import WorkflowInvalid
from .workflows.store import Workflows

logger = logging.getLogger(__name__)

# A run that ends at its deadline, without progress until then, is interrupted and not yet stuck.
STUCK_GRACE_S = 5.0
# Retry-After is the mean execution time of late times the queue's length, and starts from a guess.
FIRST_EXECUTE_S = 10.0
MEAN_WEIGHT = 0.2


class TryOn:
    """Answers requests on an engine; keeps track of those that wait or run."""

    def __init__(self, settings: Settings, engine: Engine, workflows: Workflows) -> None:
        self._settings = settings
        self._engine = engine
        self._workflows = workflows
        self._requests = PendingRequests()
        self._progress: dict[Run, tuple[float, float]] = {}  # when there was some last, and how long there may be none
        self._stopping: Callable[[], ApiError] | None = None
        self._fault: str | None = None
        self._execute_s = FIRST_EXECUTE_S
        self._decoder = Decoder(int(settings.decode_mb * 1e6), settings.max_pixels)
        self._codecs = ThreadPoolExecutor(thread_name_prefix="tryon-codec")

    @property
    def depth(self) -> int:
        """How many requests wait or run."""
        return len(self._requests.queue)

    @property
    def running(self) -> int:
        """How many requests have their graph executed, or have had it and are not answered."""
        return sum(request.started > 0 for request in self._requests.queue)

    @property
    def fault(self) -> str | None:
        """Why this process cannot make images, or None."""
        return self._fault or (None if self._settings.locked else self._stuck())

    def check_engine(self) -> None:
        """Finds out whether the engine still makes progress; call it every second. A fault, once found, stays.

        Unlocked, where nothing replaces the process, no progress is a fault only until there is some again.
        """
        dead, stuck = self._engine.fault(), self._stuck() if self._settings.locked else None
        self._fault = self._fault or dead or stuck
        if dead:
            self._engine.fail_all_runs()
        if stuck:
            self._requests.cancel_all(failed_worker)

    def check_id(self, caller: str, request_id: str) -> None:
        """Raises ApiError conflict if that caller has a request with that id which is not answered yet."""
        self._requests.check_id(caller, request_id)

    def check_room(self) -> None:
        """Raises ApiError queue_full if as many requests wait as may."""
        if self.depth > self._settings.max_queue:
            raise ApiError(
                "queue_full",
                f"{self.depth} requests are ahead, as many as this worker takes. Retry later or on another worker.",
                retry_after=self._execute_s * self.depth,
                queue=self.depth,
            )

    async def answer(self, request: PendingRequest, fields: TryonRequest) -> Result:
        """Makes the images that `fields` ask for.

        Raises:
            ApiError
        """
        if self._stopping:
            raise self._stopping()
        self.check_room()
        try:
            with self._requests.holding(request):
                timeout_s = request.timeout_s or self._settings.timeout_s
                return await request.result(self._answer(request, fields), timeout_s)
        finally:
            if request.run and not request.run.finished.done():
                self._engine.cancel(request.run)
            self._announce_positions()

    def stop_detached(self) -> None:
        """Cancels the requests whose clients expect a webhook with `draining`, which takes time to be delivered."""
        self._requests.cancel_all(draining, lambda request: request.is_detached)

    def stop(self, reason: Callable[[], ApiError]) -> None:
        """Cancels all requests with `reason`, and those that come later."""
        self._stopping = reason
        self._requests.cancel_all(reason)

    @property
    def executing(self) -> bool:
        """Whether the executor is at a run, which may outlive its request."""
        return bool(self._progress)

    def cancel(self, caller: str, request_id: str) -> bool:
        """Cancels one request; returns False if that caller has none with that id, or none that is unfinished."""
        return self._requests.cancel(caller, request_id, canceled())

    async def workflow(self, name: str) -> Workflow:
        """Raises ApiError workflow_not_found or workflow_invalid."""
        try:
            return await self._workflows.get(name)
        except KeyError:
            known = ", ".join(self._workflows.names())
            raise ApiError("workflow_not_found", f"There is no workflow {name!r}. Published: {known}.") from None
        except WorkflowInvalid as error:
            logger.error("Workflow %s is refused: %s", name, error)
            raise ApiError("workflow_invalid", f"Workflow {name!r} cannot be used: {error}.") from None

    def _stuck(self) -> str | None:
        silent_s = time.monotonic() - last_sign()
        if any(min(silent_s, time.monotonic() - last) > patience for last, patience in self._progress.values()):
            return f"the executor has made no progress for {self._settings.timeout_s:g} s"
        return None

    async def _answer(self, request: PendingRequest, fields: TryonRequest) -> Result:
        transfers = request.transfers
        if transfers is None:
            return await self._make(request, fields)
        self._requests.check_elsewhere()
        with request.elsewhere():
            await transfers.fetch()
            self.check_room()
        request.fetched = time.perf_counter()
        result = await self._make(request, fields)
        with request.elsewhere():
            self._announce_positions()
            await transfers.upload(result)
        request.uploaded = time.perf_counter()
        return result

    async def _make(self, request: PendingRequest, fields: TryonRequest) -> Result:
        workflow = await self.workflow(fields.workflow or self._settings.workflow)
        request.workflow = workflow
        check_fields(workflow, fields)
        seed = draw_seed(workflow, fields.num_images) if fields.seed is None else fields.seed
        request.seed = seed if "seed" in workflow.parameters else None
        delivery = Delivery(self._codecs, workflow, fields)
        with self._decoder.share() as share:
            decoding = asyncio.ensure_future(self._decode(request, workflow, fields, share))
            try:
                runs = await self._put_on(request, workflow, fields, seed, decoding, delivery)
            finally:
                decoding.cancel()  # goes on otherwise, if the prompt is refused
        self._execute_s += MEAN_WEIGHT * (request.ended - request.started - self._execute_s)
        result = await delivery.result(request, seed)
        for run in runs:
            await run.released
        return result

    async def _put_on(
        self,
        request: PendingRequest,
        workflow: Workflow,
        fields: TryonRequest,
        seed: int,
        decoding: "asyncio.Future[dict[str, np.ndarray]]",
        delivery: Delivery,
    ) -> list[Run]:
        """Puts one garment on after the other: the images of one are the people of the next, each in a run."""
        values, garments = values_of(workflow, fields), len(fields.garment_image)
        people: list[np.ndarray | None] = [None]
        runs: list[Run] = []
        for number in range(garments):
            results: list[np.ndarray] | None = [] if number + 1 < garments else None
            count = 1 if number else fields.num_images
            for index, person in enumerate(people):
                opened = delivery.exchange(results)
                changed: dict[str, Any] = {"seed": (seed + index) % (SEED_MAX + 1), "num_images": count}
                changed["cloth_type"] = fields.cloth_type[number if len(fields.cloth_type) > 1 else 0]
                sent, prompt = await asyncio.gather(
                    decoding, self._prompt(request, workflow, values | changed, opened.token)
                )
                opened.images = images_of(sent, number, person)
                before = (number * fields.num_images + index, count, garments * fields.num_images)
                with exchange.opened(opened):
                    runs.append(await self._execute(request, workflow, prompt, before))
                delivery.close(opened)
            people = list((results or ())[: fields.num_images])
        return runs

    async def _decode(
        self, request: PendingRequest, workflow: Workflow, fields: TryonRequest, share: Share
    ) -> dict[str, np.ndarray]:
        uploads: dict[str, bytes] = {}
        for name in IMAGE_FIELDS:
            sent = getattr(fields, name)
            if name in SEVERAL_FIELDS and len(sent) > 1:
                uploads |= {f"{name}[{number}]": data for number, data in enumerate(sent)}
            elif sent is not None:
                uploads[name] = sent[0] if name in SEVERAL_FIELDS else sent
        max_side = self._settings.max_output_side if workflow.keeps_frame(fields.framing) else None
        try:
            found = await self._decoder.decode(uploads, share, max_side)
            request.sizes = {name: [pixels.shape[1], pixels.shape[0]] for name, pixels in found.items()}
            return found
        except ApiError as error:
            if "field" in error.details:  # the message says which of several
                error.details["field"] = error.details["field"].partition("[")[0]
            raise
        finally:
            request.decoded = time.perf_counter()

    async def _prompt(
        self, request: PendingRequest, workflow: Workflow, values: dict[str, Any], token: str
    ) -> dict[str, dict]:
        await asyncio.sleep(0)  # the decoders start first, and work beside this
        prompt = workflow.prompt(token, values)
        try:
            await self._engine.validate(prompt, workflow.outputs)
        except GraphError as error:
            request.log.error("workflow %s: %s", workflow.name, error)
            raise ApiError("workflow_invalid", f"Workflow {workflow.name!r} cannot run here: {error}.") from None
        return prompt

    async def _execute(
        self, request: PendingRequest, workflow: Workflow, prompt: dict[str, dict], part: tuple[int, int, int]
    ) -> Run:
        """Runs a prompt; `part` says how many images the request has made before, makes now and makes in all."""
        request.queued = request.queued or time.perf_counter()
        run = request.run = Run(
            prompt,
            workflow.outputs,
            workflow.request_independent,
            request.previews,
            on_start=lambda: self._on_start(request, run),
            on_progress=lambda progress: self._on_progress(request, run, progress.overall(*part)),
        )
        run.finished.add_done_callback(lambda finished: self._progress.pop(run, None))
        self._engine.queue(run)
        self._announce_positions()
        try:
            await asyncio.shield(run.finished)  # the engine resolves it, whoever stops waiting
        except Interrupted as error:
            raise request.cancel_reason or canceled(str(error)) from None
        except EngineDead:
            raise failed_worker() from None
        except NodeFailed as error:
            if not error.is_requests_fault:
                request.log.error("%s", error)
            if error.is_device_fault:
                self._fault = self._fault or "the GPU has failed"
                request.log.critical("The GPU has failed and no request can succeed in this process: start a new one.")
            raise node_error(error, workflow.graph) from None
        finally:
            request.ended = time.perf_counter()
            request.started = request.started or request.ended
        return run

    def _on_start(self, request: PendingRequest, run: Run) -> None:
        if not run.finished.done():
            self._note_progress(request, run)
        if not request.started:
            request.started = time.perf_counter()
            request.on_event(Status("running"))
        self._announce_positions()

    def _on_progress(self, request: PendingRequest, run: Run, progress: Progress) -> None:
        if run in self._progress:
            self._note_progress(request, run)
        request.on_event(progress)

    def _note_progress(self, request: PendingRequest, run: Run) -> None:
        self._progress[run] = time.monotonic(), (request.timeout_s or self._settings.timeout_s) + STUCK_GRACE_S

    def _announce_positions(self) -> None:
        for position, request in enumerate(self._requests.at_engine):
            if not request.started and request.position != position:
                request.position = position
                request.on_event(Status("queued", position))
