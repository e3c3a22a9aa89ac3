"""Makes the network's images of a person and a garment, as the published program does.

Images are resized twice, to the longest side of the canvas and from there to fit it. Poses and labels are made of what
lies between.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..dwpose import PoseEstimator, draw
from ..resampling import area, lanczos4, nearest_exact
from .agnostic import CATEGORIES, FILL, agnostic_area, garment_area
from .geometry import Box, Size, centred, fitted, reduced
from .parser import HumanParser, ParserMissing

GARMENT_PHOTOS = ("flat-lay", "model")


@dataclass(frozen=True)
class Conditions:
    """Holds what the network is given besides noise: uint8 (height, width, 3) RGB of the canvas, black at the margins.

    Attributes:
        agnostic: the person, grey where the garment goes, or unchanged if nothing is masked.
        garment: the garment, grey around it if it is worn by somebody.
        person_pose: the person's pose, drawn in greys.
        garment_pose: the pose of who wears the garment; black for one that lies flat.
        crop: where the person is on the canvas.
    """

    agnostic: np.ndarray
    garment: np.ndarray
    person_pose: np.ndarray
    garment_pose: np.ndarray
    crop: Box


def prepare(
    person: np.ndarray,
    garment: np.ndarray,
    *,
    category: str,
    garment_photo: str,
    segmentation_free: bool,
    canvas: Size = (864, 576),
    pose: PoseEstimator,
    parser: HumanParser | None = None,
    mask: np.ndarray | None = None,
    garment_mask: np.ndarray | None = None,
    check: Callable[[], None] = lambda: None,
) -> Conditions:
    """Prepares a person and a garment.

    Args:
        person: uint8 (H, W, 3) RGB, any size.
        garment: uint8 (H, W, 3) RGB, any size.
        category: one of `CATEGORIES`.
        garment_photo: "flat-lay" for a garment alone, "model" for one that somebody wears.
        segmentation_free: leaves the person as it is instead of masking what `category` replaces.
        canvas: height and width in pixels.
        pose: finds people.
        parser: labels clothes; needed for a worn garment, and to mask the person without `mask`.
        mask: bool (H, W) as the person, where it may change; masked in place of the area that the parser finds, whether
            or not `segmentation_free`.
        garment_mask: bool (H, W) as the garment, where it is; in place of what the parser finds of a worn garment.
        check: called between the stages of the work; what it raises ends the call.

    Raises:
        ParserMissing: the parser is needed and was not given.
        TooNarrow: an image has less than one pixel in a direction when it is scaled.
        ValueError: an argument is not of those kinds.
    """
    _require(person, garment, mask, category, garment_photo)
    worn = garment_photo == "model"
    if parser is None and garment_mask is None and worn:
        raise ParserMissing(
            "a garment that somebody wears (garment_photo: model) needs the human parser, which is not installed and "
            "whose weights are not for commercial use; send an image of the garment alone with garment_photo: "
            "flat-lay, or link a mask to garment_mask, yours or one from Auto Mask Generation"
        )
    if parser is None and mask is None and not segmentation_free:
        raise ParserMissing(
            "segmentation_free: false needs the human parser, which is not installed and whose weights are not for "
            "commercial use; send a mask, link one from Auto Mask Generation, or set segmentation_free to true"
        )
    # Before any work, since images that cannot be scaled fail here.
    for image in (person, garment):
        fitted(reduced(image.shape[:2], canvas), canvas)

    check()
    person = _reduce(person, canvas)
    check()
    garment = _reduce(garment, canvas)
    person_pose = draw(pose.estimate(person, check).pose, *person.shape[:2])
    garment_pose = np.zeros(garment.shape[:2], np.uint8)
    if worn:
        garment_pose = draw(pose.estimate(garment, check).pose, *garment.shape[:2])
    if garment_mask is not None and worn:
        garment = _masked(garment, ~nearest_exact(garment_mask, *garment.shape[:2]))
    elif parser is not None and worn:
        check()
        garment = _masked(garment, ~garment_area(parser.labels(garment), category))
    if mask is not None:
        person = _masked(person, nearest_exact(mask, *person.shape[:2]))
    elif parser is not None and not segmentation_free:
        check()
        person = _masked(person, agnostic_area(parser.labels(person), category))
    check()
    return Conditions(
        agnostic=_place(_fit(person, canvas), canvas),
        garment=_place(_fit(garment, canvas), canvas),
        person_pose=_place_pose(person_pose, canvas),
        garment_pose=_place_pose(garment_pose, canvas),
        crop=centred(fitted(person.shape[:2], canvas)[0], canvas),
    )


def _require(
    person: np.ndarray, garment: np.ndarray, mask: np.ndarray | None, category: str, garment_photo: str
) -> None:
    for name, image in (("person", person), ("garment", garment)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"{name} must be a uint8 (H, W, 3) RGB image, not {image.dtype} {image.shape}")
    if mask is not None and (mask.dtype != bool or mask.shape != person.shape[:2]):
        raise ValueError(f"mask must be a bool {person.shape[:2]}, as the person, not {mask.dtype} {mask.shape}")
    for name, value, known in (("category", category, CATEGORIES), ("garment_photo", garment_photo, GARMENT_PHOTOS)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; give one of {', '.join(known)}")


def _reduce(image: np.ndarray, canvas: Size) -> np.ndarray:
    height, width = reduced(image.shape[:2], canvas)
    if (height, width) == image.shape[:2]:
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _masked(image: np.ndarray, area: np.ndarray) -> np.ndarray:
    return np.where(area[..., None], np.uint8(FILL), image)


def _fit(image: np.ndarray, canvas: Size) -> np.ndarray:
    size, enlarged = fitted(image.shape[:2], canvas)
    return lanczos4(image, *size) if enlarged else area(image, *size)


def _place(image: np.ndarray, canvas: Size) -> np.ndarray:
    placed = np.zeros((*canvas, 3), np.uint8)
    left, top, width, height = centred(image.shape[:2], canvas)
    placed[top : top + height, left : left + width] = image
    return placed


def _place_pose(pose: np.ndarray, canvas: Size) -> np.ndarray:
    return _place(nearest_exact(pose, *fitted(pose.shape, canvas)[0])[..., None], canvas)
