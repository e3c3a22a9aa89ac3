"""Reads the header of a JPEG XL codestream, before a decoder gets to see the file."""

from dataclasses import dataclass

from . import boxes
from .exif import LYING

BARE = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
JXL_BEGINNINGS = (BARE, CONTAINER)
HEADER_BYTES = 16_384
MAX_EXTRA_CHANNELS = 8  # beside the colours: each of them costs as much memory as a colour

# How numbers are stored, the shortest first: (bits, what is added to them).
Choices = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
SIDE: Choices = ((9, 1), (13, 1), (18, 1), (30, 1))
PREVIEW_SIDE: Choices = ((6, 1), (8, 65), (10, 321), (12, 1345))
PREVIEW_EIGHTHS: Choices = ((0, 16), (0, 32), (5, 1), (9, 33))
INTEGER_BITS: Choices = ((0, 8), (0, 10), (0, 12), (6, 1))
FLOAT_BITS: Choices = ((0, 32), (0, 16), (0, 24), (6, 1))
EXTRA_CHANNELS: Choices = ((0, 0), (0, 1), (4, 2), (12, 1))
SHIFT: Choices = ((0, 0), (0, 3), (0, 4), (3, 1))
NAME_LENGTH: Choices = ((0, 0), (4, 0), (5, 16), (10, 48))
ENUM: Choices = ((0, 0), (0, 1), (4, 2), (6, 18))
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
ALPHA, SPOT, BLACK, FILTER = 0, 2, 4, 5  # kinds of extra channels
GREY, XYB = 1, 2  # colour spaces
D65, SRGB_PRIMARIES, P3_PRIMARIES, WIDE_PRIMARIES = 1, 1, 11, 9
SRGB_TRANSFER, LINEAR_TRANSFER = 13, 8
BRIGHT_TRANSFERS = (16, 18)  # PQ and HLG


class UnreadableForm(ValueError):
    """A JPEG XL image that the decoder would not read, or not as its author sees it."""


@dataclass
class CodestreamHeader:
    """What the first bytes of a codestream say.

    Attributes:
        width, height: in pixels, of the image that is turned upright.
        grey: one channel of colour instead of three.
        alpha: there is an alpha channel.
        premultiplied: the colours are multiplied by it.
        srgb: the colours are sRGB's.
        linear: the numbers of a grey image are linear light.
        codes: primaries and transfer by ITU-T H.273, for PQ and HLG only.
    """

    width: int
    height: int
    grey: bool = False
    alpha: bool = False
    premultiplied: bool = False
    srgb: bool = False
    linear: bool = False
    codes: tuple[int, int] | None = None

    @property
    def mode(self) -> str:
        """Pillow's mode of 8 bits: L, LA, RGB or RGBA."""
        return ("L" if self.grey else "RGB") + ("A" if self.alpha else "")


def codestream(data: bytes) -> bytes | None:
    """Returns the codestream of a file with or without boxes; None if `data` is no JPEG XL.

    The decoder gets nothing else: the image is turned by the codestream and not by EXIF, and other boxes hold what
    would only cost time, such as what it takes to restore a JPEG.
    """
    if data.startswith(BARE):
        return data
    if not data.startswith(CONTAINER):
        return None
    parts = []
    for kind, start, end in boxes.top_level(data):
        if kind == b"jxlc":
            return data[start:end]
        if kind == b"jxlp":
            parts.append(data[start + 4 : end])
    return b"".join(parts)


def read(stream: bytes) -> CodestreamHeader:
    """Reads the header of a codestream.

    Raises:
        UnreadableForm: it is an animation, CMYK, of more than 16 bits, of very many channels, or in colours that the
            decoder returns as linear light.
        EOFError: it ends early.
    """
    bits = _Bits(stream[len(BARE) : HEADER_BYTES])
    header = CodestreamHeader(*_size(bits))
    if bits.flag():  # all is as usual
        header.srgb = True
        return header
    if bits.flag():
        _read_display(bits, header)
    _check_depth(bits)
    bits.skip(1)
    _read_extra_channels(bits, header)
    as_seen = bits.flag()  # stored by how it is seen, which the decoder makes the header's colours of
    _read_colour(bits, header, as_seen)
    return header


