"""JPEG XL: what its header says is known before it is decoded, and what it decodes to is right."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from comfyui_tryon import images
from comfyui_tryon.decoding import mask
from comfyui_tryon.decoding.decoder import Decoder
from comfyui_tryon.errors import ApiError
from comfyui_tryon.imagefiles import jxl, jxlheader
from PIL import Image
from support.images import decode, gamma_profile, gradient, refusal, to_bytes

pillow_jxl = pytest.importorskip("pillow_jxl", reason="JPEG XL is not tested: pillow-jxl-plugin is not installed")

BOX = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "


def written(image: Image.Image, **options) -> bytes:
    return to_bytes(image, "JXL", num_threads=0, **options)


def of_jpeg(data: bytes) -> bytes:
    """The JPEG packed without loss, its orientation and its profile in JPEG XL's own fields."""
    return pillow_jxl.Encoder("RGB", quality=90, num_threads=0)(data, 0, 0, jpeg_encode=True)


def box(kind: bytes, content: bytes, large: bool = False) -> bytes:
    if large:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def difference(first: np.ndarray, second: np.ndarray | Image.Image) -> float:
    return float(np.abs(first.astype(int) - np.asarray(second)).mean())


def stream(*fields: tuple[int, int]) -> bytes:
    """A codestream of (value, bits), for 64 x 64 pixels, and nothing behind its header."""
    number, place = 0, 0
    for value, bits in ((1, 1), (7, 5), (1, 3), *fields):
        number |= value << place
        place += bits
    return b"\xff\x0a" + number.to_bytes(place // 8 + 64, "little")


# Parts of a header
PLAIN, DEPTH_8, NO_MORE, ONE_MORE = [(0, 2)], [(0, 3), (1, 1)], [(0, 2)], [(1, 2)]
SRGB = [(1, 1), (1, 1)]


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_each_mode_is_decoded(mode, lossless, container):
    image = gradient().convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = written(image, lossless=lossless, use_container=container)
    assert data.startswith(jxlheader.CONTAINER if container else jxlheader.BARE)
    assert difference(decode(data), decode(to_bytes(image))) < (0.01 if lossless else 2.5)


def test_wide_grey_is_decoded():
    """The encoder says of numbers of more than 8 bits that they are linear."""
    light = np.linspace(0, 1, 96 * 128, dtype=np.float32).reshape(128, 96)
    levels = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    for numbers in ((65535 * light).round().astype(np.uint16), light):
        found = decode(written(Image.fromarray(numbers), lossless=True))
        assert np.abs(found - levels[..., None]).max() <= 0.51
    bright = decode(written(Image.fromarray(4 * light), lossless=True))
    assert (bright[33:] == 255).all(), "what is brighter than white is white"


def test_grey_with_alpha_of_sixteen_bits_is_decoded():
    header = jxlheader.CodestreamHeader(2, 1, grey=True, alpha=True, linear=True)
    found = jxl._image(np.array([65535, 65535, 14_000, 257], np.uint16).tobytes(), (2, 1), header)
    assert found.mode == "LA" and found.tobytes() == bytes([255, 255, 127, 1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_by_its_own_field_and_not_again_by_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = to_bytes(gradient(), "JPEG", quality=95, exif=exif)
    data = of_jpeg(jpeg)
    assert b"Exif" in data and data.startswith(jxlheader.CONTAINER)
    wanted = decode(jpeg)
    header = images.read_header(data, "person_image", 10**6)
    assert (header.height, header.width) == wanted.shape[:2]
    assert difference(decode(data), wanted) < 1


def test_exif_alone_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = written(gradient(), exif=exif.tobytes(), use_container=True)
    assert b"Exif" in data and difference(decode(data), gradient()) < 2.5


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"icc_profile": gamma_profile(1.0)}])
def test_packed_jpegs_look_as_before(mode, options):
    jpeg = to_bytes(gradient().convert(mode), "JPEG", quality=90, **options)
    assert difference(decode(of_jpeg(jpeg)), decode(jpeg)) < 1.5


