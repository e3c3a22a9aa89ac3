"""Every format, mode, depth, orientation, colour and size of metadata, compared with what libvips decodes."""

import struct
import zlib

import numpy as np
import pytest
from comfyui_tryon import images
from PIL import Image, features
from support.images import gamma_profile, to_bytes

pyvips = pytest.importorskip("pyvips", reason="NO LIBVIPS HERE: the table of image formats is not tested.")

SIDE = (80, 64)
rows, columns = np.mgrid[0 : SIDE[1], 0 : SIDE[0]]
RGB = np.stack([255 * columns / SIDE[0], 255 * rows / SIDE[1], 128 + 60 * np.sin(columns / 9)], -1).astype(np.uint8)
PLAIN = Image.fromarray(RGB)
CLEAR = PLAIN.copy()
CLEAR.putalpha(Image.fromarray((255 * (columns + rows) / sum(SIDE)).astype(np.uint8)))
GREY = (65535 * (columns + rows) / sum(SIDE)).astype(np.uint16)
PIXELS = {
    **{mode: CLEAR.convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr")},
    "I;16": Image.fromarray(GREY),
}
P3_CHUNK = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


FORMATS = {
    "PNG": ({}, ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    "JPEG": ({"quality": 95, "subsampling": 0}, ("RGB", "L", "CMYK", "YCbCr")),
    "JPEG progressive": ({"quality": 95, "subsampling": 0, "progressive": True}, ("RGB", "L")),
    "WEBP": ({"lossless": True, "exact": True}, ("RGB", "RGBA", "L")),
    "TIFF": ({}, ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16")),
    "TIFF LZW": ({"compression": "tiff_lzw"}, ("RGB", "L", "I;16")),
    "TIFF deflate": ({"compression": "tiff_adobe_deflate"}, ("RGB", "RGBA")),
    "GIF": ({}, ("P", "L", "1")),
    **({"AVIF": ({"quality": 95, "subsampling": "4:4:4"}, ("RGB", "RGBA"))} if features.check("avif") else {}),
}


def with_metadata(format: str, size: int) -> bytes:
    data = to_bytes(PLAIN, format, **FORMATS[format][0])
    if format == "PNG":
        text = b"".join(_chunk(b"tEXt", b"workflow\0" + b"x" * 100_000) for _ in range(size // 100_000))
        return data[:33] + text + data[33:]
    if format == "JPEG":
        return data[:2] + b"\xff\xe1\xff\xff" + b"http://ns.adobe.com/xap/1.0/\0".ljust(65_533, b" ") + data[2:]
    return to_bytes(PLAIN, format, xmp=b" " * size, **FORMATS[format][0])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def table() -> dict[str, bytes]:
    found = {}
    for name, (options, modes) in FORMATS.items():
        format = name.split()[0]
        for mode in modes:
            found[f"{name} {mode}"] = to_bytes(PIXELS[mode], format, **options)
        if format == "GIF":
            continue
        for orientation in range(2, 9):
            found[f"{name} orientation {orientation}"] = to_bytes(PLAIN, format, exif=exif(orientation), **options)
        for gamma in (1.0, 1.8):
            found[f"{name} gamma {gamma}"] = to_bytes(PLAIN, format, icc_profile=gamma_profile(gamma), **options)
    for format in ("PNG", "JPEG", "WEBP"):
        found[f"{format} metadata"] = with_metadata(format, 2_000_000)
    png = to_bytes(PLAIN, "PNG")
    found["PNG interlaced"] = to_bytes(PLAIN, "PNG", interlace=1)
    found["PNG private chunk"] = png[:33] + _chunk(b"prVt", bytes(3_000_000)) + png[33:]
    return found


TABLE = table()


def by_vips(data: bytes) -> np.ndarray:
    image = pyvips.Image.new_from_buffer(data, "").autorot()
    if image.get_typeof("icc-profile-data"):
        intent = pyvips.enums.Intent.PERCEPTUAL
        alpha = image.hasalpha() and image.extract_band(image.bands - 1)
        image = (image[: image.bands - 1] if alpha else image).icc_transform("srgb", embedded=True, intent=intent)
        image = image.bandjoin(alpha) if alpha else image
    elif image.interpretation != "srgb":
        image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=[255] * 3)
    image = image.cast("uchar")
    if image.bands == 1:
        image = image.bandjoin([image, image])
    return image.numpy()


@pytest.mark.parametrize("name", TABLE)
def test_an_image_is_what_libvips_makes_of_it(name):
    found, wanted = images.decode(TABLE[name], "person_image", 10**6), by_vips(TABLE[name])
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted)
    # CMYK without a profile has no one meaning; curves and lossy formats round differently.
    assert difference.mean() < (40 if "CMYK" in name else 1.5), difference.mean()
    assert "CMYK" in name or np.percentile(difference, 99) <= 6


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_a_bmp_is_what_it_was_made_from(mode):
    """libvips reads none."""
    data = to_bytes(PIXELS[mode], "BMP")
    assert np.array_equal(images.decode(data, "person_image", 10**6), np.array(PIXELS[mode].convert("RGB")))
