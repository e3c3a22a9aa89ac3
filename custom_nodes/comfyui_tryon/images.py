"""Images as bytes, to and from pixels."""

import errno
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError, features

from . import structure
from .errors import ApiError

INPUT_FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", *(["AVIF"] if features.check("avif") else [])]
MIN_SIDE = 16
MAX_SIDE = 16_384
WHITE = (255, 255, 255, 255)
SRGB = ImageCms.createProfile("sRGB")

# ISA-L's deflate and one filter for all rows: a sixth of the time that Pillow takes at zlib's fastest level, for a file
# as large (a photograph of 768 x 1024: 6 ms, not 40); at zlib's default level it would be a tenth smaller, for 130 ms.
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_LEVEL = 2
PNG_FILTER_UP = 2


# Pixels are converted in strips of about this many: they stay in the cache (12 megapixels take 0.16 s of CPU, not 0.28)
# and only the decoder itself needs the memory of a whole image.
STRIP_PIXELS = 1 << 17
STRIP_BYTES = 48  # for each of them, all steps together
CHANNELS = 3
# Bytes that Pillow stores for a pixel; four in the modes that are not here.
STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# Bytes for a pixel that the decoders hold beside Pillow's image; measured by tests/slowest_images.py.
BESIDE = {"PNG": 1, "BMP": 4, "GIF": 3, "TIFF": 8, "WEBP": 18, "AVIF": 16}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = (5, 6, 7, 8)  # width and height change places
REVERSED = (3, 4, 6, 7)  # the first rows become the last rows or columns

Allocate = Callable[[tuple[int, int, int]], np.ndarray]


@dataclass(frozen=True)
class Header:
    """Says what an image will cost, by its header alone.

    Attributes:
        width, height: in pixels, as stored.
        decoder_bytes: the most that decoding takes beside the pixels it returns.
    """

    width: int
    height: int
    decoder_bytes: int

    @property
    def pixel_bytes(self) -> int:
        return self.width * self.height * CHANNELS


def read_header(data: bytes, field: str, max_pixels: int) -> Header:
    """Checks one uploaded image as far as that is possible without decoding a pixel.

    Raises:
        ApiError: as `decode`.
    """
    with _opened(data, field, max_pixels) as image:
        width, height = image.size
        return Header(width, height, _decoder_bytes(image))


def decode(data: bytes, field: str, max_pixels: int, allocate: Allocate | None = None) -> np.ndarray:
    """Decodes one uploaded image.

    Turned upright by its EXIF orientation, converted to sRGB by its profile, flattened on white, first frame only.

    Args:
        data: the file's bytes.
        field: the request field it came in, named in errors.
        max_pixels: the limit on width x height, checked before any pixel is decoded.
        allocate: makes the array of uint8 that is filled and returned.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ApiError: invalid_image, image_too_large or out_of_memory.
    """
    with _opened(data, field, max_pixels) as image:
        return _upright_rgb(image, allocate or _empty)


def encode(pixels: np.ndarray, output_format: str, quality: int) -> bytes:
    """Encodes uint8 (H, W, 3) RGB as png, jpeg or webp; `quality` 1 to 100 applies to the last two."""
    if output_format == "png":
        return _png(pixels)
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
    result = _empty((size[1], size[0], CHANNELS))
    for top, bottom, strip in _strips(resized):
        result[top:bottom] = strip
    return result


def damaged(field: str) -> ApiError:
    return _invalid(field, "is a damaged or truncated picture. Save it anew and send the whole file.")


def out_of_memory() -> ApiError:
    return ApiError("out_of_memory", "This worker ran out of memory. Retry, or send a smaller image.", retry_after=5)


def _png(pixels: np.ndarray) -> bytes:
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = PNG_FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(filtered, PNG_LEVEL)), (b"IEND", b""))
    parts = [PNG_SIGNATURE]
    for kind, data in chunks:
        checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)]
    return b"".join(parts)


