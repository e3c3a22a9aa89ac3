"""What a request's fields ask of a workflow: whether it takes them, and what its parameters become."""

import secrets
from typing import Any

import numpy as np

from .errors import ApiError
from .schema import DRAWN_SEED_MAX, PARAMETERS, SEED_MAX, TryonRequest
from .workflows.binding import Workflow
from .workflows.parameters import with_aspect_ratio

# Accepted by workflows without the input, because it is what they do anyway.
USUAL = {"garment_photo": "flat-lay", "mask_shape": "outline"}


def check_fields(workflow: Workflow, fields: TryonRequest) -> None:
    """Raises ApiError if `fields` ask for something that `workflow` does not take, or lack what it needs."""
    for name in fields.model_fields_set & PARAMETERS.keys() - workflow.parameters.keys():
        value, default = getattr(fields, name), TryonRequest.model_fields[name].default
        # every workflow dresses some type of garment
        if name == "cloth_type" or value in (None, default, USUAL.get(name)):
            continue
        advice = "makes only one image per request" if name == "num_images" else f"has no {name}. Leave it out"
        raise ApiError("invalid_parameter", f"Workflow {workflow.name!r} {advice}.", field=name)
    for name in fields.model_fields_set & workflow.limits.keys():
        low, high = workflow.limits[name]
        if getattr(fields, name) is not None and not low <= getattr(fields, name) <= high:
            message = f"Workflow {workflow.name!r} takes {name} from {low} to {high}."
            raise ApiError("invalid_parameter", message, field=name)
    _check_words(workflow, fields)
    _check_garments(fields)
    if fields.mask_image is None:
        if workflow.mask_required:
            raise ApiError("missing_field", f"Workflow {workflow.name!r} needs a mask_image.", field="mask_image")
    elif not workflow.inputs.get("mask_image"):
        raise ApiError("invalid_parameter", f"Workflow {workflow.name!r} takes no mask_image.", field="mask_image")
    if fields.return_mask and not workflow.gives_mask:
        message = f"Workflow {workflow.name!r} gives no mask: nothing is linked to mask of its TryOnOutput."
        raise ApiError("invalid_parameter", message, field="return_mask")
    if fields.upload_urls and len(fields.upload_urls) != (count := _image_count(workflow, fields)):
        message = f"upload_urls has {len(fields.upload_urls)} URLs, and the images are {count}. Send one for each."
        raise ApiError("invalid_parameter", message, field="upload_urls")


def _image_count(workflow: Workflow, fields: TryonRequest) -> int:
    counts = workflow.image_counts(fields.num_images)
    # the last of several garments has a run for each image of the first output
    return sum(counts) if len(fields.garment_image) == 1 else counts[0] * len(counts)


def _check_words(workflow: Workflow, fields: TryonRequest) -> None:
    for name, taken in workflow.choices.items():
        value = getattr(fields, name)
        if not {None, *taken}.issuperset(value if isinstance(value, list) else [value]):
            message = f"Workflow {workflow.name!r} takes {' or '.join(taken)} as {name}."
            raise ApiError("invalid_parameter", message, field=name)


def _check_garments(fields: TryonRequest) -> None:
    garments, types = len(fields.garment_image), len(fields.cloth_type)
    if types not in (1, garments):
        message = f"cloth_type has {types} values for {garments} garments. Send one for all, or one for each."
        raise ApiError("invalid_parameter", message, field="cloth_type")
    if garments > 1 and fields.mask_image is not None:
        message = "mask_image goes with one garment. Leave it out, or send a request for each garment and its mask."
        raise ApiError("invalid_parameter", message, field="mask_image")


def values_of(workflow: Workflow, fields: TryonRequest) -> dict[str, Any]:
    """Returns the values of the workflow's parameters that `fields` replace, without cloth_type.

    Raises:
        ApiError
    """
    values = fields.model_dump(include={*workflow.parameters} - {"cloth_type"}, exclude_none=True)
    own = {
        side: workflow.graph[node]["inputs"].get(name)
        for side in ("width", "height")
        for node, name in workflow.parameters.get(side, ())[:1]
    }
    try:
        return with_aspect_ratio(values, own)
    except ValueError as error:
        given = "width" if "width" in values else "height"
        raise ApiError("invalid_parameter", f"{error}.", field=given) from None


def draw_seed(workflow: Workflow, num_images: int) -> int:
    """Draws a seed that the workflow's nodes take, as are those that count up from it."""
    low, high = workflow.limits.get("seed", (0, SEED_MAX))
    first, last = int(max(low, 0)), int(min(high, DRAWN_SEED_MAX)) - num_images + 1
    return first + secrets.randbelow(max(last - first + 1, 1))


def images_of(sent: dict[str, np.ndarray], number: int, person: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns the images of a run by their fields: of several garments the one with `number`, on `person`."""
    found = {name: pixels for name, pixels in sent.items() if "[" not in name}
    if (several := sent.get(f"garment_image[{number}]")) is not None:
        found["garment_image"] = several
    return found if person is None else found | {"person_image": person}
