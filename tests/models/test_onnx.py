"""ONNX files in torch: operators that exporters write, and files that are not what they should be."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfyui_tryon.dwpose.onnx import OnnxError, OnnxNetwork
from support.fashn_cases import WEIGHTS
from support.onnx_files import field, model, node, tensor

RANDOM = np.random.default_rng(3)
X = torch.from_numpy(RANDOM.normal(size=(1, 4, 6, 8)).astype(np.float32))
WEIGHT = RANDOM.normal(size=(4, 4, 3, 3)).astype(np.float32)
VECTOR = np.abs(RANDOM.normal(size=4)).astype(np.float32)
LINES = RANDOM.normal(size=(8, 5)).astype(np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


@pytest.fixture
def run(tmp_path):
    """Runs a file on X, or on another input."""

    def answer(content: bytes, x: torch.Tensor = X) -> torch.Tensor:
        file = tmp_path / "network.onnx"
        file.write_bytes(content)
        network = OnnxNetwork(file, x.shape)
        results = network(x)
        assert {name: tuple(result.shape) for name, result in results.items()} == network.shapes
        return results["y"]

    return answer


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


# An operator, its constants, its attributes, the version, and what it makes of X.
OPERATORS = [
    (
        "Conv",
        {"w": WEIGHT},
        {"pads": [1, 1, 1, 1], "strides": [2, 1]},
        17,
        lambda x: F.conv2d(x, t(WEIGHT), None, (2, 1), 1),
    ),
    (
        "Conv",
        {"w": WEIGHT, "b": VECTOR},
        {"pads": [0, 0, 1, 1]},
        17,
        lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1)), t(WEIGHT), t(VECTOR)),
    ),
    (
        "Conv",
        {"w": WEIGHT[:, :1]},
        {"group": 4, "auto_pad": "SAME_UPPER"},
        17,
        lambda x: F.conv2d(x, t(WEIGHT[:, :1]), None, 1, 1, 1, 4),
    ),
    ("Conv", {"w": WEIGHT}, {"dilations": [2, 2]}, 17, lambda x: F.conv2d(x, t(WEIGHT), dilation=2)),
    (
        "MaxPool",
        {},
        {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2], "strides": [1, 1]},
        17,
        lambda x: F.max_pool2d(x, 5, 1, 2),
    ),
    (
        "MaxPool",
        {},
        {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]},
        17,
        lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2, 1),
    ),
    (
        "AveragePool",
        {},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        17,
        lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    ),
    ("GlobalAveragePool", {}, {}, 17, lambda x: x.mean((2, 3), keepdim=True)),
    (
        "BatchNormalization",
        {"s": VECTOR, "b": VECTOR, "m": VECTOR, "v": VECTOR},
        {"epsilon": 0.5},
        17,
        lambda x: F.batch_norm(x, *[t(VECTOR)] * 4, eps=0.5),
    ),
    ("HardSigmoid", {}, {"alpha": 1 / 6}, 17, F.hardsigmoid),
    ("LeakyRelu", {}, {"alpha": 0.2}, 17, lambda x: F.leaky_relu(x, 0.2)),
    ("Clip", {"low": floats(-0.5)[0], "high": floats(0.5)[0]}, {}, 17, lambda x: x.clamp(-0.5, 0.5)),
    ("Clip", {}, {"min": -0.25}, 6, lambda x: x.clamp(min=-0.25)),
    ("Softmax", {}, {}, 17, lambda x: x.softmax(-1)),
    ("Softmax", {}, {"axis": 2}, 11, lambda x: x.flatten(2).softmax(-1).reshape(x.shape)),
    ("ReduceL2", {}, {"axes": [3], "keepdims": 1}, 11, lambda x: x.norm(dim=3, keepdim=True)),
    ("ReduceSum", {"axes": ints(1, -1)}, {"keepdims": 0}, 13, lambda x: x.sum((1, 3))),
    ("ReduceMean", {}, {"keepdims": 0}, 11, lambda x: x.mean()),
    ("MatMul", {"m": LINES}, {}, 17, lambda x: x @ t(LINES)),
    ("Div", {"by": floats(4.0)}, {}, 17, lambda x: x / 4),
    (
        "Slice",
        {"a": ints(1, -8), "b": ints(2**62, -1), "axes": ints(2, -1), "steps": ints(2, 3)},
        {},
        17,
        lambda x: x[:, :, 1::2, :-1:3],
    ),
    ("Slice", {}, {"starts": [1], "ends": [3], "axes": [1]}, 9, lambda x: x[:, 1:3]),
    ("Reshape", {"shape": ints(0, -1, 12)}, {}, 17, lambda x: x.reshape(1, -1, 12)),
    ("Flatten", {}, {"axis": 2}, 17, lambda x: x.reshape(4, -1)),
    ("Transpose", {}, {"perm": [0, 3, 1, 2]}, 17, lambda x: x.permute(0, 3, 1, 2)),
    ("Squeeze", {"axes": ints(0)}, {}, 17, lambda x: x[0]),
    ("Squeeze", {}, {}, 11, lambda x: x[0]),
    ("Unsqueeze", {}, {"axes": [1, 5]}, 11, lambda x: x[:, None, ..., None]),
    ("Gather", {"index": ints(2, -1)}, {"axis": 3}, 17, lambda x: x[..., [2, -1]]),
    ("Gather", {"index": ints(2)[0]}, {"axis": 1}, 17, lambda x: x[:, 2]),
    (
        "Pad",
        {"pads": ints(0, 0, 1, 2, 0, 0, 0, 3), "value": floats(7)[0]},
        {},
        17,
        lambda x: F.pad(x, (2, 3, 1, 0), value=7),
    ),
    ("Expand", {"shape": ints(3, 4, 1, 8)}, {}, 17, lambda x: x.expand(3, 4, 6, 8)),
    (
        "Resize",
        {"roi": floats(), "scales": floats(1, 1, 2, 2)},
        {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
        11,
        lambda x: F.interpolate(x, scale_factor=2),
    ),
    (
        "Resize",
        {"scales": floats(1, 1, 3, 2)},
        {"mode": "nearest"},
        10,
        lambda x: F.interpolate(x, scale_factor=(3, 2)),
    ),
    ("Upsample", {"scales": floats(1, 1, 2, 2)}, {"mode": "nearest"}, 9, lambda x: F.interpolate(x, scale_factor=2)),
    ("Cast", {}, {"to": 6}, 17, lambda x: x.int()),
]


@pytest.mark.parametrize(
    ("kind", "constants", "attributes", "opset", "expected"), OPERATORS, ids=[case[0] for case in OPERATORS]
)
def test_operators_compute_what_torch_does(run, kind, constants, attributes, opset, expected):
    mine = run(model([node(kind, ["x", *constants], ["y"], **attributes)], X.shape, constants, opset=opset))
    assert torch.allclose(mine, expected(X), atol=1e-5) and mine.shape == expected(X).shape


def test_shapes_are_computed_while_loading(run):
    """As exporters write x.reshape(x.shape[0], -1), with the batch left open."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Constant", [], ["zero"], value=ints(0)),
        node("Gather", ["s", "zero"], ["rows"]),
        node("Constant", [], ["rest"], value=ints(-1)),
        node("Concat", ["rows", "rest"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["y"]),
    ]
    assert torch.equal(run(model(nodes, [None, 4, 6, 8])), X.reshape(1, -1))


