"""Writes the small demo checkpoint in the layout of the published weight files.

`training/train.py` made the weights in `weights/`. Imports neither torch nor diffusers, so that the quick start loads
them once, in the server.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

WEIGHTS = Path(__file__).parent / "weights"
BASE, VAE, CATVTON = "stable-diffusion-inpainting", "sd-vae-ft-mse", "CatVTON"
ATTENTION = "mix-48k-1024/attention/model.safetensors"
PARSER = "segformer_b2_clothes"
MARKER = "demo.json"
LAYOUT = 3  # counts changes of what `write` writes, so that older folders are written again

# One width at all levels, unlike the published UNet: attention in a wrong order then fits, and the images show it. One
# level more, whose attention is in its up block alone: what is copied from the garment is 8 pixels fine, and 384 x 512
# pixels take seconds on two cores.
UNET_CONFIG = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 9,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 4],
    "block_out_channels": [96] * 5,
    "layers_per_block": [1, 2, 2, 2, 2],
    "norm_num_groups": 24,
    "attention_head_dim": 1,
    "cross_attention_dim": 16,
}
VAE_CONFIG = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 64, 128, 128],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 256,
    "scaling_factor": 0.18215,
}
SCHEDULER_CONFIG = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "trained_betas": None,
}
PARSER_SIZE = {"height": 256, "width": 192}
NOTE = """\
Small demo weights in the layout of CatVTON's published files, written by `comfyui_tryon.demo.checkpoint`.
Trained by this project on images that this project draws (training/train.py).
They derive from no other weights and from no photographs, and carry the project's own licence.
"""


def write(folder: Path) -> Path:
    """Write the demo checkpoint into `folder` unless it is already there; returns `folder`.

    Makes `stable-diffusion-inpainting/{unet,scheduler}`, `sd-vae-ft-mse`, `CatVTON/mix-48k-1024/attention` and the
    parser `segformer_b2_clothes`, all float32; a licence note; and `demo.json`: {"version": a hash of their sources}.
    The base UNet holds untrained attention, as the published one does: without the attention file nothing dresses.
    """
    marker = json.dumps({"version": version()})
    path = folder / MARKER
    if path.is_file() and path.read_text() == marker:
        return folder
    path.unlink(missing_ok=True)
    unet, attention = _load("unet"), _load("attention")
    _save(folder / BASE / "unet", UNET_CONFIG, unet | _untrained(unet, attention))
    _save(folder / VAE, VAE_CONFIG, _load("vae"))
    _save_json(folder / BASE / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    _save_tensors(folder / CATVTON / ATTENTION, attention)
    _save_tensors(folder / PARSER / "model.safetensors", _load("parser"))
    _save_json(folder / PARSER / "config.json", parser_config())
    _save_json(folder / PARSER / "preprocessor_config.json", {"size": PARSER_SIZE})
    (folder / "LICENSE").write_text(NOTE)
    path.write_text(marker)
    return folder


def is_demo(folder: Path) -> bool:
    """Returns whether `write` made the files in `folder`."""
    return (folder / MARKER).is_file()


def parser_config() -> dict:
    """Returns the config.json of the demo parser, with ATR's labels."""
    return json.loads((WEIGHTS / "parser.json").read_text())


def attention_keys(names: Iterable[str]) -> dict[str, str]:
    """Maps the keys of the published attention file (integers 8 apart: down, up, mid) to the UNet's names, 18 x 5."""
    order = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
    split = {name: name.split(".attn1.") for name in names if ".attn1." in name}

    def rank(block: str) -> tuple[int, list[int]]:
        parts = block.split(".")
        return order[parts[0]], [int(part) for part in parts if part.isdigit()]

    blocks = sorted({block for block, _ in split.values()}, key=rank)
    return {f"{8 * blocks.index(block)}.{tensor}": name for name, (block, tensor) in split.items()}


def _untrained(unet: dict[str, np.ndarray], attention: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns random self- and cross-attention for a UNet without any."""
    norms = [name for name in unet if ".transformer_blocks." in name and name.endswith(".norm1.weight")]
    blocks = [name.removesuffix("norm1.weight") for name in norms]
    tensors = {key.partition(".")[2] for key in attention}
    keys = attention_keys(f"{block}attn1.{tensor}" for block in blocks for tensor in tensors)
    shapes = {name: attention[key].shape for key, name in keys.items()}
    for name, shape in list(shapes.items()):
        from_text = name.endswith(("to_k.weight", "to_v.weight"))
        width = (shape[0], UNET_CONFIG["cross_attention_dim"]) if from_text else shape
        shapes[name.replace(".attn1.", ".attn2.")] = width
    return {name: _random_tensor(name, shape) for name, shape in shapes.items()}


def _random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 values that depend on nothing but the name: biases 0, weights normal / sqrt(fan in)."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))


def version() -> str:
    """Returns a hash of all that `write` makes its files of."""
    digest = hashlib.sha256(json.dumps([LAYOUT, UNET_CONFIG, VAE_CONFIG, SCHEDULER_CONFIG]).encode())
    for path in sorted(WEIGHTS.glob("*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _load(name: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    tensors = load_file(WEIGHTS / f"{name}.safetensors").items()
    return {key: tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor for key, tensor in tensors}


def _save(folder: Path, config: dict, tensors: dict[str, np.ndarray]) -> None:
    _save_tensors(folder / "diffusion_pytorch_model.safetensors", tensors)
    _save_json(folder / "config.json", config)


def _save_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))


def _save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    # save_file's errors, as of a full disk, are no OSErrors
    path.write_bytes(save({name: np.array(tensor, order="C") for name, tensor in tensors.items()}, {"format": "pt"}))
