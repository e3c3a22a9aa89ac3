"""One request's way: pictures in, a prompt on the engine's queue, pictures out."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pybase64

from . import exchange, images
from .engine.interface import Engine, EngineDead, GraphError, Interrupted, NodeFailed, Progress, Run
from .errors import ApiError
from .log import RequestLog
from .schema import SEED_MAX, Image, Output, Timings, TryonReply, TryonRequest, WorkflowVersion
from .settings import Settings
from .weights import search as weights
from .workflows.store import Workflow, WorkflowInvalid, Workflows

logger = logging.getLogger(__name__)

MASK_ASPECT_TOLERANCE = 0.01
ENGINE_CHECK_S = 1.0
# A run that ends at its deadline, without progress till then, is interrupted and not yet stuck.
STUCK_GRACE_S = 5.0
DEVICE_FAULT = re.compile(r"(CUDA|HIP) error|CUBLAS_STATUS|CUDNN_STATUS|cuDNN error")
DRAINING = ApiError("draining", "This worker is shutting down. Retry on another.", retry_after=1)
FAILED_WORKER = ApiError("not_ready", "This worker has failed and must be replaced. Retry on another.", retry_after=5)
EMPTY_IMAGE = b'"image":""'
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@dataclass(frozen=True)
class Status:
    """Where a request is: queued, with the number of requests ahead of it, or running."""

    status: str
    position: int | None = None


@dataclass
class Result:
    """The pictures of a finished request, encoded, and how long each stage took in seconds."""

    images: list[bytes]
    sizes: list[tuple[int, int]]
    seed: int
    workflow: Workflow
    timings: Timings
    output_format: str
    stages: dict[str, float]

    def seeds(self) -> list[int]:
        return [(self.seed + index) % (SEED_MAX + 1) for index in range(len(self.images))]


class Request:
    """A request between its arrival and its answer.

    Attributes:
        id: the caller's or a new one; in the reply and the log.
        on_event: told of a Status or Progress, on the event loop.
        previews: whether the progress should come with previews.
    """

    def __init__(
        self,
        request_id: str,
        on_event: Callable[[Status | Progress], None] = lambda event: None,
        previews: bool = False,
    ) -> None:
        self.id = request_id
        self.log = RequestLog(logger, request_id)
        self.on_event = on_event
        self.previews = previews
        self.position: int | None = None
        self.arrived = time.perf_counter()
        self.queued = self.started = self.ended = 0.0
        self.run: Run | None = None
        self.cancel_reason: ApiError | None = None


class TryOn:
    """Answers requests on an engine; knows which are waiting and running."""

    def __init__(self, settings: Settings, engine: Engine, workflows: Workflows) -> None:
        self._settings = settings
        self._engine = engine
        self._workflows = workflows
        self._requests: dict[str, Request] = {}
        self._signs_of_life: dict[Run, float] = {}
        self._device_fault: str | None = None
        self._execute_s = 10.0
        self._codecs = ThreadPoolExecutor(thread_name_prefix="tryon-codec")

    def __len__(self) -> int:
        return len(self._requests)

    def fault(self) -> str | None:
        """Why this process can make no picture any more, or None."""
        now = time.monotonic()
        if any(now - last > self._settings.timeout_s + STUCK_GRACE_S for last in self._signs_of_life.values()):
            return f"the executor has made no progress for {self._settings.timeout_s:g} s"
        return self._device_fault or self._engine.fault()

    def check_room(self) -> None:
        """Raises ApiError queue_full when as many requests wait as may."""
        if len(self) > self._settings.max_queue:
            raise ApiError(
                "queue_full",
                f"{len(self)} requests are ahead, as many as this worker takes. Retry later or on another worker.",
                retry_after=self._execute_s * len(self),
                queue=len(self),
            )

    async def answer(self, request: Request, fields: TryonRequest) -> Result:
        """Makes the pictures that `fields` ask for.

        Raises:
            ApiError
        """
        self.check_room()
        if request.id in self._requests:
            raise ApiError("conflict", f"A request with the id {request.id!r} is under way. Use a new X-Request-Id.")
        self._requests[request.id] = request
        try:
            return await asyncio.wait_for(self._answer(request, fields), self._settings.timeout_s)
        except asyncio.TimeoutError:
            raise ApiError("timeout", f"No picture within {self._settings.timeout_s:g} s. Retry later.") from None
        finally:
            if request.run and not request.run.finished.done():
                self._engine.cancel(request.run)
            del self._requests[request.id]
            self._announce_positions()

    async def stop(self, timeout_s: float) -> None:
        """Cancels all requests, telling them to go elsewhere, and waits for the executor to let go of them."""
        for request_id in list(self._requests):
            self.cancel(request_id, DRAINING)
        deadline = time.monotonic() + timeout_s
        while self._signs_of_life and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def cancel(self, request_id: str, reason: ApiError | None = None) -> bool:
        """Cancels one request; False if there is none with that id."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        request.cancel_reason = reason or ApiError("canceled", "The request was canceled.")
        if request.run:
            self._engine.cancel(request.run)
        return True

    async def _answer(self, request: Request, fields: TryonRequest) -> Result:
        workflow = await self.workflow(fields.workflow or self._settings.workflow)
        self._check_fields(workflow, fields)
        seed = secrets.randbelow(SEED_MAX + 1) if fields.seed is None else fields.seed
        sizes: list[tuple[int, int]] = []
        encoded: list[Future[bytes]] = []

        def deliver(pixels: np.ndarray) -> None:
            sizes.append((pixels.shape[1], pixels.shape[0]))
            encoded.append(self._codecs.submit(images.encode, pixels, fields.output_format, fields.output_quality))

        with exchange.opened(exchange.ImageExchange({}, deliver)) as job:
            job.images, prompt = await asyncio.gather(
                self._decode(fields), self._prompt(request, workflow, fields, job.token, seed)
            )
            decoded = time.perf_counter()
            await self._execute(request, workflow, prompt)
        if not encoded:
            request.log.error("workflow %s ended without a picture", workflow.name)
            raise ApiError(
                "workflow_invalid", f"Workflow {workflow.name!r} ended without a picture. Tell the operator."
            )
        files = [await asyncio.wrap_future(image) for image in encoded]
        await request.run.forgotten
        done = time.perf_counter()
        return Result(
            images=files,
            sizes=sizes,
            seed=seed,
            workflow=workflow,
            timings=Timings(
                queue_s=round(request.started - request.queued, 4),
                execute_s=round(request.ended - request.started, 4),
                total_s=round(done - request.arrived, 4),
            ),
            output_format=fields.output_format,
            stages={
                "decode": decoded - request.arrived,
                "queue": request.started - request.queued,
                "execute": request.ended - request.started,
                "encode": done - request.ended,
                "total": done - request.arrived,
            },
        )

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

    async def _decode(self, fields: TryonRequest) -> dict[str, np.ndarray]:
        uploads = {
            name: data
            for name in ("person_image", "garment_image", "mask_image")
            if (data := getattr(fields, name)) is not None
        }
        loop = asyncio.get_running_loop()
        decoded = await asyncio.gather(
            *(
                loop.run_in_executor(self._codecs, images.decode, data, name, self._settings.max_pixels)
                for name, data in uploads.items()
            )
        )
        pixels = dict(zip(uploads, decoded))
        if "mask_image" in pixels:
            pixels["mask_image"] = await asyncio.to_thread(_fit_mask, pixels["mask_image"], pixels["person_image"])
        return pixels

    def _check_fields(self, workflow: Workflow, fields: TryonRequest) -> None:
        for name in fields.model_fields_set & {"num_inference_steps", "guidance_scale", "seed", "width", "height"}:
            if name not in workflow.parameters and getattr(fields, name) is not None:
                raise ApiError(
                    "invalid_parameter", f"Workflow {workflow.name!r} has no {name}. Leave it out.", field=name
                )
        if fields.num_images > 1 and "num_images" not in workflow.parameters:
            raise ApiError(
                "invalid_parameter", f"Workflow {workflow.name!r} makes one picture a request.", field="num_images"
            )
        if fields.mask_image is None:
            if workflow.mask_required:
                raise ApiError("missing_field", f"Workflow {workflow.name!r} needs a mask_image.", field="mask_image")
        elif not workflow.inputs.get("mask_image"):
            raise ApiError("invalid_parameter", f"Workflow {workflow.name!r} takes no mask_image.", field="mask_image")

    async def _prompt(
        self, request: Request, workflow: Workflow, fields: TryonRequest, token: str, seed: int
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

    async def _execute(self, request: Request, workflow: Workflow, prompt: dict[str, dict]) -> None:
        if request.cancel_reason:
            raise request.cancel_reason

        request.queued = time.perf_counter()
        run = request.run = Run(
            prompt,
            workflow.outputs,
            workflow.lasting,
            request.previews,
            on_start=lambda: self._on_start(request),
            on_progress=lambda progress: self._on_progress(request, progress),
        )
        run.finished.add_done_callback(lambda finished: self._signs_of_life.pop(run, None))
        self._engine.queue(run)
        self._announce_positions()
        try:
            while not run.finished.done():
                await asyncio.wait({run.finished}, timeout=ENGINE_CHECK_S)
                self._engine.fault()
            run.finished.result()
        except Interrupted:
            raise request.cancel_reason or ApiError("canceled", "The request was canceled.") from None
        except EngineDead:
            raise FAILED_WORKER from None
        except NodeFailed as error:
            request.log.error("%s", error)
            raise self._node_error(request, error) from None
        finally:
            request.ended = time.perf_counter()
            request.started = request.started or request.ended
        self._execute_s += 0.2 * (request.ended - request.started - self._execute_s)

    def _on_start(self, request: Request) -> None:
        request.started = time.perf_counter()
        if not request.run.finished.done():
            self._signs_of_life[request.run] = time.monotonic()
        request.on_event(Status("running"))
        self._announce_positions()

    def _on_progress(self, request: Request, progress: Progress) -> None:
        if request.run in self._signs_of_life:
            self._signs_of_life[request.run] = time.monotonic()
        request.on_event(progress)

    def _announce_positions(self) -> None:
        for position, request in enumerate(self._requests.values()):
            if request.queued and not request.started and request.position != position:
                request.position = position
                request.on_event(Status("queued", position))

    def _node_error(self, request: Request, error: NodeFailed) -> ApiError:
        """What a client may know of a node's exception: none of its text, which may hold paths and inputs."""
        if error.error_type == "NoPersonFound":
            return ApiError(
                "no_person_found",
                "No person was found in person_image. Send a picture that shows the person, or a mask_image.",
                field="person_image",
            )
        if error.error_type == "WeightsMissing":
            return ApiError(
                "not_ready",
                "This worker lacks the weights of that workflow. Its operator finds them listed in the log; "
                "./start.sh --download fetches them.",
                retry_after=60,
            )
        if error.error_type == "OutOfMemoryError" or "out of memory" in error.message:
            return ApiError(
                "out_of_memory", "This worker ran out of memory. Retry, or ask for a smaller picture.", retry_after=5
            )
        if DEVICE_FAULT.search(error.message) or error.error_type == "AcceleratorError":
            self._device_fault = "the GPU has failed"
            request.log.critical("The GPU has failed and no request can succeed in this process: start a new one.")
            return FAILED_WORKER
        return ApiError(
            "node_execution_error",
            f"Node {error.node} ({error.node_type}) of the workflow failed. The operator finds the reason in the log "
            "under this request's id.",
            node=error.node,
            node_type=error.node_type,
        )


def _fit_mask(mask: np.ndarray, person: np.ndarray) -> np.ndarray:
    """The mask in the person picture's size, uint8 (H, W, 3); raises ApiError where its shape is another."""
    (mask_h, mask_w), (h, w) = mask.shape[:2], person.shape[:2]
    if abs(mask_w * h / (mask_h * w) - 1) > MASK_ASPECT_TOLERANCE:
        raise ApiError(
            "invalid_image",
            f"mask_image is {mask_w} x {mask_h}, person_image {w} x {h}. Send a mask of the person picture's size.",
            field="mask_image",
        )
    return mask if (mask_h, mask_w) == (h, w) else images.resize(mask, (w, h))


def reply(request_id: str, result: Result) -> bytes:
    """The JSON reply; a large one takes milliseconds."""
    images = [
        Image(image="", format=result.output_format, width=width, height=height, seed=seed)
        for (width, height), seed in zip(result.sizes, result.seeds())
    ]
    content = TryonReply(
        id=request_id,
        output=Output(images=images),
        seed=result.seed,
        workflow=WorkflowVersion(name=result.workflow.name, version=result.workflow.version),
        timings=result.timings,
        notice=weights.demo_notice(),
    )
    # filled in afterwards: as part of the model, a megabyte of base64 is copied and searched several times
    before, *after = content.model_dump_json(exclude_none=True).encode().split(EMPTY_IMAGE)
    parts = [before]
    for data, rest in zip(result.images, after):
        parts += [b'"image":"', pybase64.b64encode(data), b'"', rest]
    return b"".join(parts)