class _Bits:
    """The bits of `data`, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        value = self._number & ((1 << count) - 1)
        self.skip(count)
        return value

    def skip(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise EOFError
        self._number >>= count

    def flag(self) -> bool:
        return bool(self.take(1))

    def number(self, choices: Choices) -> int:
        count, added = choices[self.take(2)]
        return self.take(count) + added


def _size(bits: _Bits, side: Choices = SIDE, eighths: Choices | None = None) -> tuple[int, int]:
    """Returns (width, height); `eighths` is how a preview stores sides that are multiples of eight."""
    small = bits.flag()

    def length() -> int:
        if not small:
            return bits.number(side)
        return 8 * (bits.number(eighths) if eighths else bits.take(5) + 1)

    height = length()
    ratio = RATIOS.get(bits.take(3))
    return (height * ratio[0] // ratio[1] if ratio else length()), height


def _read_display(bits: _Bits, header: CodestreamHeader) -> None:
    if bits.take(3) + 1 in LYING:  # the orientation, by which the decoder turns
        header.width, header.height = header.height, header.width
    if bits.flag():
        _size(bits)  # that it should be shown in
    if bits.flag():
        _size(bits, PREVIEW_SIDE, PREVIEW_EIGHTHS)
    if bits.flag():
        raise UnreadableForm("an animation")  # whose last image the decoder returns


def _check_depth(bits: _Bits) -> None:
    if bits.flag():
        depth = bits.number(FLOAT_BITS)
        bits.skip(4)
        if depth not in (16, 32):
            raise UnreadableForm("floating-point numbers of an odd size")
    elif bits.number(INTEGER_BITS) > 16:
        raise UnreadableForm("more than 16 bits")


def _read_extra_channels(bits: _Bits, header: CodestreamHeader) -> None:
    count = bits.number(EXTRA_CHANNELS)
    if count > MAX_EXTRA_CHANNELS:
        raise UnreadableForm("very many channels")
    for _ in range(count):
        kind, premultiplied = ALPHA, False
        if not bits.flag():
            kind = bits.number(ENUM)
            _check_depth(bits)
            bits.number(SHIFT)
            bits.skip(8 * bits.number(NAME_LENGTH))
            if kind == ALPHA:
                premultiplied = bits.flag()
            elif kind == SPOT:
                bits.skip(4 * 16)
            elif kind in (BLACK, FILTER):
                raise UnreadableForm("CMYK, or a camera's raw data")
        if kind == ALPHA and not header.alpha:
            header.alpha, header.premultiplied = True, premultiplied


def _read_colour(bits: _Bits, header: CodestreamHeader, as_seen: bool) -> None:
    if bits.flag():
        header.srgb = True
        return
    has_profile, space = bits.flag(), bits.number(ENUM)
    header.grey = space == GREY
    if has_profile and as_seen:
        # The decoder cannot use profiles. It returns linear light, whose 8 bits lose what is in the shadows.
        raise UnreadableForm("a profile beside colours that are not stored in it")
    if has_profile or space == XYB:
        return
    white = bits.number(ENUM)
    if white not in (D65, P3_PRIMARIES):
        return  # the profile that the decoder makes of it will do
    primaries = SRGB_PRIMARIES if header.grey else bits.number(ENUM)
    if primaries not in (SRGB_PRIMARIES, P3_PRIMARIES, WIDE_PRIMARIES) or bits.flag():
        return
    transfer = bits.number(ENUM)
    header.srgb = (white, primaries, transfer) == (D65, SRGB_PRIMARIES, SRGB_TRANSFER)
    if transfer == LINEAR_TRANSFER and not header.grey:
        raise UnreadableForm("linear light")
    header.linear = transfer == LINEAR_TRANSFER
    if transfer in BRIGHT_TRANSFERS:
        code = 12 if (white, primaries) == (D65, P3_PRIMARIES) else primaries
        header.codes = code, transfer
