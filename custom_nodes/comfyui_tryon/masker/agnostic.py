"""Computes CatVTON's agnostic mask: from label maps of a person to the area where the garment goes.

The published logic (`model/cloth_masker.py`) with numpy, scipy and Pillow in place of OpenCV: the same mask up to a few
pixels on its outline, at any size.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

CLOTH_TYPES = ("upper", "lower", "overall", "inner", "outer")

ATR_LABELS = (
    "Background", "Hat", "Hair", "Sunglasses", "Upper-clothes", "Skirt", "Pants", "Dress", "Belt", "Left-shoe",
    "Right-shoe", "Face", "Left-leg", "Right-leg", "Left-arm", "Right-arm", "Bag", "Scarf",
)  # fmt: skip
LIP_LABELS = (
    "Background", "Hat", "Hair", "Glove", "Sunglasses", "Upper-clothes", "Dress", "Coat", "Socks", "Pants", "Jumpsuits",
    "Scarf", "Skirt", "Face", "Left-arm", "Right-arm", "Left-leg", "Right-leg", "Left-shoe", "Right-shoe",
)  # fmt: skip
DENSEPOSE_PARTS = {
    "torso": (1, 2),
    "hands": (3, 4),
    "feet": (5, 6),
    "thighs": (7, 8, 9, 10),
    "legs": (11, 12, 13, 14),
    "big arms": (15, 16, 17, 18),
    "forearms": (19, 20, 21, 22),
    "face": (23, 24),
}

_SHOES = ("Left-shoe", "Right-shoe")
_ACCESSORIES = ("Hat", "Glove", "Sunglasses", "Bag", "Scarf", "Socks", *_SHOES)
_LIMBS = ("Left-arm", "Right-arm", "Left-leg", "Right-leg")
_LEGS = ("Left-leg", "Right-leg")


class _Rule(NamedTuple):
    body: tuple[str, ...]  # protected skin, in both parsers
    keep_atr: tuple[str, ...]  # protected clothes
    keep_lip: tuple[str, ...]
    cloth: tuple[str, ...]  # masked clothes, in both parsers
    parts: tuple[str, ...]  # masked DensePose parts


_RULES = {
    "upper": _Rule(
        body=_LEGS,
        keep_atr=("Skirt", "Pants"),
        keep_lip=("Skirt", "Pants"),
        cloth=("Upper-clothes", "Coat", "Dress", "Jumpsuits"),
        parts=("torso", "big arms", "forearms"),
    ),
    "lower": _Rule(
        body=("Left-arm", "Right-arm", "Face"),
        keep_atr=("Upper-clothes",),
        keep_lip=("Upper-clothes", "Coat"),
        cloth=("Pants", "Skirt", "Dress", "Jumpsuits"),
        parts=("thighs", "legs"),
    ),
    "overall": _Rule(
        body=(),
        keep_atr=(),
        keep_lip=(),
        cloth=("Upper-clothes", "Dress", "Pants", "Skirt", "Coat", "Jumpsuits"),
        parts=("torso", "thighs", "legs", "big arms", "forearms"),
    ),
    "inner": _Rule(
        body=_LEGS,
        keep_atr=("Dress", "Coat", "Skirt", "Pants"),
        keep_lip=("Dress", "Coat", "Skirt", "Pants", "Jumpsuits"),
        cloth=("Upper-clothes",),
        parts=("torso",),
    ),
    "outer": _Rule(
        body=_LEGS,
        keep_atr=("Dress", "Pants", "Skirt"),
        keep_lip=("Upper-clothes", "Dress", "Pants", "Skirt", "Jumpsuits"),
        cloth=("Coat",),
        parts=("torso", "big arms", "forearms"),
    ),
}


class LabelMaps(NamedTuple):
    """Holds what the parsers say of each pixel; uint8 (H, W) each."""

    densepose: np.ndarray
    """DensePose's fine body parts, 0 (background) to 24, of the person to dress."""
    atr: np.ndarray
    """Indices into `ATR_LABELS`."""
    lip: np.ndarray
    """Indices into `LIP_LABELS`."""


