"""Reads the file of a mask, whatever tool has written it: white is where the garment goes.

    what is in the file                                    what it means
    black and white, grey between them at the edges        white is the mask
    0 and one other number, black and one other colour     what is not black is the mask
    strokes of one colour on nothing                       what is painted is the mask
    black and white strokes on nothing                     the white ones are the mask

Everything else could mean one thing or its opposite, and is refused: several labels or colours, a photograph, a
cut-out, a person with a greyed area, an image that is opaque all around a hole and not white.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops

from .. import images
from ..errors import ApiError
from ..imagefiles.colour import GreyScale, in_rgba, is_clear, is_wide
from ..imagefiles.loading import load
from ..imagefiles.reducing import reduce, reduced
from ..imagefiles.strips import Allocate, empty, strips, upright

MASK_FIELD = "mask_image"
COPY_BYTES = 4  # for each pixel: a mask in another mode than the decoder's
ADVICE = "Send an image that is white where the garment goes and black elsewhere."
LOSSY_FORMATS = ("JPEG", "WEBP", "AVIF", "HEIF", "JXL")
MAX_COLOURS = 65_536  # a mask of one colour that was saved as a JPEG has some thousands
SAME = 24  # levels of 255 by which an encoder or a brush's edge changes a colour
BLACK, WHITE_FROM = 12, 243  # what JPEG makes of 0 and 255 away from edges
DARK, BRIGHT = 64, 190  # between them is neither black nor white
MAX_GREY = 0.25  # of the image may be between them: a wide soft edge
MAX_NEAR = 0.15  # more of it than of grey may be nearly black or nearly white: what JPEG does near edges
MAX_FLAT_GREY = 0.005  # of the image may be an area of one grey: no edge is flat
FLAT_SIDE = 256  # pixels that the longer side of an image has at least when flat areas are looked for
FLAT = 3  # levels by which neighbours differ at most in such an area
MAX_STRAY = 0.001  # of the pixels may have another colour
MAX_RUN = 0.05  # of those of a lossy format may, by less than FAR
FAR = 110
MAX_LABELS = 64  # more of them are no labels


def decode_field(
    data: bytes, field: str, max_pixels: int, allocate: Allocate | None = None, max_side: int | None = None
) -> np.ndarray:
    """Decodes the image of a request's field, a mask or a photograph; as `decode` and `images.decode`."""
    return (decode if field == MASK_FIELD else images.decode)(data, field, max_pixels, allocate, max_side)


def read_field_header(data: bytes, field: str, max_pixels: int, max_side: int | None = None) -> images.Header:
    """Reads the header of what `decode_field` decodes; as `images.read_header`."""
    header = images.read_header(data, field, max_pixels, max_side)
    copy = header.width * header.height * COPY_BYTES if field == MASK_FIELD else 0
    return replace(header, decoder_bytes=header.decoder_bytes + copy)


class Unclear(ValueError):
    """A file that is no mask for certain; the message says what it is."""


def decode(
    data: bytes, field: str, max_pixels: int, allocate: Allocate | None = None, max_side: int | None = None
) -> np.ndarray:
    """Decodes the file of a mask as `images.decode` does one of a photograph.

    Returns:
        uint8 (H, W, 3), RGB: 255 where the garment goes, 0 elsewhere, between them at soft edges.

    Raises:
        ApiError: as `images.decode`, and invalid_image for what cannot be told to be a mask.
    """
    with images.opened(data, field, max_pixels) as found:
        load(found, data)
        plain = _plain(found.image)
        try:
            to_mask = _reading(plain, found.image.format in LOSSY_FORMATS)
        except Unclear as error:
            raise ApiError("invalid_image", f"{field} {error}. {ADVICE}", field=field) from None

        def to_rgb(strip: Image.Image) -> Image.Image:
            return to_mask(strip).convert("RGB")

        plain, convert = reduce(plain, to_rgb, reduced(plain.size, max_side))
        return upright(plain, found.orientation, convert, allocate or empty)


def _plain(image: Image.Image) -> Image.Image:
    """Returns `image` in one of the modes L, RGB and RGBA, its numbers as they are."""
    if is_wide(image):
        grey = Image.fromarray(
            np.concatenate([strip for *_, strip in strips(image, GreyScale(image, small_numbers=True))])
        )
        return grey if grey.mode == "L" else grey.convert("RGBA")
    if is_clear(image):
        return in_rgba(image)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


