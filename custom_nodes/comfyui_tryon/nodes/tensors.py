"""Converts between ComfyUI's IMAGE, a float32 tensor (B, H, W, C) in [0, 1], and 8-bit pixels.

By NumPy, because torch's threads cost more than so little work.
"""

import numpy as np
import torch
from PIL import Image

BLOCK = 1 << 18  # values at a time, which stay in the cache: a copy of 50 megapixels as floats takes 600 MB


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Converts floats in [0, 1], of any shape and on any device, to uint8; values beyond are clipped.

    Raises:
        FloatingPointError: a value is not a number, and would become a black pixel.
    """
    values = images.float().cpu().numpy()
    pixels = np.empty(values.shape, np.uint8)
    source, target = values.reshape(-1), pixels.reshape(-1)
    with np.errstate(invalid="raise"):
        for start in range(0, source.size, BLOCK):
            scaled = source[start : start + BLOCK] * np.float32(255)
            target[start : start + BLOCK] = np.rint(scaled, out=scaled).clip(0, 255, out=scaled)
    return pixels


def from_uint8(pixels: np.ndarray) -> torch.Tensor:
    """Converts uint8 pixels of any shape to float32 in [0, 1] on the CPU."""
    return torch.from_numpy(np.divide(pixels, 255.0, dtype=np.float32))


def to_pil(images: torch.Tensor, name: str, mode: str = "RGB") -> Image.Image:
    """Converts an IMAGE of one image, float (1, H, W, C) with C 1, 3 or 4, to RGB or another mode of Pillow's.

    Raises:
        ValueError: there are several images; the message calls the input by `name`.
    """
    if len(images) != 1:
        raise ValueError(f"{name} has {len(images)} images; send them one at a time.")
    image = images[0]
    if image.stride(-1) == 0:  # one channel that is shown as several
        image = image[..., :1]
    pixels = to_uint8(image)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    image = Image.fromarray(pixels)
    return image if image.mode == mode else image.convert(mode)
