"""Writes small ONNX files, good and bad ones."""

import struct
from collections.abc import Iterable, Sequence

import numpy as np

_TYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9}


def varint(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(value: np.ndarray, name: str = "") -> bytes:
    shape = b"".join(field(1, size) for size in value.shape)
    return shape + field(2, _TYPES[value.dtype.name]) + field(8, name) + field(9, value.tobytes())


def attribute(name: str, value: object) -> bytes:
    if isinstance(value, float):
        return field(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return field(1, name) + field(3, value)
    if isinstance(value, str):
        return field(1, name) + field(4, value)
    if isinstance(value, np.ndarray):
        return field(1, name) + field(5, tensor(value))
    return field(1, name) + b"".join(field(8, number) for number in value)


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> bytes:
    parts = [*(field(1, name) for name in inputs), *(field(2, name) for name in outputs), field(4, kind)]
    return b"".join([*parts, *(field(5, attribute(*pair)) for pair in attributes.items())])


def value(name: str, shape: Iterable[int | None]) -> bytes:
    sizes = b"".join(field(1, field(1, size) if size else field(2, "batch")) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, sizes)))


def model(
    nodes: Iterable[bytes],
    shape: Iterable[int | None],
    constants: dict[str, np.ndarray] = {},
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    extra: bytes = b"",
) -> bytes:
    """Writes a model of one input "x" of `shape`; `extra` is put into its graph."""
    graph = b"".join(field(1, each) for each in nodes)
    graph += b"".join(field(5, tensor(array, name)) for name, array in constants.items())
    graph += field(11, value("x", shape)) + b"".join(field(12, value(name, ())) for name in outputs)
    return field(1, 8) + field(7, graph + extra) + field(8, field(1, "") + field(2, opset))
