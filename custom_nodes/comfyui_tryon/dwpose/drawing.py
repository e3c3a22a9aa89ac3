"""Draws a pose in greys, as the try-on network was trained with; not the coloured skeleton of other programs."""

import math

import numpy as np

from .poses import VISIBLE, Pose
from .raster import disc, ellipse, line

# Points that a limb joins, and its grey.
_LIMBS = (
    (1, 2, 20),
    (1, 5, 32),
    (2, 3, 45),
    (3, 4, 58),
    (5, 6, 71),
    (6, 7, 84),
    (1, 8, 97),
    (8, 9, 110),
    (9, 10, 123),
    (1, 11, 136),
    (11, 12, 149),
    (12, 13, 162),
    (1, 0, 175),
    (0, 14, 188),
    (14, 16, 201),
    (0, 15, 214),
    (15, 17, 227),
)
_JOINTS = (227, 26, 26, 58, 75, 41, 92, 109, 126, 143, 159, 176, 193, 210, 244, 255, 255, 255)
_FINGERS = [(0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21)]
_FINGER_GREYS = (160, 163, 166, 169, 172, 175, 178, 182, 185, 188, 191, 194, 197, 201, 204, 207, 210, 213, 216, 220)
_KNUCKLE, _FACE = 240, 200
_LIMB_SHARE = 0.6
_STICK = 4  # pixels, half of a limb's width


def draw(pose: Pose, height: int, width: int) -> np.ndarray:
    """Draws `pose` on black, uint8 (height, width); points outside the image are cut off."""
    size = np.array([width, height])
    pixels = (pose.points / size * size).astype(int)  # the published order of operations, for its rounding
    image = np.zeros((height, width), np.uint8)
    places = pixels.tolist()
    for a, b, grey in _LIMBS:
        if min(pose.scores[[a, b]]) > VISIBLE:
            _limb(image, places[a], places[b], grey)
    image = (image * _LIMB_SHARE).astype(np.uint8)
    for joint, grey in enumerate(_JOINTS):
        if pose.scores[joint] > VISIBLE:
            disc(image, places[joint], 4, grey)
    seen = (pixels > 0).all(1) & (pose.scores >= VISIBLE)
    for hand in (slice(92, 113), slice(113, 134)):
        _hand(image, pixels[hand].tolist(), seen[hand])
    for place in pixels[24:92][seen[24:92]].tolist():
        disc(image, place, 3, _FACE)
    return image


def _limb(image: np.ndarray, a: list[int], b: list[int], grey: int) -> None:
    across, down = a[0] - b[0], a[1] - b[1]
    middle = (a[0] + b[0]) // 2, (a[1] + b[1]) // 2
    degrees = int(math.degrees(math.atan2(down, across)))
    ellipse(image, middle, (int(math.hypot(across, down)) // 2, _STICK), degrees, grey)


def _hand(image: np.ndarray, pixels: list[list[int]], seen: np.ndarray) -> None:
    for (a, b), grey in zip(_FINGERS, _FINGER_GREYS):
        if seen[a] and seen[b]:
            line(image, pixels[a], pixels[b], grey)
    for joint, place in enumerate(pixels):
        if seen[joint]:
            disc(image, place, 4, _KNUCKLE)
