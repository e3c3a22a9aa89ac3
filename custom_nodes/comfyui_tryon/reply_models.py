"""Models of the replies: the OpenAPI document is generated from them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from .errors import STATUS
from .schema import SEED_MAX, ImageFormat

CautionCode = Literal["several_people", "garment_area_small", "person_cut", "demo_weights"]


class Report(BaseModel):
    """Says what was done to a person image, so that failures can be sorted out without looking."""

    window: tuple[int, int, int, int] = Field(
        description="x, y, width and height, in pixels, of the part of the person image that the sampler saw; it may "
        "reach beyond the image."
    )
    changed: float = Field(ge=0, le=1, description="Share of the image's pixels that changed.")
    colour_difference: float | None = Field(
        ge=0, description="Median CIEDE2000 between garment image and changed area; null if nothing changed."
    )


class Image(BaseModel):
    image: str | None = Field(
        default=None,
        description="The image; absent if upload_urls says where it goes.",
        json_schema_extra={"contentEncoding": "base64"},
    )
    url: str | None = Field(default=None, description="Where the image was sent to by upload_urls, without the query.")
    bytes: int | None = Field(default=None, description="The size of the file that was sent there.")
    format: ImageFormat
    width: int
    height: int
    seed: int | None = Field(
        ge=0, le=SEED_MAX, description="Makes this image alone; null if the seed does not, or makes several at once."
    )
    report: Report | None = Field(
        default=None, description="Of the last garment; absent if the workflow pastes nothing into the person image."
    )


class Output(BaseModel):
    images: list[Image]
    mask: str | None = Field(
        default=None,
        description="A PNG, white where the images may have changed; absent unless return_mask asks for it.",
        json_schema_extra={"contentEncoding": "base64"},
    )


class Caution(BaseModel):
    """Something that the caller should know about the images."""

    code: CautionCode
    message: str = Field(description="For people.")


class WorkflowVersion(BaseModel):
    name: str
    version: str


class Timings(BaseModel):
    """How long the request took, in seconds."""

    queue_s: float
    execute_s: float
    total_s: float


class TryonReply(BaseModel):
    id: str
    output: Output
    seed: int | None = Field(ge=0, le=SEED_MAX, description="Makes these images again; null if the graph takes none.")
    workflow: WorkflowVersion
    timings: Timings
    warnings: list[Caution] = Field(default=[], description="Absent if there are none.")


class Accepted(BaseModel):
    """What a request with a webhook_url is answered with."""

    id: str
    status: Literal["queued"] = "queued"


class WebhookError(BaseModel):
    """What a webhook gets if there is no image."""

    id: str
    error: "Error"


class BoundWorkflow(BaseModel):
    """A workflow and where a request goes in its graph."""

    name: str
    version: str | None = Field(default=None, description="Hash of the content being served; absent if none is.")
    default: bool
    parameters: dict[str, Any] = Field(default={}, description="The parameters it takes, with its own values for them.")
    bound: dict[str, list[str]] = Field(default={}, description="The nodes that each request field is sent to.")
    outputs: list[str] = Field(default=[], description="The nodes that give the images, in the order of a reply.")
    seed: Literal["used", "none"] = Field(
        default="used", description="none: the graph takes no seed from requests, and its replies state none."
    )
    mask: Literal["required", "optional", "none"] = "none"
    licence: str | None = Field(default=None, description="Of the weights that it loads; absent if there are none.")
    commercial_use: bool = Field(
        default=False, description="Whether the licences of all weights that it loads allow commercial use."
    )
    problem: str | None = Field(
        default=None, description="Why the current file is refused; the last good version is served, if there is one."
    )


class WorkflowList(BaseModel):
    workflows: list[BoundWorkflow]


class Error(BaseModel):
    code: str = Field(description="Stable; for programs.", json_schema_extra={"enum": list(STATUS)})
    message: str = Field(description="For people: what is wrong, and what to do about it.")
    request_id: str = Field(description="As in X-Request-Id; marks the request's lines in the log.")
    details: dict[str, Any]


class ErrorReply(BaseModel):
    error: Error


class StatusEvent(BaseModel):
    """Says where the request is."""

    status: Literal["queued", "running"]
    position: int | None = Field(default=None, description="Number of requests ahead of it; absent if it runs.")


class ProgressEvent(BaseModel):
    """Says how far the request is: step `value` of `max`."""

    value: int
    max: int
    node: str = Field(description="The workflow's node that is executing.")


class PreviewEvent(BaseModel):
    """Shows the result so far, as a small image."""

    format: Literal["jpeg"]
    image: str = Field(json_schema_extra={"contentEncoding": "base64"})
