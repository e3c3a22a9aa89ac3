"""Collects what the runs of one request hand over, and makes its reply's parts of it while they go on."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import images
from .errors import ApiError
from .exchange import Framed, ImageExchange
from .framing.report import changed_pixels, colour_difference
from .pending import PendingRequest, Result
from .reply_models import Caution, CautionCode, Report, Timings
from .schema import SEED_MAX, TryonRequest
from .weights.search import demo_notice
from .workflows.binding import Workflow

CAUTIONS: Mapping[CautionCode, str] = {
    "several_people": "There are several people in person_image. Crop it to the one to dress.",
    "garment_area_small": "The garment covers few pixels, so detail is lost. Send a larger or closer person_image.",
    "person_cut": "The garment's area reaches an edge of person_image, where the person is cut off.",
}


@dataclass(frozen=True)
class Delivered:
    """One image of a reply.

    Attributes:
        place: of its output among the workflow's.
        size: width and height.
        file: the encoded image.
        report: what was done to the person image, if that is known.
    """

    place: int
    size: tuple[int, int]
    file: Future[bytes]
    report: Future[Report] | None


class Delivery:
    """Holds what one request is answered with.

    Args:
        codecs: encodes the images, and makes their reports.
        workflow, fields: what was asked for.
    """

    def __init__(self, codecs: Executor, workflow: Workflow, fields: TryonRequest) -> None:
        self._codecs = codecs
        self._workflow = workflow
        self._fields = fields
        self._delivered: list[Delivered] = []
        self._mask: np.ndarray | None = None
        self._codes: set[str] = set()

    def exchange(self, results: list[np.ndarray] | None = None) -> ImageExchange:
        """Returns the exchange of one run, still without images.

        `results` takes the images of its first output; without it they are the reply's.
        """

        def deliver(pixels: np.ndarray, place: int = 0) -> None:
            _check_result(pixels)
            if results is None:
                self._encode(pixels, place, found)
            elif place == 0:
                results.append(pixels)

        found = ImageExchange({}, deliver, wants_mask=self._fields.return_mask)
        return found

    def close(self, finished: ImageExchange) -> None:
        """Keeps what a finished run has said beside its images."""
        self._codes.update(finished.warnings)
        mask = finished.mask
        if mask is not None and self._mask is not None and mask.shape == self._mask.shape:
            mask = mask | self._mask  # each garment changes another part
        self._mask = self._mask if mask is None else mask

    async def result(self, request: PendingRequest, seed: int) -> Result:
        """Returns what the request is answered with, once all its runs are finished.

        Raises:
            ApiError: there is no image.
        """
        workflow, fields = self._workflow, self._fields
        # engines execute outputs in an order of their own
        delivered = sorted(self._delivered, key=lambda image: image.place)
        if not delivered:
            request.log.error("workflow %s ended without an image", workflow.name)
            raise ApiError("workflow_invalid", f"Workflow {workflow.name!r} ended without an image. Tell the operator.")
        files = [await asyncio.wrap_future(image.file) for image in delivered]
        reports = [None if image.report is None else await _ended(image.report) for image in delivered]
        mask = None if self._mask is None else await asyncio.to_thread(_png, self._mask)
        request.encoded = time.perf_counter()
        request.sizes["images"] = [list(image.size) for image in delivered]
        stages = request.stages()
        places = [image.place for image in delivered]
        return Result(
            images=files,
            sizes=[image.size for image in delivered],
            seed=seed if "seed" in workflow.parameters else None,
            seeds=_seeds(workflow, seed, fields.num_images, places),
            first_seed=None if workflow.seeding[workflow.outputs[places[0]]] == "none" else seed,
            workflow=workflow,
            timings=Timings(**{f"{stage}_s": round(stages[stage], 4) for stage in ("queue", "execute", "total")}),
            output_format=fields.output_format,
            stages=stages,
            reports=reports,
            mask=mask,
            warnings=self._warnings(),
        )

    def _warnings(self) -> list[Caution]:
        found = [Caution(code=code, message=text) for code, text in CAUTIONS.items() if code in self._codes]
        notice = demo_notice(self._workflow.graph)
        return [*found, Caution(code="demo_weights", message=notice)] if notice else found

    def _encode(self, pixels: np.ndarray, place: int, run: ImageExchange) -> None:
        # Encoding starts while the graph's other nodes, if any, still run.
        fields = self._fields
        file = self._codecs.submit(images.encode, pixels, fields.output_format, fields.output_quality)
        framed = run.framed.get(self._workflow.pasted.get(self._workflow.outputs[place], ""))
        report = None
        if framed and framed.before.shape == pixels.shape:
            report = self._codecs.submit(make_report, run.images["garment_image"], framed, pixels)
        self._delivered.append(Delivered(place, (pixels.shape[1], pixels.shape[0]), file, report))


async def _ended(report: Future[Report]) -> Report:
    return await asyncio.wrap_future(report)


def _png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(buffer, "PNG")
    return buffer.getvalue()


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


def make_report(garment: np.ndarray, framed: Framed, after: np.ndarray) -> Report:
    """Returns what became of the person image that a result was pasted into; images are uint8 (H, W, 3)."""
    changed = changed_pixels(framed.before, after)
    difference = colour_difference(garment, after[changed])
    return Report(
        window=framed.window,
        changed=round(float(changed.mean()), 6),
        colour_difference=None if difference is None else round(difference, 2),
    )


def _check_result(pixels: np.ndarray) -> None:
    """Raises ValueError, in the node that delivers them, if `pixels` are no image that can be encoded."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not 1 <= min(pixels.shape) <= max(pixels.shape) <= images.MAX_SIDE:
        raise ValueError(f"What is linked to images is of the shape {pixels.shape}, not (height, width, 3).")
