"""Models of the request and the replies: they validate, and the OpenAPI document is generated from them."""

import binascii
import re
from typing import Annotated, Any, Literal

import pybase64
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from .errors import ApiError
from .imagefiles import recognition
from .settings import WORKFLOW_NAME

CLOTH_TYPE_ALIASES = {
    "tops": "upper",
    "upper_body": "upper",
    "bottoms": "lower",
    "lower_body": "lower",
    "one-pieces": "overall",
    "dresses": "overall",
    "dress": "overall",
    "full": "overall",
}
URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITE_SPACE = b" \t\r\n\f\v"
SEED_MAX = 2**64 - 1
SIDE_MIN, SIDE_MAX, SIDE_STEP = 64, 2048, 8
DATA_URI = re.compile(r"data:[\w.+/-]*(?:;[\w.+=/-]*)*,", re.IGNORECASE)

ImageFormat = Literal["png", "jpeg", "webp"]


class NodeInput:
    """Marks a request field that replaces the values of the node inputs called `names`."""

    def __init__(self, *names: str) -> None:
        self.names = names


def _image(value: Any) -> bytes:
    """Returns the bytes of an image field, which is base64, a data URI, or (a file in a form) bytes already."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("image", "must be a base64 string or a data URI")
    head = DATA_URI.match(value[:256])  # a slice, which bounds the search in megabytes
    text = value[head.end() :] if head else value
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass  # most clients send plain base64, which is decoded without a copy; the others cost one more try
    try:
        plain = text.encode("ascii").translate(URL_SAFE, WHITE_SPACE).rstrip(b"=")
        return pybase64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise PydanticCustomError("image", "{what}", {"what": recognition.named_text(value)}) from None


def _seed(value: Any) -> Any:
    return None if value in (-1, "-1") else value


def _cloth_type(value: Any) -> Any:
    return CLOTH_TYPE_ALIASES.get(value.lower(), value.lower()) if isinstance(value, str) else value


def _side(value: int) -> int:
    if SIDE_MIN <= value <= SIDE_MAX and value % SIDE_STEP == 0:
        return value
    low = min(max(value - value % SIDE_STEP, SIDE_MIN), SIDE_MAX)
    near = sorted({low, min(low + SIDE_STEP, SIDE_MAX)}) if SIDE_MIN <= value <= SIDE_MAX else [low]
    raise PydanticCustomError(
        "side",
        "must be a multiple of 8 from 64 to 2048; the nearest is {nearest}",
        {"nearest": " or ".join(map(str, near))},
    )


def _number(value: Any) -> Any:
    # pydantic takes True for 1
    if isinstance(value, bool):
        raise PydanticCustomError("number", "must be a number")
    return value


def _word(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


ImageData = Annotated[
    bytes,
    BeforeValidator(_image),
    WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 1}),
]
Number = BeforeValidator(_number)
Side = Annotated[
    int,
    Number,
    AfterValidator(_side),
    WithJsonSchema({"type": "integer", "minimum": SIDE_MIN, "maximum": SIDE_MAX, "multipleOf": SIDE_STEP}),
]


class TryonRequest(BaseModel):
    """A person, a garment and how to combine them. Fields that are left out keep the workflow's values."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    person_image: ImageData = Field(description="The person: base64, a data URI or, in a form, a file.")
    garment_image: ImageData = Field(description="The garment: base64, a data URI or, in a form, a file.")
    mask_image: ImageData | None = Field(
        default=None,
        description="White where the garment goes and black elsewhere, or strokes on a transparent canvas; in the "
        "frame of person_image. Made automatically if left out.",
    )
    cloth_type: Annotated[
        Literal["upper", "lower", "overall", "inner", "outer"], BeforeValidator(_cloth_type), NodeInput("cloth_type")
    ] = Field(
        default="upper",
        description="What the automatic mask covers. Aliases: "
        + ", ".join(f"{alias} ({name})" for alias, name in CLOTH_TYPE_ALIASES.items())
        + ".",
    )
    num_inference_steps: Annotated[
        int | None, Field(ge=1, le=100), Number, NodeInput("num_inference_steps", "steps")
    ] = None
    guidance_scale: Annotated[
        float | None, Field(ge=0, le=20, allow_inf_nan=False), Number, NodeInput("guidance_scale", "cfg")
    ] = None
    seed: Annotated[int | None, Field(ge=0, le=SEED_MAX), Number, BeforeValidator(_seed), NodeInput("seed")] = Field(
        default=None,
        description="Random if left out or -1; the reply says which was used.",
        # replaces the generated schema, which does not know that -1 is accepted
        json_schema_extra={"anyOf": [{"type": "integer", "minimum": -1, "maximum": SEED_MAX}, {"type": "null"}]},
    )
    width: Annotated[Side | None, NodeInput("width")] = None
    height: Annotated[Side | None, NodeInput("height")] = None
    num_images: Annotated[int, Field(ge=1, le=4), Number, NodeInput("batch_size")] = Field(
        default=1, description="Number of images; their seeds count up."
    )
    output_format: Annotated[ImageFormat, BeforeValidator(_word)] = "png"
    output_quality: Annotated[int, Field(ge=1, le=100), Number] = Field(default=95, description="For jpeg and webp.")
    workflow: Annotated[str | None, Field(pattern=f"^{WORKFLOW_NAME}$")] = Field(
        default=None, description="A published workflow's name; see GET /api/v1/workflows."
    )


