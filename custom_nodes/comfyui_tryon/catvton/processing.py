"""Prepares images for CatVTON and finishes its results: crop, letterbox, mask, repaint."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter


def resize_and_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crops the largest centred part of `image` with the aspect ratio of `size` (width, height); resizes with Lanczos.

    Published as `resize_and_crop` in CatVTON's `utils.py`; used for the person and the mask.
    """
    width, height = size
    w, h = image.size
    if (w, h) == size:
        return image.copy()
    if w * height < h * width:
        crop_w, crop_h = w, max(1, w * height // width)
    else:
        crop_w, crop_h = max(1, h * width // height), h
    box = ((w - crop_w) // 2, (h - crop_h) // 2, (w + crop_w) // 2, (h + crop_h) // 2)
    return image.crop(box).resize(size, Image.Resampling.LANCZOS)


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


def repaint(person: torch.Tensor, result: torch.Tensor, mask: torch.Tensor, feather: int) -> torch.Tensor:
    """Takes `result` inside the mask and `person` outside it, blended over a seam that lies wholly inside the mask.

    Args:
        person: float (B, H, W, 3) in [0, 1].
        result: float (B, H, W, 3) in [0, 1].
        mask: float (H, W); 0.5 or more is inside.
        feather: width of the seam in pixels; 0 cuts hard.

    Returns:
        float (B, H, W, 3) in [0, 1]; pixels outside the mask are exactly those of `person`.

    The published `inference.py --repaint` blurs the mask to both sides, which also changes pixels outside it. Here the
    mask is first shrunk by half the seam and then averaged over it, so that the weight reaches 0 at the mask's edge.
    """
    weight = (mask >= 0.5).float()[None, None]
    radius = feather // 2
    if radius:
        shrunk = -_over_windows(F.max_pool2d, -weight, radius)
        weight = _over_windows(F.avg_pool2d, shrunk, radius) * weight
    weight = weight[0, 0, :, :, None]
    return person * (1.0 - weight) + result * weight


def _over_windows(pool: Callable[..., torch.Tensor], plane: torch.Tensor, radius: int) -> torch.Tensor:
    """Pools the square around each pixel of (1, 1, H, W), along one axis after the other, edges repeated."""
    plane = F.pad(plane, (radius,) * 4, mode="replicate")
    for window in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
        plane = pool(plane, window, stride=1)
    return plane
