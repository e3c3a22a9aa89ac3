"""Paints shapes into grey images, pixel for pixel as OpenCV does.

The try-on network was trained with poses that OpenCV drew. Shapes may lie partly or wholly outside the image.
"""

from collections.abc import Sequence

import numpy as np

_ONE = 1 << 16  # a pixel, in the fixed-point numbers of outlines
_HALF = _ONE >> 1
_FARTHEST = 1 << 15  # pixels from the image's corner; shapes beyond are left out
_THICKNESS = 2  # pixels of a line, and of the margin that it is cut off at
_DISCS = {1: (1, 0), 3: (3, 2, 2, 0), 4: (4, 3, 3, 2, 0)}  # reach to each side, from the middle row outwards
# OpenCV has the sines of whole degrees as a table of seven decimals.
_SINES = np.round(np.sin(np.deg2rad(np.arange(451))), 7).astype(np.float32).astype(np.float64)


Pixel = Sequence[int]
"""x, y"""


def disc(image: np.ndarray, middle: Pixel, radius: int, grey: int) -> None:
    """Fills a disc of radius 1, 3 or 4 pixels around `middle` of `image`, uint8 (H, W)."""
    x, y = middle
    for away, reach in enumerate(_DISCS[radius]):
        for row in {y - away, y + away}:
            _span(image, row, x - reach, x + reach, grey)


def ellipse(image: np.ndarray, middle: Pixel, axes: tuple[int, int], degrees: int, grey: int) -> None:
    """Fills an ellipse around `middle`, as the polygon of one point a degree.

    Args:
        image: uint8 (H, W).
        axes: half of the length along the direction `degrees`, and across it, in pixels.
    """
    x, y = middle
    turns = np.arange(361)
    along, across = axes[0] * _SINES[450 - turns], axes[1] * _SINES[turns]
    sine, cosine = _SINES[degrees % 360], _SINES[450 - degrees % 360]
    points = np.rint(np.stack([x + along * cosine - across * sine, y + along * sine + across * cosine], 1)).astype(int)
    kept = np.append(True, (points[1:] != points[:-1]).any(1))
    points = points[kept]
    if np.abs(points).max() < _FARTHEST:
        _put(image, *_outline(points, image.shape), grey)
        _fill(image, points * _ONE, points[:, 1], grey)


def line(image: np.ndarray, start: Pixel, end: Pixel, grey: int) -> None:
    """Draws a line of 2 pixels with round ends between two pixels of `image`, uint8 (H, W)."""
    height, width = (side + 2 * _THICKNESS for side in image.shape)
    left = _clip([place + _THICKNESS for place in start], [place + _THICKNESS for place in end], width, height)
    if left is None:
        return
    ends = np.array(left) - _THICKNESS
    a, b = ends * _ONE
    across, down = (ends[0] - ends[1])[0], (ends[1] - ends[0])[1]
    if length := float(np.hypot(across, down)):
        side = np.rint(np.array([down, across]) * (_ONE / length)).astype(np.int64)
        corners = np.stack([a + side, a - side, b - side, b + side])
        for corner, following in zip(corners, np.roll(corners, -1, 0)):
            _put(image, *_edge(corner.tolist(), following.tolist(), image.shape), grey)
        _fill(image, corners, (corners[:, 1] + _HALF) >> 16, grey)
    for middle in ends.tolist():
        disc(image, middle, 1, grey)


def _span(image: np.ndarray, row: int, first: int, last: int, grey: int) -> None:
    if 0 <= row < image.shape[0] and last >= 0:
        image[row, max(first, 0) : last + 1] = grey


def _put(image: np.ndarray, x: np.ndarray, y: np.ndarray, grey: int) -> None:
    inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
    image[y[inside], x[inside]] = grey