# The names of the fields that hold images.
IMAGE_FIELDS = tuple(
    name for name, field in TryonRequest.model_fields.items() if field.annotation in (bytes, ImageData | None)
)
# The names of the node inputs whose values a field replaces.
PARAMETERS = {
    name: mark.names
    for name, field in TryonRequest.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, NodeInput)
}


class Image(BaseModel):
    image: str = Field(json_schema_extra={"contentEncoding": "base64"})
    format: ImageFormat
    width: int
    height: int
    seed: int = Field(ge=0, le=SEED_MAX)


class Output(BaseModel):
    images: list[Image]


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
    seed: int = Field(ge=0, le=SEED_MAX)
    workflow: WorkflowVersion
    timings: Timings
    notice: str | None = Field(default=None, description="A caveat about the result, e.g. that demo weights were used.")


class BoundWorkflow(BaseModel):
    """A workflow and where a request goes in its graph."""

    name: str
    version: str | None = Field(default=None, description="Hash of the content being served; absent if none is.")
    default: bool
    parameters: dict[str, Any] = Field(default={}, description="The parameters it takes, with its own values for them.")
    bound: dict[str, list[str]] = Field(default={}, description="The nodes that each request field is sent to.")
    outputs: list[str] = []
    mask: Literal["required", "optional", "none"] = "none"
    problem: str | None = Field(
        default=None, description="Why the current file is refused; the last good version is served, if there is one."
    )


class WorkflowList(BaseModel):
    workflows: list[BoundWorkflow]


class Error(BaseModel):
    code: str
    message: str
    details: dict[str, Any]


class ErrorReply(BaseModel):
    error: Error


def unknown_field(name: str) -> ApiError:
    """Returns the error for a field that requests do not have."""
    known = ", ".join(TryonRequest.model_fields)
    return ApiError("invalid_parameter", f"{name[:64]!r} is not a field. Known: {known}.", field=name[:64])


def parse(fields: Any) -> TryonRequest:
    """Validates the fields of a request: decoded JSON, or a form's strings and bytes.

    Raises:
        ApiError: invalid_request, missing_field, invalid_image or invalid_parameter, naming the field.
    """
    if not isinstance(fields, dict):
        raise ApiError("invalid_request", "The body must be a JSON object with person_image and garment_image.")
    try:
        return TryonRequest.model_validate(fields)
    except ValidationError as error:
        raise _api_error(error) from None


def _api_error(error: ValidationError) -> ApiError:
    # a missing field first: whoever misspells a field's name has one missing and one too many
    problems = sorted(error.errors(include_url=False, include_context=False), key=lambda p: p["type"] != "missing")
    first = problems[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "missing":
        return ApiError(
            "missing_field", f"{field} is missing. Send it in base64, as a data URI or as a file.", field=field
        )
    if first["type"] == "extra_forbidden":
        return unknown_field(field)
    if first["type"] == "image":
        return ApiError("invalid_image", f"{field} {first['msg'].rstrip('.')}.", field=field)
    message = first["msg"]
    message = message.removeprefix("Input ").removeprefix("Value ")
    return ApiError("invalid_parameter", f"{field}: {message[:1].lower()}{message[1:]}.", field=field)
