"""Images as bytes, to and from pixels."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from .errors import ApiError
from .imagefiles import boxes, exif, jpeg, jxlheader, png, profiles, recognition, structure, tiff
from .imagefiles.colour import Conversion
from .imagefiles.heif import HAS_HEIF, open_heif
from .imagefiles.jxl import HAS_JXL, open_jxl
from .imagefiles.loading import Opened, is_memory_error, jpeg_file, load
from .imagefiles.reducing import reduce, reduced
from .imagefiles.strips import CHANNELS, STRIP_BYTES, STRIP_PIXELS, Allocate, empty, strips, upright

PILLOW_FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", *(["AVIF"] if features.check("avif") else [])]
INPUT_FORMATS = [*PILLOW_FORMATS, *(["HEIC"] if HAS_HEIF else []), *(["JPEG XL"] if HAS_JXL else [])]
MIN_SIDE = 16
MAX_SIDE = 16_383  # what WebP can hold, so that every image can be a result

FORMAT_NAMES = {"HEIF": "HEIC", "JXL": "JPEG XL"}
TURNED = ("HEIF", "JXL")  # by their decoders, as the file itself says and not its EXIF

# Bytes that Pillow stores for a pixel; four in the modes that are not here.
STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# Bytes for a pixel that the decoders hold beside Pillow's image; measured by tests/slowest_images.py.
BESIDE = {"PNG": 1, "BMP": 4, "GIF": 3, "TIFF": 8, "WEBP": 18, "AVIF": 16, "HEIF": 20, "JXL": 20}


@dataclass(frozen=True)
class Header:
    """Says what an image will cost, by its header alone.

    Attributes:
        width, height: in pixels, as stored.
        decoder_bytes: the most that decoding takes beside the pixels it returns.
        max_side: what the longer side is reduced to, if it is longer.
    """

    width: int
    height: int
    decoder_bytes: int
    max_side: int | None = None

    @property
    def pixel_bytes(self) -> int:
        width, height = reduced((self.width, self.height), self.max_side)
        return width * height * CHANNELS


def read_header(data: bytes, field: str, max_pixels: int, max_side: int | None = None) -> Header:
    """Checks one uploaded image as far as that is possible without decoding a pixel.

    Raises:
        ApiError: as `decode`.
    """
    with opened(data, field, max_pixels) as found:
        width, height = found.image.size
        return Header(width, height, _decoder_bytes(found.image, max_side), max_side)


def decode(
    data: bytes, field: str, max_pixels: int, allocate: Allocate | None = None, max_side: int | None = None
) -> np.ndarray:
    """Decodes one uploaded image.

    Turned upright by its EXIF orientation, converted to sRGB from the colour space that its file tells, flattened on
    white, first frame only.

    Args:
        data: the file's bytes.
        field: the request field it came in, named in errors.
        max_pixels: the limit on width x height, checked before any pixel is decoded.
        allocate: makes the array of uint8 that is filled and returned.
        max_side: reduces an image of a longer side to it, with Lanczos.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ApiError: invalid_image, image_too_large or out_of_memory.
    """
    with opened(data, field, max_pixels) as found:
        size = reduced(found.image.size, max_side)
        box = load(found, data, size)
        image, conversion = reduce(found.image, Conversion(found.image, found.profile), size, box)
        return upright(image, found.orientation, conversion, allocate or empty)


def encode(pixels: np.ndarray, output_format: str, quality: int) -> bytes:
    """Encodes uint8 (H, W, 3) RGB as png, jpeg or webp; `quality` 1 to 100 applies to the last two."""
    if output_format == "png":
        return png.write(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, output_format.upper(), quality=quality)
    return buffer.getvalue()


def encode_preview(image: Image.Image, quality: int) -> bytes:
    """Encodes a small image as JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) resized to `size` (width, height) with Lanczos."""
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    result = empty((size[1], size[0], CHANNELS))
    for top, bottom, strip in strips(resized):
        result[top:bottom] = strip
    return result


def damaged(field: str, kind: str = "image") -> ApiError:
    return _invalid(field, f"is a damaged or truncated {kind}. Save it again and send the whole file.")


def out_of_memory() -> ApiError:
    return ApiError("out_of_memory", "This worker ran out of memory. Retry, or send a smaller image.", retry_after=5)


@contextmanager
def opened(data: bytes, field: str, max_pixels: int) -> Iterator[Opened]:
    """Opens `data` for the block, and turns what the block raises into ApiError."""
    kind = "image"
    try:
        structure.check(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _open(data)
            kind = f"{FORMAT_NAMES.get(found.image.format or '', found.image.format)} image"
            with found.image:
                _check_size(found.image.size, field, max_pixels)
                yield found
    except ApiError:
        raise
    except structure.TooComplex as error:
        raise _invalid(field, f"has {error}, more than any camera or editor writes. Save it again.") from None
    except Image.DecompressionBombError:
        raise _too_large(field, f"has more than {max_pixels} pixels") from None
    except tiff.RawFile:
        raise _invalid(field, f"is a camera's raw file. {recognition.AS_JPEG}") from None
    except UnidentifiedImageError:
        unknown = f"is not an image in a known format. Send {', '.join(INPUT_FORMATS)}."
        raise _invalid(field, recognition.named(data) or unknown) from None
    except Exception as error:
        raise (out_of_memory() if is_memory_error(error) else damaged(field, kind)) from None


def _open(data: bytes) -> Opened:
    """Raises UnidentifiedImageError for what is no image."""
    if data.startswith(png.SIGNATURE):
        chunks = png.take_apart(data)
        image: Image.Image = _pillow(chunks.data)
        png.scale_transparency(image, chunks.data)
        return Opened(image, chunks.orientation(), chunks.profile())
    if data.startswith(b"\xff\xd8\xff"):
        plain, block = jpeg.without_exif(data)
        image = jpeg_file(plain)
        return Opened(image, exif.orientation(block), image.info.get("icc_profile"))
    if data[:4] in tiff.BEGINNINGS:
        data = tiff.behind_thumbnails(data)
        image = _pillow(tiff.first_image(data))
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            if tiff.misread(image):
                raise UnidentifiedImageError
            tiff.restore_palette(image)
        return Opened(image, exif.orientation(data), image.info.get("icc_profile"))
    if boxes.is_heif(data) and HAS_HEIF:
        image = open_heif(data)
    elif data.startswith(jxlheader.JXL_BEGINNINGS) and HAS_JXL:
        image = open_jxl(data)
    elif boxes.is_avif(data):
        image = _pillow(boxes.without_exif(data))
    else:
        image = _pillow(data)
    profile = image.info.get("icc_profile")
    if image.format in ("AVIF", "HEIF"):
        codes = boxes.colour_codes(data)
        profile = profile or (profiles.of_codes(*codes) if codes else None)
    return Opened(image, 1 if image.format in TURNED else exif.orientation(image.info.get("exif", b"")), profile)


def _pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)


def _check_size(size: tuple[int, int], field: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _too_large(field, f"is {width} x {height}, more than {max_pixels} pixels")
    if max(size) > MAX_SIDE:
        raise _too_large(field, f"is {width} x {height}, more than {MAX_SIDE} on a side")
    if min(size) < MIN_SIDE:
        raise _invalid(field, f"is {width} x {height}. Send an image of at least {MIN_SIDE} pixels on each side.")


def _decoder_bytes(image: Image.Image, max_side: int | None) -> int:
    whole, size = image.width * image.height, reduced(image.size, max_side)
    coefficients = 0
    if image.format == "JPEG":
        # A JPEG in several scans keeps all coefficients, two bytes each, until the last one.
        coefficients = 2 * getattr(image, "layers", 4) * whole
        image.draft(None, size)
    pixels = image.width * image.height
    beside = STORED.get(image.mode, 4)
    if image.format != "JPEG":
        beside += BESIDE.get(image.format or "", max(BESIDE.values()))
    if image.size != size:
        beside += CHANNELS + 4  # converted before it is reduced
    return coefficients + pixels * beside + min(pixels, STRIP_PIXELS) * STRIP_BYTES


def _invalid(field: str, what: str) -> ApiError:
    return ApiError("invalid_image", f"{field} {what}", field=field)


def _too_large(field: str, what: str) -> ApiError:
    return ApiError("image_too_large", f"{field} {what}. Send a smaller image.", field=field)
