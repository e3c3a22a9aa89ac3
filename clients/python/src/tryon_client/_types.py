"""Generated from the OpenAPI document by clients/generate.py; edit that instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

VERSION = "0.2.0"

ClothType = Literal[
    "upper",
    "lower",
    "overall",
    "inner",
    "outer",
    "tops",
    "upper_body",
    "bottoms",
    "lower_body",
    "one-pieces",
    "dresses",
    "dress",
    "full",
]
GarmentPhoto = Literal[
    "flat-lay",
    "model",
]
MaskShape = Literal[
    "outline",
    "box",
]
Framing = Literal[
    "person",
    "model",
]
OutputFormat = Literal[
    "png",
    "jpeg",
    "webp",
    "jpg",
]
BoundWorkflowSeed = Literal[
    "used",
    "none",
]
BoundWorkflowMask = Literal[
    "required",
    "optional",
    "none",
]
CautionCode = Literal[
    "several_people",
    "garment_area_small",
    "person_cut",
    "demo_weights",
]
ErrorCode = Literal[
    "invalid_request",
    "unauthorized",
    "not_found",
    "workflow_not_found",
    "method_not_allowed",
    "conflict",
    "payload_too_large",
    "unsupported_media_type",
    "invalid_image",
    "image_too_large",
    "invalid_parameter",
    "missing_field",
    "no_person_found",
    "upload_failed",
    "queue_full",
    "canceled",
    "node_execution_error",
    "internal_error",
    "workflow_invalid",
    "not_ready",
    "draining",
    "out_of_memory",
    "timeout",
]
ImageFormat = Literal[
    "png",
    "jpeg",
    "webp",
]
StatusEventStatus = Literal[
    "queued",
    "running",
]

# The HTTP status of each error code.
STATUS: dict[str, int] = {
    "invalid_request": 400,
    "unauthorized": 401,
    "not_found": 404,
    "workflow_not_found": 404,
    "conflict": 409,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_image": 422,
    "image_too_large": 422,
    "invalid_parameter": 422,
    "missing_field": 422,
    "no_person_found": 422,
    "upload_failed": 424,
    "queue_full": 429,
    "canceled": 499,
    "node_execution_error": 500,
    "internal_error": 500,
    "workflow_invalid": 500,
    "not_ready": 503,
    "draining": 503,
    "out_of_memory": 503,
    "timeout": 504,
}


class Fields(TypedDict, total=False):
    """The optional fields of a request. None leaves a field out."""

    cloth_type: ClothType | Sequence[ClothType] | None
    """What the garment is, and so what the automatic mask covers: one for all garments, or one for each. Aliases:
    tops (upper), upper_body (upper), bottoms (lower), lower_body (lower), one-pieces (overall), dresses
    (overall), dress (overall), full (overall). Default: "upper".
    """

    garment_photo: GarmentPhoto | None
    """model: somebody wears the garment in its image. Where it is left out, the workflow's: flat-lay in the
    bundled one that tells them apart.
    """

    mask_shape: MaskShape | None
    """box: the automatic mask is a rectangle, which hides the length and outline of what is worn."""

    framing: Framing | None
    """person: the reply has the person image's own size, as it was sent outside the mask. model: the sampler's
    crop and size.
    """

    return_mask: bool | None
    """Adds output.mask, in the frame of the images. For JSON replies only. Default: false."""

    num_inference_steps: int | None
    """From 1 to 100."""

    guidance_scale: float | None
    """From 0 to 20."""

    seed: int | None
    """Random, and below 2^53, if left out or -1; the reply says which was used, as an exact number. From -1 to
    18446744073709551615.
    """

    width: int | None
    """Of what the sampler makes; width or height alone keeps the workflow's aspect ratio. From 64 to 2048, in
    steps of 8.
    """

    height: int | None
    """From 64 to 2048, in steps of 8."""

    num_images: int | None
    """Number of images; their seeds count up. From 1 to 4. Default: 1."""

    output_format: OutputFormat | None
    """"jpg" and media types such as "image/webp" are understood too. Default: "png"."""

    output_quality: int | None
    """For jpeg and webp. From 1 to 100. Default: 95."""

    workflow: str | None
    """A published workflow's name; see GET /api/v1/workflows."""

    upload_urls: str | Sequence[str] | None
    """Presigned https URLs, one for each image, which are PUT there instead of into the reply. Default: []."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What a request with a webhook_url is answered with."""

    id: str

    status: Literal["queued"] = "queued"


