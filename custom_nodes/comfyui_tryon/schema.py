"""The request and the reply, as the models that validate them and that the OpenAPI document is made from."""

import binascii
import re
from typing import Annotated, Any, Literal

import pybase64
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from .errors import ApiError

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


def _picture(value: Any) -> bytes:
    """The bytes of a picture field: base64, a data URI, or already bytes."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("picture", "must be a base64 string or a data URI")
    head = DATA_URI.match(value[:256])
    text = value[head.end() :] if head else value
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    try:
        plain = text.encode("ascii").translate(URL_SAFE, WHITE_SPACE).rstrip(b"=")
        return pybase64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise PydanticCustomError(
            "picture", "is not base64; send the picture's bytes in base64 or as a data URI"
        ) from None


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
    if isinstance(value, bool):
        raise PydanticCustomError("number", "must be a number")
    return value


def _word(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Picture = Annotated[
    bytes,
    BeforeValidator(_picture),
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
    """A person and a garment, and how to make the picture. What is left out stays as the workflow has it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    person_image: Picture = Field(description="The person: base64, a data URI or, in a form, a file.")
    garment_image: Picture = Field(description="The garment: base64, a data URI or, in a form, a file.")
    mask_image: Picture | None = Field(
        None,
        description="White where the garment goes, in the person picture's frame; made automatically if left out.",
    )
    cloth_type: Annotated[Literal["upper", "lower", "overall", "inner", "outer"], BeforeValidator(_cloth_type)] = Field(
        "upper",
        description="What the automatic mask covers. Also understood: "
        + ", ".join(f"{alias} ({name})" for alias, name in CLOTH_TYPE_ALIASES.items())
        + ".",
    )
    num_inference_steps: Annotated[int, Field(ge=1, le=100), Number] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=20, allow_inf_nan=False), Number] | None = None
    seed: Annotated[
        Annotated[int, Field(ge=0, le=SEED_MAX)] | None, BeforeValidator(_number), BeforeValidator(_seed)
    ] = Field(
        None,
        description="Random if left out or -1; the reply says which was used.",
        json_schema_extra={"anyOf": [{"type": "integer", "minimum": -1, "maximum": SEED_MAX}, {"type": "null"}]},
    )
    width: Side | None = None
    height: Side | None = None
    num_images: Annotated[int, Field(ge=1, le=4), Number] = Field(1, description="Pictures, their seeds counting up.")
    output_format: Annotated[Literal["png", "jpeg", "webp"], BeforeValidator(_word)] = "png"
    output_quality: Annotated[int, Field(ge=1, le=100), Number] = Field(95, description="Of jpeg and webp.")
    workflow: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = Field(
        None, description="A published workflow's name; see GET /api/v1/workflows."
    )


IMAGE_FIELDS = ("person_image", "garment_image", "mask_image")
PARAMETERS = {
    "seed": ("seed",),
    "num_inference_steps": ("num_inference_steps", "steps"),
    "guidance_scale": ("guidance_scale", "cfg"),
    "cloth_type": ("cloth_type",),
    "width": ("width",),
    "height": ("height",),
    "num_images": ("batch_size",),
}


class Image(BaseModel):
    image: str = Field(json_schema_extra={"contentEncoding": "base64"})
    format: Literal["png", "jpeg", "webp"]
    width: int
    height: int
    seed: int = Field(ge=0, le=SEED_MAX)


class Output(BaseModel):
    images: list[Image]


class WorkflowVersion(BaseModel):
    name: str
    version: str


class Timings(BaseModel):
    """Seconds."""

    queue_s: float
    execute_s: float
    total_s: float


class TryonReply(BaseModel):
    id: str
    output: Output
    seed: int = Field(ge=0, le=SEED_MAX)
    workflow: WorkflowVersion
    timings: Timings
    notice: str | None = Field(
        None, description="What to know about the picture, such as that the weights are a demo's."
    )


class BoundWorkflow(BaseModel):
    """A workflow and where a request goes in its graph."""

    name: str
    version: str | None = Field(None, description="A hash of the content that serves; none if nothing serves.")
    default: bool
    parameters: dict[str, Any] = Field({}, description="The parameters it takes, with the values that it has for them.")
    bound: dict[str, list[str]] = Field({}, description="For each field of a request, the nodes that it goes to.")
    outputs: list[str] = []
    mask: Literal["required", "optional", "none"] = "none"
    problem: str | None = Field(
        None, description="Why the file as it is now is refused; the last good one serves, if any."
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
    known = ", ".join(TryonRequest.model_fields)
    return ApiError("invalid_parameter", f"{name[:64]!r} is not a field. Known: {known}.", field=name[:64])


def parse(fields: Any) -> TryonRequest:
    """Validates the fields of a request.

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
    problems = sorted(error.errors(include_url=False, include_context=False), key=lambda p: p["type"] != "missing")
    first = problems[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "missing":
        return ApiError(
            "missing_field", f"{field} is missing. Send it in base64, as a data URI or as a file.", field=field
        )
    if first["type"] == "extra_forbidden":
        return unknown_field(field)
    if first["type"] == "picture":
        return ApiError("invalid_image", f"{field} {first['msg']}.", field=field)
    message = first["msg"]
    message = message.removeprefix("Input ").removeprefix("Value ")
    return ApiError("invalid_parameter", f"{field}: {message[:1].lower()}{message[1:]}.", field=field)
