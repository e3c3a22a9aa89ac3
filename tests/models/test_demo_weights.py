"""The demo checkpoint, and what its weights can do that only a correct pipeline does."""

import hashlib
import json
from itertools import islice
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from comfyui_tryon.catvton.checkpoint import load_pipeline
from comfyui_tryon.demo import checkpoint
from comfyui_tryon.masker.segformer import SegformerMasker
from drawing import UPPER, draw_pair
from safetensors.numpy import load_file, save_file

STEPS = 3  # are enough to tell right from wrong
ENOUGH = 6  # pairs, to tell that something is wrong
UP, MID = range(48, 120, 8), 120  # the attention file's numbers of the up blocks and the mid block


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return checkpoint.write(tmp_path_factory.mktemp("demo"))


def load(folder: Path, catvton: Path | None = None):
    return load_pipeline(folder / checkpoint.BASE, folder / checkpoint.VAE, catvton or folder / checkpoint.CATVTON)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_layout_is_the_published_one(folder):
    for name in (
        "stable-diffusion-inpainting/unet/config.json",
        "stable-diffusion-inpainting/unet/diffusion_pytorch_model.safetensors",
        "stable-diffusion-inpainting/scheduler/scheduler_config.json",
        "sd-vae-ft-mse/config.json",
        "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        "CatVTON/mix-48k-1024/attention/model.safetensors",
        "LICENSE",
    ):
        assert (folder / name).is_file(), name
    attention = load_file(folder / checkpoint.CATVTON / checkpoint.ATTENTION)
    assert len(attention) == 80
    assert {int(key.split(".")[0]) for key in attention} == set(range(0, 128, 8))
    unet = load_file(folder / checkpoint.BASE / "unet" / "diffusion_pytorch_model.safetensors")
    keys = checkpoint.attention_keys(unet)
    assert keys["0.to_q.weight"] == "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert keys["48.to_q.weight"] == "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert keys["120.to_q.weight"] == "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert set(keys) == set(attention)
    assert not any(np.array_equal(attention[key], unet[keys[key]]) for key in keys if key.endswith("to_q.weight"))


def test_writing_again_changes_nothing_and_repairs_an_older_folder(folder, tmp_path):
    before = digests(folder)
    marker = (folder / checkpoint.MARKER).stat().st_mtime_ns
    checkpoint.write(folder)
    assert (folder / checkpoint.MARKER).stat().st_mtime_ns == marker
    (tmp_path / checkpoint.MARKER).write_text(json.dumps({"version": "older"}))
    checkpoint.write(tmp_path)
    assert digests(tmp_path) == before


def test_the_folder_is_known_as_the_demos(folder, tmp_path):
    assert checkpoint.is_demo(folder)
    assert not checkpoint.is_demo(tmp_path)


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in checkpoint.WEIGHTS.glob("*.safetensors")) <= 12_000_000


# What the weights must do


@pytest.fixture(scope="module")
def pairs():
    drawn = (draw_pair(evaluate.FIRST_SEED + index, 192, 256) for index in range(100))
    return list(islice((pair for pair in drawn if pair.cloth_type == "upper"), evaluate.CHOICES))


@pytest.fixture(scope="module")
def right(pairs, folder):
    return score(load(folder), pairs)


def score(pipeline, pairs) -> dict[str, float]:
    options = {"num_inference_steps": STEPS, "guidance_scale": 1.5, "mask_blur": 0}
    return evaluate.scores(pairs, evaluate.results(pipeline, pairs, **options))


def test_the_garment_arrives(right):
    assert right["ciede2000"] <= 12
    assert right["ciede2000_shuffled"] >= 30
    assert right["nearest_of_ten"] >= 0.8


def test_the_parser_finds_what_is_worn(pairs, folder):
    masker = SegformerMasker.load(folder / checkpoint.PARSER)
    found = []
    for pair in pairs:
        mask = masker.mask(np.asarray(pair.person), "upper") > 0
        found.append(mask[np.asarray(pair.labels) == UPPER].mean())
        assert mask.mean() < 0.5
    assert np.mean(found) > 0.85


def without_attention_file(folder: Path, tmp_path: Path):
    """The base model's own self-attention in the attention file's place."""
    unet = load_file(folder / checkpoint.BASE / "unet" / "diffusion_pytorch_model.safetensors")
    return with_attention(folder, tmp_path, {key: unet[name] for key, name in checkpoint.attention_keys(unet).items()})


def up_blocks_backwards(folder: Path, tmp_path: Path):
    """The attention of the up blocks in the reverse order."""
    attention = load_file(folder / checkpoint.CATVTON / checkpoint.ATTENTION)
    return with_attention(folder, tmp_path, moved(attention, dict(zip(UP, reversed(UP)))))


def mid_block_before_the_up_blocks(folder: Path, tmp_path: Path):
    """The attention in the order in which a image passes through the UNet, where the file has the mid block last."""
    attention = load_file(folder / checkpoint.CATVTON / checkpoint.ATTENTION)
    return with_attention(folder, tmp_path, moved(attention, dict(zip([*UP, MID], [*UP[1:], MID, UP[0]]))))


def moved(attention: dict[str, np.ndarray], order: dict[int, int]) -> dict[str, np.ndarray]:
    """The tensors of each module under another's key."""
    split = {key: key.partition(".") for key in attention}
    return {f"{order.get(int(place), place)}.{name}": attention[key] for key, (place, _, name) in split.items()}


def cross_attention_removed_whole(folder: Path, tmp_path: Path):
    """Without the pass-through that adds `norm2(h)` to `h`."""
    pipeline = load(folder)
    for name in [name for name, _ in pipeline.unet.named_modules() if name.endswith(".attn2")]:
        pipeline.unet.set_submodule(name, Nothing())
    return pipeline


class Nothing(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return torch.zeros_like(hidden_states)


def with_attention(folder: Path, tmp_path: Path, attention: dict[str, np.ndarray]):
    path = tmp_path / checkpoint.ATTENTION
    path.parent.mkdir(parents=True)
    save_file(attention, path)
    return load(folder, tmp_path)


WRONG = [
    without_attention_file,
    up_blocks_backwards,
    mid_block_before_the_up_blocks,
    cross_attention_removed_whole,
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda pipeline: pipeline.__name__)
def test_in_a_wrong_pipeline_the_scores_collapse(wrong, pairs, folder, tmp_path):
    scores = score(wrong(folder, tmp_path), pairs[:ENOUGH])
    assert scores["ciede2000"] > 12
    assert scores["nearest_of_ten"] <= 0.5
