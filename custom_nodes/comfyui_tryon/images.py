"""Pictures as bytes, to and from pixels."""

import io
import struct
import warnings

import numpy as np
from isal import isal_zlib
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError, features

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


def decode(data: bytes, field: str, max_pixels: int) -> np.ndarray:
    """Decodes one uploaded picture.

    Turned upright by its EXIF orientation, converted to sRGB by its profile, flattened on white, first frame only.

    Args:
        data: the file's bytes.
        field: the request field it came in, named in errors.
        max_pixels: the limit on width x height, checked before any pixel is decoded.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ApiError: invalid_image or image_too_large.
    """
    if not data:
        raise _invalid(field, "is empty. Send the bytes of a picture.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=INPUT_FORMATS) as image:
                _check_size(image.size, field, max_pixels)
                return np.array(_upright_rgb(image))
    except ApiError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(field, f"has more than {max_pixels} pixels") from None
    except UnidentifiedImageError:
        raise _invalid(field, f"is not a picture in a known format. Send {', '.join(INPUT_FORMATS)}.") from None
    except Exception:
        raise _invalid(field, "is a damaged or truncated picture. Save it anew and send the whole file.") from None


def encode(pixels: np.ndarray, output_format: str, quality: int) -> bytes:
    """Encodes uint8 (H, W, 3) RGB as png, jpeg or webp; `quality` 1 to 100 applies to the last two."""
    if output_format == "png":
        return _png(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, output_format.upper(), quality=quality)
    return buffer.getvalue()


def encode_preview(image: Image.Image, quality: int) -> bytes:
    """A small picture as JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) resized to `size` (width, height) with Lanczos."""
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


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


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.seek(0)
    image.load()
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bit_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
        return _to_srgb(image.convert("RGB"), profile)
    return _to_srgb(image.convert("RGB") if image.mode == "P" else image, profile).convert("RGB")


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    brightest = values.max(initial=0) if image.mode == "F" else 65535.0
    top = 1.0 if brightest <= 1.0 else 255.0 if brightest <= 255.0 else 65535.0
    return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile or image.mode not in ("RGB", "L", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, SRGB, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _invalid(field: str, what: str) -> ApiError:
    return ApiError("invalid_image", f"{field} {what}", field=field)


def _too_large(field: str, what: str) -> ApiError:
    return ApiError("image_too_large", f"{field} {what}. Send a smaller picture.", field=field)


# ComfyUI's own nodes may let PIL fill truncated files with grey; a request's picture is whole or refused.
ImageFile.LOAD_TRUNCATED_IMAGES = False
