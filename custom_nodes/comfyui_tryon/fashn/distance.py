"""Measures distances as OpenCV's 5 x 5 chamfer metric does, which the published masks are made with.

Exact distances differ from it by up to 2 %, which moves the edges of masks.
"""

import numpy as np

_ONE = 1 << 16
_STRAIGHT, _DIAGONAL, _KNIGHT = (round(length * _ONE) for length in (1.0, 1.4, 2.1969))  # OpenCV's lengths of steps
_FAR = 1 << 29  # 8192 pixels, and small enough for sums of int32


def distance_to(shape: np.ndarray) -> np.ndarray:
    """Returns each pixel's distance to the nearest one of `shape`, bool (H, W); float32 (H, W), 8192 if it is empty."""
    forwards = _spread(np.where(shape, 0, _FAR).astype(np.int32))
    return (_spread(forwards[::-1, ::-1])[::-1, ::-1] / _ONE).astype(np.float32)


def _spread(start: np.ndarray) -> np.ndarray:
    """Lets distances, int32 (H, W), reach the pixels to the right of them and below."""
    height, width = start.shape
    steps = np.full((height + 2, width + 4), _FAR, np.int32)  # with a border that is far from everything
    along = _STRAIGHT * np.arange(width, dtype=np.int32)
    for row, known in enumerate(start, 2):
        above, higher = steps[row - 1], steps[row - 2]
        nearest = np.minimum(known, above[2:-2] + _STRAIGHT)
        for places, length in (
            (above[1:-3], _DIAGONAL),
            (above[3:-1], _DIAGONAL),
            (above[:-4], _KNIGHT),
            (above[4:], _KNIGHT),
            (higher[1:-3], _KNIGHT),
            (higher[3:-1], _KNIGHT),
        ):
            np.minimum(nearest, places + length, out=nearest)
        # A step from the left neighbour, for the whole row at once.
        steps[row, 2:-2] = np.minimum.accumulate(nearest - along) + along
    return steps[2:, 2:-2]
