"""Looks into the boxes of HEIF, AVIF and JPEG XL, which are ISO base media files as films are."""

import struct
from collections.abc import Iterator

HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
MAX_BOXES = 10_000


def brands(data: bytes) -> set[bytes]:
    """Returns what the file says it is; empty for other files."""
    if data[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(data[:4], "big"), 4_096)
    return {data[8:12], *(data[place : place + 4] for place in range(16, size, 4))} - {b""}


def is_heif(data: bytes) -> bool:
    """Whether the file is HEIF and not AVIF, which has brands of both."""
    found = brands(data)
    return bool(found & HEIF_BRANDS) and not found & AVIF_BRANDS


def is_avif(data: bytes) -> bool:
    """Whether the file is AVIF."""
    return bool(brands(data) & AVIF_BRANDS)


def without_exif(data: bytes) -> bytes:
    """Returns the file with its EXIF under a name that means nothing.

    Readers turn by the file's own boxes; Pillow reads all tags, and fails at odd ones.
    """
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            return data[:start] + data[start:end].replace(b"Exif\0", b"none\0") + data[end:]
    return data


def top_level(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields (kind, start, end) of the content of the file's own boxes, up to one that is truncated."""
    return _boxes(data, 0, len(data))


def colour_codes(data: bytes) -> tuple[int, int] | None:
    """Returns the codes of the primaries and the transfer that the first image names (nclx), if any does."""
    for kind, start, end in _inside(data, (b"meta", b"iprp", b"ipco")):
        if kind == b"colr" and data[start : start + 4] == b"nclx" and end - start >= 10:
            primaries, transfer = struct.unpack_from(">HH", data, start + 4)
            return primaries, transfer
    return None


def _inside(
    data: bytes, path: tuple[bytes, ...], start: int = 0, end: int | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """Yields (kind, start, end) of the boxes in the first box that `path` leads to."""
    for kind, first, last in _boxes(data, start, len(data) if end is None else end):
        if not path:
            yield kind, first, last
        elif kind == path[0]:
            yield from _inside(data, path[1:], first + (4 if kind == b"meta" else 0), last)
            return


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        first = start + 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, first)
            first += 8
        last = end if size == 0 else start + size
        if last < first or last > end:
            return
        yield kind, first, last
        start = last