def _outline(points: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Lists the pixels, x and y, of the 8-connected lines around a polygon of whole pixels (N, 2)."""
    a, b = points, np.roll(points, -1, 0)
    low, high = np.minimum(a, b), np.maximum(a, b)
    beyond = np.array(shape[1::-1])
    inside = ((low >= 0) & (high < beyond)).all(1)
    crossing = ((high >= 0) & (low < beyond)).all(1) & ~inside
    clipped = [_clip(*edge, shape[1], shape[0]) for edge in zip(a[crossing].tolist(), b[crossing].tolist())]
    ends = np.array([edge for edge in clipped if edge], int).reshape(-1, 2, 2)
    a, b = np.concatenate([a[inside], ends[:, 0]]), np.concatenate([b[inside], ends[:, 1]])
    a, b = np.where((b < a)[:, :1], b, a), np.where((b < a)[:, :1], a, b)  # always from left to right
    size, sign = np.abs(b - a), np.sign(b - a)
    steps = size.max(1)
    edge = np.repeat(np.arange(len(a)), steps + 1)
    major = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    minor = (2 * size.min(1)[edge] * major + steps[edge] - 1) // np.maximum(2 * steps[edge], 1)
    steep = (size[:, 1] > size[:, 0])[edge]
    x = a[edge, 0] + np.where(steep, minor, major)
    return x, a[edge, 1] + sign[edge, 1] * np.where(steep, major, minor)


def _edge(start: Pixel, end: Pixel, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Lists the pixels, x and y, of a line between two points in fixed-point numbers, its ends included."""
    clipped = _clip(start, end, shape[1] * _ONE, shape[0] * _ONE)
    if clipped is None:
        return np.zeros(0, int), np.zeros(0, int)
    a, b = clipped
    axis = 0 if abs(b[0] - a[0]) > abs(b[1] - a[1]) else 1  # of the longer side
    if b[axis] < a[axis]:
        a, b = b, a
    long, short = b[axis] - a[axis], b[1 - axis] - a[1 - axis]
    slope = _toward_zero(short * _ONE, long | 1)
    steps = np.arange((long >> 16) + 1)
    pixels = ((a[axis] + _HALF) >> 16) + steps, (a[1 - axis] + _HALF + slope * steps) >> 16
    first, second = (np.append(part, (last + _HALF) >> 16) for part, last in zip(pixels, (b[axis], b[1 - axis])))
    return (first, second) if axis == 0 else (second, first)


def _clip(start: Pixel, end: Pixel, width: int, height: int) -> tuple[list[int], list[int]] | None:
    """Cuts a line off at the image's borders, first above and below; None if nothing is left.

    The cut is rounded, so what is left may run a pixel beside the whole line, as OpenCV's does.
    """
    a, b = list(start), list(end)
    for axis, last in ((1, height - 1), (0, width - 1)):
        if max(a[axis], b[axis]) < 0 or min(a[axis], b[axis]) > last:
            return None
        for point in (a, b):
            border = min(max(point[axis], 0), last)
            if point[axis] != border:
                along, across = b[axis] - a[axis], b[1 - axis] - a[1 - axis]
                point[1 - axis] += _toward_zero((border - point[axis]) * across, along)
                point[axis] = border
    return a, b


def _toward_zero(dividend: int, divisor: int) -> int:
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


def _fill(image: np.ndarray, points: np.ndarray, rows: np.ndarray, grey: int) -> None:
    """Fills the inside of a convex polygon, row by row, from its topmost point down both sides.

    Args:
        points: (N, 2) in fixed-point numbers.
        rows: (N,) the pixel row of each point.
    """
    top, bottom = int(rows.min()), int(rows.max())
    if top == bottom:
        return
    start = int(points[:, 1].argmin())
    sides = np.zeros((2, bottom - top + 1), np.int64)
    for side, step in zip(sides, (1, -1)):
        order = (start + step * np.arange(len(points))) % len(points)
        before, row = order[0], top
        for after in order[1:]:
            if rows[after] > row:
                height, across = int(rows[after]) - row, int(points[after, 0] - points[before, 0])
                slope = _toward_zero(2 * across + height, 2 * height)
                # One row more than the edge has: the last edge also covers the bottom row.
                side[row - top : rows[after] - top + 1] = points[before, 0] + slope * np.arange(height + 1)
                row = int(rows[after])
            elif row == bottom:
                break
            before = after
    left, right = (sides.min(0) + _HALF) >> 16, (sides.max(0) + _HALF) >> 16
    for row in range(max(top, 0), min(bottom, image.shape[0] - 1) + 1):
        _span(image, row, int(left[row - top]), int(right[row - top]), grey)