@dataclass
class _Colours:
    """The colours of an image: float (N, 3) of 0 to 255, their alphas (N) and the number of pixels of each (N)."""

    rgb: np.ndarray
    alpha: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, image: Image.Image) -> "_Colours":
        if image.mode == "L":
            count = np.array(image.histogram())
            values = np.flatnonzero(count)
            return cls(np.repeat(values[:, None], 3, 1) * 1.0, np.full(len(values), 255.0), count[values])
        found = image.getcolors(MAX_COLOURS)
        if found is None:
            raise Unclear("is a photograph, not a mask")
        colours = np.array([colour for _, colour in found], np.float64)
        alpha = colours[:, 3] if image.mode == "RGBA" else np.full(len(found), 255.0)
        return cls(colours[:, :3], alpha, np.array([count for count, _ in found]))

    def share(self, which: np.ndarray) -> float:
        return float(self.count[which].sum() / self.count.sum())


def _reading(image: Image.Image, lossy: bool) -> Callable[[Image.Image], Image.Image]:
    """Returns what makes a mask, of the mode L, of strips of `image`.

    Raises:
        Unclear
    """
    colours = _Colours.of(image)
    if colours.alpha.min() >= WHITE_FROM:
        return _on_black(image, colours, lossy)
    if colours.alpha.max() <= BLACK:
        raise Unclear("is empty: nothing is painted on it")
    if colours.alpha.min() > BLACK:
        if np.ptp(colours.alpha) > SAME:
            raise Unclear("is half transparent everywhere, which says nothing about where to paint")
        return _on_black(image, colours, lossy)
    full = _full_alpha(colours)
    painted = colours.rgb[colours.alpha >= full / 2]
    if np.ptp(painted, axis=0).max() > SAME:
        alpha = np.minimum(colours.alpha / full, 1)
        return _on_black(image, _Colours(colours.rgb * alpha[:, None], colours.alpha, colours.count), lossy, full)
    if painted.min() < BRIGHT and _surrounds(image, full):
        raise Unclear("is opaque all around a transparent area, and either could be meant")
    levels = _levels(full)
    return lambda strip: strip.getchannel("A").point(levels)


def _full_alpha(colours: _Colours) -> float:
    """Returns the alpha of a stroke, which a brush may make half transparent, away from its edges."""
    seen = np.bincount(colours.alpha.astype(int), colours.count, 256)
    seen[: BLACK + 1] = 0
    return float(max(seen.argmax(), colours.alpha.max() / 2))


def _surrounds(image: Image.Image, full: float) -> bool:
    """Whether the whole border of `image` is painted."""
    width, height = image.size
    sides = ((0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height))
    return all(np.asarray(image.crop(side).getchannel("A")).min() >= full / 2 for side in sides)


def _on_black(
    image: Image.Image, colours: _Colours, lossy: bool, full: float | None = None
) -> Callable[[Image.Image], Image.Image]:
    """Reads what is not black; `colours` lie on black already, where `full` is the alpha of what is opaque."""
    values = colours.rgb.max(axis=1).round().astype(int)
    colour = _painted_colour(colours, values, lossy)
    top = int(colour.max().round())
    if top <= (DARK if lossy else 0):
        raise Unclear("is empty: nothing in it is white")
    levels, opaque = _levels(top), _levels(full) if full else None
    _check_one_colour(colours, values, colour, lossy)
    if np.ptp(values) <= FLAT < values.min() and top < WHITE_FROM or len(values) == 1 and top < WHITE_FROM:
        raise Unclear("has one colour all over")

    def value(strip: Image.Image) -> Image.Image:
        if strip.mode == "L":
            return strip
        red, green, blue, *alpha = strip.split()
        value = ImageChops.lighter(ImageChops.lighter(red, green), blue)
        return ImageChops.multiply(value, alpha[0].point(opaque)) if opaque else value

    if len(np.unique(values)) > 2 or values.min() > 0:
        _check_greys(image, colours, values, top, value, lossy)
    shown = levels if lossy else _scale(top).tolist()  # what is lossless reaches the sampler as it was drawn
    return lambda strip: value(strip).point(shown)


