"""Makes masks from the human parser's labels: where a person may change, and what of a garment image is the garment."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .distance import distance_to

LABELS = (
    "background",
    "face",
    "hair",
    "top",
    "dress",
    "skirt",
    "pants",
    "belt",
    "bag",
    "hat",
    "scarf",
    "glasses",
    "arms",
    "hands",
    "legs",
    "feet",
    "torso",
    "jewelry",
)
FILL = 127  # of what is masked
_HEIGHT = 864  # pixels of the image that lengths are given for


class Coverage(NamedTuple):
    """Lists labels by what a category does with them."""

    garment: tuple[str, ...]
    """Clothes that are replaced, and shown in the garment image."""
    body: tuple[str, ...]
    """Parts of the body that may be covered or bared."""
    kept: tuple[str, ...]
    """Parts of the body that stay, in addition to `_IDENTITY`."""


_IDENTITY = ("face", "hair", "jewelry", "bag", "glasses", "hat")
_UPPER, _LOWER = ("top", "dress", "scarf"), ("skirt", "pants", "belt")
CATEGORIES = {
    "tops": Coverage(_UPPER, ("arms", "torso"), ("legs", "hands")),
    "bottoms": Coverage(_LOWER, ("legs",), ("arms", "feet")),
    "one-pieces": Coverage(_UPPER + _LOWER, ("arms", "torso", "legs"), ("hands", "feet")),
}


def garment_area(labels: np.ndarray, category: str) -> np.ndarray:
    """Returns what of a garment image shows a garment of `category`, bool (H, W), from its `labels`, uint8 (H, W)."""
    return _among(labels, CATEGORIES[category].garment)


def agnostic_area(labels: np.ndarray, category: str) -> np.ndarray:
    """Returns where a person may change, bool (H, W).

    Around the clothes and limbs that `category` replaces, as wide as the outline of the worn garment must be hidden,
    inside their bounding box, and clear of face, hair and what else stays.

    Args:
        labels: uint8 (H, W), indices of `LABELS`.
        category: one of `CATEGORIES`.
    """
    coverage = CATEGORIES[category]
    scale = labels.shape[0] / _HEIGHT
    worn = _among(labels, coverage.garment + coverage.body)
    if not worn.any():
        return worn
    contour = _contour(worn, max(1, int(18 * scale)))
    near = contour | (distance_to(contour) <= np.float32(100 * scale))
    workspace = _grown(_bounding_box(worn) & near, 2 * int(16 * scale) + 1, 2 * int(33 * scale) + 1)
    buffer = max(1, int(4 * scale))
    return _grown(worn, buffer, buffer) | (workspace & ~_among(labels, coverage.kept + _IDENTITY))


def _among(labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    table = np.zeros(256, bool)
    table[[LABELS.index(name) for name in names]] = True
    return table[labels]


def _grown(area: np.ndarray, height: int, width: int) -> np.ndarray:
    """Dilates by a rectangle; one of even sides reaches a pixel further to the right and down."""
    for axis, size in enumerate((height, width)):
        area = ndimage.maximum_filter1d(area.view(np.uint8), size, axis, mode="constant").view(bool)
    return area


def _bounding_box(area: np.ndarray) -> np.ndarray:
    box = np.zeros_like(area)
    rows, columns = (np.flatnonzero(area.any(axis)) for axis in (1, 0))
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def _contour(area: np.ndarray, radius: int) -> np.ndarray:
    """Rounds `area` off: grown by `radius` pixels, smoothed, without holes."""
    grown = _rounded(area, radius)
    signed = distance_to(grown) - distance_to(~grown)
    sigma = radius / 2.5
    reach = round(8 * sigma + 1) // 2  # of a kernel that is made odd
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 0):
        signed = ndimage.correlate1d(signed, kernel, axis, mode="nearest")
    # Whatever the image's first pixel cannot be reached from is a hole, as in the published program.
    regions, _ = ndimage.label(signed > 0)
    return (regions != regions[0, 0]) | (regions == 0) | area


def _rounded(area: np.ndarray, radius: int) -> np.ndarray:
    """Dilates by OpenCV's disc of `radius` pixels."""
    height, width = area.shape
    counts = np.zeros((height, width + 2 * radius + 1), np.int32)
    counts[:, radius + 1 : radius + 1 + width] = area.cumsum(1)
    counts[:, radius + 1 + width :] = counts[:, radius + width, None]
    grown = np.zeros_like(area)
    for away in range(radius + 1):
        reach = round(radius * ((radius * radius - away * away) / (radius * radius)) ** 0.5)
        ends = counts[:, radius + reach + 1 : radius + reach + 1 + width]
        row = ends > counts[:, radius - reach : radius - reach + width]
        grown[away:] |= row[: height - away or None] if away < height else False
        grown[: max(0, height - away)] |= row[away:]
    return grown
