"""Every picture that a request may carry is decoded to the pixels a viewer shows, or refused."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from comfyui_tryon import images
from comfyui_tryon.errors import ApiError
from PIL import Image, ImageCms, features
from support.images import gamma_profile, gradient, to_bytes

MAX_PIXELS = 1_000_000
ORIENTATION = 0x0112


def decode(data: bytes) -> np.ndarray:
    return images.decode(data, "person_image", MAX_PIXELS)


def refused(data: bytes, code: str = "invalid_image") -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode(data)
    assert caught.value.code == code and caught.value.details == {"field": "person_image"}
    assert caught.value.message.startswith("person_image ")
    return caught.value


def test_lossless_formats_keep_every_pixel():
    image = gradient()
    for data in (
        to_bytes(image, "PNG"),
        to_bytes(image, "PNG", interlace=1),
        to_bytes(image, "BMP"),
        to_bytes(image, "TIFF"),
        to_bytes(image, "TIFF", compression="tiff_lzw"),
        to_bytes(image, "WEBP", lossless=True),
    ):
        found = decode(data)
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        assert np.array_equal(found, np.array(image))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_keep_the_picture(format):
    if not features.check(format.lower() if format != "JPEG" else "jpg"):
        pytest.skip(f"this Pillow has no {format}")
    found = decode(to_bytes(gradient(), format, quality=95))
    assert np.abs(found.astype(int) - np.array(gradient())).mean() < 4


def test_progressive_jpeg():
    baseline, progressive = (decode(to_bytes(gradient(), "JPEG", quality=95, progressive=p)) for p in (False, True))
    assert np.abs(baseline.astype(int) - progressive).max() <= 2


# What a camera has to do with the upright picture to get the stored one, by EXIF orientation.
TO_STORED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, 1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, -1),
}


@pytest.mark.parametrize("orientation", TO_STORED)
@pytest.mark.parametrize("format, options", [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_every_exif_orientation_is_turned_upright(orientation, format, options):
    upright = np.array(gradient())
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TO_STORED[orientation](upright)))
    assert np.array_equal(decode(to_bytes(stored, format, exif=exif, **options)), upright)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_changes_nothing(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert np.array_equal(decode(to_bytes(gradient(), exif=exif)), np.array(gradient()))


def test_damaged_exif_does_not_matter():
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"\0" * 200):
        found = decode(to_bytes(gradient(48, 64), "JPEG", quality=95, exif=exif))
        assert found.shape == (64, 48, 3)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_flattened_on_white(format):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16] = (200, 10, 60, 255)
    pixels[16:] = (200, 10, 60, 0)
    pixels[24:] = (0, 0, 0, 128)
    found = decode(to_bytes(Image.fromarray(pixels), format, **options))
    assert (found[:16] == (200, 10, 60)).all()
    assert (found[16:24] == 255).all()
    assert (np.abs(found[24:].astype(int) - 127) <= 1).all()


def test_grey_with_alpha_is_flattened_on_white():
    pixels = np.zeros((32, 32, 2), np.uint8)
    pixels[:16] = (40, 255)
    found = decode(to_bytes(Image.fromarray(pixels, "LA")))
    assert (found[:16] == 40).all() and (found[16:] == 255).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_colour_is_white(mode, format):
    if format == "GIF" and mode == "RGB":
        pytest.skip("a GIF has a palette")
    image = Image.new("RGB", (32, 32), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 32, 16))
    image = image.convert(mode)
    colour = image.getpixel((0, 0))
    assert (decode(to_bytes(image, format)) == np.array(image.convert("RGB"))).all()
    assert (decode(to_bytes(image, format, transparency=colour)) == 255).all()


def test_palette_with_several_alphas():
    image = Image.new("P", (32, 32), 0)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.paste(1, (0, 8, 32, 16))
    image.paste(2, (0, 16, 32, 32))
    found = decode(to_bytes(image, transparency=bytes([255, 0, 128])))
    assert (found[:8] == (10, 20, 30)).all() and (found[8:16] == 255).all()
    assert np.abs(found[16:].astype(int) - (162, 167, 172)).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight(format):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    found = decode(to_bytes(Image.fromarray(ramp), format))
    assert np.abs(found[..., 0].astype(int) - (ramp / 257).round()).max() <= 1
    assert (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("level", [0, 200, 5_000, 65_535])
def test_sixteen_bits_are_scaled_alike_in_dark_and_bright_pictures(level):
    """A dark 16-bit picture stays dark: the scale is the format's, not the picture's."""
    found = decode(to_bytes(Image.fromarray(np.full((32, 32), level, np.uint16))))
    assert np.abs(found.astype(int) - round(level / 257)).max() <= 1


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_of_every_kind(colour_type, channels):
    pixel = struct.pack(f">{channels}H", *[0x4000] * (channels - (colour_type >= 4)), *[0xFFFF] * (colour_type >= 4))
    rows = (b"\0" + pixel * 32) * 32
    assert (np.abs(decode(png(32, 32, 16, colour_type, rows)).astype(int) - 0x40) <= 1).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits(bits):
    rows = (b"\0" + b"\xff" * (16 * bits // 8) + b"\0" * (16 * bits // 8)) * 32
    found = decode(png(32, 32, bits, 0, rows))
    assert (found[:, :16] == 255).all() and (found[:, 16:] == 0).all()


def test_thirty_two_bit_and_float_tiff():
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    for values in (ramp.astype(np.float32), (ramp * 65535).astype(np.int32)):
        found = decode(to_bytes(Image.fromarray(values), "TIFF"))
        assert np.abs(found[..., 1].astype(int) - ramp * 255).max() <= 1


def test_float_tiff_without_a_number_in_it_is_decoded_or_refused():
    values = np.full((32, 32), np.nan, np.float32)
    values[:16] = np.inf
    try:
        assert decode(to_bytes(Image.fromarray(values), "TIFF")).shape == (32, 32, 3)
    except ApiError as error:
        assert error.code == "invalid_image"


def test_cmyk_without_a_profile():
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    for format in ("JPEG", "TIFF"):
        found = decode(to_bytes(red, format))
        assert (found[..., 0] > 240).all() and (found[..., 1:] < 15).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "LAB"])
def test_other_modes_look_like_their_rgb(mode):
    if mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image, wanted, tolerance = ImageCms.applyTransform(gradient(), transform), np.array(gradient()), 4
    else:
        image = gradient().convert(mode)
        wanted, tolerance = np.array(image.convert("RGB")), 1
    format = "TIFF" if mode in ("YCbCr", "LAB") else "PNG"
    found = decode(to_bytes(image, format))
    assert np.abs(found.astype(int) - wanted).mean() <= tolerance


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_is_converted_to_srgb(format):
    flat = Image.new("RGB", (32, 32), (128, 128, 128))
    profile = gamma_profile(1.0)
    assert (np.abs(decode(to_bytes(flat, format)).astype(int) - 128) <= 1).all()
    # linear light 0.5 is 188 in sRGB
    found = decode(to_bytes(flat, format, icc_profile=profile)).astype(int)
    assert (np.abs(found - 188) <= 2).all()


def test_a_profile_is_converted_with_alpha_and_with_a_palette_too():
    """188 is linear light 0.5 in sRGB; the profile belongs to the colours, whatever way they are stored."""
    profile = gamma_profile(1.0)
    for image in (
        Image.new("RGBA", (32, 32), (128, 128, 128, 255)),
        Image.new("RGB", (32, 32), (128, 128, 128)).quantize(4),
    ):
        assert (np.abs(decode(to_bytes(image, icc_profile=profile)).astype(int) - 188) <= 2).all(), image.mode
    clear = Image.new("RGBA", (32, 32), (128, 128, 128, 0))
    assert (decode(to_bytes(clear, icc_profile=profile)) == 255).all()


def test_a_damaged_or_unfit_profile_is_left_out():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (b"nonsense" * 40, gamma_profile(2.2)[:200], lab):
        found = decode(to_bytes(gradient(), icc_profile=profile))
        assert np.array_equal(found, np.array(gradient()))


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    for format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = to_bytes(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (decode(data) == (255, 0, 0)).all(), format


def test_a_gif_whose_first_frame_is_transparent():
    image = Image.new("P", (32, 32), 0)
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.paste(1, (0, 0, 32, 16))
    found = decode(to_bytes(image, "GIF", transparency=0))
    assert (found[:16] == (200, 0, 0)).all() and (found[16:] == 255).all()


def bomb(width: int, height: int) -> bytes:
    """A valid one-bit PNG that says how large it is and would inflate to that."""
    packer = zlib.compressobj(9)
    row = b"\0" + b"\xff" * ((width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_its_pixels_are_decoded():
    data = bomb(9_000, 9_000)
    tracemalloc.start()
    try:
        error = refused(data, "image_too_large")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert "9000 x 9000" in error.message and "1000000" in error.message


def test_a_header_of_billions_of_pixels():
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
    refused(data + png_chunk(b"IDAT", zlib.compress(b"")), "image_too_large")


@pytest.mark.parametrize(
    "chunk",
    {
        "a text that inflates": (b"zTXt", b"x\0\0" + zlib.compress(bytes(20_000_000), 9)),
        "another that does": (b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(20_000_000), 9)),
        "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * 600_000),
        "a workflow": (b"tEXt", b"workflow\0" + b"{}" * 1_000_000),
        "EXIF": (b"eXIf", b"MM\0*" + bytes(2_000_000)),
        "a program's own": (b"prVt", bytes(3_000_000)),
        "a profile that inflates": (b"iCCP", b"x\0\0" + zlib.compress(bytes(20_000_000), 9)),
        "a profile of another method": (b"iCCP", b"x\0\7nonsense"),
        "half a gamma": (b"gAMA", b"\0\1"),
        "frames of nothing": (b"acTL", bytes(8)),
    }.items(),
    ids=lambda case: case[0],
)
def test_metadata_of_a_png_does_not_matter_and_is_not_inflated(chunk):
    data = to_bytes(gradient())
    tracemalloc.start()
    try:
        found = decode(data[:33] + png_chunk(*chunk[1]) + data[33:])
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, np.array(gradient()))


def test_long_thin_and_tiny_pictures():
    refused(to_bytes(Image.new("1", (16_384, 20))), "image_too_large")
    longest = decode(to_bytes(Image.new("1", (16_383, 20))))
    assert to_bytes(Image.fromarray(longest), "WEBP"), "what is accepted can be a result, too"
    assert "16" in refused(to_bytes(Image.new("RGB", (15, 400)))).message
    assert decode(to_bytes(Image.new("RGB", (16, 16)))).shape == (16, 16, 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_truncated_file_is_refused(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = to_bytes(noise, format)
    for length in (0, 1, 10, len(data) // 4, len(data) // 2, len(data) * 9 // 10):
        refused(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>",
        b"%PDF-1.4",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
        to_bytes(Image.new("RGB", (64, 64)), "PPM"),
        to_bytes(Image.new("RGB", (64, 64)), "ICO"),
        to_bytes(Image.new("RGB", (64, 64)), "TGA"),
        b"P6 64 64 255 " + bytes(64 * 64 * 3),
    ],
)
def test_other_formats_are_refused(data):
    refused(data)


@pytest.mark.parametrize("output_format", ("png", "jpeg", "webp"))
def test_what_is_encoded_is_decoded_again(output_format):
    pixels = np.array(gradient())
    data = images.encode(pixels, output_format, 95)
    assert Image.open(io.BytesIO(data)).format == output_format.upper()
    assert np.abs(decode(data).astype(int) - pixels).mean() < 4
    assert len(images.encode(pixels, "jpeg", 10)) < len(images.encode(pixels, "jpeg", 95))


@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (300, 1), (33, 47)])
def test_png_keeps_every_pixel(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (2 * height, 2 * width, 4), np.uint8)[::2, ::2, :3]
    image = Image.open(io.BytesIO(images.encode(pixels, "png", 95)))
    assert image.mode == "RGB" and np.array_equal(np.array(image), pixels)
