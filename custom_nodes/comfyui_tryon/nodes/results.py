"""Makes images of what a graph delivers, which may be of another node pack and anything."""

from typing import Any

import numpy as np
import torch

from .tensors import WHITE_LEVEL, flattened, from_uint8, quantize

# Sharpening overshoots a little in places. More than this share of values, or further, is not an image from 0 to 1.
OVERSHOOT = 0.1
MAX_OVERSHOOT_SHARE = 0.05
WANTED = "An IMAGE is (batch, height, width, channels), with values from 0 to 1 and 1 to 4 channels"


class BadResult(ValueError):
    """What is linked to an output is no image; the message, which goes to clients, holds no text of others."""


def results(images: Any) -> list[np.ndarray]:
    """Returns the images in an IMAGE as uint8 (H, W, 3) RGB, in order.

    Grey is repeated and alpha is flattened on white. Values a little out of range are clipped.

    Args:
        images: (B, H, W, C) or (H, W, C) with C 1 to 4: floats in [0, 1], uint8 or bool, on any device. Or a list of
            those, of different sizes.

    Raises:
        BadResult: it is anything else, or empty.
    """
    found = [image for item in (images if isinstance(images, (list, tuple)) else [images]) for image in _batch(item)]
    if not found:
        raise BadResult("It returned no images.")
    return found


def as_floats(images: Any) -> torch.Tensor:
    """Returns the images in an IMAGE, all of one size, as floats (B, H, W, 3) on the CPU; see `results`."""
    if isinstance(images, torch.Tensor) and images.ndim == 4 and images.shape[-1] == 3 and images.is_floating_point():
        floats = images.detach().float().cpu()
        values = floats.numpy()
        _check_range(values, float(values.min()), float(values.max()))
        return floats
    return from_uint8(np.stack(results(images)))


def _batch(item: Any) -> list[np.ndarray]:
    if not isinstance(item, (torch.Tensor, np.ndarray)):
        raise BadResult(f"It returned something that is no tensor. {WANTED}.")
    shape = tuple(item.shape)
    batch = item[None] if len(shape) == 3 else item
    if batch.ndim != 4 or not 1 <= shape[-1] <= 4 or not all(shape[-3:]):
        raise BadResult(f"It returned a tensor of the shape {shape}. {WANTED}.")
    return [_rgb(image) for image in _to_uint8(batch)] if len(batch) else []


def _to_uint8(batch: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(batch, torch.Tensor):
        whole = batch.dtype in (torch.uint8, torch.bool)
        floats = batch.dtype.is_floating_point
        batch = batch.detach().cpu() if whole or not floats else batch.detach().float().cpu()
        values = batch.numpy() if whole or floats else None
    else:
        values = batch if batch.dtype.kind == "f" or batch.dtype in (np.uint8, np.bool_) else None
    if values is None:
        raise BadResult(f"It returned values of the type {batch.dtype}. {WANTED}.")
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(WHITE_LEVEL)
    pixels, lowest, highest = quantize(values)
    _check_range(values, lowest, highest)
    return pixels


def _check_range(values: np.ndarray, lowest: float, highest: float) -> None:
    if not np.isfinite((lowest, highest)).all():
        raise BadResult("It returned values that are not numbers, or infinite.")
    if lowest >= -OVERSHOOT and highest <= 1 + OVERSHOOT:
        return
    outside = np.count_nonzero((values < -OVERSHOOT) | (values > 1 + OVERSHOOT))
    if outside > MAX_OVERSHOOT_SHARE * values.size:
        raise BadResult(f"It returned values from {lowest:.4g} to {highest:.4g}. {WANTED}.")


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return image if image.shape[2] == 3 else flattened(image)