def _check_size(size: tuple[int, int], field: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _too_large(field, f"is {width} x {height}, more than {max_pixels} pixels")
    if max(size) > MAX_SIDE:
        raise _too_large(field, f"is {width} x {height}, more than {MAX_SIDE} on a side")
    if min(size) < MIN_SIDE:
        raise _invalid(field, f"is {width} x {height}. Send a picture of at least {MIN_SIDE} pixels on each side.")


@contextmanager
def _opened(data: bytes, field: str, max_pixels: int) -> Iterator[Image.Image]:
    """Opens `data` for the block, and turns what the block raises into ApiError."""
    if not data:
        raise _invalid(field, "is empty. Send the bytes of a picture.")
    try:
        structure.check(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=INPUT_FORMATS) as image:
                _check_size(image.size, field, max_pixels)
                yield image
    except ApiError:
        raise
    except structure.TooComplex as error:
        raise _invalid(field, f"has {error}, more than any camera or editor writes. Save it anew.") from None
    except Image.DecompressionBombError:
        raise _too_large(field, f"has more than {max_pixels} pixels") from None
    except UnidentifiedImageError:
        raise _invalid(field, f"is not a picture in a known format. Send {', '.join(INPUT_FORMATS)}.") from None
    except Exception as error:
        raise (out_of_memory() if _is_memory_error(error) else damaged(field)) from None


def _is_memory_error(error: Exception) -> bool:
    # Pillow's decoders report it as "out of memory error when reading image file".
    short = isinstance(error, OSError) and (error.errno == errno.ENOMEM or "out of memory" in str(error))
    return short or isinstance(error, MemoryError)


def _decoder_bytes(image: Image.Image) -> int:
    pixels = image.width * image.height
    stored = STORED.get(image.mode, 4)
    if image.format in ("JPEG", "MPO"):
        # A JPEG in several scans keeps all coefficients, two bytes each, until the last one.
        beside = 2 * getattr(image, "layers", 4)
    else:
        beside = BESIDE.get(image.format or "", max(BESIDE.values()))
    return pixels * (stored + beside) + min(pixels, STRIP_PIXELS) * STRIP_BYTES


def _empty(shape: tuple[int, int, int]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def _upright_rgb(image: Image.Image, allocate: Allocate) -> np.ndarray:
    image.seek(0)
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    turn = TURNS.get(orientation)
    width, height = image.size
    result = allocate((width, height, CHANNELS) if orientation in LYING else (height, width, CHANNELS))
    convert = _Conversion(image)
    for top, bottom, strip in _strips(image, convert, turn):
        first, last = (height - bottom, height - top) if orientation in REVERSED else (top, bottom)
        if orientation in LYING:
            result[:, first:last] = strip
        else:
            result[first:last] = strip
    return result


def _strips(
    image: Image.Image,
    convert: Callable[[Image.Image], Image.Image] | None = None,
    turn: Image.Transpose | None = None,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (top, bottom, pixels) for all rows of `image`, converted and then turned."""
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        strip = convert(strip) if convert else strip
        yield top, bottom, np.asarray(strip if turn is None else strip.transpose(turn))


class _Conversion:
    """Converts strips of one image to RGB on white, in sRGB."""

    def __init__(self, image: Image.Image) -> None:
        self._grey = _grey_scale(image) if image.mode in ("I", "F") or image.mode.startswith("I;16") else None
        clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
        self._alpha = clear and not self._grey
        self._profile = image.info.get("icc_profile")
        self._to_srgb: ImageCms.ImageCmsTransform | None = None

    def __call__(self, strip: Image.Image) -> Image.Image:
        if self._grey:
            strip = self._grey(strip)
        if self._alpha:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, WHITE), strip).convert("RGB")
        elif strip.mode == "P":
            strip = strip.convert("RGB")
        return self._in_srgb(strip).convert("RGB")

    def _in_srgb(self, strip: Image.Image) -> Image.Image:
        if not self._profile or strip.mode not in ("RGB", "L", "CMYK"):
            return strip
        try:
            if self._to_srgb is None:
                source = ImageCms.ImageCmsProfile(io.BytesIO(self._profile))
                self._to_srgb = ImageCms.buildTransform(source, SRGB, strip.mode, "RGB")
            return ImageCms.applyTransform(strip, self._to_srgb) or strip
        except (ImageCms.PyCMSError, OSError, ValueError):
            self._profile = None
            return strip


def _grey_scale(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Returns what makes 8 bits of the wider grey of `image`; float images may count to 1, 255 or 65535."""
    top = 65535.0
    if image.mode == "F":
        brightest = max(strip.max(initial=0) for _, _, strip in _strips(image))
        top = 1.0 if brightest <= 1.0 else 255.0 if brightest <= 255.0 else 65535.0

    def convert(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip).astype(np.float64)
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8))

    return convert


def _invalid(field: str, what: str) -> ApiError:
    return ApiError("invalid_image", f"{field} {what}", field=field)


def _too_large(field: str, what: str) -> ApiError:
    return ApiError("image_too_large", f"{field} {what}. Send a smaller picture.", field=field)
