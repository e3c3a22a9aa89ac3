"""Prepares images for CatVTON: crop, letterbox, mask."""

import numpy as np
import torch
from PIL import Image, ImageFilter

from ..framing.paste import cut
from ..framing.window import centred


def resize_and_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crops the largest centred part of `image` with the aspect ratio of `size` (width, height); resizes with Lanczos.

    Published as `resize_and_crop` in CatVTON's `utils.py`; used for the person and the mask.
    """
    if image.size == size:
        return image
    return Image.fromarray(cut(np.asarray(image), centred(image.size, size), size))


def resize_and_pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fits `image` whole into `size` (width, height) with Lanczos, centred on white.

    Published as `resize_and_padding` in CatVTON's `utils.py`; used for the garment.
    """
    width, height = size
    w, h = image.size
    if w * height < h * width:
        fit_w, fit_h = max(1, w * height // h), height
    else:
        fit_w, fit_h = width, max(1, h * width // w)
    padded = Image.new("RGB", size, (255, 255, 255))
    fitted = image.resize((fit_w, fit_h), Image.Resampling.LANCZOS)
    padded.paste(fitted, ((width - fit_w) // 2, (height - fit_h) // 2))
    return padded


def blur_mask(mask: Image.Image, radius: int) -> Image.Image:
    """Rounds the outline of `mask` (mode L): Gaussian blur of `radius` pixels, 0 for none.

    The published nodes blur by 9; the pipeline then cuts at one half, so that only the outline changes.
    """
    return mask.filter(ImageFilter.GaussianBlur(radius)) if radius else mask


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """Converts an RGB image to float32 (1, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0


def mask_to_tensor(mask: Image.Image) -> torch.Tensor:
    """Converts a grey image to float32 (1, 1, H, W), 1 where it is 128 or brighter, else 0."""
    pixels = torch.from_numpy(np.array(mask.convert("L")))
    return (pixels >= 128)[None, None].float()