def test_a_split_value_times_its_sigmoid(run):
    nodes = [
        node("Split", ["x"], ["a", "b"], axis=1),
        node("Sigmoid", ["b"], ["s"]),
        node("Mul", ["s", "b"], ["gated"]),
        node("Sub", ["a", "gated"], ["y"]),
    ]
    a, b = X.split(2, 1)
    assert torch.allclose(run(model(nodes, X.shape)), a - F.silu(b), atol=1e-6)


def test_what_no_output_needs_is_not_run_or_kept(tmp_path):
    file = tmp_path / "network.onnx"
    nodes = [node("Relu", ["x"], ["y"]), node("Conv", ["x", "w"], ["unused"])]
    file.write_bytes(model(nodes, X.shape, {"w": WEIGHT}))
    assert not list(OnnxNetwork(file, X.shape).buffers())


def relu(**options) -> bytes:
    return model([node("Relu", ["x"], ["y"])], X.shape, **options)


def one(kind: str, *constants: np.ndarray, **attributes: object) -> bytes:
    named = {f"c{index}": constant for index, constant in enumerate(constants)}
    return model([node(kind, ["x", *named], ["y"], **attributes)], X.shape, named)


def outside(name: str) -> bytes:
    """A weight whose values lie in another file."""
    entry = field(13, field(1, "location") + field(2, name))
    return field(5, field(1, 4) + field(2, 1) + field(8, "w") + entry + field(14, 1))


