"""Resamples images to the same bytes as OpenCV, whose rules published preprocessing depends on.

Networks see pixels that were made by these rules. Other libraries place, weigh and round samples differently, which
moves keypoints and labels. Each rule is a few gathers along one axis, so an image of 864 pixels takes milliseconds.
"""

import numpy as np
import torch
import torch.nn.functional as F

_SHIFT = 11  # OpenCV weighs uint8 samples by multiples of 2^-11
_ONE = 1 << _SHIFT
_LANCZOS = 4  # lobes to each side


def area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes as `cv2.INTER_AREA` does: by averaging, or bilinearly in its own way where an axis grows.

    Args:
        image: uint8 (H, W, C).

    Returns:
        uint8 (height, width, C).
    """
    if image.shape[:2] == (height, width):
        return image
    steps = image.shape[0] / height, image.shape[1] / width
    if min(steps) < 1:
        return _fixed(image, *(_growing(old, new) for old, new in zip(image.shape, (height, width))))
    if all(step.is_integer() for step in steps):
        rows, columns = (int(step) for step in steps)
        sums = image.reshape(height, rows, width, columns, -1).sum((1, 3), dtype=np.int32)
        if (rows, columns) == (2, 2):
            return ((sums + 2) >> 2).astype(np.uint8)
        return np.rint(sums.astype(np.float32) * np.float32(1 / (rows * columns))).astype(np.uint8)
    pixels = image.astype(np.float32)
    for axis, size in ((1, width), (0, height)):
        pixels = _gather(pixels, axis, *_overlaps(image.shape[axis], size))
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 (H, W, C) to (height, width, C) as `cv2.INTER_LINEAR` does, without antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    if image.shape[:2] == (2 * height, 2 * width):
        return area(image, height, width)
    return _fixed(image, _neighbours(image.shape[0], height), _neighbours(image.shape[1], width, clamped=True))


def lanczos4(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 (H, W, C) to (height, width, C) as `cv2.INTER_LANCZOS4` does: eight taps, also where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    pixels = image.astype(np.int32)
    for axis, size in ((1, width), (0, height)):
        pixels = _gather(pixels, axis, *_lobes(image.shape[axis], size))
    return ((pixels + (1 << (2 * _SHIFT - 1))) >> (2 * _SHIFT)).clip(0, 255).astype(np.uint8)


def nearest_exact(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W, ...) to (height, width, ...) as `cv2.INTER_NEAREST_EXACT` does: by the nearest pixel centre."""
    rows, columns = (_nearest(old, new) for old, new in zip(image.shape, (height, width)))
    return image[rows[:, None], columns]


def warp_positions(count: int, step: float, start: float) -> np.ndarray:
    """Places `count` pixels of one axis on an axis of another scale; float32 (count,).

    `start` is where the first pixel falls there, and `step` the distance of two neighbours. Rounded to 1/32 pixel
    exactly as `cv2.warpAffine` does it: the networks see pixels that were interpolated at these places.
    """
    fixed = np.rint(np.arange(count) * step * 1024) + np.rint(start * 1024)
    return (np.floor((fixed + 16) / 32) / 32).astype(np.float32)


