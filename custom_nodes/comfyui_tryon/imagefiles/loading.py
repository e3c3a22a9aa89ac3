"""Decodes the pixels of opened images, and tells whether all of them are in the file."""

import errno
import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, JpegImagePlugin

from . import jpeg, png
from .reducing import Box
from .strips import strips

LAST_ROWS = 64  # as many as the largest unit of a JPEG has
FILLED = 8  # pixels in a row that are of one colour where a JPEG lacks some
ROUGH = 8  # times smaller


@dataclass
class Opened:
    """An image whose pixels are not decoded yet, and what its file says of them.

    Attributes:
        orientation: as in EXIF, 1 to 8; 1 where the decoder turns the image.
        profile: the ICC profile of its colours, if they are not sRGB's.
    """

    image: Image.Image
    orientation: int = 1
    profile: bytes | None = None


def load(found: Opened, data: bytes, size: tuple[int, int] | None = None) -> Box | None:
    """Decodes the pixels of an image that `images.opened` gave for `data`.

    A JPEG that is at least twice as large as `size` (width, height) is decoded to a half, a quarter or an eighth. Its
    last row and column may be pixels in part; the box that is returned then is without what is beyond the image.

    Raises:
        OSError: it is damaged or truncated.
    """
    if not isinstance(found.image, JpegImagePlugin.JpegImageFile):
        found.image.load()
        _check_loaded(found, data)
        return None
    if not jpeg.lacks_end_mark(data):
        try:
            box = _load_jpeg(found.image, size)
        except OSError as error:
            if is_memory_error(error):
                raise
        else:
            if _ends_flat(found.image) and jpeg.lacks_pixels(jpeg.without_exif(data)[0], _rough_digest):
                raise OSError("truncated")
            return box
    found.image.close()
    whole = jpeg.with_end_mark(jpeg.without_exif(data)[0], _digest)
    if whole is None:
        raise OSError("truncated")
    found.image = jpeg_file(whole)
    return _load_jpeg(found.image, size)


def jpeg_file(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """Opens a JPEG by its class: Image.open looks for further images, and fails where their index is damaged."""
    try:
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    except SyntaxError as error:
        raise OSError(str(error)) from None


def is_memory_error(error: Exception) -> bool:
    """Whether `error` says that memory ran out."""
    # Pillow's decoders report it as "out of memory error when reading image file".
    short = isinstance(error, OSError) and (error.errno == errno.ENOMEM or "out of memory" in str(error))
    return short or isinstance(error, MemoryError)


def _check_loaded(found: Opened, data: bytes) -> None:
    """Sees to what is known of an image only when its pixels are."""
    image = found.image
    if image.format == "JXL":  # which has it behind its header
        found.profile = image.info.get("icc_profile")
    elif image.format == "PNG":
        # Pillow takes compressed pixels that end too early for whole; what is not in the file is 0.
        lacking = not np.asarray(image.crop((0, image.height - 1, *image.size))).any() or png.is_interlaced(data)
        if lacking and png.lacks_pixels(data):
            raise OSError("truncated")
    elif image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image.putalpha(255)  # programs that leave alpha out say that it is there


def _load_jpeg(image: JpegImagePlugin.JpegImageFile, size: tuple[int, int] | None) -> Box | None:
    part = image.draft(None, size) if size else None
    image.load()
    return part and part[1]


def _ends_flat(image: Image.Image) -> bool:
    """Whether the last pixels are of one colour, as decoders fill what they lack."""
    last = np.asarray(image.crop((max(0, image.width - FILLED), image.height - 1, *image.size)))
    return bool((last == last[:, :1]).all())


def _rough_digest(data: bytes, whole: bool) -> bytes:
    return _digest(data, whole, ROUGH)


def _digest(data: bytes, whole: bool, reduction: int = 1) -> bytes:
    image = jpeg_file(data)
    image.draft(None, (image.width // reduction, image.height // reduction))
    image.load()
    rows = image if whole else image.crop((0, max(0, image.height - LAST_ROWS // reduction), *image.size))
    digest = hashlib.blake2b()
    for *_, strip in strips(rows):
        digest.update(strip.tobytes())
    image.close()  # which frees its memory
    return digest.digest()
