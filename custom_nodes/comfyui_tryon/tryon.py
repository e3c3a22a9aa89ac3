"""One request's way: images in, a prompt on the engine's queue, images out."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from . import exchange, images
from .decoding.budget import Share
from .decoding.decoder import Decoder
from .engine.interface import Engine, EngineDead, GraphError, Interrupted, NodeFailed, Progress, Run
from .errors import ApiError, canceled, draining, failed_worker
from .failures import node_error
from .pending import PendingRequest, PendingRequests, Result, Status
from .schema import DRAWN_SEED_MAX, IMAGE_FIELDS, PARAMETERS, SEED_MAX, Timings, TryonRequest
from .settings import Settings
from .workflows.binding import Workflow
from .workflows.format import WorkflowInvalid
from .workflows.store import Workflows

logger = logging.getLogger(__name__)

# A run that ends at its deadline, without progress until then, is interrupted and not yet stuck.
STUCK_GRACE_S = 5.0
MAX_RESULT_SIDE = 16_383  # what WebP can hold
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
        self._progress_due: dict[Run, float] = {}
        self._stopping = False
        self._fault: str | None = None
        self._execute_s = FIRST_EXECUTE_S
        self._decoder = Decoder(int(settings.decode_mb * 1e6), settings.max_pixels)
        self._codecs = ThreadPoolExecutor(thread_name_prefix="tryon-codec")

    @property
    def depth(self) -> int:
        """How many requests wait or run."""
        return len(self._requests)

    @property
    def fault(self) -> str | None:
        """Why this process cannot make images any more, or None."""
        return self._fault

    def check_engine(self) -> None:
        """Finds out whether the engine still makes progress; call it every second. A fault, once found, stays."""
        dead = self._engine.fault()
        self._fault = self._fault or dead or self._stuck()
        if dead:
            self._engine.fail_all_runs()

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
            raise draining()
        self.check_room()
        try:
            with self._requests.holding(request):
                timeout_s = request.timeout_s or self._settings.timeout_s
                return await request.result(self._answer(request, fields), timeout_s)
        finally:
            if request.run and not request.run.finished.done():
                self._engine.cancel(request.run)
            self._announce_positions()

    def stop(self) -> None:
        """Cancels all requests with `draining`, and those that come later."""
        self._stopping = True
        for request in self._requests:
            request.cancel(draining())

    @property
    def executing(self) -> bool:
        """Whether the executor is at a run, which may outlive its request."""
        return bool(self._progress_due)

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
        now = time.monotonic()
        if any(now > due for due in self._progress_due.values()):
            return f"the executor has made no progress for {self._settings.timeout_s:g} s"
        return None

    async def _answer(self, request: PendingRequest, fields: TryonRequest) -> Result:
        workflow = await self.workflow(fields.workflow or self._settings.workflow)
        _check_fields(workflow, fields)
        seed = _draw_seed(workflow, fields.num_images) if fields.seed is None else fields.seed
        encoded: list[tuple[int, tuple[int, int], Future[bytes]]] = []  # the place of its output, its size, its file

        def deliver(pixels: np.ndarray, place: int = 0) -> None:
            _check_result(pixels)
            # Encoding starts while the graph's other nodes, if any, still run.
            file = self._codecs.submit(images.encode, pixels, fields.output_format, fields.output_quality)
            encoded.append((place, (pixels.shape[1], pixels.shape[0]), file))

        with self._decoder.share() as share, exchange.opened(exchange.ImageExchange({}, deliver)) as opened:
            decoding = asyncio.ensure_future(self._decode(fields, share))
            try:
                opened.images, prompt = await asyncio.gather(
                    decoding, self._prompt(request, workflow, fields, opened.token, seed)
                )
            finally:
                decoding.cancel()  # goes on otherwise, if the prompt is refused
            decoded = time.perf_counter()
            run = await self._execute(request, workflow, prompt)
        if not encoded:
            request.log.error("workflow %s ended without an image", workflow.name)
            raise ApiError("workflow_invalid", f"Workflow {workflow.name!r} ended without an image. Tell the operator.")
        encoded.sort(key=lambda image: image[0])  # engines execute outputs in an order of their own
        files = [await asyncio.wrap_future(file) for _, _, file in encoded]
        await run.released
        done = time.perf_counter()
        stages = {
            "decode": decoded - request.arrived,
            "queue": request.started - request.queued,
            "execute": request.ended - request.started,
            "encode": done - request.ended,
            "total": done - request.arrived,
        }
        timings = Timings(**{f"{stage}_s": round(stages[stage], 4) for stage in ("queue", "execute", "total")})
        return Result(
            images=files,
            sizes=[size for _, size, _ in encoded],
            seed=seed if "seed" in workflow.parameters else None,
            seeds=_seeds(workflow, seed, fields.num_images, [place for place, _, _ in encoded]),
            first_seed=None if workflow.seeding[workflow.outputs[encoded[0][0]]] == "none" else seed,
            workflow=workflow,
            timings=timings,
            output_format=fields.output_format,
            stages=stages,
        )

    async def _decode(self, fields: TryonRequest, share: Share) -> dict[str, np.ndarray]:
        uploads = {name: data for name in IMAGE_FIELDS if (data := getattr(fields, name)) is not None}
        return await self._decoder.decode(uploads, share)

    async def _prompt(
        self, request: PendingRequest, workflow: Workflow, fields: TryonRequest, token: str, seed: int
    ) -> dict[str, dict]:
        await asyncio.sleep(0)  # the decoders start first, and work beside this
        values = fields.model_dump(include={*workflow.parameters}, exclude_none=True) | {"seed": seed}
        prompt = workflow.prompt(token, values)
        try:
            await self._engine.validate(prompt, workflow.outputs)
        except GraphError as error:
            request.log.error("workflow %s: %s", workflow.name, error)
            raise ApiError("workflow_invalid", f"Workflow {workflow.name!r} cannot run here: {error}.") from None
        return prompt

    async def _execute(self, request: PendingRequest, workflow: Workflow, prompt: dict[str, dict]) -> Run:
        request.queued = time.perf_counter()
        run = request.run = Run(
            prompt,
            workflow.outputs,
            workflow.request_independent,
            request.previews,
            on_start=lambda: self._on_start(request, run),
            on_progress=lambda progress: self._on_progress(request, run, progress),
        )
        run.finished.add_done_callback(lambda finished: self._progress_due.pop(run, None))
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
        self._execute_s += MEAN_WEIGHT * (request.ended - request.started - self._execute_s)
        return run

    def _on_start(self, request: PendingRequest, run: Run) -> None:
        request.started = time.perf_counter()
        if not run.finished.done():
            self._progress_due[run] = self._due(request)
        request.on_event(Status("running"))
        self._announce_positions()

    def _on_progress(self, request: PendingRequest, run: Run, progress: Progress) -> None:
        if run in self._progress_due:
            self._progress_due[run] = self._due(request)
        request.on_event(progress)

    def _due(self, request: PendingRequest) -> float:
        """Returns when the executor must have made progress on `request` to pass for alive."""
        return time.monotonic() + (request.timeout_s or self._settings.timeout_s) + STUCK_GRACE_S

    def _announce_positions(self) -> None:
        for position, request in enumerate(self._requests):
            if request.queued and not request.started and request.position != position:
                request.position = position
                request.on_event(Status("queued", position))


def _draw_seed(workflow: Workflow, num_images: int) -> int:
    """Draws a seed that the workflow's nodes take, as are those that count up from it."""
    low, high = workflow.limits.get("seed", (0, SEED_MAX))
    first, last = int(max(low, 0)), int(min(high, DRAWN_SEED_MAX)) - num_images + 1
    return first + secrets.randbelow(max(last - first + 1, 1))


