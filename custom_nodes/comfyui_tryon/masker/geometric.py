"""Finds garment areas by body proportions alone: without weights, in images of one standing person."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from .agnostic import reshape_area
from .base import Callback, GarmentArea, Masker

# Body in head heights: x from the body's axis, y down from the top of the hair.
_TORSO = [(-0.28, 1.1), (0.28, 1.1), (0.84, 1.3), (0.74, 2.4), (0.78, 3.2), (-0.78, 3.2), (-0.74, 2.4), (-0.84, 1.3)]
_COAT = [*_TORSO[:4], (0.86, 3.9), (-0.86, 3.9), *_TORSO[6:]]
_LEGS = [(-0.66, 2.65), (0.66, 2.65), (0.84, 3.4), (0.72, 6.45), (-0.72, 6.45), (-0.84, 3.4)]
_ARM = [(0.76, 1.42), (0.88, 2.4), (0.96, 3.15)]
_ARM_WIDTH = 0.36
_HAND = (1.04, 3.6, 0.24, 0.42)  # centre x, y, radius x, y
_HEAD = (0.0, 0.5, 0.5, 0.56)
_HEADS_TALL = 7.2
_HEADS_WIDE = 2.0

_POLYGONS = {"upper": [_TORSO], "lower": [_LEGS], "overall": [_TORSO, _LEGS], "inner": [_TORSO], "outer": [_COAT]}
_SLEEVED = ("upper", "overall", "outer")


class _Body(NamedTuple):
    """Places the body, in pixels."""

    axis: float  # x of the trunk's middle
    head_axis: float  # x of the head's middle
    top: float  # y of the hair's top
    head: float  # height of the head, hair included
    breadth: float  # relative to the average


class GeometricMasker(Masker):
    """Draws the garment where it is on an average body standing upright.

    The body's place and size come from what differs from the background when that is plain, else a person from head to
    knees in the middle of the image is assumed. There is no model behind it: it never raises `NoPersonFound`, and
    `largest` changes nothing.
    """

    def _find(
        self, person: np.ndarray, cloth_type: str, mask_grow: int, square: bool, largest: bool, callback: Callback
    ) -> GarmentArea:
        height, width = person.shape[:2]
        body = _find_body(person) or _assumed_body(width, height)
        area, protect = _draw(body, cloth_type, width, height)
        return GarmentArea(reshape_area(area, protect, mask_grow, square).astype(np.uint8) * 255)


def _assumed_body(width: int, height: int) -> _Body:
    head = min(0.165 * height, width / _HEADS_WIDE / 1.1)
    return _Body(width / 2, width / 2, max(0.03 * height, 0.45 * (height - _HEADS_TALL * head)), head, 1.0)


def _find_body(person: np.ndarray) -> _Body | None:
    """Finds the body in front of a plain background; None where the background is not plain."""
    height, width = person.shape[:2]
    scale = max(1.0, max(height, width) / 192)
    w, h = round(width / scale), round(height / scale)
    if min(w, h) < 24:
        return None
    small = np.asarray(Image.fromarray(person).resize((w, h), Image.Resampling.BOX), np.float32)
    edge = max(2, w // 32)
    left = ndimage.median_filter(np.median(small[:, :edge], 1), (h // 16 * 2 + 1, 1), mode="nearest")
    right = ndimage.median_filter(np.median(small[:, -edge:], 1), (h // 16 * 2 + 1, 1), mode="nearest")
    ramp = np.linspace(0, 1, w, dtype=np.float32)[None, :, None]
    difference = np.abs(small - (left[:, None] * (1 - ramp) + right[:, None] * ramp)).max(2)
    rim = np.concatenate([difference[:, :edge].ravel(), difference[:, -edge:].ravel(), difference[:edge].ravel()])
    if np.mean(rim > 24) > 0.1:
        return None
    padded = np.pad(difference > 24, 3, mode="edge")
    parts, count = ndimage.label(ndimage.binary_closing(padded, iterations=3)[3:-3, 3:-3])
    if not count:
        return None
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    figure = (sizes > 0.03 * sizes.max())[parts]
    rows, columns = np.flatnonzero(figure.any(1)), np.flatnonzero(figure.any(0))
    top, tall, wide = int(rows[0]), int(rows[-1] + 1 - rows[0]), int(columns[-1] + 1 - columns[0])
    if tall < 0.4 * h or tall < 1.2 * wide or figure.sum() > 0.9 * tall * wide:
        return None
    head = tall / _HEADS_TALL
    if rows[-1] == h - 1:  # cut off below: breadth tells the size
        head = min(max(wide / _HEADS_WIDE, head), tall / 2.5)
    elif top == 0:  # cut off above, by half a head or so
        head = min(max(wide / _HEADS_WIDE, head), tall / (_HEADS_TALL - 0.6))
    axis = float(np.median(np.nonzero(figure)[1])) + 0.5
    head_axis = float(np.median(np.nonzero(figure[top : top + max(1, round(head))])[1])) + 0.5
    crown = float(top) if rows[-1] == h - 1 else int(rows[-1]) + 1 - _HEADS_TALL * head
    breadth = min(max(wide / (_HEADS_WIDE * head), 0.8), 1.15)
    return _Body(axis * width / w, head_axis * width / w, crown * height / h, head * height / h, breadth)


def _draw(body: _Body, cloth_type: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws the garment, and the head and hands that stay clear; bool (H, W) each."""
    axis, head_axis, top, head, breadth = body

    def place(points: list[tuple[float, float]], side: int = 1) -> list[tuple[float, float]]:
        return [(axis + side * x * breadth * head, top + y * head) for x, y in points]

    def ellipse(draw: ImageDraw.ImageDraw, middle: float, shape: tuple[float, float, float, float], side: int) -> None:
        x, y, rx, ry = shape
        x, y = middle + side * x * breadth * head, top + y * head
        draw.ellipse((x - rx * head, y - ry * head, x + rx * head, y + ry * head), fill=255)

    area, protect = Image.new("L", (width, height)), Image.new("L", (width, height))
    pen, guard = ImageDraw.Draw(area), ImageDraw.Draw(protect)
    for polygon in _POLYGONS[cloth_type]:
        pen.polygon(place(polygon), fill=255)
    for side in (-1, 1):
        if cloth_type in _SLEEVED:
            pen.line(place(_ARM, side), fill=255, width=max(1, round(_ARM_WIDTH * head)), joint="curve")
        ellipse(guard, axis, _HAND, side)
    ellipse(guard, head_axis, _HEAD, 1)
    rounded = np.asarray(area.filter(ImageFilter.GaussianBlur(0.09 * head))) >= 128
    return rounded, np.asarray(protect) > 0
