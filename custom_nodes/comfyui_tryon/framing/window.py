"""Chooses the part of a person image that a sampler is given."""

import math
from typing import NamedTuple

import numpy as np

MARGIN = 0.1  # of the mask's sides, around it: what a garment joins has to be seen
SMALLEST_MASK = 0.2  # of the window's height: less leaves a sampler too few pixels for the garment


class Window(NamedTuple):
    """A rectangle in a person image, in pixels; where the image is too narrow, it reaches beyond its edges."""

    x: int
    y: int
    width: int
    height: int

    def within(self, other: "Window") -> "Window":
        """Returns the part that `other` has too."""
        left, top = max(self.x, other.x), max(self.y, other.y)
        right = min(self.x + self.width, other.x + other.width)
        bottom = min(self.y + self.height, other.y + other.height)
        return Window(left, top, right - left, bottom - top)


def bounds(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Returns the left, top, right and bottom of what is true in a mask, bool (H, W), the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def centred(size: tuple[int, int], target: tuple[int, int]) -> Window:
    """Returns the largest centred window with the aspect ratio of `target`.

    `size`, the image's, and `target` are (width, height).
    """
    (width, height), (target_width, target_height) = size, target
    if width * target_height < height * target_width:
        cut_width, cut_height = width, max(1, width * target_height // target_width)
    else:
        cut_width, cut_height = max(1, height * target_width // target_height), height
    if size == target:
        return Window(0, 0, width, height)
    return Window((width - cut_width) // 2, (height - cut_height) // 2, cut_width, cut_height)


def around(
    size: tuple[int, int], mask_box: tuple[int, int, int, int] | None, target: tuple[int, int], zoom: bool = True
) -> Window:
    """Returns the window with the aspect ratio of `target` that holds a mask with a margin.

    It is the largest that fits into the image, over the mask. Where the image is too narrow for the mask, the window
    reaches beyond its edges. An image that has the aspect ratio, to a pixel, is its own window.

    Args:
        size: the image's (width, height).
        mask_box: the mask's left, top, right and bottom, the last two exclusive; None for an empty mask.
        target: (width, height) that the sampler works in.
        zoom: takes a smaller window where the mask would have less than `SMALLEST_MASK` of its height, unless the
            image has the aspect ratio and no more pixels than the sampler.
    """
    (width, height), (target_width, target_height) = size, target
    largest = centred(size, target)
    is_whole = width - largest.width <= 1 and height - largest.height <= 1
    if mask_box is None or (is_whole and (not zoom or height <= target_height)):
        if mask_box is None:
            return largest
        left, top, right, bottom = mask_box
        box = Window(left, top, right - left, bottom - top)
        # the aspect ratio to a pixel leaves out a row or a column
        return largest if box.within(largest) == box else Window(0, 0, width, height)
    left, top, right, bottom = _with_margin(mask_box, size)
    scale = min(width / target_width, height / target_height)
    if zoom:
        scale = min(scale, (mask_box[3] - mask_box[1]) / SMALLEST_MASK / target_height)
    scale = max(scale, (right - left) / target_width, (bottom - top) / target_height)
    if scale == min(width / target_width, height / target_height):
        window = largest[2:]
    else:
        window = math.ceil(scale * target_width), math.ceil(scale * target_height)
    return Window(_place(left, right, window[0], width), _place(top, bottom, window[1], height), *window)


def _with_margin(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    beside, above = math.ceil(MARGIN * (right - left)), math.ceil(MARGIN * (bottom - top))
    return max(0, left - beside), max(0, top - above), min(size[0], right + beside), min(size[1], bottom + above)


def _place(start: int, end: int, length: int, limit: int) -> int:
    """Returns where a window of `length` begins, over the middle of `start` to `end`, within `limit` if it fits."""
    if length > limit:
        return (limit - length) // 2
    return min(max(0, (start + end - length) // 2), limit - length)
