"""Reduces a TIFF to the tags that make its pixels, so that no other tag can keep it from being decoded."""

import struct

BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# All of the baseline and its extensions that say how pixels are stored, and the ICC profile; not the orientation, by
# which Pillow would turn the image and rewrite its tags.
KEPT = {
    *range(254, 260), 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, *range(320, 326), 332, 336, 338, 339, 340, 341,
    347, 529, 530, 532, 34675,
}  # fmt: skip
OLD_JPEG = set(range(512, 522))  # of compression 6 alone; elsewhere they belong to a thumbnail
COMPRESSION = 259


def first_image(data: bytes) -> bytes:
    """Returns a TIFF of the first image of `data` with those tags alone; `data` itself where it is damaged."""
    order = "<" if data.startswith(b"I") else ">"
    try:
        if struct.unpack_from(order + "H", data, 2)[0] == 43:  # BigTIFF
            (start,) = struct.unpack_from(order + "Q", data, 8)
            count_layout, entry_bytes, link_bytes = order + "Q", 20, 8
        else:
            (start,) = struct.unpack_from(order + "I", data, 4)
            count_layout, entry_bytes, link_bytes = order + "H", 12, 4
        (count,) = struct.unpack_from(count_layout, data, start)
        first = start + struct.calcsize(count_layout)
        end = first + count * entry_bytes
        entries = [data[place : place + entry_bytes] for place in range(first, end, entry_bytes)]
        kept = {struct.unpack_from(order + "H", entry)[0]: entry for entry in reversed(entries)}
        old_jpeg = struct.unpack_from(order + "H", kept[COMPRESSION], entry_bytes - link_bytes)[0] == 6
        wanted = KEPT | OLD_JPEG if old_jpeg else KEPT
        kept = {tag: kept[tag] for tag in sorted(kept) if tag in wanted}
    except (KeyError, struct.error):
        return data
    directory = struct.pack(count_layout, len(kept)) + b"".join(kept.values()) + bytes(link_bytes)
    # In the place of the old one, as far as it is long: no offset changes.
    return data[:start] + directory[: len(data) - start] + data[start + len(directory) :]
