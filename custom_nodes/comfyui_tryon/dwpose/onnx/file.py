"""Reads ONNX files without onnx or protobuf: the graph's nodes and its constants, nothing else.

A file is data from elsewhere. Its size, its counts and every length in it are checked before they are used, messages
are read to a fixed depth, and nothing outside the file is opened.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .wire import MOST_LISTED, block, fields, integers, natural, real, signed, text

_LARGEST_FILE = 1 << 30  # bytes; the published ones have 217 and 134 MB
_MOST_NODES = 20_000
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
DOWNLOAD_AGAIN = "Download the published file again."


class OnnxError(ValueError):
    """An ONNX file is missing, damaged, unsafe or of another network. The message names it and says what to do."""


@dataclass
class OnnxNode:
    """Describes one operation of a graph."""

    kind: str
    """The operator's name, such as "Conv"."""
    inputs: list[str]
    """Names of values; an empty name is an input left out."""
    outputs: list[str]
    attributes: dict[str, Any]
    """Numbers, bytes, tensors and lists of numbers by name."""


@dataclass
class OnnxGraph:
    """Describes a network as its file does."""

    opset: int = 0
    nodes: list[OnnxNode] = field(default_factory=list)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    inputs: dict[str, list[int | None]] = field(default_factory=dict)
    """Shapes by name, constants left out; None is a size that the file leaves open."""
    outputs: list[str] = field(default_factory=list)


def read(file: Path) -> OnnxGraph:
    """Reads an ONNX file.

    Raises:
        OnnxError: the file is missing, empty, cut, larger than 1 GiB or not ONNX, keeps weights in other files, or
            holds what a network for images does not need, such as nested graphs and functions.
    """
    try:
        size = file.stat().st_size
        if size > _LARGEST_FILE:
            raise OnnxError(f"{file} has {size >> 20} MiB, more than any network for poses. {DOWNLOAD_AGAIN}")
        data = memoryview(file.read_bytes())
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise OnnxError(f"{file} {reason}. Download the published file to this place.") from error
    try:
        graph = _model(data)
    except _Unsupported as error:
        raise OnnxError(f"{file} {error}. {DOWNLOAD_AGAIN}") from error
    except (ValueError, OverflowError, struct.error, MemoryError) as error:
        raise OnnxError(f"{file} is damaged or not an ONNX file ({error}). {DOWNLOAD_AGAIN}") from error
    if not graph.nodes or not graph.outputs:
        raise OnnxError(f"{file} is not an ONNX file of a network: it has no operations. {DOWNLOAD_AGAIN}")
    return graph


class _Unsupported(ValueError):
    """The rest of a sentence that begins with the file."""


def _model(data: memoryview) -> OnnxGraph:
    graph = OnnxGraph()
    for number, value in fields(data):
        if number == 7:
            _graph(block(value), graph)
        elif number == 8:
            domain, version = "", 0
            for inner, entry in fields(block(value)):
                if inner == 1:
                    domain = text(entry)
                elif inner == 2:
                    version = natural(entry)
            if domain in ("", "ai.onnx"):
                graph.opset = version
        elif number == 25:
            raise _Unsupported("defines functions of its own, which this program does not run")
    return graph


def _graph(data: memoryview, graph: OnnxGraph) -> None:
    for number, value in fields(data):
        if number == 1:
            graph.nodes.append(_node(block(value)))
            if len(graph.nodes) > _MOST_NODES:
                raise ValueError(f"it has more than {_MOST_NODES} operations")
        elif number == 5:
            name, tensor = _tensor(block(value))
            graph.constants[name] = tensor
        elif number == 11:
            name, shape = _value(block(value))
            graph.inputs[name] = shape
        elif number == 12:
            graph.outputs.append(_value(block(value))[0])
        elif number == 15:
            raise _Unsupported("holds sparse weights, which this program does not read")
    for name in graph.constants:  # early exporters list weights as inputs too
        graph.inputs.pop(name, None)


def _node(data: memoryview) -> OnnxNode:
    node = OnnxNode("", [], [], {})
    for number, value in fields(data):
        if number == 1:
            node.inputs.append(text(value))
        elif number == 2:
            node.outputs.append(text(value))
        elif number == 4:
            node.kind = text(value)
        elif number == 5:
            name, attribute = _attribute(block(value))
            node.attributes[name] = attribute
        elif number == 7 and (domain := text(value)) not in ("", "ai.onnx"):
            raise _Unsupported(f"has operations of {domain!r}, which this program does not run")
    return node


def _attribute(data: memoryview) -> tuple[str, Any]:
    name = ""
    single: Any = None
    listed: list[int] = []
    floats: list[float] = []
    for number, value in fields(data):
        if number == 1:
            name = text(value)
        elif number == 2:
            single = real(value)
        elif number == 3:
            single = signed(value)
        elif number == 4:
            single = bytes(block(value))
        elif number == 5:
            single = _tensor(block(value))[1]
        elif number == 7:
            floats.extend(np.frombuffer(block(value), "<f4").tolist())
        elif number == 8:
            integers(value, listed)
        elif number in (6, 11):
            raise _Unsupported("has operations with graphs of their own, which this program does not run")
        if len(floats) > MOST_LISTED:
            raise ValueError("a list of numbers is too long")
    return name, listed or floats or single if single is None else single


def _value(data: memoryview) -> tuple[str, list[int | None]]:
    """Reads the name and the shape of an input or output."""
    name = ""
    shape: list[int | None] = []
    for number, value in fields(data):
        if number == 1:
            name = text(value)
        elif number == 2:
            for dimension in _inside(block(value), 1, 2, 1):
                sizes = [signed(size) for kind, size in fields(dimension) if kind == 1]
                shape.append(sizes[0] if sizes and sizes[0] > 0 else None)
    return name, shape


def _inside(data: memoryview, *path: int) -> Iterator[memoryview]:
    """Yields the messages that lie under field numbers `path`, one within the other."""
    for number, value in fields(data):
        if number == path[0]:
            if len(path) == 1:
                yield block(value)
            else:
                yield from _inside(block(value), *path[1:])


def _tensor(data: memoryview) -> tuple[str, torch.Tensor]:
    name, kind, raw = "", 0, None
    shape: list[int] = []
    listed: list[int] = []
    floats: list[np.ndarray] = []
    for number, value in fields(data):
        if number == 1:
            integers(value, shape)
        elif number == 2:
            kind = natural(value)
        elif number in (4, 10):
            floats.append(np.frombuffer(block(value), "<f4" if number == 4 else "<f8"))
        elif number in (5, 7):
            integers(value, listed)
        elif number == 8:
            name = text(value)
        elif number == 9:
            raw = block(value)
        elif number == 13 or (number == 14 and value):
            raise _Unsupported("keeps its weights in other files, which this program does not open")
        if len(floats) > MOST_LISTED:
            raise ValueError("a list of numbers is too long")
    if kind not in _DTYPES:
        raise _Unsupported(f"holds values of type {kind}, which this program does not read")
    dtype = np.dtype(_DTYPES[kind])
    if raw is not None:
        values = np.frombuffer(raw, dtype)
    elif floats:
        values = np.concatenate(floats).astype(dtype)
    else:
        values = np.array(listed, np.int64)
        values = values.astype("<u2").view(dtype) if dtype == np.float16 else values.astype(dtype)
    count = len(values)
    if len(shape) > 8 or any(not 0 <= size <= count for size in shape) or math.prod(shape) != count:
        raise ValueError(f"{name!r} holds {count} values for the shape {shape}")
    return name, torch.from_numpy(values.reshape(shape).copy())
