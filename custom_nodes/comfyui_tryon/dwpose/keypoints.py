"""Finds the 134 points of a pose inside a box, by RTMPose with SimCC."""

import numpy as np
import torch

from ..resampling import sample, warp_positions
from .poses import VISIBLE

WIDTH, HEIGHT = 288, 384  # pixels that the network sees
POINTS = 133
BINS = {"simcc_x": 2 * WIDTH, "simcc_y": 2 * HEIGHT}  # two a pixel
_MARGIN = 1.25
# The published program subtracts RGB statistics from BGR pixels.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_SHOULDERS = [5, 6]
_NECK = 17  # where it is inserted
# OpenPose's order of the body's points, in the network's, neck inserted.
_ORDER = [0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]


def frame(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the middle (2,) and size (2,) in pixels of what the network sees of a box x0, y0, x1, y1."""
    corners = box.astype(np.float64)
    middle, (w, h) = (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]) * _MARGIN
    aspect = WIDTH / HEIGHT
    return middle, np.array([w, w / aspect] if w > h * aspect else [h * aspect, h])


def crop(pixels: torch.Tensor, middle: np.ndarray, size: np.ndarray) -> torch.Tensor:
    """Cuts a frame out of an image and normalises it.

    Args:
        pixels: float32 (1, 3, H, W), BGR from 0 to 255.

    Returns:
        float32 (1, 3, 384, 288).
    """
    step = size[0] / WIDTH
    columns, rows = (
        torch.from_numpy(warp_positions(count, step, start - count / 2 * step)).to(pixels.device)
        for count, start in zip((WIDTH, HEIGHT), middle)
    )
    seen = (sample(pixels, rows, columns) + 0.5).floor()
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (seen - mean) / std


def locate(x: np.ndarray, y: np.ndarray, middle: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads points off the network's outputs (133, bins).

    Returns:
        (134, 2) in pixels of the image, and scores (134,); in OpenPose's order, with a neck.
    """
    scores = np.minimum(x.max(1), y.max(1)).astype(np.float64)
    bins = np.stack([x.argmax(1), y.argmax(1)], 1)
    bins[scores <= 0] = -1
    points = bins / 2 / (WIDTH, HEIGHT) * size + middle - size / 2
    neck = points[_SHOULDERS].mean(0)
    certain = (scores[_SHOULDERS] > VISIBLE).all()
    points, scores = np.insert(points, _NECK, neck, 0), np.insert(scores, _NECK, float(certain))
    order = [*_ORDER, *range(len(_ORDER), POINTS + 1)]
    return points[order], scores[order]
