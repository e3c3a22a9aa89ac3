"""The demo checkpoint, and what its weights can do that only a correct pipeline does."""

import hashlib
import json
import sys
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from comfyui_tryon.catvton.checkpoint import load_pipeline
from comfyui_tryon.demo import checkpoint
from comfyui_tryon.demo.drawing import UPPER, draw_pair
from comfyui_tryon.masker.segformer import SegformerMasker
from safetensors.numpy import load_file, save_file

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))

import evaluate

STEPS = 8


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
    (tmp_path / checkpoint.MARKER).write_text(json.dumps({"weights": "random", "version": "older"}))
    checkpoint.write(tmp_path)
    assert digests(tmp_path) == before


def test_the_marker_says_what_the_weights_are(folder, tmp_path):
    assert checkpoint.kind(folder) == ("trained" if checkpoint.trained() else "random")
    assert checkpoint.kind(tmp_path) is None


def test_random_values_depend_on_the_name_alone():
    values = checkpoint.random_tensor("unet", "conv_in.weight", (4, 3, 3, 3))
    assert np.array_equal(values, checkpoint.random_tensor("unet", "conv_in.weight", (4, 3, 3, 3)))
    assert not np.array_equal(values, checkpoint.random_tensor("vae", "conv_in.weight", (4, 3, 3, 3)))
    assert hashlib.sha256(values.round(3).tobytes()).hexdigest()[:8] == "4c16aa84"


# What trained weights must do


@pytest.fixture(scope="module")
def pairs():
    if not checkpoint.trained():
        warnings.warn("NO TRAINED DEMO WEIGHTS: their scores are not tested. Run training/train.py.", stacklevel=1)
        pytest.skip("no trained demo weights; run training/train.py")
    drawn = (draw_pair(evaluate.FIRST_SEED + index, 192, 256) for index in range(100))
    return list(islice((pair for pair in drawn if pair.cloth_type == "upper"), evaluate.CHOICES))


@pytest.fixture(scope="module")
def right(pairs, folder):
    return score(load(folder), pairs)


def score(pipeline, pairs) -> dict[str, float]:
    return evaluate.scores(pairs, evaluate.results(pipeline, pairs, num_inference_steps=STEPS, mask_blur=0))


def collapsed(wrong: dict[str, float], right: dict[str, float]) -> bool:
    return wrong["ciede2000"] > 1.5 * right["ciede2000"] and wrong["nearest_of_ten"] < right["nearest_of_ten"]


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


def test_without_the_attention_file_the_scores_collapse(pairs, right, folder, tmp_path):
    unet = load_file(folder / checkpoint.BASE / "unet" / "diffusion_pytorch_model.safetensors")
    path = tmp_path / checkpoint.ATTENTION
    path.parent.mkdir(parents=True)
    save_file({key: unet[name] for key, name in checkpoint.attention_keys(unet).items()}, path)
    assert collapsed(score(load(folder, tmp_path), pairs), right)
