"""Bounds on the parts that an image file may consist of, found by a cheap look at its bytes.

A decoder spends time on every scan, chunk, comment and tag, so a small file with very many of them takes minutes. The
bounds are far above what cameras and editors write.
"""

import re
import struct

import numpy as np

from .tiff import COMPRESSION, MAX_IMAGES, Layout

MAX_SCANS = 50  # progressive JPEGs have about ten; 50 of 50 megapixels take 4 s
MAX_SEGMENTS = 2_000  # a profile and metadata of 64 kB each
MAX_CHUNKS = 50_000  # a PNG of 30 MB in libpng's chunks of 8 kB has 4,000
MAX_EXTENSION_BYTES = 1_000_000
MAX_TAGS = 1_000
SCAN = b"\xff\xda"
SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
STANDALONE = {0x01, *range(0xD0, 0xD8)}
BYTE_COUNTS = (279, 325)  # of a TIFF's strips, and of its tiles
COUNT_TYPES = {3: "u2", 4: "u4", 16: "u8"}
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class TooComplex(ValueError):
    """An image consists of more parts than an honest one; the message says of which."""


def check(data: bytes) -> None:
    """Raises TooComplex; what is no image, or a damaged one, is left to the decoder."""
    head = data[:16]
    try:
        if head.startswith(b"\xff\xd8"):
            _check_jpeg(data)
        elif head.startswith(b"\x89PNG"):
            _check_chunks(data, 8, ">I4s", padded=False, overhead=12)
        elif head.startswith(b"RIFF"):
            _check_chunks(data, 12, "<4sI", padded=True, overhead=8)
        elif head.startswith(b"GIF8"):
            _check_gif(data)
        elif head[:2] in (b"II", b"MM"):
            _check_tiff(data)
    except TooComplex:
        raise
    except (IndexError, ValueError, struct.error):
        pass  # it ends early


def _check_jpeg(data: bytes) -> None:
    position = 2
    components, progressive = 0, False
    for _ in range(MAX_SEGMENTS):
        position = data.index(b"\xff", position)  # Pillow skips what is between segments
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker in STANDALONE or marker == 0:
            continue
        if marker == 0xD9:
            return
        if marker in FRAMES:
            components, progressive = data[position + 7], marker in PROGRESSIVE
        if marker == 0xDA:
            if not progressive and data[position + 2] == components:
                return  # one scan holds the image, and decoders stop behind it
            break
        position += struct.unpack_from(">H", data, position)[0]
    else:
        raise TooComplex(f"more than {MAX_SEGMENTS} segments")
    # In honest files the two bytes occur by chance only behind the image, so this bound alone settles most of them.
    if data.count(SCAN, position) < MAX_SCANS:
        return
    scans = segments = 1
    while scans <= MAX_SCANS and segments <= MAX_SEGMENTS:
        end = SCAN_END.search(data, position)
        if end is None or data[end.end() - 1] == 0xD9:
            return
        scans += data[end.end() - 1] == 0xDA
        segments += 1
        position = end.end() + (0 if data[end.end() - 1] == 0x01 else struct.unpack_from(">H", data, end.end())[0])
    raise TooComplex(f"more than {MAX_SCANS} scans")


def _check_chunks(data: bytes, position: int, layout: str, padded: bool, overhead: int) -> None:
    """Counts the chunks of PNG and of RIFF, which WebP is one of."""
    for _ in range(MAX_CHUNKS):
        fields = struct.unpack_from(layout, data, position)
        size = fields[0] if isinstance(fields[0], int) else fields[1]
        position += overhead + size + (size % 2 if padded else 0)
    raise TooComplex(f"more than {MAX_CHUNKS} chunks")


def _check_gif(data: bytes) -> None:
    flags = data[10]
    position = 13 + (3 << (flags % 8 + 1) if flags & 0x80 else 0)
    extensions = 0
    start = position
    while data[position] != 0x2C:  # the image
        if data[position] == 0x3B:
            return
        if data[position] != 0x21:
            position += 1
            continue
        position += 2
        extensions += 1
        while data[position] and position - start <= MAX_EXTENSION_BYTES:
            position += 1 + data[position]
        position += 1
        if extensions > MAX_SEGMENTS or position - start > MAX_EXTENSION_BYTES:
            raise TooComplex(f"more than {MAX_SEGMENTS} comments, or more than {MAX_EXTENSION_BYTES} bytes of them")


def _check_tiff(data: bytes) -> None:
    layout = Layout.of(data)
    link_at = layout.first_link
    for _ in range(MAX_IMAGES):  # as many as are looked at for one that is not a thumbnail
        (directory,) = struct.unpack_from(layout.link, data, link_at)
        if not directory:
            return
        (tags,) = struct.unpack_from(layout.count, data, directory)
        if tags > MAX_TAGS:
            raise TooComplex(f"more than {MAX_TAGS} tags")
        first = directory + struct.calcsize(layout.count)
        link_at = first + tags * layout.entry_bytes
        size = pixels = 0
        is_compressed = False
        for place in range(first, link_at, layout.entry_bytes):
            tag, kind, number = struct.unpack_from(f"{layout.order}HH{layout.link[-1]}", data, place)
            size += number * TYPE_BYTES.get(kind, 1)
            if tag == COMPRESSION:
                is_compressed = struct.unpack_from(layout.order + "H", data, place + layout.value_at)[0] != 1
            # Of pixels that are not compressed decoders know the number without them.
            if tag in BYTE_COUNTS and is_compressed and size <= len(data):
                pixels += _sum_of(data, layout, place + layout.value_at, kind, number)
        if pixels > len(data) + MAX_TAGS:
            raise TooComplex("more bytes in its strips or tiles than in the file")
        if size > len(data) + MAX_TAGS * 8:
            raise TooComplex("tags that share their values")


def _sum_of(data: bytes, layout: Layout, value_at: int, kind: int, number: int) -> int:
    """Returns the sum of a tag's numbers, which are at `value_at` or where that says; 0 of other types."""
    if kind not in COUNT_TYPES:
        return 0
    if number * TYPE_BYTES[kind] > layout.link_bytes:
        (value_at,) = struct.unpack_from(layout.link, data, value_at)
    return int(np.frombuffer(data, layout.order + COUNT_TYPES[kind], number, value_at).sum(dtype=np.uint64))
