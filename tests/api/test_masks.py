"""A mask is read as the tool that wrote it means it, or refused."""

import io

import numpy as np
import pytest
from comfyui_tryon.decoding import mask
from comfyui_tryon.errors import ApiError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, features
from support.images import to_base64, to_bytes

INSIDE = np.zeros((128, 96), bool)
INSIDE[40:80, 30:60] = True
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "red": (255, 0, 0), "olive": (128, 128, 0), "grey": (90,) * 3}


def read(data: bytes) -> np.ndarray:
    found = mask.decode(data, "mask_image", 10**6)
    assert found.dtype == np.uint8 and found.ndim == 3 and (found == found[..., :1]).all()
    return found[..., 0]


def refusal(data: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        read(data)
    assert caught.value.code == "invalid_image" and caught.value.details == {"field": "mask_image"}
    return caught.value.message


def grey(inside: np.ndarray, white: float = 255, black: float = 0, kind: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(inside, white, black).astype(kind))


def on(ground: str, colour: str, inside: np.ndarray) -> Image.Image:
    image = Image.new("RGB", inside.shape[::-1], ground)
    image.paste(colour, (0, 0), Image.fromarray(inside))
    return image


def strokes(inside: np.ndarray, colour: tuple[int, int, int], alpha: int = 255) -> Image.Image:
    pixels = np.zeros((*inside.shape, 4), np.uint8)
    pixels[inside] = (*colour, alpha)
    return Image.fromarray(pixels)


def left(inside: np.ndarray) -> np.ndarray:
    return np.arange(inside.shape[1]) < 9


def labels(numbers: np.ndarray, palette: list[int] | None = None) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8))
    if palette:
        image = image.convert("P")
        image.putpalette(palette)
    return image