def test_the_codestream_is_found_in_any_boxes():
    plain = written(gradient())
    wanted = decode(plain)
    cut = len(plain) // 3
    parts = [struct.pack(">I", 0) + plain[:cut], struct.pack(">I", 0x80000001) + plain[cut:]]
    for boxes in (
        [box(b"jxlc", plain)],
        [box(b"jxlc", plain, large=True)],
        [struct.pack(">I4s", 0, b"jxlc") + plain],
        [box(b"jxll", b"\x0a"), box(b"jxlc", plain), box(b"brob", b"Exif" + bytes(40))],
        [box(b"jxlp", parts[0]), box(b"xml ", bytes(5_000)), box(b"jxlp", parts[1])],
        [box(b"jbrd", bytes(20)), box(b"jxlc", plain)],
    ):
        assert np.array_equal(decode(BOX + b"".join(boxes)), wanted)
    for data in (BOX, BOX + box(b"jxlc", b""), BOX + box(b"jxlp", parts[0][:4]), BOX + box(b"jxlc", plain)[:-9]):
        assert "JPEG XL" in refusal(data)


@pytest.mark.parametrize("image", [gradient(), gradient().convert("RGBA"), gradient().convert("L")])
def test_truncated_and_damaged_files_are_refused_or_decoded(image):
    drawn = np.random.default_rng(0)
    for data in (
        written(image),
        written(image, lossless=True, use_container=True),
        of_jpeg(to_bytes(gradient(), "JPEG")),
    ):
        for length in range(2, len(data) - 1, max(1, len(data) // 40)):
            try:
                decode(data[:length])
            except ApiError as error:
                assert error.code == "invalid_image" and error.message.startswith("person_image "), error.message
            else:
                assert length > len(data) * 0.9, "only the last bytes may be filling"
        for _ in range(60):
            changed = bytearray(data)
            for place in drawn.integers(2, len(data), 3):
                changed[place] ^= 1 << int(drawn.integers(8))
            try:
                assert decode(bytes(changed)).shape[2] == 3
            except ApiError as error:
                assert error.code in ("invalid_image", "image_too_large")


def test_a_large_image_is_refused_before_the_decoder_sees_it(monkeypatch):
    monkeypatch.setattr(jxl, "_decode", None)
    large = b"\xff\x0a" + (0 | 3 << 1 | 40_000 << 3 | 1 << 33).to_bytes(8, "little") + bytes(64)
    for call in (images.read_header, images.decode):
        with pytest.raises(ApiError) as caught:
            call(large, "person_image", 64_000_000)
        assert caught.value.code == "image_too_large" and "40001 x 40001" in caught.value.message
    header = images.read_header(written(gradient()), "person_image", 10**6)
    assert (header.width, header.height) == (96, 128) and header.decoder_bytes > 20 * 96 * 128


@pytest.mark.parametrize("size", [(16, 16), (17, 300), (256, 256), (264, 264), (1920, 1080), (1081, 16), (600, 500)])
def test_each_size_is_read_from_the_header(size):
    header = images.read_header(written(Image.new("RGB", size)), "person_image", 10**7)
    assert (header.width, header.height) == size


ALPHA, BLACK, SPOT = [(0, 1), (0, 2)], [(0, 1), (2, 2), (2, 4)], [(0, 1), (2, 2), (0, 4)]
UNREADABLE = {
    "an animation": [(0, 1), (1, 1), (0, 3), (0, 2), (1, 1)],
    "an animation of eight by eight with a preview": [
        (0, 1),
        (1, 1),
        (7, 3),
        (0, 1),
        (1, 1),
        (1, 1),
        (0, 2),
        (1, 3),
        (1, 1),
    ],
    "20 bits": [(0, 2), (0, 1), (3, 2), (19, 6)],
    "floating-point numbers of 24 bits": [(0, 2), (1, 1), (2, 2), (7, 4)],
    "CMYK": [*PLAIN, *DEPTH_8, *ONE_MORE, *BLACK, (0, 3), (0, 2), (0, 2)],
    "a profile beside colours that are seen": [*PLAIN, *DEPTH_8, *NO_MORE, (1, 1), (0, 1), (1, 1), (0, 2)],
    "linear light": [*PLAIN, *DEPTH_8, *NO_MORE, (0, 4), (0, 1), (1, 2), (1, 2), (0, 1), (2, 2), (6, 4)],
    "very many channels": [*PLAIN, *DEPTH_8, (3, 2), (4_000, 12)],
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_the_decoder_would_get_wrong_is_refused(what):
    with pytest.raises(jxlheader.UnreadableForm):
        jxlheader.read(stream(*UNREADABLE[what]))
    message = refusal(stream(*UNREADABLE[what]))
    assert "JPEG XL in a form that cannot be read" in message and "JPEG or PNG" in message


def test_channels_and_colours_are_read_from_the_header():
    named = [*SPOT, (0, 3), (0, 2), (1, 2), (3, 4), (0, 24), (0, 64)]
    premultiplied = [*ALPHA, (0, 3), (0, 2), (0, 2), (1, 1)]
    fields = [*PLAIN, *DEPTH_8, (2, 2), (0, 4), *named, *premultiplied, *SRGB]
    found = jxlheader.read(stream(*fields))
    assert (found.alpha, found.premultiplied, found.srgb, found.grey) == (True, True, True, False)
    colours = [*PLAIN, *DEPTH_8, *NO_MORE, (0, 1), (0, 1), (0, 1)]
    d65, p3, wide, pq, srgb = (
        [(1, 2)],
        [(2, 2), (9, 4)],
        [(2, 2), (7, 4)],
        [(0, 1), (2, 2), (14, 4)],
        [(0, 1), (2, 2), (11, 4)],
    )
    assert jxlheader.read(stream(*colours, (0, 2), *d65, *wide, *pq)).codes == (9, 16)
    assert jxlheader.read(stream(*colours, (0, 2), *d65, *p3, *pq)).codes == (12, 16)
    assert not jxlheader.read(stream(*colours, (0, 2), *d65, *p3, *srgb)).srgb
    assert jxlheader.read(stream(*colours, (0, 2), *d65, *d65, *srgb)).srgb
    grey = jxlheader.read(stream(*colours, (1, 2), *d65, *srgb))
    assert grey.grey and grey.srgb


def test_colours_that_were_multiplied_by_alpha_are_divided_again():
    header = jxlheader.CodestreamHeader(2, 1, alpha=True, premultiplied=True)
    found = jxl._image(bytes([100, 0, 0, 128, 0, 0, 0, 0]), (2, 1), header)
    assert found.mode == "RGBA" and np.abs(np.array(found)[0, 0].astype(int) - (199, 0, 0, 128)).max() <= 1


def test_a_panic_of_the_decoder_is_a_damaged_image(monkeypatch):
    class Panic(BaseException):
        pass

    def fail(data: bytes) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr(jxl, "_decoder", lambda: fail)
    assert "damaged or truncated JPEG XL image" in refusal(written(gradient()))


def test_without_the_decoder_it_is_named(monkeypatch):
    monkeypatch.setattr(images, "HAS_JXL", False)
    for data in (written(gradient()), written(gradient(), use_container=True)):
        assert refusal(data).startswith("person_image is JPEG XL")


def test_jpeg_xl_is_not_registered_with_pillow_for_others_in_the_process():
    code = (
        "import sys; sys.path[:0] = ['custom_nodes']; from comfyui_tryon import images; from PIL import Image;"
        "images.decode(sys.stdin.buffer.read(), 'x', 10**6); Image.init();"
        "assert 'JXL' not in Image.OPEN and '.jxl' not in Image.EXTENSION"
    )
    subprocess.run([sys.executable, "-c", code], input=written(gradient()), check=True)


async def test_processes_decode_masks_and_photographs():
    white = Image.new("L", (96, 128))
    white.paste(255, (20, 30, 70, 90))
    for options in ({"lossless": True}, {"quality": 80}):
        data = written(white, **options)
        decoder = Decoder(10**9, 10**6)
        with decoder.share() as share:
            uploads = {"person_image": written(gradient()), "mask_image": data}
            decoded = await decoder.decode(uploads, share)
        assert np.array_equal(decoded["mask_image"], mask.decode(data, "mask_image", 10**6))
        assert difference(decoded["mask_image"][..., 0], white) < 1
        assert difference(decoded["person_image"], gradient()) < 2.5
