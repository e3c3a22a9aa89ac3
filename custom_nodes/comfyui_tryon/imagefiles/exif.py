"""Finds the orientation in EXIF's own bytes, whatever else they hold.

A library that reads all tags fails at one that has an odd type, which has nothing to do with how to turn the image.
"""

import struct

ORIENTATION = 0x0112
SHORT, LONG = 3, 4
LYING = (5, 6, 7, 8)  # width and height change places
SIZES = {1: 1, SHORT: 2, LONG: 4}


def orientation(block: bytes) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 where `block` says none that there is."""
    place = _place(block)
    if place is None:
        return 1
    value = struct.unpack_from(place[1], block, place[0])[0]
    return value if 1 <= value <= 8 else 1


def _place(block: bytes) -> tuple[int, str] | None:
    """Returns where the orientation is in `block`, and its layout."""
    try:
        start = 6 if block.startswith(b"Exif\0\0") else 0
        order = {b"II": "<", b"MM": ">"}[block[start : start + 2]]
        if struct.unpack_from(order + "H", block, start + 2)[0] == 43:  # BigTIFF
            (directory,) = struct.unpack_from(order + "Q", block, start + 8)
            (tags,) = struct.unpack_from(order + "Q", block, start + directory)
            entry, first, step, value = order + "HHQ", start + directory + 8, 20, 12
        else:
            (directory,) = struct.unpack_from(order + "I", block, start + 4)
            (tags,) = struct.unpack_from(order + "H", block, start + directory)
            entry, first, step, value = order + "HHI", start + directory + 2, 12, 8
        for index in range(min(tags, 1_000)):
            tag, kind, count = struct.unpack_from(entry, block, first + index * step)
            if tag == ORIENTATION and kind in SIZES and count >= 1:
                place, layout = first + index * step + value, order + {1: "B", SHORT: "H", LONG: "I"}[kind]
                struct.unpack_from(layout, block, place)  # it is all there
                return place, layout
    except (KeyError, struct.error):
        pass
    return None
