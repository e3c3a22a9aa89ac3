"""What a camera does to images that were drawn: another light, a lens that is not sharp, grain, and JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

SHARPEST, SOFTEST = 0.2, 0.9  # pixels of blur
GRAIN = 5.0  # of 255, at most
QUALITY = 60, 96  # of JPEG


def photographed(
    rng: np.random.Generator, person: Image.Image, garment: Image.Image, worn: Image.Image
) -> list[Image.Image]:
    """Returns the RGB images as photographs: person and worn taken alike, to the last grain; the garment otherwise."""
    one, another = camera(rng, person.size), camera(rng, garment.size)
    return [one(person), another(garment), one(worn)]


def camera(rng: np.random.Generator, size: tuple[int, int]) -> Callable[[Image.Image], Image.Image]:
    """Returns what takes photographs of a size of (width, height) pixels, all of them in the same way."""
    gain = rng.uniform(0.85, 1.08) * np.exp(rng.normal(0, 0.03, 3))
    gamma = np.exp(rng.normal(0, 0.1))
    blur = rng.uniform(SHARPEST, SOFTEST)
    grain = rng.uniform(0, GRAIN) * rng.standard_normal((size[1], size[0], 3), np.float32)
    quality = int(rng.integers(*QUALITY))

    def take(image: Image.Image) -> Image.Image:
        lit = (np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), np.float32) / 255) ** gamma * gain * 255
        file = io.BytesIO()
        Image.fromarray((lit + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return take
