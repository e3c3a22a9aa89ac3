"""Takes PNGs apart, into the chunks that make the pixels and what others say of them, and writes PNGs."""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from isal import isal_zlib
from PIL import Image

from . import exif, profiles

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
SAID = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf")
TEXTS = (b"tEXt", b"zTXt")
RAW_EXIF = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # how ImageMagick wrote it before eXIf
# ISA-L's deflate and one filter for all rows: a sixth of the time that Pillow takes at zlib's fastest level, for a file
# as large (a photograph of 768 x 1024: 6 ms, not 40); at zlib's default level it would be a tenth smaller, for 130 ms.
LEVEL = 2
FILTER_UP = 2
MAX_PROFILE_BYTES = 8_000_000
MAX_EXIF_BYTES = 1_000_000
COLOUR_TYPES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # the channels of each
# The first column and row of each pass of an interlaced image, and how far apart its columns and rows are.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
AT_ONCE = 1 << 16  # bytes that are inflated


@dataclass
class Chunks:
    """A PNG without its metadata.

    Attributes:
        data: a PNG of the chunks that make the pixels of the first image.
        said: the content of the others that count, by their names.
    """

    data: bytes
    said: dict[bytes, bytes] = field(default_factory=dict)

    def orientation(self) -> int:
        return exif.orientation(self.said.get(b"eXIf", b""))

    def profile(self) -> bytes | None:
        """Returns the ICC profile of the colour space that the chunks tell; None for sRGB.

        The PNG specification says which chunk counts where there are several.
        """
        if codes := self.said.get(b"cICP"):
            return profiles.of_codes(codes[0], codes[1]) if len(codes) == 4 else None
        if b"iCCP" in self.said:
            return self._embedded_profile()
        if b"sRGB" in self.said:
            return None
        return profiles.of_png(self.said.get(b"gAMA", b""), self.said.get(b"cHRM", b""))

    def _embedded_profile(self) -> bytes | None:
        """Inflates the ICC profile as far as an honest one is large."""
        try:
            name, rest = self.said[b"iCCP"].split(b"\0", 1)
            profile = zlib.decompressobj().decompress(rest[1:], MAX_PROFILE_BYTES)
        except (KeyError, ValueError, zlib.error):
            return None
        return profile if 128 <= len(profile) < MAX_PROFILE_BYTES else None


def take_apart(data: bytes) -> Chunks:
    """Returns the chunks of a PNG; metadata is left out unread, however large it is, damaged or not."""
    parts: list[bytes] = []
    said: dict[bytes, bytes] = {}
    kept_from, position = 0, len(SIGNATURE)
    try:
        while True:
            size, kind = struct.unpack_from(">I4s", data, position)
            content, end = position + 8, position + 12 + size
            if kind[0] & 0x20 and kind not in PIXELS:  # not critical
                parts.append(data[kept_from:position])
                kept_from = end
                if kind in SAID:
                    said.setdefault(kind, data[content : content + size])
                elif kind in TEXTS and data.startswith(RAW_EXIF, content):
                    said.setdefault(b"eXIf", _raw_exif(kind, data[content : content + size]))
            position = end
            if kind == b"IEND":
                break
    except struct.error:
        pass  # it ends early, which the decoder tells
    return Chunks(b"".join([*parts, data[kept_from:]]) if parts else data, said)


def scale_transparency(image: Image.Image, data: bytes) -> None:
    """Gives the transparent colour of `image`, which a PNG states in its own bits, in the 8 bits of Pillow's pixels."""
    bits, clear = data[24], image.info.get("transparency")
    if image.mode == "RGB" and bits == 16 and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    elif image.mode == "L" and bits in (2, 4) and isinstance(clear, int):
        image.info["transparency"] = clear * 255 // (2**bits - 1)


def is_interlaced(data: bytes) -> bool:
    return data[28] == 1


def lacks_pixels(data: bytes) -> bool:
    """Whether the compressed pixels of a PNG end before those of its last row."""
    width, height, bits, kind = struct.unpack_from(">2I2B", data, 16)
    pixel_bits = bits * COLOUR_TYPES[kind]
    lacking = 0
    for x, y, across, down in ADAM7 if is_interlaced(data) else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        lacking += rows * (1 + -(-columns * pixel_bits // 8)) if columns > 0 else 0
    inflater, position = isal_zlib.decompressobj(), len(SIGNATURE)
    while lacking > 0 and not inflater.eof and position + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        content = data[position + 8 : position + 8 + size] if name == b"IDAT" else b""
        while content and lacking > 0:
            lacking -= len(inflater.decompress(content, AT_ONCE))
            content = inflater.unconsumed_tail
        position += 12 + size
    return lacking > 0 and lacking > len(inflater.flush())  # which may keep the end of a run


def write(pixels: np.ndarray) -> bytes:
    """Encodes uint8 (H, W, 3) RGB."""
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = FILTER_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(filtered, LEVEL)), (b"IEND", b""))
    parts = [SIGNATURE]
    for kind, data in chunks:
        checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)]
    return b"".join(parts)


def _raw_exif(kind: bytes, text: bytes) -> bytes:
    """Returns the EXIF of a text chunk: a name, its length and hexadecimal digits."""
    content = text.split(b"\0", 1)[1]
    try:
        if kind == b"zTXt":
            content = zlib.decompressobj().decompress(content[1:], 2 * MAX_EXIF_BYTES)
        return bytes.fromhex(b"".join(content[: 2 * MAX_EXIF_BYTES].split(b"\n")[3:]).decode("ascii"))
    except (ValueError, zlib.error):
        return b""
