"""Says how torch computes the ONNX operators that only move, repeat or convert numbers."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .calls import Call, Operand, OperatorError, Step


def _concat(call: Call) -> Step:
    axis = call.option("axis", 0)
    values = tuple(call[place] for place in range(len(call.inputs)))
    return lambda *tensors: torch.cat(tensors, axis), values


def _slice(call: Call) -> Step:
    starts, ends = call.numbers(1, "starts"), call.numbers(2, "ends")
    axes = call.numbers(3, "axes", list(range(len(starts or []))))
    steps = call.numbers(4, default=[1] * len(axes))
    call.expect(bool(starts) and len(starts) == len(ends) == len(axes) == len(steps), "has lists of different lengths")
    call.expect(min(steps) > 0, "has a step that is not positive")
    parts = [slice(None)] * len(call[0].shape)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        call.expect(-len(parts) <= axis < len(parts), "has an axis that its input lacks")
        parts[axis] = slice(start, end, step)
    index = tuple(parts)
    return lambda x: x[index], (call[0],)


def _split(call: Call) -> Step:
    axis = call.option("axis", 0)
    sizes = call.numbers(1, "split")
    if not sizes:
        count = call.option("num_outputs", call.count)
        length = call[0].shape[axis]
        part = -(-length // max(1, count))
        sizes = [max(0, min(part, length - part * n)) for n in range(count)]
    return lambda x: x.split(sizes, axis), (call[0],)


def _reshape(call: Call) -> Step:
    wanted = call.numbers(1, "shape", [])
    old = call[0].shape
    call.expect(all(size or n < len(old) for n, size in enumerate(wanted)), "copies a side that its input lacks")
    shape = [size if size or call.option("allowzero", 0) else old[n] for n, size in enumerate(wanted)]
    return lambda x: x.reshape(shape), (call[0],)


def _flatten(call: Call) -> Step:
    axis = call.option("axis", 1)
    rows = torch.Size(call[0].shape[:axis]).numel()
    return lambda x: x.reshape(rows, -1), (call[0],)


def _transpose(call: Call) -> Step:
    order = call.option("perm", list(range(len(call[0].shape)))[::-1])
    return lambda x: x.permute(order), (call[0],)


def _squeeze(call: Call) -> Step:
    rank = len(call[0].shape)
    axes = call.numbers(1, "axes") or [n for n, size in enumerate(call[0].shape) if size == 1]
    gone = {axis % rank for axis in axes}
    call.expect(all(call[0].shape[axis] == 1 for axis in gone), "drops an axis that is not 1")
    shape = [size for n, size in enumerate(call[0].shape) if n not in gone]
    return lambda x: x.reshape(shape), (call[0],)


def _unsqueeze(call: Call) -> Step:
    axes = call.numbers(1, "axes", [])
    rank = len(call[0].shape) + len(axes)
    places = {axis % rank for axis in axes}
    sizes = iter(call[0].shape)
    shape = [1 if n in places else next(sizes) for n in range(rank)]
    return lambda x: x.reshape(shape), (call[0],)


def _gather(call: Call) -> Step:
    axis, index = call.option("axis", 0), call.known(1)
    length = call[0].shape[axis]
    call.expect(bool(((index >= -length) & (index < length)).all()), "reads beyond its input")
    if not index.ndim:
        return lambda x: x.select(axis, int(index)), (call[0],)
    axis %= len(call[0].shape)
    places = Operand(index.long() % length, True)
    return lambda x, at: x.index_select(axis, at.flatten()).unflatten(axis, at.shape), (call[0], places)


def _resize(call: Call) -> Step:
    """Enlarges by whole numbers, the nearest pixel repeated: how such networks join levels of different strides."""
    old = call[0].shape
    upsample = call.kind == "Upsample"
    call.require("mode", "nearest")
    scales = call.numbers(2 if not upsample and call.opset >= 11 else 1, "scales", [])
    sizes = call.numbers(3, default=None)
    new = sizes or [int(side * scale) for side, scale in zip(old, scales)]
    call.expect(len(old) == len(new) == 4 and new[:2] == old[:2], "does not scale height and width alone")
    call.expect(all(b % a == 0 for a, b in zip(old, new)), "does not enlarge by a whole number")
    if call.opset >= 11 and not upsample:
        moved = call.option("coordinate_transformation_mode", "half_pixel")
        rounded = call.option("nearest_mode", "round_prefer_floor")
        centred = moved in ("half_pixel", "pytorch_half_pixel") and rounded.startswith("round")
        doubled = all(b <= 2 * a for a, b in zip(old, new)) and rounded == "round_prefer_floor"
        call.expect(
            centred or (moved == "asymmetric" and (rounded == "floor" or doubled)),
            f"places pixels by {moved} and {rounded}, which this program does not compute",
        )
    return lambda x: F.interpolate(x, size=new[2:], mode="nearest"), (call[0],)


def _pad(call: Call) -> Step:
    pads = call.numbers(1, "pads", [])
    call.require("mode", "constant")
    rank = len(call[0].shape)
    call.expect(len(pads) == 2 * rank and not call.has(3), "does not pad every axis")
    fill = call.numbers(2, "value", 0.0)
    fill = fill[0] if isinstance(fill, list) else fill
    sides = [pads[axis + end * rank] for axis in reversed(range(rank)) for end in (0, 1)]
    return lambda x: F.pad(x, sides, value=fill), (call[0],)


def _cast(call: Call) -> Step:
    to = call.option("to", 0)
    call.expect(to in _CASTS, f"casts to type {to}, which this program does not compute")
    return lambda x: x.to(_CASTS[to]), (call[0],)


def _shape(call: Call) -> Step:
    shape = call[0].shape[call.option("start", 0) : call.option("end", None)]
    return lambda: torch.tensor(shape, dtype=torch.int64), ()


def _constant(call: Call) -> Step:
    name = next((name for name in _CONSTANTS if name in call.options), None)
    if name is None:
        raise OperatorError("holds no value that this program reads")
    value = call.options[name]
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=_CONSTANTS[name])
    return lambda: tensor, ()


def _constant_of_shape(call: Call) -> Step:
    shape = call.numbers(0)
    value = call.option("value", torch.zeros(1))
    call.expect(isinstance(value, torch.Tensor) and value.numel() == 1, "does not repeat one value")
    return lambda: value.reshape([1] * len(shape)).expand(shape), ()


def _expand(call: Call) -> Step:
    shape = torch.broadcast_shapes(call[0].sample.shape, tuple(call.numbers(1, default=[])))
    return lambda x: x.expand(shape), (call[0],)


_CONSTANTS = {
    "value": None,
    "value_float": torch.float32,
    "value_int": torch.int64,
    "value_floats": torch.float32,
    "value_ints": torch.int64,
}
_CASTS = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64}
ARRANGEMENT: dict[str, Callable[[Call], Step]] = {
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}