def with_alpha(image: Image.Image, alpha: np.ndarray) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def photograph(mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:128, 0:96]
    pixels = np.stack([255 * columns / 96, 255 * rows / 128, 128 + 60 * np.sin(rows / 9)], -1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


# Ways to write a mask that mean one thing for certain, with no loss.
EXACT = {
    "grey": lambda m: to_bytes(grey(m)),
    "RGB": lambda m: to_bytes(grey(m).convert("RGB")),
    "RGBA": lambda m: to_bytes(grey(m).convert("RGBA")),
    "grey with alpha": lambda m: to_bytes(grey(m).convert("LA")),
    "RGBA of one alpha": lambda m: to_bytes(with_alpha(grey(m).convert("RGB"), np.full(m.shape, 200))),
    "one bit": lambda m: to_bytes(Image.fromarray(m)),
    "palette of grey": lambda m: to_bytes(grey(m).convert("P")),
    "0 and 1": lambda m: to_bytes(grey(m, 1)),
    "0 and 1 in RGB": lambda m: to_bytes(grey(m, 1).convert("RGB")),
    "0 and 7": lambda m: to_bytes(grey(m, 7)),
    "0 and 128": lambda m: to_bytes(grey(m, 128)),
    "0 and 254": lambda m: to_bytes(grey(m, 254)),
    "16 bits": lambda m: to_bytes(grey(m, 65535, kind=np.uint16)),
    "16 bits, 0 and 1": lambda m: to_bytes(grey(m, 1, kind=np.uint16)),
    "16 bits, 0 and 255": lambda m: to_bytes(grey(m, 255, kind=np.uint16)),
    "32 bits": lambda m: to_bytes(grey(m, 65535, kind=np.int32), "TIFF"),
    "float to 1": lambda m: to_bytes(grey(m, 1, kind=np.float32), "TIFF"),
    "float to 255": lambda m: to_bytes(grey(m, 255, kind=np.float32), "TIFF"),
    "label of a palette": lambda m: to_bytes(labels(m, [0, 0, 0, 128, 0, 0])),
    "label 1 of a palette of grey": lambda m: to_bytes(labels(m, [v for i in range(256) for v in (i, i, i)])),
    "one colour on black": lambda m: to_bytes(on("black", "lime", m)),
    "GIF": lambda m: to_bytes(grey(m), "GIF"),
    "BMP": lambda m: to_bytes(grey(m).convert("RGB"), "BMP"),
    "BMP of one bit": lambda m: to_bytes(Image.fromarray(m), "BMP"),
    "WebP": lambda m: to_bytes(grey(m).convert("RGB"), "WEBP", lossless=True),
    "TIFF": lambda m: to_bytes(Image.fromarray(m), "TIFF", compression="group4"),
    "profile": lambda m: to_bytes(grey(m), icc_profile=b"x" * 200),
    "white in the alpha": lambda m: to_bytes(with_alpha(Image.new("L", m.shape[::-1], 255), m * 255)),
    "black and white strokes": lambda m: to_bytes(with_alpha(grey(m).convert("RGB"), 255 * (m | left(m)))),
    "GIF on nothing": lambda m: to_bytes(labels(m, [9, 9, 9, 255, 255, 255]), "GIF", transparency=0),
    "WebP on nothing": lambda m: to_bytes(strokes(m, (255, 255, 255)), "WEBP", lossless=True),
    "faint white strokes": lambda m: to_bytes(strokes(m, (255, 255, 255), 77)),
}  # fmt: skip
# The same for those where the area does not reach all around the image.
OPEN = {
    f"{name} strokes": lambda m, colour=colour: to_bytes(strokes(m, colour))
    for name, colour in COLOURS.items()
    if name != "white"
} | {"faint red strokes": lambda m: to_bytes(strokes(m, (255, 0, 0), 100))}


@pytest.mark.parametrize("way", EXACT | OPEN)
def test_every_certain_way_to_write_a_mask_gives_the_same_mask(way):
    assert np.array_equal(read((EXACT | OPEN)[way](INSIDE)), np.where(INSIDE, 255, 0))


@st.composite
def areas(draw) -> np.ndarray:
    """Rectangles, or pixels at random."""
    width, height = draw(st.integers(16, 40)), draw(st.integers(16, 40))
    area = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 4))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        area[top : top + draw(st.integers(1, height)), left : left + draw(st.integers(1, width))] ^= True
    if draw(st.booleans()):
        seed = draw(st.integers(0, 2**32 - 1))
        area ^= np.random.default_rng(seed).random(area.shape) < draw(st.floats(0, 1))
    return area


@settings(max_examples=25, deadline=None)
@given(area=areas(), orientation=st.integers(1, 8))
@example(area=np.ones((16, 16), bool), orientation=1)
def test_random_masks_in_every_certain_way(area, orientation):
    ways = EXACT if area.any() else {}
    border = np.concatenate([area[0], area[-1], area[:, 0], area[:, -1]])
    if area.any() and not border.all():
        ways = ways | OPEN
    for name, write in ways.items():
        if area.all() and name not in ("grey", "RGB", "RGBA", "one bit", "16 bits", "float to 1", "WebP", "GIF", "BMP"):
            continue  # of one colour all over, which says nothing of black and white
        assert np.array_equal(read(write(area)), np.where(area, 255, 0)), name
    if area.any():
        with Image.open(io.BytesIO(EXACT["RGB"](area))) as image:
            exif = Image.Exif()
            exif[0x0112] = orientation
            turned = read(to_bytes(image, exif=exif))
        assert turned.sum() == 255 * area.sum() and turned.shape in (area.shape, area.shape[::-1])


def disc(blur: float = 0, side: int = 160) -> Image.Image:
    image = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(image).ellipse((side, side, 3 * side, 3 * side), fill=255)
    return image.resize((side, side), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(blur))


LOSSY = {
    **{f"JPEG {quality}": ("JPEG", {"quality": quality}) for quality in (95, 75, 40, 15)},
    "WebP 60": ("WEBP", {"quality": 60}),
    **({"AVIF 50": ("AVIF", {"quality": 50})} if features.check("avif") else {}),
}


