"""Models of the request and the replies: they validate, and the OpenAPI document is generated from them."""

import re
from itertools import chain
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from .datauri import NoImageText, decode_text
from .hosts import MAX_URL
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
FORMAT_ALIASES = {"jpg": "jpeg", "jpe": "jpeg", "pjpeg": "jpeg", "x-png": "png"}
SEED_MAX = 2**64 - 1
# Of the seeds that the server draws: JavaScript and many JSON parsers round greater numbers.
DRAWN_SEED_MAX = 2**53 - 1
SIDE_MIN, SIDE_MAX, SIDE_STEP = 64, 2048, 8
MAX_GARMENTS = 4
MAX_UPLOADS = 16
URL_HEAD = 256  # characters
MAX_WORD = 256
URL_TEXT = re.compile(r"\s*https?://", re.IGNORECASE)

# What nodes call the garments in their inputs named category.
GARMENT_CATEGORIES = {"upper": "tops", "inner": "tops", "outer": "tops", "lower": "bottoms", "overall": "one-pieces"}

ImageFormat = Literal["png", "jpeg", "webp"]
Framing = Literal["person", "model"]


class ImageUrl(bytes):
    """A URL in UTF-8 in the place of the image that is still to be fetched from it."""


class NodeInput:
    """Marks a request field that replaces the values of the node inputs called `names`."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Several:
    """Marks a field that is a list, and may be sent as one value instead, or as a form's part that is repeated."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        array = handler(schema)
        return {"anyOf": [array["items"], array]}


