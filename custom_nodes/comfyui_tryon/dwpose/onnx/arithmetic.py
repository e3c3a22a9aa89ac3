"""Says how torch computes the ONNX operators that make new numbers: convolutions, pools, norms, activations."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .calls import Call, Function, OperatorError, Step


def _window(call: Call, size: list[int]) -> tuple[Function | None, list[int], list[int], list[int]]:
    """Returns how a sliding window pads first (None: by itself), and its strides, padding and dilations."""
    axes = len(size)
    strides, dilations = (call.numbers(None, name, [1] * axes) for name in ("strides", "dilations"))
    pads = call.numbers(None, "pads", [0] * 2 * axes)
    call.expect(axes == 2 and len(strides) == len(dilations) == 2 and len(pads) == 4, "is not of two dimensions")
    call.expect(min(*strides, *dilations, *size) > 0 and min(pads) >= 0, "has a size that is not positive")
    auto = call.option("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = [0] * 4
        for axis, length in enumerate(call[0].shape[2:]):
            covered = (-(-length // strides[axis]) - 1) * strides[axis] + dilations[axis] * (size[axis] - 1) + 1
            total = max(0, covered - length)
            less, more = total // 2, total - total // 2
            pads[axis], pads[axis + 2] = (less, more) if auto == "SAME_UPPER" else (more, less)
    elif auto not in ("NOTSET", "VALID"):
        raise OperatorError(f"has auto_pad {auto!r}, which this program does not compute")
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return None, strides, [top, left], dilations
    return (lambda x, fill=0.0: F.pad(x, (left, right, top, bottom), value=fill)), strides, [0, 0], dilations


def _conv(call: Call) -> Step:
    weight = call[1].shape
    call.expect(len(weight) == 4 and len(call[0].shape) == 4, "is not of two dimensions")
    first, strides, padding, dilations = _window(call, weight[2:])
    groups = call.option("group", 1)

    def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return F.conv2d(first(x) if first else x, weight, bias, strides, padding, dilations, groups)

    return conv, (call[0], call[1], *([call[2]] if call.has(2) else []))


def _max_pool(call: Call) -> Step:
    size = call.numbers(None, "kernel_shape", [])
    first, strides, padding, dilations = _window(call, size)
    ceil = bool(call.option("ceil_mode", 0))

    def pool(x: torch.Tensor) -> torch.Tensor:
        x = first(x, float("-inf")) if first else x
        return F.max_pool2d(x, size, strides, padding, dilations, ceil)

    return pool, (call[0],)


def _average_pool(call: Call) -> Step:
    size = call.numbers(None, "kernel_shape", [])
    first, strides, padding, dilations = _window(call, size)
    counted = bool(call.option("count_include_pad", 0))
    call.expect(dilations == [1, 1], "has dilations, which this program does not compute")
    call.expect(not first or counted, "has uneven pads, which this program does not compute")
    ceil = bool(call.option("ceil_mode", 0))

    def pool(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(first(x) if first else x, size, strides, padding, ceil, counted)

    return pool, (call[0],)


def _batch_norm(call: Call) -> Step:
    epsilon = call.option("epsilon", 1e-5)

    def norm(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        scale, shift, mean, variance = others
        return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, epsilon)

    return norm, tuple(call[place] for place in range(5))


def _layer_norm(call: Call) -> Step:
    axis, epsilon = call.option("axis", -1), call.option("epsilon", 1e-5)
    shape = call[0].shape[axis:]
    values = (call[0], call[1], *([call[2]] if call.has(2) else []))
    return lambda x, scale, shift=None: F.layer_norm(x, shape, scale, shift, epsilon), values


def _multiply(call: Call) -> Step:
    a, b = call[0], call[1]
    for gate, x in ((a, b), (b, a)):
        if gate.origin == ("Sigmoid", (x,)):  # one pass over memory instead of two
            return F.silu, (x,)
    return torch.mul, (a, b)


def _divide(call: Call) -> Step:
    whole = not call[0].sample.is_floating_point()
    return lambda a, b: torch.div(a, b, rounding_mode="trunc" if whole else None), (call[0], call[1])


def _gemm(call: Call) -> Step:
    alpha, beta = call.option("alpha", 1.0), call.option("beta", 1.0)
    turned = bool(call.option("transA", 0)), bool(call.option("transB", 0))

    def gemm(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        a, b = (x.t() if turn else x for x, turn in zip((a, b), turned))
        product = alpha * (a @ b) if alpha != 1 else a @ b
        return product if c is None else product + beta * c

    return gemm, (call[0], call[1], *([call[2]] if call.has(2) else []))


def _clip(call: Call) -> Step:
    low, high = (call.numbers(place, name) for place, name in ((1, "min"), (2, "max")))
    low, high = (bound[0] if isinstance(bound, list) else bound for bound in (low, high))
    return (lambda x: x if low is None and high is None else x.clamp(low, high)), (call[0],)


def _hard_sigmoid(call: Call) -> Step:
    alpha, beta = call.option("alpha", 0.2), call.option("beta", 0.5)
    return lambda x: (x * alpha + beta).clamp(0, 1), (call[0],)


def _leaky_relu(call: Call) -> Step:
    slope = call.option("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope), (call[0],)


def _softmax(call: Call) -> Step:
    axis = call.option("axis", -1 if call.opset >= 13 else 1)
    if call.opset >= 13:
        return lambda x: x.softmax(axis), (call[0],)
    shape = call[0].shape
    return lambda x: x.flatten(axis % len(shape)).softmax(-1).reshape(shape), (call[0],)


def _reduce(call: Call) -> Step:
    axes = call.numbers(1, "axes") or list(range(len(call[0].shape)))
    keep = bool(call.option("keepdims", 1))
    if call.option("noop_with_empty_axes", 0) and not call.numbers(1, "axes"):
        return lambda x: x, (call[0],)
    function = _REDUCTIONS[call.kind]
    return lambda x: function(x, dim=axes, keepdim=keep), (call[0],)


_REDUCTIONS: dict[str, Function] = {
    "ReduceL2": lambda x, dim, keepdim: torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim),
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceSum": torch.sum,
}
PLAIN: dict[str, Function] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Ceil": torch.ceil,
    "Dropout": lambda x, *_: x,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax((2, 3), keepdim=True),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "Log": torch.log,
    "MatMul": torch.matmul,
    "Max": lambda *x: x[0] if len(x) == 1 else torch.maximum(*x),
    "Min": lambda *x: x[0] if len(x) == 1 else torch.minimum(*x),
    "Neg": torch.neg,
    "Pow": torch.pow,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Where": torch.where,
}
ARITHMETIC: dict[str, Callable[[Call], Step]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Conv": _conv,
    "Div": _divide,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "Mul": _multiply,
    "ReduceL2": _reduce,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceSum": _reduce,
    "Softmax": _softmax,
}
