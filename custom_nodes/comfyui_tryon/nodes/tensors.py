"""Converts between ComfyUI's IMAGE, a float32 tensor (B, H, W, C) in [0, 1], and 8-bit pixels.

By NumPy, because torch's threads cost more than so little work.
"""

import numpy as np
import torch
from PIL import Image

WHITE_LEVEL = 255
BLOCK = 1 << 18  # values at a time, which stay in the cache: a copy of 50 megapixels as floats takes 600 MB


def to_uint8(images: torch.Tensor, name: str) -> np.ndarray:
    """Converts floats in [0, 1], of any shape and on any device, to uint8; values beyond are clipped.

    Args:
        name: of the input, for the message.

    Raises:
        FloatingPointError: a value is not a number, and would become a black pixel.
    """
    pixels, lowest, _ = quantize(images.float().cpu().numpy())
    if np.isnan(lowest):
        raise FloatingPointError(f"{name} has values that are not numbers.")
    return pixels


def quantize(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Returns floats in [0, 1] as uint8, and the lowest and the highest of them, each to 1/255.

    What is beyond is clipped. Both are NaN if a value is not a number.
    """
    pixels = np.empty(values.shape, np.uint8)
    source, target = values.reshape(-1), pixels.reshape(-1)
    scaled = np.empty(min(BLOCK, source.size), np.float32)
    extremes = []
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, source.size, BLOCK):
            part = scaled[: source.size - start]
            np.multiply(source[start : start + BLOCK], 255, out=part, dtype=np.float32)
            np.rint(part, out=part)
            low, high = part.min(), part.max()
            extremes += [low, high]
            target[start : start + BLOCK] = part if 0 <= low and high <= 255 else part.clip(0, 255, out=part)
    return pixels, float(np.min(extremes)) / 255, float(np.max(extremes)) / 255


def from_uint8(pixels: np.ndarray) -> torch.Tensor:
    """Converts uint8 pixels of any shape to float32 in [0, 1] on the CPU."""
    return torch.from_numpy(np.divide(pixels, 255.0, dtype=np.float32))


def flattened(pixels: np.ndarray, background: int = WHITE_LEVEL) -> np.ndarray:
    """Lays colour or grey with alpha, uint8 (H, W, 4) or (H, W, 2), on one level of grey; returns uint8 RGB."""
    colour, alpha = pixels[..., :-1], pixels[..., -1:].astype(np.uint32)
    laid = colour * alpha + background * (WHITE_LEVEL - alpha)
    levels = ((laid + WHITE_LEVEL // 2) // WHITE_LEVEL).astype(np.uint8)  # rounded to the nearest
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels


def to_pixels(images: torch.Tensor, name: str, mode: str = "RGB") -> np.ndarray:
    """Converts an IMAGE of one image to uint8: (H, W, 3) RGB, or (H, W) of the mode L.

    Alpha is flattened: on white, and on black for the mode L, a mask, which is white only where something is painted.

    Args:
        images: float (1, H, W, C) with C 1 to 4; a MASK, (1, H, W), too for the mode L.
        name: of the input, for the message.
        mode: Pillow's, RGB or L.

    Raises:
        ValueError: it is no IMAGE, or there are several images.
        FloatingPointError: a value is not a number.
    """
    if images.ndim == 3 and mode == "L":
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] > 4:
        raise ValueError(f"{name} has the shape {tuple(images.shape)}; link an IMAGE, (1, height, width, channels).")
    if len(images) != 1:
        raise ValueError(f"{name} has {len(images)} images; send them one at a time.")
    image = images[0]
    if image.stride(-1) == 0:  # one channel that is shown as several
        image = image[..., :1]
    pixels = to_uint8(image, name)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    elif pixels.shape[-1] != 3:
        pixels = flattened(pixels, WHITE_LEVEL if mode == "RGB" else 0)
    if pixels.ndim == (3 if mode == "RGB" else 2):
        return pixels
    return np.array(Image.fromarray(pixels).convert(mode))


def to_pil(images: torch.Tensor, name: str) -> Image.Image:
    """Converts an IMAGE of one image, as `to_pixels`, to RGB."""
    return Image.fromarray(to_pixels(images, name))