def _seeds(workflow: Workflow, seed: int, num_images: int, places: list[int]) -> list[int | None]:
    """Returns for each image, given the place of its output, the seed that makes it alone.

    A graph may make more images of an output than it was asked for; nobody knows how then.
    """
    seeds: list[int | None] = []
    for place, count in sorted(Counter(places).items()):
        seeding = workflow.seeding[workflow.outputs[place]]
        known = count == num_images and (seeding == "each" or (seeding == "one" and count == 1))
        seeds += [(seed + index) % (SEED_MAX + 1) if known else None for index in range(count)]
    return seeds


def _check_fields(workflow: Workflow, fields: TryonRequest) -> None:
    """Raises ApiError if `fields` ask for something that `workflow` does not take, or lack what it needs."""
    for name in fields.model_fields_set & PARAMETERS.keys() - workflow.parameters.keys():
        value, default = getattr(fields, name), TryonRequest.model_fields[name].default
        if name == "cloth_type" or value in (None, default):  # every workflow dresses some type of garment
            continue
        advice = "makes only one image per request" if name == "num_images" else f"has no {name}. Leave it out"
        raise ApiError("invalid_parameter", f"Workflow {workflow.name!r} {advice}.", field=name)
    for name in fields.model_fields_set & workflow.limits.keys():
        low, high = workflow.limits[name]
        if getattr(fields, name) is not None and not low <= getattr(fields, name) <= high:
            message = f"Workflow {workflow.name!r} takes {name} from {low} to {high}."
            raise ApiError("invalid_parameter", message, field=name)
    if fields.mask_image is None:
        if workflow.mask_required:
            raise ApiError("missing_field", f"Workflow {workflow.name!r} needs a mask_image.", field="mask_image")
    elif not workflow.inputs.get("mask_image"):
        raise ApiError("invalid_parameter", f"Workflow {workflow.name!r} takes no mask_image.", field="mask_image")


def _check_result(pixels: np.ndarray) -> None:
    """Raises ValueError, in the node that delivers them, if `pixels` are no image that can be encoded."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not 1 <= min(pixels.shape) <= max(pixels.shape) <= MAX_RESULT_SIDE:
        raise ValueError(f"What is linked to images is of the shape {pixels.shape}, not (height, width, 3).")
