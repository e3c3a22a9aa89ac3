"""Reads protobuf's wire format, in which ONNX files are written.

Every function raises ValueError or struct.error where the bytes are not of the kind that it reads.
"""

import struct
from collections.abc import Iterator

MOST_LISTED = 1 << 16  # numbers of a list that are stored one by one, not as a block

Wire = int | memoryview
"""A number, or the bytes of a text, block or nested message; fixed-size numbers are bytes too."""


def fields(data: memoryview) -> Iterator[tuple[int, Wire]]:
    """Yields the fields of a message, number and value, in the order of the file."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            number, place = _varint(data, place)
            yield tag >> 3, number
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if length > len(data) - place:
            raise ValueError("it ends too early")
        yield tag >> 3, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Returns the unsigned number at `place`, and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("it ends too early")
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, place
    raise ValueError("a number is too long")


def signed(value: Wire) -> int:
    """Returns the signed number that `value` is."""
    number = natural(value)
    return number - (1 << 64) if number >> 63 else number


def natural(value: Wire) -> int:
    """Returns the unsigned number that `value` is."""
    if isinstance(value, memoryview):
        raise ValueError("a text stands for a number")
    return value


def block(value: Wire) -> memoryview:
    """Returns the bytes that `value` is."""
    if not isinstance(value, memoryview):
        raise ValueError("a number stands for a text")
    return value


def text(value: Wire) -> str:
    """Returns the text that `value` is."""
    return bytes(block(value)).decode("utf-8")


def real(value: Wire) -> float:
    """Returns the float32 that `value` is."""
    return struct.unpack("<f", block(value))[0]


def integers(value: Wire, into: list[int]) -> None:
    """Adds signed integers to `into`, of which `value` holds one, or several in a block."""
    if not isinstance(value, memoryview):
        into.append(signed(value))
    else:
        place = 0
        while place < len(value):
            number, place = _varint(value, place)
            into.append(signed(number))
            if len(into) > MOST_LISTED:
                break
    if len(into) > MOST_LISTED:
        raise ValueError("a list of numbers is too long")
