"""Good files are decoded, whatever else they hold; what is no image is named for what it is."""

import base64
import io
import random
import re
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from comfyui_tryon import images
from comfyui_tryon.errors import ApiError
from PIL import Image, features
from support.images import decode, gradient, refusal, to_bytes
from support.invalid import chunk

HAS_AVIF = features.check("avif")


def heif(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


# JPEGs whose end mark is missing.

FILM = struct.pack(">I", 24) + b"ftypmp42" + bytes(12) + struct.pack(">I", 50_008) + b"mdat"
FILM += np.random.default_rng(0).bytes(50_000)
NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))
JPEGS = {
    f"{name} {options}": to_bytes(image, "JPEG", **options)
    for name, image in {"gradient": gradient(), "noise": NOISE, "white": Image.new("RGB", (90, 70), "white")}.items()
    for options in (
        {"quality": 95},
        {"quality": 60, "subsampling": 0},
        {"quality": 80, "progressive": True},
        {"quality": 80, "restart_marker_blocks": 4},
    )
} | {"grey": to_bytes(gradient().convert("L"), "JPEG"), "CMYK": to_bytes(gradient().convert("CMYK"), "JPEG")}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_without_its_end_mark_is_whole_if_all_its_pixels_are_there(name):
    data = JPEGS[name]
    wanted = decode(data)
    for rest in (b"", FILM, data, *([bytes(1_000)] if data[-3] else [])):
        assert np.array_equal(decode(data[:-2] + rest), wanted)
    assert np.array_equal(decode(data + FILM), wanted)


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_pixels_is_refused_or_whole_by_chance(name):
    data = JPEGS[name]
    wanted = decode(data)
    restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)][2::9]
    scans = [found.start() for found in re.finditer(rb"\xff\xda", data)][1:]
    for end in (len(data) - 3, len(data) - 8, len(data) * 9 // 10, len(data) // 2, *restarts, *scans):
        for rest in (b"", FILM, bytes(1_000), b"\xff\xd9"):
            if rest == b"\xff\xd9" and (end > len(data) * 9 // 10 or b"\xff\xc2" in data):
                continue  # little is missing, or of a progressive one only what is fine
            try:
                assert np.array_equal(decode(data[:end] + rest), wanted), (end - len(data), len(rest))
            except ApiError as error:
                assert error.code == "invalid_image" and "truncated" in error.message
                continue
            assert end >= len(data) - 8, "only the last bytes may be filling"


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("bits, colour, channels", [(8, 2, 3), (8, 6, 4), (1, 0, 1), (16, 0, 1)])
def test_a_png_whose_pixels_end_early_is_refused(bits, colour, channels, interlaced):
    passes = [(4, 4), (4, 4), (8, 4), (8, 8), (16, 8), (16, 16), (32, 16)] if interlaced else [(32, 32)]
    rows = [
        b"\0" + bytes([0xAA]) * max(1, width * bits * channels // 8) for width, height in passes for _ in range(height)
    ]

    def png(rows: list[bytes]) -> bytes:
        header = struct.pack(">2I5B", 32, 32, bits, colour, 0, 0, interlaced)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
        chunks = [chunk(*part) for part in parts]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    for tail in (b"", b"\n", b"\r\n", bytes(7), bytes(30)):
        assert decode(png(rows) + tail).shape == (32, 32, 3)
    for lacking in (1, len(rows) // 2):
        assert "truncated" in refusal(png(rows[:-lacking]))


def test_a_bmp_that_says_nothing_by_its_alpha_is_opaque():
    pixels = np.dstack([np.array(gradient())[::-1, :, ::-1], np.zeros((128, 96), np.uint8)]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 96, 128, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    info = info.ljust(108, b"\0")
    data = b"BM" + struct.pack("<IHHI", 14 + len(info) + len(pixels), 0, 0, 14 + len(info)) + info + pixels
    assert np.array_equal(decode(data), np.array(gradient()))


# EXIF that no library writes.


def odd_exif(seed: int) -> bytes:
    """EXIF of the orientation 6 and a few tags of wrong types, counts and places."""
    drawn = random.Random(seed)
    order = drawn.choice("<>")
    entries = [(0x0112, 3, 1, struct.pack(order + "HH", 6, 0))]
    for _ in range(drawn.randint(1, 4)):
        tag = drawn.choice([0x0100, 0x0106, 0x010F, 0x011A, 0x0128, 0x0131, 0x8769, 0x8825, 0xA005, 0x927C, 0xB001])
        place = struct.pack(order + "I", drawn.choice([0, 8, 38, 2**32 - 1]))
        value = drawn.choice([drawn.randbytes(4), b"72\0\0", place])
        entries.append((tag, drawn.randint(0, 20), drawn.choice([0, 1, 1, 2, 100, 2**31]), value))
    drawn.shuffle(entries)
    tags = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\0\0" + head + tags + bytes(4) + struct.pack("<8I", *[72, 1] * 4)


STORED = gradient().transpose(Image.Transpose.ROTATE_90)


@pytest.mark.parametrize("format, options", [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"method": 0})])
def test_the_orientation_is_found_in_any_exif(format, options):
    for seed in range(150):
        found = decode(to_bytes(STORED, format, exif=odd_exif(seed), **options))
        assert found.shape == (128, 96, 3) and np.abs(found.astype(int) - np.array(gradient())).mean() < 4, seed


def test_the_orientation_of_a_jpeg_is_found_behind_fill_bytes_and_junk():
    data = to_bytes(STORED, "JPEG", quality=95, exif=odd_exif(0))
    place = data.index(b"\xff\xe1")
    for filling, at in ((b"\xff", 2), (b"\xff", place), (b"\xff\xff\xff", place), (b"junk", place)):
        assert decode(data[:at] + filling + data[at:]).shape == (128, 96, 3)


def test_a_tiff_with_odd_tags_is_decoded():
    plain = to_bytes(STORED, "TIFF")
    (start,) = struct.unpack_from("<I", plain, 4)
    (count,) = struct.unpack_from("<H", plain, start)
    entries = [plain[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    have = {struct.unpack_from("<H", entry)[0] for entry in entries}
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    for seed in range(150):
        drawn = random.Random(seed)
        odd = {0x010F, 0x011A, 0x0131, 0x014A, 0x0213, 0x02BC, 0x83BB, 0x8649, 0x8769, 0x8825, 0xC4A5} - have
        more = [
            struct.pack("<HHI", tag, drawn.randint(0, 18), drawn.choice([0, 1, 4])) + drawn.randbytes(4)
            for tag in drawn.sample(sorted(odd), 3)
        ]
        tags = sorted([*entries, turned, *more], key=lambda entry: struct.unpack_from("<H", entry)[0])
        data = plain[:4] + struct.pack("<I", len(plain)) + plain[8:]
        data += struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
        assert np.array_equal(decode(data), np.array(gradient())), seed


@pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF")
def test_an_avif_is_turned_by_its_boxes_whatever_its_exif_says():
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "camera", 6
    data = to_bytes(STORED, "AVIF", exif=exif, quality=90)
    assert decode(data).shape == (128, 96, 3)
    place = max(data.find(b"MM\0*"), data.find(b"II*\0")) + 4
    assert place >= 4
    assert decode(data[:place] + b"\xff\xff\xff\xf0" + data[place + 4 :]).shape == (128, 96, 3)


# HEIC


def test_heic_is_decoded_turned_and_flattened():
    assert np.abs(decode(heif(gradient(), quality=90)).astype(int) - np.array(gradient())).mean() < 3
    clear = Image.new("RGBA", (64, 64), (200, 0, 0, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 64, 32))
    found = decode(heif(clear, quality=90)).astype(int)
    assert (found[:24] > 250).all() and np.abs(found[40:] - (200, 0, 0)).max() < 12
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = pillow_heif.from_pillow(STORED)
    turned[0].info["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    turned.save(buffer, quality=90)
    found = decode(buffer.getvalue())
    assert found.shape == (128, 96, 3) and np.abs(found.astype(int) - np.array(gradient())).mean() < 3


def test_of_several_images_in_a_heic_the_one_that_viewers_show_is_decoded():
    several = pillow_heif.from_pillow(Image.new("RGB", (640, 480)))
    several.add_from_pillow(gradient())
    buffer = io.BytesIO()
    several.save(buffer, quality=90, primary_index=1)
    assert np.abs(decode(buffer.getvalue()).astype(int) - np.array(gradient())).mean() < 3


def test_a_truncated_heic_is_refused_and_a_large_one_before_it_is_decoded():
    data = heif(gradient(), quality=90)
    for length in (len(data) // 2, len(data) - 20):
        assert "HEIC" in refusal(data[:length])
    with pytest.raises(ApiError) as caught:
        images.read_header(heif(Image.new("RGB", (1_200, 900))), "person_image", 10**6)
    assert caught.value.code == "image_too_large"


def test_heic_is_not_registered_with_pillow_for_others_in_the_process():
    decode(heif(gradient()))
    Image.init()
    assert "HEIF" not in Image.OPEN


# Colour that is told without a profile.


def with_chunks(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    data = to_bytes(image)
    parts = [chunk(*part) for part in chunks]
    return data[:33] + b"".join(parts) + data[33:]


P3_POINTS = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_GAMMA, LINEAR_GAMMA = struct.pack(">I", 45455), struct.pack(">I", 100_000)
BRICK, P3_BRICK = (200, 60, 60), (217, 42, 52)  # a colour, and how one of the same numbers in Display P3 is in sRGB


@pytest.mark.parametrize(
    "chunks, wanted",
    [
        ([(b"cICP", bytes([12, 13, 0, 1]))], P3_BRICK),
        ([(b"gAMA", SRGB_GAMMA), (b"cHRM", P3_POINTS)], P3_BRICK),
        ([(b"cHRM", P3_POINTS)], P3_BRICK),
        ([(b"gAMA", LINEAR_GAMMA)], (229, 133, 133)),
        ([(b"gAMA", SRGB_GAMMA)], BRICK),
        ([(b"sRGB", b"\0"), (b"gAMA", LINEAR_GAMMA)], BRICK),
        ([(b"cICP", bytes([1, 13, 0, 1])), (b"cHRM", P3_POINTS)], BRICK),
        ([(b"cICP", bytes([200, 13, 0, 1]))], BRICK),
        ([(b"cHRM", bytes(32))], BRICK),
        ([(b"gAMA", bytes(4))], BRICK),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_png_tells_its_colour_in_chunks(chunks, wanted, mode):
    plain = Image.new("RGB", (32, 32), BRICK)
    found = decode(with_chunks(plain.quantize(4) if mode == "P" else plain.convert(mode), *chunks))
    assert np.abs(found.astype(int) - wanted).max() <= 2


@pytest.mark.parametrize("transfer, signal", [(16, 148), (18, 191)])
def test_the_white_of_a_page_is_white_in_wide_brightness_too(transfer, signal):
    page = Image.new("RGB", (32, 32), (signal,) * 3)
    assert decode(with_chunks(page, (b"cICP", bytes([9, transfer, 0, 1])))).min() >= 250


def test_heic_and_avif_tell_their_colour_in_a_box():
    image = Image.new("RGB", (64, 64), BRICK)
    p3 = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6}
    found = decode(heif(image, quality=-1, chroma=444, **p3)).astype(int)
    assert np.abs(found - P3_BRICK).max() <= 4
    if HAS_AVIF:
        plain = to_bytes(image, "AVIF", quality=100, subsampling="4:4:4")
        assert np.abs(decode(plain).astype(int) - BRICK).max() <= 4
        place = plain.index(b"colrnclx") + 8
        data = plain[:place] + struct.pack(">H", 12) + plain[place + 2 :]
        assert np.abs(decode(data).astype(int) - P3_BRICK).max() <= 4


def png(bits: int, colour: int, rows: bytes, clear: bytes) -> bytes:
    header = struct.pack(">2I5B", 32, 32, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [chunk(*part) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_the_transparent_colour_of_a_png_of_any_depth_is_white():
    for bits, colour, one, other in (
        (16, 0, struct.pack(">H", 0x1234), struct.pack(">H", 0x8000)),
        (16, 2, struct.pack(">3H", 0x1234, 0x4567, 0xFFFF), struct.pack(">3H", 0x1234, 0x8000, 0xFFFF)),
        (8, 0, b"\x12", b"\x80"),
        (8, 2, b"\x12\x34\x56", b"\x12\x80\x56"),
    ):
        clear = one if bits == 16 else b"".join(bytes([0, value]) for value in one)
        found = decode(png(bits, colour, (b"\0" + one * 16 + other * 16) * 32, clear))
        assert (found[:, :16] == 255).all() and (found[:, 16:, 1] == 0x80).all(), (bits, colour)
    for bits in (2, 4):
        value = (1 << bits) - 2
        packed = sum(value << shift for shift in range(0, 8, bits))
        rows = (b"\0" + bytes([packed] * (2 * bits)) + bytes(2 * bits)) * 32
        found = decode(png(bits, 0, rows, bytes([0, value])))
        assert (found[:, :16] == 255).all() and (found[:, 16:] == 0).all(), bits


# What is no image


def box(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"isommp42" + bytes(100)


NAMED = {
    "empty": (b"", "empty"),
    "white space": (b" \r\n", "empty"),
    "web page": (b"<!DOCTYPE html><html><body>403 Forbidden</body></html>", "HTML"),
    "web page after a blank": (b"\xef\xbb\xbf\n  <html lang=en>", "HTML"),
    "error of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "PDF": (b"%PDF-1.7\n" + bytes(200), "PDF"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
    "JSON": (b'{"image": "iVBORw0KGgo"}', "JSON"),
    "URL": (b"https://shop.example/person.jpg", "URL"),
    "data URI": (b"data:image/png;base64,iVBORw0KGgo=", "data URI"),
    "base64": (base64.b64encode(to_bytes(gradient())), "base64"),
    "base64 of a JPEG": (base64.b64encode(to_bytes(gradient(), "JPEG")), "base64"),
    "MP4": (box(b"mp42"), "video"),
    "QuickTime": (box(b"qt  "), "video"),
    "WebM": (b"\x1aE\xdf\xa3" + bytes(100), "video"),
    "AVI": (b"RIFF\0\0\1\0AVI LIST" + bytes(100), "video"),
    "ZIP": (b"PK\3\4" + bytes(100), "ZIP"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
    "JPEG XL": (b"\xff\x0a\xff", "JPEG XL"),
    "JPEG XL in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "JPEG XL"),
    "JPEG 2000": (to_bytes(gradient(), "JPEG2000"), "JPEG 2000"),
    "Photoshop": (b"8BPS\0\1" + bytes(100), "PSD"),
    "icon": (to_bytes(gradient(), "ICO"), "ICO"),
    "raw CR3": (box(b"crx "), "raw"),
    "raw RAF": (b"FUJIFILMCCD-RAW 0201" + bytes(100), "raw"),
    "damaged HEIC": (box(b"heic"), "HEIC"),
    "damaged AVIF": (struct.pack(">I", 24) + b"ftypavif\0\0\0\0mif1avif" + bytes(100), "AVIF"),
    "text": (b"please find attached", "text"),
    "something": (bytes(range(1, 200)), "known format"),
}


@pytest.mark.parametrize("what", NAMED)
def test_what_is_no_image_is_named(what):
    data, word = NAMED[what]
    message = refusal(data)
    assert message.startswith("person_image ") and word in message and re.search(r"[Ss]end|Encode", message), message


@pytest.mark.parametrize(
    "text, word",
    [
        ("https://shop.example/person.jpg", "URL"),
        ("HTTP://shop.example/a.png?x=1", "URL"),
        ("blob:https://shop.example/4f", "URL"),
        ("<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        ("%%%", "base64"),
        ("{'image': 1}", "JSON"),
        ("s3://bucket/person.jpg", "URL"),
        ("//cdn.shop.example/person", "URL"),
        ("/photos/my person.jpeg", "file"),
        ("D:\\person.tmp", "path"),
        ("person.heic", "file"),
    ],
)
async def test_text_in_the_place_of_base64_is_named(api, grey, text, word):
    status, content = await (await api()).tryon(grey | {"garment_image": text})
    assert (status, content["error"]["code"]) == (422, "invalid_image")
    assert content["error"]["message"].startswith("garment_image is ") and word in content["error"]["message"]
