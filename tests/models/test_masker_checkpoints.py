"""Checkpoint files that are damaged, malicious or of another network are refused by name, and nothing in them runs."""

import collections
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_tryon.masker import CheckpointError, SchpDensePoseMasker, densepose
from comfyui_tryon.masker.checkpoints import as_weights, fold_norms, load_weights, read_array_pickle, read_torch
from comfyui_tryon.masker.densepose import DensePose
from comfyui_tryon.masker.schp import Schp
from torch import nn

ARRAYS = {"model": {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, "__author__": "somebody"}


def read(file: Path) -> object:
    """As the masker reads this kind of file."""
    return Schp.load(file, 18, 512, torch.float32) if file.suffix == ".pth" else DensePose.load(file, torch.float32)


class Run:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refused(file: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_code_in_a_file_does_not_run(tmp_path, name, protocol):
    file, witness = tmp_path / name, tmp_path / "it-ran"
    calls = [
        Run(os.mkdir, str(witness)),
        Run(eval, f"__import__('os').mkdir({str(witness)!r})"),
        Run(shutil.copytree, str(tmp_path), str(witness)),
        Run(np.save, str(witness), np.zeros(1)),
    ]
    for call in calls:
        for content in (call, {"model": {"a": call}, "state_dict": {"a": call}}):
            file.write_bytes(pickle.dumps(content, protocol))
            refused(file)
            if name.endswith(".pth"):
                torch.save(content, file)
                refused(file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_damaged_files(tmp_path, name):
    file = tmp_path / name
    if name.endswith(".pth"):
        torch.save({"state_dict": {"module.conv1.weight": torch.zeros(64, 3, 3, 3)}}, file)
    else:
        file.write_bytes(pickle.dumps(ARRAYS))
    whole = file.read_bytes()
    cut = [whole[:length] for length in (0, 1, len(whole) // 3, len(whole) - 4)]
    noise = np.random.default_rng(0).bytes(len(whole))
    for content in (
        *cut,
        noise,
        b"<!DOCTYPE html><html>Not found</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
    ):
        file.write_bytes(content)
        assert "again" in refused(file)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_a_missing_file_and_a_folder(tmp_path, name):
    assert "missing" in refused(tmp_path / name)
    (tmp_path / name).mkdir()
    refused(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 3},
        [1, 2],
        {"state_dict": None, "model": None},
        {"state_dict": {"a": "text"}, "model": {"a": "text"}},
        {"state_dict": {1: torch.zeros(1)}, "model": {1: np.zeros(1, np.float32)}},
        {"state_dict": {}, "model": {}},
        {"state_dict": {"module.bn1.running_var": torch.ones(64)}, "model": {"stem.norm.running_var": np.ones(64)}},
        {"state_dict": {"odd.running_var": torch.ones(64)}, "model": {"running_var": np.ones(64)}},
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_readable_files_without_the_weights(tmp_path, name, content):
    file = tmp_path / name
    if name.endswith(".pth"):
        torch.save(
            {key: value for key, value in content.items() if key != "model"} if isinstance(content, dict) else content,
            file,
        )
    else:
        content = {"model": content["model"]} if isinstance(content, dict) and "model" in content else content
        file.write_bytes(pickle.dumps(content))
    refused(file)


def test_another_network_is_told_by_name_and_shape(tmp_path):
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 2), nn.Linear(2, 4)

    file, good = tmp_path / "small.pth", {name: value.clone() for name, value in Small().state_dict().items()}
    load_weights(Small(), good, file, torch.float32)
    broken = {
        "first.bias": {name: value for name, value in good.items() if name != "first.bias"},
        "third.weight": good | {"third.weight": torch.zeros(1)},
        "(5, 2), not (4, 2)": good | {"last.weight": torch.zeros(5, 2)},
        "not finite": good | {"last.bias": torch.tensor([0, 0, float("nan"), 0])},
    }
    for message, weights in broken.items():
        with pytest.raises(CheckpointError, match=message.replace("(", r"\(").replace(")", r"\)")) as caught:
            load_weights(Small(), weights, file, torch.float32)
        assert str(file) in str(caught.value)


def test_what_old_versions_of_detectron2_saved_beside_the_weights_is_passed_over(monkeypatch, tmp_path):
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in DensePose().state_dict().items()}
    entries = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    anchors = {f"proposal_generator.anchor_generator.cell_anchors.{level}": np.zeros((3, 4)) for level in range(5)}
    more = anchors | {"pixel_mean": np.zeros((3, 1, 1)), "pixel_std": np.zeros((3, 1, 1))}
    monkeypatch.setattr(densepose, "read_array_pickle", lambda file: {"model": entries | more})
    assert DensePose.load(tmp_path / "model.pkl", torch.float32).training is False
    monkeypatch.setattr(densepose, "read_array_pickle", lambda file: {"model": entries | {"other": np.zeros(1)}})
    with pytest.raises(CheckpointError, match="it has 'other'"):
        DensePose.load(tmp_path / "model.pkl", torch.float32)


def test_weights_arrive_in_the_wanted_dtype_without_gradients():
    with torch.device("meta"):
        module = nn.Linear(3, 2)
    weights = {"weight": torch.rand(2, 3), "bias": torch.rand(2)}
    load_weights(module, weights, Path("w.pth"), torch.bfloat16)
    assert torch.equal(module.weight, weights["weight"].bfloat16())
    assert all(not parameter.requires_grad and parameter.device.type == "cpu" for parameter in module.parameters())


def test_a_folded_norm_computes_the_same():
    conv, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5).eval()
    for values in norm.state_dict().values():
        if values.is_floating_point():
            values.uniform_(0.5, 2.0)
    weights = {"conv.weight": conv.weight.detach()} | {
        f"conv.norm.{name}": value for name, value in norm.state_dict().items() if value.is_floating_point()
    }
    folded = fold_norms(weights, lambda name: name.removesuffix(".norm"), Path("w.pth"))
    assert folded.keys() == {"conv.weight", "conv.bias"}
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(torch.conv2d(x, folded["conv.weight"], folded["conv.bias"]), norm(conv(x)))


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_array_pickles_of_both_numpy_generations_are_read(tmp_path, core):
    file, own = tmp_path / "w.pkl", np.zeros(1).__reduce__()[0].__module__.removesuffix(".multiarray").encode()
    file.write_bytes(pickle.dumps(ARRAYS, protocol=2).replace(own, core))
    weights = as_weights(read_array_pickle(file)["model"], file)
    assert torch.equal(weights["a.weight"], torch.from_numpy(ARRAYS["model"]["a.weight"]))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_array_pickles_of_all_protocols_are_read(tmp_path, protocol):
    file, content = tmp_path / "w.pkl", {"model": collections.OrderedDict(ARRAYS["model"]), "iteration": np.int64(3)}
    file.write_bytes(pickle.dumps(content, protocol))
    saved = read_array_pickle(file)
    assert saved["iteration"] == 3
    assert np.array_equal(saved["model"]["a.weight"], ARRAYS["model"]["a.weight"])


def test_both_formats_of_torch_are_read(tmp_path):
    weights = {"state_dict": {"a": torch.rand(3)}}
    for zipped in (True, False):
        torch.save(weights, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(read_torch(tmp_path / "w.pth")["state_dict"]["a"], weights["state_dict"]["a"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="atr"):
        SchpDensePoseMasker.load(tmp_path)