DOUBLING = [node("Concat", [f"v{n}"] * 2, [f"v{n + 1}"], axis=1) for n in range(30)]
BAD = {
    "empty": (b"", "is not an ONNX file of a network"),
    "text": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is damaged or not an ONNX file|not an ONNX",
    ),
    "cut": (one("Conv", WEIGHT)[:-30], "is damaged or not an ONNX file .*ends too early"),
    "no end to a number": (b"\xff" * 40, "a number is too long"),
    "unknown operator": (one("Einsum"), "has an operation Einsum that this program does not know"),
    "unknown option": (
        one("Resize", floats(), floats(1, 1, 2, 2), mode="cubic"),
        "operation Resize that has mode 'cubic'",
    ),
    "uneven resize": (
        one("Resize", floats(), floats(1, 1, 1.5, 2)),
        "operation Resize that does not enlarge by a whole",
    ),
    "other domain": (
        model([node("Relu", ["x"], ["y"]) + field(7, "com.microsoft")], X.shape),
        "has operations of 'com.microsoft'",
    ),
    "subgraph": (
        model([node("If", ["x"], ["y"]) + field(5, field(1, "then_branch") + field(6, b""))], X.shape),
        "graphs of their own",
    ),
    "functions": (relu() + field(25, b""), "defines functions of its own"),
    "external data": (relu(extra=outside("../../etc/passwd")), "keeps its weights in other files"),
    "sparse": (relu(extra=field(15, b"")), "holds sparse weights"),
    "text weights": (relu(extra=field(5, field(2, 8) + field(8, "w"))), "holds values of type 8"),
    "wrong count": (relu(extra=field(5, tensor(WEIGHT, "w")[:-8])), "damaged"),
    "huge shape": (
        relu(extra=field(5, field(1, 2**40) + field(1, 2**40) + field(2, 1) + field(9, b"1234"))),
        "1 values for",
    ),
    "negative shape": (relu(extra=field(5, field(1, -1) + field(2, 1) + field(9, b"1234"))), "1 values for the shape"),
    "not finite": (one("Add", floats(math.nan)), "holds values that are not finite"),
    "renamed": (
        model([node("Add", ["x", "w2"], ["y"])], X.shape, {"w": VECTOR}),
        "operation Add that reads 'w2', which nothing",
    ),
    "no such output": (relu(outputs=["z"]), "has an output 'z' that nothing computes"),
    "wrong shape": (one("Conv", WEIGHT[:, :2]), "operation Conv that does not fit its inputs"),
    "another input": (
        model([node("Relu", ["x"], ["y"])], [1, 3, 6, 8]),
        r"takes inputs of \[\[1, 3, 6, 8\]\], not one of",
    ),
    "huge result": (
        model([node("Identity", ["x"], ["v0"]), *DOUBLING, node("Relu", ["v30"], ["y"])], X.shape),
        "Concat that makes more numbers",
    ),
    "huge constant": (
        model(
            [node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])], X.shape, {"s": ints(2**20, 2**20)}
        ),
        "ConstantOfShape that makes more numbers",
    ),
    "reads beyond": (one("Gather", ints(99), axis=1), "operation Gather that reads beyond its input"),
    "computed shape": (
        model([node("Reshape", ["x", "x"], ["y"])], X.shape),
        "Reshape that has an input 1 that is not a constant",
    ),
    "no inputs": (model([node("Conv", [], ["y"])], X.shape), "operation Conv that lacks its input"),
    "endless window": (one("MaxPool", kernel_shape=[2**40, 2**40]), "operation MaxPool that"),
    "no stride": (
        one("MaxPool", kernel_shape=[2, 2], strides=[0, 0]),
        "operation MaxPool that has a size that is not positive",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_named_and_say_why(tmp_path, content, message):
    file = tmp_path / "yolox_l.onnx"
    file.write_bytes(content)
    with pytest.raises(OnnxError, match=message) as caught:
        OnnxNetwork(file, X.shape)
    assert str(caught.value).startswith(f"{file} ") and "ownload" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OnnxError, match="none.onnx is missing. Download the published file"):
        OnnxNetwork(tmp_path / "none.onnx", X.shape)
    with pytest.raises(OnnxError, match="cannot be read"):
        OnnxNetwork(tmp_path, X.shape)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "large.onnx"
    with open(file, "wb") as stream:
        stream.truncate(2**30 + 2**20)  # takes no space
    with pytest.raises(OnnxError, match="large.onnx has 1025 MiB"):
        OnnxNetwork(file, X.shape)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_end_in_an_error_or_a_network(tmp_path, seed):
    """Whatever bytes are changed, nothing but the documented error is raised."""
    random = np.random.default_rng(seed)
    content = bytearray((WEIGHTS / "dwpose/dw-ll_ucoco_384.onnx").read_bytes())
    for place in random.integers(0, 3000 if seed % 2 else len(content), 4):
        content[place] = random.integers(256)
    if seed % 4 == 0:
        del content[random.integers(len(content)) :]
    file = tmp_path / "network.onnx"
    file.write_bytes(content)
    try:
        network = OnnxNetwork(file, (1, 3, 384, 288))
    except OnnxError as error:
        assert str(error).startswith(f"{file} ")
    else:
        assert all(len(shape) for shape in network.shapes.values())
