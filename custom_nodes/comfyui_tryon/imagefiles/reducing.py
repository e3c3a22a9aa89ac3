"""Reduces images that are larger than anybody needs."""

from PIL import Image

from .colour import is_clear
from .strips import Convert, upright

Box = tuple[float, float, float, float]


def reduced(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Returns `size` (width, height), its longer side at most `max_side`, in the same aspect ratio."""
    longer = max(size)
    if max_side is None or longer <= max_side:
        return size
    width, height = (max(1, round(side * max_side / longer)) for side in size)
    return width, height


def reduce(
    image: Image.Image, convert: Convert, size: tuple[int, int], box: Box | None = None
) -> tuple[Image.Image, Convert]:
    """Reduces a decoded image, or `box` of it, to `size` with Lanczos; returns it, and what makes RGB of strips of it.

    Photographs are reduced before their colours are converted, which is the same up to rounding and costs less.
    """
    if size == image.size:
        return image, convert
    if image.mode in ("L", "RGB") and not is_clear(image):
        return image.resize(size, Image.Resampling.LANCZOS, box), convert
    return Image.fromarray(upright(image, 1, convert)).resize(size, Image.Resampling.LANCZOS, box), _unchanged


def _unchanged(strip: Image.Image) -> Image.Image:
    return strip