@dataclass(frozen=True, kw_only=True)
class BoundWorkflow:
    """A workflow and where a request goes in its graph."""

    name: str

    version: str | None = None
    """Hash of the content being served; absent if none is."""

    default: bool

    parameters: dict[str, Any] = field(default_factory=dict)
    """The parameters it takes, with its own values for them."""

    bound: dict[str, list[str]] = field(default_factory=dict)
    """The nodes that each request field is sent to."""

    outputs: list[str] = field(default_factory=list)
    """The nodes that give the images, in the order of a reply."""

    seed: BoundWorkflowSeed = "used"
    """none: the graph takes no seed from requests, and its replies state none."""

    mask: BoundWorkflowMask = "none"

    licence: str | None = None
    """Of the weights that it loads; absent if there are none."""

    commercial_use: bool = False
    """Whether the licences of all weights that it loads allow commercial use."""

    problem: str | None = None
    """Why the current file is refused; the last good version is served, if there is one."""


@dataclass(frozen=True, kw_only=True)
class Caution:
    """Something that the caller should know about the images."""

    code: CautionCode

    message: str
    """For people."""


@dataclass(frozen=True, kw_only=True)
class Error:
    """`Error` of the API."""

    code: ErrorCode
    """Stable; for programs."""

    message: str
    """For people: what is wrong, and what to do about it."""

    request_id: str
    """As in X-Request-Id; marks the request's lines in the log."""

    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ErrorReply:
    """`ErrorReply` of the API."""

    error: Error


@dataclass(frozen=True, kw_only=True)
class Image:
    """`Image` of the API."""

    image: bytes | None = field(default=None, repr=False)
    """The image; absent if upload_urls says where it goes."""

    url: str | None = None
    """Where the image was sent to by upload_urls, without the query."""

    size: int | None = field(default=None, metadata={"key": "bytes"})
    """The size of the file that was sent there."""

    format: ImageFormat

    width: int

    height: int

    seed: int | None
    """Makes this image alone; null if the seed does not, or makes several at once."""

    report: Report | None = None
    """Of the last garment; absent if the workflow pastes nothing into the person image."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """`Output` of the API."""

    images: list[Image]

    mask: bytes | None = field(default=None, repr=False)
    """A PNG, white where the images may have changed; absent unless return_mask asks for it."""


@dataclass(frozen=True, kw_only=True)
class PreviewEvent:
    """Shows the result so far, as a small image."""

    format: Literal["jpeg"]

    image: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """Says how far the request is: step `value` of `max`."""

    value: int

    max: int

    node: str
    """The workflow's node that is executing."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Says what was done to a person image, so that failures can be sorted out without looking."""

    window: tuple[int, int, int, int]
    """x, y, width and height, in pixels, of the part of the person image that the sampler saw; it may reach beyond
    the image.
    """

    changed: float
    """Share of the image's pixels that changed."""

    colour_difference: float | None
    """Median CIEDE2000 between garment image and changed area; null if nothing changed."""


@dataclass(frozen=True, kw_only=True)
class StatusEvent:
    """Says where the request is."""

    status: StatusEventStatus

    position: int | None = None
    """Number of requests ahead of it; absent if it runs."""


@dataclass(frozen=True, kw_only=True)
class Timings:
    """How long the request took, in seconds."""

    queue_s: float

    execute_s: float

    total_s: float


@dataclass(frozen=True, kw_only=True)
class TryonReply:
    """`TryonReply` of the API."""

    id: str

    output: Output

    seed: int | None
    """Makes these images again; null if the graph takes none."""

    workflow: WorkflowVersion

    timings: Timings

    warnings: list[Caution] = field(default_factory=list)
    """Absent if there are none."""


@dataclass(frozen=True, kw_only=True)
class WebhookError:
    """What a webhook gets if there is no image."""

    id: str

    error: Error


@dataclass(frozen=True, kw_only=True)
class WorkflowList:
    """`WorkflowList` of the API."""

    workflows: list[BoundWorkflow]


@dataclass(frozen=True, kw_only=True)
class WorkflowVersion:
    """`WorkflowVersion` of the API."""

    name: str

    version: str