@pytest.mark.parametrize("blur", [0, 3, 8])
@pytest.mark.parametrize(
    "way, colour", [*((way, "white") for way in LOSSY), *((way, "red") for way in LOSSY if way != "JPEG 15")]
)
def test_masks_with_soft_edges_and_from_lossy_formats_are_read(way, blur, colour):
    format, options = LOSSY[way]
    plain = disc(blur)
    drawn = Image.composite(Image.new("RGB", plain.size, colour), Image.new("RGB", plain.size), plain)
    found = read(to_bytes(drawn, format, **options))
    wanted = np.array(plain) > 127
    assert ((found > 127) != wanted).mean() < 0.01
    assert (found[:8] == 0).all() and found[80, 80] == 255


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("strength", [1, 0.6, 0.3])
@pytest.mark.parametrize("blur", [0, 3])
def test_strokes_with_soft_edges_on_nothing(colour, strength, blur):
    """As a canvas gives them: the colour of faint pixels is rounded."""
    alpha = np.array(disc(blur)) * strength
    premultiplied = np.array(COLOURS[colour]) * (alpha[..., None] / 255)
    with np.errstate(invalid="ignore", divide="ignore"):
        plain = np.nan_to_num(np.round(premultiplied) * 255 / alpha.round()[..., None], posinf=0).clip(0, 255)
    found = read(to_bytes(Image.fromarray(np.dstack([plain, alpha.round()]).astype(np.uint8))))
    assert ((found > 127) != (np.array(disc(blur)) > 127)).mean() < 0.01


