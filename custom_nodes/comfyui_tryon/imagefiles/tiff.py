"""Reduces a TIFF to the tags that make its pixels, so that no other tag can keep it from being decoded."""

import struct
from dataclasses import dataclass

from PIL import TiffImagePlugin

BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# All of the baseline and its extensions that say how pixels are stored, and the ICC profile; not the orientation, by
# which Pillow would turn the image and rewrite its tags.
KEPT = {
    *range(254, 260), 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, *range(320, 326), 332, 336, 338, 339, 340, 341,
    347, 529, 530, 532, 34675,
}  # fmt: skip
OLD_JPEG = set(range(512, 522))  # of compression 6 alone; elsewhere they belong to a thumbnail
SUBFILE, BITS, COMPRESSION, PLANAR, PER_PIXEL, COLOURS, FORMAT = 254, 258, 259, 284, 277, 320, 339
PARTS, DNG = 330, 50706
THUMBNAIL = 1  # the bit of SUBFILE
UNSIGNED, SIGNED = 1, 2
MAX_IMAGES = 16  # that are looked at for one that is not a thumbnail


class RawFile(ValueError):
    """A camera's raw file, which holds only a thumbnail that could be read."""


@dataclass
class Layout:
    """How directories of a TIFF are written.

    Attributes:
        order: "<" or ">", with which the other formats of `struct` begin.
        count, link: of the number of a directory's entries, and of the place of the next one.
        entry_bytes: of one entry: its tag, type, number of values, and a value or the place of several.
    """

    order: str
    count: str
    link: str
    entry_bytes: int

    @classmethod
    def of(cls, data: bytes) -> "Layout":
        order = "<" if data.startswith(b"I") else ">"
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        return cls(order, order + "Q", order + "Q", 20) if big else cls(order, order + "H", order + "I", 12)

    @property
    def link_bytes(self) -> int:
        return struct.calcsize(self.link)

    @property
    def first_link(self) -> int:
        return 8 if self.link_bytes == 8 else 4

    @property
    def value_at(self) -> int:
        return self.entry_bytes - self.link_bytes


def behind_thumbnails(data: bytes) -> bytes:
    """Returns `data` with its first image that is not a thumbnail in front; damaged files unchanged.

    Raises:
        RawFile: it is a DNG, or its thumbnail stands for images in directories of its own.
    """
    try:
        layout = Layout.of(data)
        place, is_first = _chosen(data, layout)
    except (struct.error, IndexError):
        return data
    if is_first:
        return data
    after = layout.first_link + layout.link_bytes
    return data[: layout.first_link] + struct.pack(layout.link, place) + data[after:]


def first_image(data: bytes) -> bytes:
    """Returns `data` reduced to its first image with those tags alone; damaged files unchanged."""
    try:
        layout = Layout.of(data)
        (place,) = struct.unpack_from(layout.link, data, layout.first_link)
        entries, _ = _entries(data, layout, place)
        kept = {struct.unpack_from(layout.order + "H", entry)[0]: entry for entry in reversed(entries)}
        compression = struct.unpack_from(layout.order + "H", kept[COMPRESSION], layout.value_at)
        wanted = KEPT | OLD_JPEG if compression[0] == 6 else KEPT
        kept = {tag: kept[tag] for tag in sorted(kept) if tag in wanted}
    except (KeyError, struct.error):
        return data
    directory = struct.pack(layout.count, len(kept)) + b"".join(kept.values()) + bytes(layout.link_bytes)
    # In the place of the old one, as far as it is long: no offset changes.
    return data[:place] + directory[: len(data) - place] + data[place + len(directory) :]


def _entries(data: bytes, layout: Layout, place: int) -> tuple[list[bytes], int]:
    """Returns the entries of the directory at `place`, and where the link to the next one is."""
    (count,) = struct.unpack_from(layout.count, data, place)
    first = place + struct.calcsize(layout.count)
    link = first + count * layout.entry_bytes
    return [data[start : start + layout.entry_bytes] for start in range(first, link, layout.entry_bytes)], link


def _chosen(data: bytes, layout: Layout) -> tuple[int, bool]:
    """Returns where the directory of the first image that is not a thumbnail begins, and whether it is the first one.

    It is, where all are thumbnails.
    """
    link = layout.first_link
    places: list[int] = []
    for _ in range(MAX_IMAGES):
        (place,) = struct.unpack_from(layout.link, data, link)
        if not place:
            break
        entries, link = _entries(data, layout, place)
        places.append(place)
        tags = {struct.unpack_from(layout.order + "H", entry)[0]: entry for entry in entries}
        kind = struct.unpack_from(layout.order + "I", tags[SUBFILE], layout.value_at)[0] if SUBFILE in tags else 0
        if DNG in tags:
            raise RawFile
        if not kind & THUMBNAIL:
            return place, place == places[0]
        if PARTS in tags:  # where cameras keep what the thumbnail shows
            raise RawFile
        if link + layout.link_bytes > len(data):
            break
    return places[0], True


def misread(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether Pillow takes the bytes of an opened TIFF for other numbers than they are."""
    tags = image.tag_v2
    bits, number = max(tags.get(BITS, (1,))), max(tags.get(FORMAT, (UNSIGNED,)))
    compressed, planar = tags.get(COMPRESSION, 1) != 1, tags.get(PLANAR, 1) == 2 and tags.get(PER_PIXEL, 1) > 1
    # Only Pillow's own decoder turns these bytes, and only libtiff's puts such planes together.
    if number == SIGNED and bits <= 8:
        return True
    if planar and (image.mode in ("LA", "La") or bits == 16 and not compressed):
        return True
    return tags.prefix == b"MM" and compressed and (bits == 32 or number == SIGNED)


def restore_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Gives an image the palette of writers that store levels of 255, not of 65535."""
    colours = image.tag_v2.get(COLOURS, ())
    if image.mode == "P" and colours and max(colours) < 256 and len(colours) % 3 == 0:
        count = len(colours) // 3
        image.putpalette([colours[channel * count + index] for index in range(count) for channel in range(3)])


def whole_numbers(image: TiffImagePlugin.TiffImageFile) -> tuple[int, bool]:
    """Returns the largest number that a wide image of whole numbers can hold, and whether it has a sign."""
    bits, number = max(image.tag_v2.get(BITS, (16,))), max(image.tag_v2.get(FORMAT, (UNSIGNED,)))
    return 2 ** (bits - (number == SIGNED)) - 1, number == SIGNED
