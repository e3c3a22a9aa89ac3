"""Converts what decoders return to RGB on white, in sRGB."""

import io

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from . import tiff
from .strips import strips

WHITE = (255, 255, 255, 255)
SRGB = ImageCms.createProfile("sRGB")
PHOTOMETRIC = 262
CLEAR_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


class Conversion:
    """Converts strips of one image.

    Args:
        image: the whole image, decoded.
        profile: the ICC profile that its colours have, if they are not sRGB's.
    """

    def __init__(self, image: Image.Image, profile: bytes | None) -> None:
        self._grey = GreyScale(image) if is_wide(image) else None
        self._alpha = is_clear(image)
        self._is_grey = image.mode in ("L", "LA", "La") or is_wide(image)
        self._profile = profile
        self._to_srgb: ImageCms.ImageCmsTransform | None = None
        self._space = ""

    def __call__(self, strip: Image.Image) -> Image.Image:
        if self._grey:
            strip = self._grey(strip)
        if self._alpha:
            strip = in_rgba(strip)
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, WHITE), strip).convert("RGB")
        elif strip.mode in ("P", "1"):
            strip = strip.convert("RGB")
        strip = self._in_srgb(strip)
        return strip if strip.mode == "RGB" else strip.convert("RGB")  # which would copy it

    def _in_srgb(self, strip: Image.Image) -> Image.Image:
        if not self._profile or strip.mode not in ("RGB", "L", "CMYK"):
            return strip
        try:
            if self._to_srgb is None:
                source = ImageCms.ImageCmsProfile(io.BytesIO(self._profile))
                self._space = source.profile.xcolor_space.strip()
                mode = self._mode(strip)
                self._to_srgb = ImageCms.buildTransform(source, SRGB, mode, "RGB")
            return ImageCms.applyTransform(strip.convert(self._mode(strip)), self._to_srgb) or strip
        except (ImageCms.PyCMSError, OSError, ValueError):
            self._profile = None
            return strip

    def _mode(self, strip: Image.Image) -> str:
        """Returns the mode that the profile is for: editors give grey images the profile of their screen."""
        if self._space == "RGB" and strip.mode == "L":
            return "RGB"
        return "L" if self._space == "GRAY" and self._is_grey else strip.mode


class GreyScale:
    """Makes 8 bits of the wider grey of an image, and white of what is transparent in it.

    Args:
        image: of a wide mode.
        small_numbers: numbers up to 255 in an image of whole numbers are levels of 255, as NumPy writes them.
    """

    def __init__(self, image: Image.Image, small_numbers: bool = False) -> None:
        self._clear = image.info.get("transparency")
        most, self._signed, self._white_is_zero = 65535, True, False
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            most, self._signed = tiff.whole_numbers(image)
            # Pillow turns it round where it has 8 bits or fewer.
            self._white_is_zero = image.tag_v2.get(PHOTOMETRIC) == 0
        self._top = float(most)
        if image.mode == "F" or most > 65535 or small_numbers:
            brightest = max(self._numbers(strip).max(initial=0) for *_, strip in strips(image))
            if image.mode == "F" and brightest <= 2:  # resized and sharpened ones are somewhat above 1
                self._top = 1.0
            else:
                self._top = next((top for top in (255.0, 65535.0) if brightest <= top <= most), self._top)

    def _numbers(self, pixels: np.ndarray) -> np.ndarray:
        """Returns finite numbers of pixels of a wide mode."""
        if pixels.dtype == np.int32 and not self._signed:
            return pixels.view(np.uint32)  # Pillow has no mode of its own for them
        return np.where(np.isfinite(pixels), pixels, 0) if pixels.dtype == np.float32 else pixels

    def __call__(self, strip: Image.Image) -> Image.Image:
        numbers = self._numbers(np.asarray(strip))
        levels = (numbers.astype(np.float64).clip(0, self._top) * (255.0 / self._top)).round()
        levels = 255.0 - levels if self._white_is_zero else levels
        grey = Image.fromarray(levels.astype(np.uint8))
        if not isinstance(self._clear, int):
            return grey
        return Image.merge("LA", (grey, Image.fromarray(np.where(numbers == self._clear, 0, 255).astype(np.uint8))))


def is_wide(image: Image.Image) -> bool:
    """Whether pixels are numbers of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def in_rgba(image: Image.Image) -> Image.Image:
    """Converts to RGBA; from La, grey multiplied by its alpha, Pillow has no way of its own."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def is_clear(image: Image.Image) -> bool:
    """Whether pixels may be transparent."""
    return image.mode in CLEAR_MODES or "transparency" in image.info