def sample(planes: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Reads `planes` (1, C, H, W) bilinearly where `rows` and `columns` cross; zero beyond the border."""
    planes = F.pad(planes, (1, 1, 1, 1))
    for axis, positions in ((2, rows), (3, columns)):
        below = positions.floor()
        last = planes.shape[axis] - 1
        low, high = (planes.index_select(axis, (below + n).clamp(0, last).long()) for n in (1, 2))
        fraction = positions - below
        planes = torch.lerp(low, high, fraction[:, None] if axis == 2 else fraction)
    return planes


Taps = tuple[np.ndarray, np.ndarray]
"""Which pixels of an axis make each new one, and their weights; both (count, taps)."""


def _gather(pixels: np.ndarray, axis: int, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Makes the weighted sum of taps along `axis`, in the dtype of `pixels` and in the order of the taps."""
    shape = [-1, 1, 1] if axis == 0 else [1, -1, 1]
    total = np.take(pixels, index[:, 0], axis) * weights[:, 0].reshape(shape)
    for tap in range(1, index.shape[1]):
        total += np.take(pixels, index[:, tap], axis) * weights[:, tap].reshape(shape)
    return total


def _overlaps(old: int, new: int) -> Taps:
    """Weighs each old pixel by the part of a new one that it covers; old >= new."""
    step = 1 / (new / old)  # OpenCV's rounding
    start = np.arange(new) * step
    end = start + step
    cell = np.minimum(step, old - start)
    first, last = np.ceil(start), np.minimum(np.floor(end), old - 1)
    first = np.minimum(first, last)
    index = first[:, None] - 1 + np.arange(int((last - first).max()) + 2)
    weights = np.where((index >= first[:, None]) & (index < last[:, None]), 1 / cell[:, None], 0)
    before, after = first - start, end - last
    weights[:, 0] = np.where(before > 1e-3, before / cell, 0)  # smaller parts are left out
    rows = np.arange(new)
    share = np.where(after > 1e-3, np.minimum(np.minimum(after, 1), cell) / cell, 0)
    weights[rows, (last - first).astype(int) + 1] = share
    return index.clip(0, old - 1).astype(np.int64), weights.astype(np.float32)


def _pair(below: np.ndarray, fraction: np.ndarray, old: int) -> Taps:
    index = (below[:, None] + np.arange(2)).clip(0, old - 1).astype(np.int64)
    fraction = fraction.astype(np.float32)
    return index, np.rint(np.stack([1 - fraction, fraction], 1) * np.float32(_ONE)).astype(np.int32)


def _neighbours(old: int, new: int, clamped: bool = False) -> Taps:
    """Weighs the two old pixels around the centre of each new one."""
    below, fraction = _centres(old, new)
    if clamped:  # beyond the border OpenCV takes one pixel of a row, but two halves of a column's end
        fraction = np.where((below < 0) | (below >= old - 1), 0, fraction)
    return _pair(below, fraction, old)


def _growing(old: int, new: int) -> Taps:
    """Weighs two old pixels for each new one as INTER_AREA does where it enlarges."""
    inverse = new / old
    places = np.arange(new)
    below = np.floor(places * (1 / inverse))
    fraction = ((places + 1) - (below + 1) * inverse).astype(np.float32)
    fraction = np.where(fraction <= 0, 0, fraction - np.floor(fraction))
    return _pair(below, np.where(below >= old - 1, 0, fraction), old)


def _lobes(old: int, new: int) -> Taps:
    """Weighs eight old pixels around the centre of each new one by Lanczos' kernel."""
    below, fraction = _centres(old, new)
    offsets = np.arange(1 - _LANCZOS, 1 + _LANCZOS)
    away = fraction[:, None].astype(np.float64) - offsets
    kernel = (np.sinc(away) * np.sinc(away / _LANCZOS)).astype(np.float32)
    kernel *= 1 / kernel.sum(1, keepdims=True)
    index = (below[:, None] + offsets).clip(0, old - 1).astype(np.int64)
    return index, np.rint(kernel * _ONE).astype(np.int32)


def _centres(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the last old pixel before each new one's centre, and how far the centre is beyond it, float32."""
    places = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    below = np.floor(places)
    return below, places - below


def _fixed(image: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """Interpolates uint8 (H, W, C) between two rows and two columns, with OpenCV's intermediate rounding."""
    lines = _gather(image.astype(np.int32), 1, *columns) >> 4
    (index, weights) = rows
    upper, lower = ((lines[index[:, tap]] * weights[:, tap, None, None]) >> 16 for tap in (0, 1))
    return ((upper + lower + 2) >> 2).clip(0, 255).astype(np.uint8)


def _nearest(old: int, new: int) -> np.ndarray:
    step = ((old << 16) + new // 2) // new
    return np.minimum((np.arange(new, dtype=np.int64) * step + step // 2 - old % 2) >> 16, old - 1)
