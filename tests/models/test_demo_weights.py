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
from PIL import Image
from safetensors.numpy import load_file, save_file
from scores import scores

SIZE = 384, 512
STEPS = 3  # are enough to tell right from wrong
PAIRS, ENOUGH = 4, 2  # that the right pipeline samples, and a wrong one
CHOICES = 8  # of which the nearest is looked for
LARGEST = 40_000_000  # bytes of all files together

# What the right pipeline reaches on so few pairs and in so few steps: at least, and at most
SSIM, PSNR, NEAREST = 0.82, 22.5, 1.0
CIEDE2000, HALO = 3.0, 1.4
# What a wrong one loses of it, at least, and what it comes to
LOST_SSIM, LOST_PSNR = 0.15, 4.0
WRONG_CIEDE2000, WRONG_NEAREST = 20.0, 0.5
GUIDED, LOST_BY_GUIDANCE = 2.5, 1.0  # dB; these weights do best without

# the attention file's numbers of the down blocks, the up blocks and the mid block
DOWN, UP, MID = range(0, 48, 8), range(48, 136, 8), 136


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
    assert len(attention) == 90
    assert {int(key.split(".")[0]) for key in attention} == {*DOWN, *UP, MID}
    unet = load_file(folder / checkpoint.BASE / "unet" / "diffusion_pytorch_model.safetensors")
    keys = checkpoint.attention_keys(unet)
    assert keys["0.to_q.weight"] == "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert keys["48.to_q.weight"] == "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert keys["136.to_q.weight"] == "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
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
    assert sum(path.stat().st_size for path in checkpoint.WEIGHTS.glob("*.safetensors")) <= LARGEST


# What the weights must do


@pytest.fixture(scope="module")
def pairs():
    """Pairs of one cloth type, so that a garment's outline gives nothing away."""
    drawn = (draw_pair(seed, *SIZE) for seed in range(evaluate.FIRST_SEED, evaluate.FIRST_SEED + 100))
    return list(islice((pair for pair in drawn if pair.cloth_type == "upper"), CHOICES))


@pytest.fixture(scope="module")
def right(pairs, folder):
    return results(load(folder), pairs[:PAIRS])


def results(pipeline, pairs, **changed) -> list[Image.Image]:
    options, feather = evaluate.demo_options()
    options |= {"width": SIZE[0], "height": SIZE[1], "num_inference_steps": STEPS, **changed}
    return evaluate.results(pipeline, pairs, feather, **options)


def test_the_garment_arrives(pairs, right):
    got = scores(pairs, right)
    assert got["ssim"] >= SSIM
    assert got["psnr"] >= PSNR
    assert got["ciede2000"] <= CIEDE2000
    assert got["nearest"] >= NEAREST
    assert got["halo"] <= HALO


def test_guidance_is_not_ignored(pairs, right, folder):
    """A pipeline that takes no notice of the scale makes what it makes at 1, where there is no guidance."""
    guided = scores(pairs, results(load(folder), pairs[:ENOUGH], guidance_scale=GUIDED))
    assert guided["psnr"] <= scores(pairs, right[:ENOUGH])["psnr"] - LOST_BY_GUIDANCE


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
def test_in_a_wrong_pipeline_the_scores_collapse(wrong, pairs, right, folder, tmp_path):
    got = scores(pairs, results(wrong(folder, tmp_path), pairs[:ENOUGH]))
    best = scores(pairs, right[:ENOUGH])
    assert got["ssim"] <= best["ssim"] - LOST_SSIM
    assert got["psnr"] <= best["psnr"] - LOST_PSNR
    assert got["ciede2000"] >= WRONG_CIEDE2000
    assert got["nearest"] <= WRONG_NEAREST
