"""TIFFs of any numbers and layouts are read as they are meant, or refused; a thumbnail is never taken for the image."""

import struct

import numpy as np
import pytest
from PIL import Image
from support.images import decode, gradient, refusal, to_bytes

GREY = np.array(gradient().convert("L"))
RGB = np.array(gradient())
INTEGERS, SIGNED, FLOATS = 1, 2, 3


def tiff(planes: bytes, bits: int, *, order: str = "<", before: bytes = b"", **tags: int | tuple) -> bytes:
    """A TIFF of one strip, 96 x 128; tags by their numbers, such as t339=3."""
    start = 8 + len(before)
    fields: dict[int, int | tuple] = {256: 96, 257: 128, 258: bits, 259: 1, 262: 1, 277: 1, 278: 128}
    fields |= {273: start, 279: len(planes)} | {int(name[1:]): value for name, value in tags.items()}
    place = start + len(planes) + len(planes) % 2
    extra_at = place + 2 + 12 * len(fields) + 4
    entries, extra = b"", b""
    for tag, value in sorted(fields.items()):
        values = value if isinstance(value, tuple) else (value,)
        kind, letter = (4, "I") if tag in (273, 279, 254) else (3, "H")
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack(order + "I", extra_at + len(extra)), extra + packed
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", place)
    data = head + before + planes + bytes(len(planes) % 2)
    return data + struct.pack(order + "H", len(fields)) + entries + bytes(4) + extra


def twelve_bits(levels: np.ndarray) -> bytes:
    bits = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(levels.shape[0], -1, 2), axis=2)[:, :, 4:]
    return np.packbits(bits.reshape(levels.shape[0], -1), axis=1).tobytes()


WIDE = GREY.astype(np.float64)
NUMBERS = {
    "12 bits": tiff(twelve_bits(np.round(WIDE * 4095 / 255)), 12),
    "16 bits": tiff((WIDE * 257).astype("<u2").tobytes(), 16),
    "16 bits with a sign": tiff((WIDE * 32767 / 255).round().astype("<i2").tobytes(), 16, t339=SIGNED),
    "32 bits up to 255": tiff(WIDE.astype("<u4").tobytes(), 32),
    "32 bits up to 65535": tiff((WIDE * 257).astype("<u4").tobytes(), 32),
    "all of 32 bits": tiff((WIDE * 16843009).astype("<u4").tobytes(), 32),
    "32 bits with a sign": tiff((WIDE * (2**31 - 1) / 255).astype("<i4").tobytes(), 32, t339=SIGNED),
    "floats up to 1": tiff((WIDE / 255).astype("<f4").tobytes(), 32, t339=FLOATS),
    "floats up to 255": tiff(WIDE.astype("<f4").tobytes(), 32, t339=FLOATS),
    "big-endian floats": tiff((WIDE / 255).astype(">f4").tobytes(), 32, order=">", t339=FLOATS),
}


@pytest.mark.parametrize("numbers", NUMBERS)
def test_white_is_the_largest_number_that_is_meant(numbers):
    assert np.abs(decode(NUMBERS[numbers]).astype(int) - GREY[..., None]).max() <= 1


def test_floats_may_be_somewhat_above_one_or_no_numbers():
    values = (WIDE / 255).astype("<f4")
    values[0, :3] = np.nan, np.inf, 1.04
    found = decode(tiff(values.tobytes(), 32, t339=FLOATS))
    assert np.abs(found[1:].astype(int) - GREY[1:, :, None]).max() <= 1


def test_a_palette_of_levels_up_to_255_is_not_black():
    colours = tuple(range(256)) * 3
    assert np.array_equal(decode(tiff(GREY.tobytes(), 8, t262=3, t320=colours)), np.repeat(GREY[..., None], 3, 2))


PLANES = (RGB.transpose(2, 0, 1).astype("<u2") * 257).tobytes()
UNREADABLE = {
    "8 bits with a sign": tiff((WIDE - 128).astype(np.int8).tobytes(), 8, t339=SIGNED),
    "planes of 16 bits": tiff(
        PLANES,
        16,
        **{"t258": (16,) * 3, "t262": 2, "t277": 3, "t284": 2},
        **{"t273": (8, 8 + len(PLANES) // 3, 8 + len(PLANES) * 2 // 3), "t279": (len(PLANES) // 3,) * 3},
    ),
    "compressed big-endian floats": tiff(b"", 32, order=">", t339=FLOATS, t259=8),
    "white at zero, big-endian": tiff((WIDE * 257).astype(">u2").tobytes(), 16, order=">", t262=0),
}


@pytest.mark.parametrize("form", UNREADABLE)
def test_numbers_that_would_be_misread_are_refused(form):
    message = refusal(UNREADABLE[form])
    assert "TIFF in a form that cannot be read" in message and "JPEG or PNG" in message


def test_the_first_image_that_is_no_thumbnail_is_taken():
    small = to_bytes(Image.new("L", (24, 32), 9), "TIFF")
    (start,) = struct.unpack_from("<I", small, 4)
    (count,) = struct.unpack_from("<H", small, start)
    entries = [small[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    thumbnail = struct.pack("<HHII", 254, 4, 1, 1)
    full = tiff(GREY.tobytes(), 8, before=small[8:])
    for more, word in (
        (b"", ""),
        (struct.pack("<HHII", 330, 4, 1, 8), "raw"),
        (struct.pack("<HHII", 50706, 1, 4, 1), "raw"),
    ):
        tags = sorted([*entries, thumbnail, *([more] if more else [])], key=lambda entry: entry[:2][::-1])
        link = full[4:8]
        first = struct.pack("<H", len(tags)) + b"".join(tags) + link
        data = full[:4] + struct.pack("<I", len(full)) + full[8:] + first
        if word:
            assert "raw file" in refusal(data)
        else:
            assert np.array_equal(decode(data), np.repeat(GREY[..., None], 3, 2))


def test_the_orientation_is_that_of_the_image_and_not_of_its_thumbnail():
    for of_thumbnail, of_image in ((1, 6), (6, 1)):
        full = tiff(GREY.tobytes(), 8, t274=of_image)
        thumbnail = [(254, 4, 1), (256, 4, 96), (257, 4, 128), (274, 3, of_thumbnail)]
        first = struct.pack("<H", 4) + b"".join(
            struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in thumbnail
        )
        data = full[:4] + struct.pack("<I", len(full)) + full[8:] + first + full[4:8]
        assert decode(data).shape == ((128, 96, 3) if of_image == 1 else (96, 128, 3))


def test_what_an_uncompressed_file_says_of_its_strips_may_be_too_much():
    assert np.array_equal(
        decode(tiff(GREY.tobytes(), 8, t278=1_000, t279=96 * 1_000)), np.repeat(GREY[..., None], 3, 2)
    )