def _image(value: Any) -> bytes:
    """Returns the bytes of an image field, which is base64, a data URI, or (a file in a form) bytes already.

    Of a URL it returns an `ImageUrl`.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("image", "must be a base64 string, a data URI or a URL")
    if URL_TEXT.match(value[:URL_HEAD]):  # of millions of spaces it would try every one
        if len(value) > MAX_URL + URL_HEAD:
            raise PydanticCustomError("image", "is a URL of more than {most} characters", {"most": MAX_URL})
        return ImageUrl(value.encode("utf-8", "replace"))
    try:
        return decode_text(value)
    except NoImageText as error:
        raise PydanticCustomError("image", "{problem}", {"problem": str(error)}) from None


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _seed(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():  # as some languages write whole numbers beyond 2^63
        value = int(value)
    given = value.strip() if _is_short(value) else value
    return None if given in (-1, "-1", "-1.0") else value


def _cloth_type(value: Any) -> Any:
    value = _word(value)
    return CLOTH_TYPE_ALIASES.get(value, value) if isinstance(value, str) else value


def format_name(value: Any) -> Any:
    """Returns the format that a name such as "jpg", ".png" or "image/webp" stands for; anything else as it is."""
    value = _word(value)
    if not isinstance(value, str):
        return value
    value = value.removeprefix("image/").removeprefix(".")
    return FORMAT_ALIASES.get(value, value)


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
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value[:MAX_WORD]):  # and 1_0 for 10
        raise PydanticCustomError("number", "must be a number")
    return value


def _word(value: Any) -> Any:
    return value.strip().lower() if _is_short(value) else value


def _is_short(value: Any) -> bool:
    """Whether `value` is text that may mean something; to change the case of megabytes holds the event loop up."""
    return isinstance(value, str) and len(value) <= MAX_WORD


ImageData = Annotated[
    bytes,
    BeforeValidator(_image),
    WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 1}),
]
Number = BeforeValidator(_number)
SEVERAL = Several()
Listed = BeforeValidator(_listed)
EachGarment = Field(min_length=1, max_length=MAX_GARMENTS)
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL)]
ClothName = Literal["upper", "lower", "overall", "inner", "outer"]
ClothType = Annotated[
    ClothName,
    BeforeValidator(_cloth_type),
    WithJsonSchema({"type": "string", "enum": [*get_args(ClothName), *CLOTH_TYPE_ALIASES]}),
]
Side = Annotated[
    int,
    Number,
    AfterValidator(_side),
    WithJsonSchema({"type": "integer", "minimum": SIDE_MIN, "maximum": SIDE_MAX, "multipleOf": SIDE_STEP}),
]


class TryonRequest(BaseModel):
    """A person, a garment and how to combine them. Fields that are left out keep the workflow's values."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    person_image: ImageData = Field(
        description="The person: base64, a data URI, an https URL of an allowed host or, in a form, a file."
    )
    garment_image: Annotated[list[ImageData], EachGarment, Listed, SEVERAL] = Field(
        description="The garment, sent as person_image is. Or 1 to 4 of them, put on in this order."
    )
    mask_image: ImageData | None = Field(
        default=None,
        description="White where the garment goes and black elsewhere, or strokes on a transparent canvas; in the "
        "frame of person_image. Made automatically if left out.",
    )
    cloth_type: Annotated[list[ClothType], EachGarment, Listed, SEVERAL, NodeInput("cloth_type", "category")] = Field(
        default=["upper"],
        description="What the garment is, and so what the automatic mask covers: one for all garments, or one for "
        "each. Aliases: " + ", ".join(f"{alias} ({name})" for alias, name in CLOTH_TYPE_ALIASES.items()) + ".",
        json_schema_extra={"default": "upper"},
    )
    garment_photo: Annotated[
        Literal["flat-lay", "model"] | None, BeforeValidator(_word), NodeInput("garment_photo")
    ] = Field(
        default=None,
        description="model: somebody wears the garment in its image. Where it is left out, the workflow's: flat-lay in "
        "the bundled one that tells them apart.",
    )
    mask_shape: Annotated[
        Literal["outline", "box"] | None, BeforeValidator(_word), NodeInput("mask_shape", "square")
    ] = Field(
        default=None,
        description="box: the automatic mask is a rectangle, which hides the length and outline of what is worn.",
    )
    framing: Annotated[Framing | None, BeforeValidator(_word), NodeInput("framing")] = Field(
        default=None,
        description="person: the reply has the person image's own size, as it was sent outside the mask. model: the "
        "sampler's crop and size.",
    )
    return_mask: Annotated[bool, BeforeValidator(_word)] = Field(
        default=False, description="Adds output.mask, in the frame of the images. For JSON replies only."
    )
    num_inference_steps: Annotated[
        int | None, Field(ge=1, le=100), Number, NodeInput("num_inference_steps", "steps")
    ] = None
    guidance_scale: Annotated[
        float | None, Field(ge=0, le=20, allow_inf_nan=False), Number, NodeInput("guidance_scale", "cfg")
    ] = None
    seed: Annotated[
        int | None, Field(ge=0, le=SEED_MAX), Number, BeforeValidator(_seed), NodeInput("seed", "noise_seed")
    ] = Field(
        default=None,
        description="Random, and below 2^53, if left out or -1; the reply says which was used, as an exact number.",
        # replaces the generated schema, which does not know that -1 is accepted
        json_schema_extra={"anyOf": [{"type": "integer", "minimum": -1, "maximum": SEED_MAX}, {"type": "null"}]},
    )
    width: Annotated[Side | None, NodeInput("width")] = Field(
        default=None, description="Of what the sampler makes; width or height alone keeps the workflow's aspect ratio."
    )
    height: Annotated[Side | None, NodeInput("height")] = None
    num_images: Annotated[int, Field(ge=1, le=4), Number, NodeInput("batch_size")] = Field(
        default=1, description="Number of images; their seeds count up."
    )
    output_format: Annotated[
        ImageFormat,
        BeforeValidator(format_name),
        WithJsonSchema({"type": "string", "enum": [*get_args(ImageFormat), "jpg"]}),
    ] = Field(default="png", description='"jpg" and media types such as "image/webp" are understood too.')
    output_quality: Annotated[int, Field(ge=1, le=100), Number] = Field(default=95, description="For jpeg and webp.")
    workflow: Annotated[str | None, Field(pattern=f"^{WORKFLOW_NAME}$")] = Field(
        default=None, description="A published workflow's name; see GET /api/v1/workflows."
    )
    webhook_url: Url | None = Field(
        default=None,
        description="An https URL. The answer is 202 once the request is queued; the reply or the error is POSTed "
        "there, signed by Standard Webhooks.",
    )
    upload_urls: Annotated[list[Url], Field(max_length=MAX_UPLOADS), Listed, SEVERAL] = Field(
        default=[],
        description="Presigned https URLs, one for each image, which are PUT there instead of into the reply.",
    )


# The names of the fields that hold images.
IMAGE_FIELDS = tuple(
    name
    for name, field in TryonRequest.model_fields.items()
    if field.annotation in (bytes, ImageData | None, list[ImageData])
)
SEVERAL_FIELDS = tuple(name for name, field in TryonRequest.model_fields.items() if SEVERAL in field.metadata)
# The names of the node inputs whose values a field replaces.
PARAMETERS = {
    name: mark.names
    for name, field in TryonRequest.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, NodeInput)
}


def _words(annotation: Any) -> tuple[str, ...]:
    parts = get_args(annotation)
    return parts if get_origin(annotation) is Literal else tuple(chain.from_iterable(map(_words, parts)))


# The words that a field may replace them by, if it takes words only.
PARAMETER_WORDS = {name: words for name in PARAMETERS if (words := _words(TryonRequest.model_fields[name].annotation))}