def _levels(top: float) -> list[int]:
    """Returns the table that scales 0 to `top` to 0 to 255, and makes what is nearly black or white so."""
    scaled = _scale(top)
    scaled[scaled <= BLACK] = 0
    scaled[scaled >= WHITE_FROM] = 255
    return scaled.tolist()


def _scale(top: float) -> np.ndarray:
    return np.minimum(np.arange(256) * 255 / top, 255).round().astype(int)


def _painted_colour(colours: _Colours, values: np.ndarray, lossy: bool) -> np.ndarray:
    """Returns the colour of what is not black, float (3,): the brightest one, or what most of a lossy file has.

    At edges, lossy formats are brighter than what was painted, and of another colour.
    """
    if lossy:
        seen = np.bincount(values, colours.count, 256)
        seen[: DARK + 1] = 0
        near = np.abs(values - seen.argmax()) <= SAME // 2
        if 2 * colours.count[near].sum() > seen.sum() > 0:
            return np.average(colours.rgb[near], axis=0, weights=colours.count[near])
    return colours.rgb[values.argmax()]


def _check_one_colour(colours: _Colours, values: np.ndarray, colour: np.ndarray, lossy: bool) -> None:
    """Raises Unclear unless all colours are shades of `colour`."""
    shade = colour / colour.max()
    other = np.abs(colours.rgb - values[:, None] * shade).max(axis=1)
    # A lossy format stores colour at half the size, and it runs over edges.
    if colours.share(other > SAME) > (MAX_RUN if lossy else MAX_STRAY) or colours.share(other > FAR) > MAX_STRAY:
        number = len(colours.count)
        raise Unclear(f"has {number} colours" if number <= MAX_LABELS else "is a photograph, not a mask")


def _check_greys(
    image: Image.Image,
    colours: _Colours,
    values: np.ndarray,
    top: int,
    value: Callable[[Image.Image], Image.Image],
    lossy: bool,
) -> None:
    """Raises Unclear if the greys are not those of black, white and the edges between them.

    `values` has them by colour, `top` is white.
    """
    levels = np.array(_levels(top))
    greys = levels[values]
    between = (greys > 0) & (greys < 255)
    labels = np.unique(values)
    if not between.any() and (lossy or top >= WHITE_FROM):
        if not colours.share(greys == 0) and colours.share(greys < 255):
            raise Unclear("has nothing that is black")
        return
    image = image.reduce(max(1, max(image.size) // FLAT_SIDE))  # in which a soft edge is as steep, however large it was
    scale = _scale(top).tolist()
    flat = _flat_values(image, lambda strip: value(strip).point(scale))
    least = MAX_FLAT_GREY * image.width * image.height
    grey_area = flat[BLACK + 1 : WHITE_FROM].sum() > least
    several = not lossy and top < WHITE_FROM and (flat[BLACK + 1 :] > least).sum() > 1
    if (grey_area or several) and len(labels) <= MAX_LABELS:
        shown = ", ".join(map(str, labels[:8])) + (", …" if len(labels) > 8 else "")
        raise Unclear(f"has {len(labels)} labels or greys ({shown})")
    if grey_area or several:
        raise Unclear("has grey areas, as a photograph has or a person with a greyed area")
    middle = colours.share((greys > DARK) & (greys <= BRIGHT))
    if middle > MAX_GREY or colours.share(between) > 2 * middle + MAX_NEAR:
        raise Unclear("is a photograph, not a mask")


def _flat_values(image: Image.Image, value: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Returns how many pixels have each value of 0 to 255 and differ from their eight neighbours by FLAT at most."""
    found = np.zeros(256, int)
    for _, _, strip in strips(image, value):
        if len(strip) < 3:
            continue
        highest, lowest = strip, strip
        for axis in (0, 1):
            length = highest.shape[axis]
            parts = [[slice(None)] * axis + [slice(start, length - 2 + start)] for start in range(3)]
            highest = np.maximum.reduce([highest[tuple(part)] for part in parts])
            lowest = np.minimum.reduce([lowest[tuple(part)] for part in parts])
        found += np.bincount(strip[1:-1, 1:-1][highest - lowest <= FLAT], minlength=256)
    return found
