"""Tells a whole JPEG whose end mark is missing from a truncated one.

Cameras put films behind an image, and some leave out the end mark. A decoder fills what a truncated image lacks from
whatever follows. So where the pixels depend on what follows, some of them are not in the file; where they do not, all
of them are.
"""

import random
import re
import struct
from collections.abc import Callable

from .structure import MAX_SEGMENTS

EXIF = b"Exif\0\0"
START, END, SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
# The first boxes of a film, four bytes behind their own beginning.
FILM = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"mpvd")
RESTARTS = b"\xff\xdd"
FILLER = bytes(random.Random(0).choices(range(255), k=4_096))  # no markers, as they begin with 255
# Where the pixels are in intervals, the decoder goes on behind the mark of the next one.
RESTARTED = FILLER + b"".join(bytes([255, 0xD0 + number]) + FILLER for number in range(8))


def without_exif(data: bytes) -> tuple[bytes, bytes]:
    """Returns the JPEG with its EXIF under a name that means nothing, and the EXIF.

    Pillow reads the resolution from EXIF when it opens a file, and fails at odd tags.
    """
    renamed: list[int] = []
    blocks: list[bytes] = []
    position = 2
    for _ in range(MAX_SEGMENTS):
        found = NEXT_MARKER.search(data, position)  # which may follow fill bytes, or what decoders skip
        if found is None or data[found.end() - 1] == SCAN:
            break
        start = found.end() + 2
        position = found.end() + int.from_bytes(data[found.end() : start], "big")
        if data[found.end() - 1] == 0xE1 and data.startswith(EXIF, start):
            blocks.append(data[start + len(EXIF) if blocks else start : position])
            renamed.append(start)
    if renamed:
        changed = bytearray(data)
        for start in renamed:
            changed[start : start + 4] = b"none"
        data = bytes(changed)
    return data, b"".join(blocks)


def lacks_end_mark(data: bytes) -> bool:
    """Whether the image has no end mark, or a film begins where it should be, which decoders take for pixels."""
    if data.endswith(END) or END not in data:
        return not data.endswith(END)
    film = _film(data)
    return film is not None and not data[:film].rstrip(b"\0").endswith(END)


def lacks_pixels(data: bytes, digest: Callable[[bytes, bool], bytes]) -> bool:
    """Whether an image with an end mark was truncated before it got that; `digest` as in `with_end_mark`."""
    scans = _scans(data)
    if scans is None:
        return False
    end = NEXT_MARKER.search(data, scans[0])
    image = data[: end.start()] if end else data
    return not scans[1] or not _is_whole(image, RESTARTS in image[: scans[0]], digest)


def with_end_mark(data: bytes, digest: Callable[[bytes, bool], bytes]) -> bytes | None:
    """Returns `data` up to the image's end, and an end mark; None unless all pixels are there for certain.

    Args:
        data: a JPEG.
        digest: decodes a JPEG and returns a hash of its pixels, of all if so asked and else of its last rows, where
            pixels are missing if any are; or raises OSError.
    """
    film = _film(data)
    image = data if film is None else data[:film]
    scans = _scans(image)
    if scans is None or not scans[1]:
        return None
    following = NEXT_MARKER.search(image, scans[0])
    if following:
        if image[following.end() - 1] != START[1]:  # another image may follow, nothing else
            return None
        image = image[: following.start()]
    plain = image.rstrip(b"\0")  # what films and file systems are padded with
    if plain.endswith(b"\xff"):
        plain += b"\0"  # which is how that byte is written
    restarts = RESTARTS in image[: scans[0]]
    # One byte of zeros may be the image's own; more of them would take the place of its pixels.
    for candidate in (plain, image) if len(image) == len(plain) + 1 else (plain,):
        if _is_whole(candidate, restarts, digest):
            return candidate + END
    return None


def _is_whole(image: bytes, restarts: bool, digest: Callable[[bytes, bool], bytes]) -> bool:
    try:
        return digest(image + END, restarts) == digest(image + (RESTARTED if restarts else FILLER) + END, restarts)
    except OSError:
        return False


def _film(data: bytes) -> int | None:
    """Returns where a film begins behind the first scan."""
    first = data.find(b"\xff\xda")
    places = [
        place - 4 for kind in FILM if (place := data.find(kind, first)) - 4 > first >= 0 and _is_box(data, place - 4)
    ]
    return min(places, default=None)


def _is_box(data: bytes, place: int) -> bool:
    size = int.from_bytes(data[place : place + 4], "big")
    return size in (0, 1) or 8 <= size <= len(data) - place


def _scans(data: bytes) -> tuple[int, bool] | None:
    """Returns where the pixels of the last scan begin, and whether all scans that the image needs are there."""
    position, last = 2, None
    left: dict[int, list[int]] = {}  # by component and coefficient: the bits that further scans must give
    progressive = False
    try:
        while (found := NEXT_MARKER.search(data, position)) is not None:
            marker, position = data[found.end() - 1], found.end()
            if marker in (0xD8, 0xD9) or (last is not None and marker == 0x01):
                break
            size = struct.unpack_from(">H", data, position)[0]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
                left = {data[position + 8 + 3 * index]: [13] * 64 for index in range(data[position + 7])}
            elif marker == SCAN:
                count = data[position + 2]
                first, end, bits = data[position + 3 + 2 * count : position + 6 + 2 * count]
                for index in range(count):
                    component = left[data[position + 3 + 2 * index]]
                    band = range(first, end + 1) if progressive else range(64)
                    for coefficient in band:
                        component[coefficient] = bits & 15 if progressive else 0
                last = position + size
            position += size
    except (IndexError, KeyError, ValueError, struct.error):
        return None
    if last is None:
        return None
    return last, bool(left) and not any(any(component) for component in left.values())
