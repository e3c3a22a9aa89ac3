"""Reads HEIC by a decoder that is a package of its own."""

import importlib.util
import io

from PIL import Image, UnidentifiedImageError

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None  # imported by the first HEIC: it takes 0.1 s


def open_heif(data: bytes) -> Image.Image:
    """Opens an image in HEIF, whose decoder turns it.

    Raises:
        UnidentifiedImageError: `data` is none, or one in a form that cannot be read.
    """
    # By its class: registered, it would be there for all users of Pillow in the process.
    import pillow_heif

    try:
        return pillow_heif.HeifImageFile(io.BytesIO(data))
    except SyntaxError:
        raise UnidentifiedImageError from None
