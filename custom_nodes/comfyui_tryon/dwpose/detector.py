"""Finds people by YOLOX."""

import numpy as np
import torch

from ..resampling import linear

SQUARE = 640  # pixels of the square that the network sees
_STRIDES = (8, 16, 32)
_GREY = 114  # fills the square beyond the image
_CERTAIN = 0.3  # the score above which a box holds somebody
_OVERLAP = 0.45
_PERSON = 5  # the column of the class; those before are a box and how sure it holds anything
_MOST_PEOPLE = 100  # kept, so that no file or image can keep the pose network busy for hours
_LARGEST_BOX = 1e5  # pixels

CELLS = sum((SQUARE // stride) ** 2 for stride in _STRIDES)


def letterbox(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Fits `image`, uint8 (H, W, 3) RGB, into the top left corner of a grey square.

    Returns:
        uint8 (640, 640, 3) BGR, and by how much the image was scaled.
    """
    height, width = image.shape[:2]
    scale = min(SQUARE / height, SQUARE / width)
    square = np.full((SQUARE, SQUARE, 3), _GREY, np.uint8)
    h, w = int(height * scale), int(width * scale)
    if h and w:
        square[:h, :w] = linear(image, h, w)[..., ::-1]
    return square, scale


def boxes(output: torch.Tensor, scale: float) -> np.ndarray:
    """Decodes the network's output (1, 8400, 5 + classes) into boxes of people.

    Returns:
        float32 (N, 4): x0, y0, x1, y1 in pixels of the image, highest score first. They may reach beyond the image.
    """
    found = output[0, :, : _PERSON + 1].float().cpu().numpy()
    cells = [np.argwhere(np.ones((SQUARE // stride, SQUARE // stride), bool))[:, ::-1] for stride in _STRIDES]
    stride = np.repeat(_STRIDES, [len(cell) for cell in cells])[:, None].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        middles = (found[:, :2] + np.concatenate(cells).astype(np.float32)) * stride
        sizes = np.exp(found[:, 2:4]) * stride
        corners = np.concatenate([middles - sizes / 2, middles + sizes / 2], 1) / np.float32(scale)
        scores = found[:, 4] * found[:, _PERSON]
        usable = (np.abs(corners) < _LARGEST_BOX).all(1) & (sizes > 0).all(1) & (scores > _CERTAIN)
    return _suppress(corners[usable], scores[usable])


def _suppress(corners: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns the boxes, highest score first, that no better one overlaps; sides count one pixel more."""
    order = scores.argsort()[::-1]
    areas = (corners[:, 2:] - corners[:, :2] + 1).prod(1)
    kept: list[int] = []
    while len(order) and len(kept) < _MOST_PEOPLE:
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[order, :2])
        high = np.minimum(corners[best, 2:], corners[order, 2:])
        shared = np.maximum(high - low + 1, 0).prod(1)
        order = order[shared <= _OVERLAP * (areas[best] + areas[order] - shared)]
    return corners[kept]