def agnostic_mask(maps: LabelMaps, cloth_type: str, *, mask_grow: int = 0, square: bool = False) -> np.ndarray:
    """Computes the garment area that CatVTON was trained on, as `AutoMasker.cloth_agnostic_mask` does.

    Args:
        maps: the three label maps, uint8 (H, W) of one size.
        cloth_type: one of `CLOTH_TYPES`.
        mask_grow: pixels to add around the published area; negative shrinks it.
        square: mask the area's bounding box.

    Returns:
        uint8 (H, W) in {0, 255}, 255 where the garment goes. With `mask_grow` or `square`, face, hair, hands, feet
        and shoes are clear to the pixel; without, the published final dilation reaches over their edge, by 2 pixels at
        1024.
    """
    rule = _RULES[cloth_type]
    densepose, atr, lip = maps
    dilation, blur = _odd(max(atr.shape) // 250), _odd(max(atr.shape) // 25)

    def parsed(names: tuple[str, ...]) -> np.ndarray:
        return _where(atr, _indices(ATR_LABELS, names)) | _where(lip, _indices(LIP_LABELS, names))

    extremities = _where(densepose, (*DENSEPOSE_PARTS["hands"], *DENSEPOSE_PARTS["feet"]))
    strong_protect = dilate(extremities, dilation) & parsed(_LIMBS)
    strong_protect |= _where(lip, _indices(LIP_LABELS, ("Face",)))
    weak_protect = strong_protect | parsed((*rule.body, "Hair", *_ACCESSORIES))
    weak_protect |= _where(atr, _indices(ATR_LABELS, rule.keep_atr)) | _where(lip, _indices(LIP_LABELS, rule.keep_lip))
    cloth = parsed(rule.cloth)
    figure = (atr != 0) | (lip != 0)

    parts = _where(densepose, tuple(index for part in rule.parts for index in DENSEPOSE_PARTS[part]))
    area = (figure & ~weak_protect) | _dilate_coarsely(parts, dilation)
    area = fill_hulls(area) & ~weak_protect
    area = _spread(area, blur)
    area = dilate((area | cloth) & ~strong_protect, dilation)

    if mask_grow or square:
        protect = strong_protect | extremities | parsed(("Face", "Hair", *_SHOES))
        area = reshape_area(area, protect, mask_grow, square)
    return area.astype(np.uint8) * 255


def reshape_area(area: np.ndarray, protect: np.ndarray, mask_grow: int, square: bool) -> np.ndarray:
    """Grows, shrinks or squares a finished mask.

    Args:
        area: bool (H, W), the garment area.
        protect: bool (H, W), pixels that are never masked.
        mask_grow: pixels (Euclidean) to add around the area; negative shrinks it, but not at the image's edge.
        square: mask the bounding box instead, so that the outline of the worn garment does not show.

    Returns:
        bool (H, W), clear of `protect`.
    """
    if mask_grow > 0 and area.any():
        area = ndimage.distance_transform_edt(~area) <= mask_grow
    elif mask_grow < 0 and not area.all():
        area = ndimage.distance_transform_edt(area) > -mask_grow
    if square and area.any():
        rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
        area = np.zeros_like(area)
        area[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return area & ~protect


def dilate(plane: np.ndarray, size: int) -> np.ndarray:
    """Dilates a bool plane (H, W) by a `size` x `size` square, `size` odd; all is clear beyond the border."""
    radius = size // 2
    for axis in (0, 1):
        padded = np.pad(plane, [(radius, radius) if axis == a else (0, 0) for a in (0, 1)])
        length = plane.shape[axis]
        plane = np.zeros_like(plane)
        for offset in range(size):
            plane |= padded[offset : offset + length] if axis == 0 else padded[:, offset : offset + length]
    return plane


def fill_hulls(area: np.ndarray) -> np.ndarray:
    """Fills each 8-connected part of a bool plane (H, W) to its convex hull."""
    parts, _ = ndimage.label(area, np.ones((3, 3)))
    filled = area.copy()
    for index, window in enumerate(ndimage.find_objects(parts), 1):
        part = parts[window] == index
        height, width = part.shape
        rows = np.arange(height)
        left, right = part.argmax(1), width - 1 - part[:, ::-1].argmax(1)
        points = np.concatenate([np.stack([left, rows], 1), np.stack([right, rows], 1)])
        try:
            outline = points[ConvexHull(points).vertices]
        except QhullError:  # all pixels are on one line, which is its own hull
            continue
        hull = Image.new("1", (width, height))
        ImageDraw.Draw(hull).polygon(outline.ravel().tolist(), fill=1, outline=1)
        filled[window] |= np.asarray(hull)
    return filled


def _odd(size: int) -> int:
    return size if size % 2 else size + 1


def _indices(labels: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(index for index, label in enumerate(labels) if label in names)


def _where(labels: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    table = bytes(label in wanted for label in range(256))
    return np.frombuffer(labels.tobytes().translate(table), bool).reshape(labels.shape)  # a fifth of NumPy's time


def _dilate_coarsely(plane: np.ndarray, size: int) -> np.ndarray:
    """Dilates twice on every fourth pixel, as published; sizes need not be multiples of 4."""
    height, width = plane.shape
    coarse = dilate(dilate(plane[::4, ::4], size), size)
    return coarse.repeat(4, 0).repeat(4, 1)[:height, :width]


def _spread(plane: np.ndarray, size: int) -> np.ndarray:
    """Finds where a bool plane is 25 of 255 or more after a `size` x `size` Gaussian with OpenCV's automatic sigma."""
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    kernel = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    kernel /= kernel.sum()
    spread = np.zeros_like(plane)
    if plane.any():
        window = tuple(
            slice(max(0, w.start - size), w.stop + size) for w in ndimage.find_objects(plane.view(np.uint8))[0]
        )
        blurred = plane[window].astype(np.float32)
        for axis in (0, 1):
            blurred = ndimage.correlate1d(blurred, kernel, axis, mode="mirror")
        spread[window] = blurred >= 24.5 / 255
    return spread