def thresholds(numbers: list[int]) -> np.ndarray:
    """An area of each number."""
    found = np.zeros((96, 96), int)
    for place, number in enumerate(numbers):
        found[10:40, 90 * place // len(numbers) : 90 * (place + 1) // len(numbers)] = number
    return found


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
two_strokes = strokes(INSIDE, (255, 0, 0))
two_strokes.alpha_composite(strokes(INSIDE[::-1, ::-1], (0, 0, 255)))
greyed = np.array(photograph())
greyed[INSIDE] = 128
REFUSED = {
    "black": (to_bytes(Image.new("L", (64, 64))), "empty"),
    "black RGBA": (to_bytes(Image.new("RGBA", (64, 64), (0, 0, 0, 255))), "empty"),
    "black JPEG": (to_bytes(Image.new("RGB", (64, 64), (3, 2, 4)), "JPEG"), "empty"),
    "nothing": (to_bytes(Image.new("RGBA", (64, 64))), "empty"),
    "white without alpha": (to_bytes(Image.new("RGBA", (64, 64), (255, 255, 255, 0))), "empty"),
    "grey all over": (to_bytes(Image.new("L", (64, 64), 128)), "one colour"),
    "ones all over": (to_bytes(Image.new("L", (64, 64), 1)), "one colour"),
    "labels": (to_bytes(labels(thresholds([1, 2, 5]))), "4 labels or greys (0, 1, 2, 5)"),
    "high labels": (to_bytes(labels(thresholds([20, 21]))), "3 labels or greys (0, 20, 21)"),
    "labels to 255": (to_bytes(labels(thresholds([60, 120, 255]))), "(0, 60, 120, 255)"),
    "labels without 0": (to_bytes(labels(thresholds([2]) + 1)), "1, 3"),
    "16-bit labels": (to_bytes(Image.fromarray(thresholds([1, 3]).astype(np.uint16))), "(0, 1, 3)"),
    "labels of a palette": (to_bytes(labels(thresholds([1, 2, 3]), VOC)), "4 colours"),
    "two colours on nothing": (to_bytes(two_strokes), "colours"),
    "red on white": (to_bytes(on("white", "red", INSIDE)), "2 colours"),
    "photograph": (to_bytes(photograph()), "photograph"),
    "photograph as JPEG": (to_bytes(photograph(), "JPEG"), "photograph"),
    "grey photograph": (to_bytes(photograph("L")), "photograph"),
    "noise": (to_bytes(Image.effect_noise((256, 256), 60)), "photograph"),
    "dark photograph": (to_bytes(photograph("L").point(lambda v: v // 3)), "photograph"),
    "agnostic": (to_bytes(Image.fromarray(greyed)), "photograph"),
    "grey agnostic": (to_bytes(Image.fromarray(greyed).convert("L")), "grey areas"),
    "photograph with a hole": (to_bytes(with_alpha(photograph(), np.where(INSIDE, 0, 255))), "photograph"),
    "cut-out": (to_bytes(with_alpha(photograph(), np.where(INSIDE, 255, 0))), "photograph"),
    "black with a hole": (to_bytes(strokes(~INSIDE, (0, 0, 0))), "opaque all around"),
    "red with a hole": (to_bytes(strokes(~INSIDE, (200, 0, 0))), "opaque all around"),
    "half transparent": (to_bytes(with_alpha(Image.new("L", (96, 128), 255), 128 + 127 * INSIDE)), "half transparent"),
    "not a number": (to_bytes(Image.fromarray(np.full((64, 64), np.nan, np.float32)), "TIFF"), ""),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_mask_for_certain_is_refused(what):
    data, word = REFUSED[what]
    message = refusal(data)
    assert message.startswith("mask_image ") and word in message and "white where the garment goes" in message


def test_white_all_over_is_the_whole_image():
    assert (read(to_bytes(Image.new("RGB", (64, 64), "white"))) == 255).all()


def test_a_white_image_with_a_hole_is_white_around_it():
    assert np.array_equal(read(to_bytes(strokes(~INSIDE, (255, 255, 255)))), np.where(INSIDE, 0, 255))


async def test_a_request_with_an_unclear_mask_is_refused_before_anything_runs(api, grey):
    client = await api()
    unclear = to_base64(labels(thresholds([1, 2, 5])))
    status, content = await client.tryon(grey | {"mask_image": unclear})
    assert (status, content["error"]["code"]) == (422, "invalid_image"), content
    assert content["error"]["details"] == {"field": "mask_image"} and not client.engine.runs


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "RGB", "1"])
def test_a_large_mask_is_reduced_in_any_mode(mode):
    found = mask.decode(to_bytes(grey(INSIDE).convert(mode)), "mask_image", 10**6, max_side=64)[..., 0]
    wanted = np.array(grey(INSIDE).resize((48, 64), Image.Resampling.LANCZOS))
    assert found.shape == (64, 48) and np.abs(found.astype(int) - wanted).max() <= 12


@pytest.mark.parametrize("side, radius", [(256, 5), (1024, 40), (2048, 80)])
def test_a_soft_edge_is_one_in_any_resolution(side, radius):
    shape = Image.new("L", (side * 3 // 4, side))
    shape.paste(255, (side // 4, side // 4, side // 2, side * 3 // 4))
    soft = shape.filter(ImageFilter.GaussianBlur(radius))
    assert np.array_equal(mask.decode(to_bytes(soft), "mask_image", 10**7)[..., 0] > 127, np.array(soft) > 127)


@pytest.mark.parametrize("quality", [95, 75, 50])
@pytest.mark.parametrize("colour", ["lime", "maroon", "green", "yellow", "magenta", "red", "blue", "white"])
def test_a_jpeg_of_one_colour_on_black_is_a_mask(colour, quality):
    large = INSIDE.repeat(4, 0).repeat(4, 1)
    found = mask.decode(to_bytes(on("black", colour, large), "JPEG", quality=quality), "mask_image", 10**6)[..., 0]
    assert ((found > 127) != large).mean() < 0.005 and found[200:280, 160:200].min() > 243
