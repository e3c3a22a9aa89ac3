"""The demo's small checkpoint, in the layout of the published weight files.

Where this package holds trained weights (`weights/*.safetensors`, made by `training/train.py`), those are written out;
without them the weights are random and only prove the path from request to picture.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

WEIGHTS = Path(__file__).parent / "weights"
BASE, VAE, CATVTON = "stable-diffusion-inpainting", "sd-vae-ft-mse", "CatVTON"
ATTENTION = "mix-48k-1024/attention/model.safetensors"
PARSER = "segformer_b2_clothes"
MARKER = "demo.json"
LAYOUT = 2  # counts changes of what `write` writes, so that older folders are written again

UNET_CONFIG = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 32,
    "in_channels": 9,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [32, 64, 80, 80],
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "attention_head_dim": [1, 2, 4, 4],
    "cross_attention_dim": 16,
}
VAE_CONFIG = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
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
PARSER_CONFIG = {
    "model_type": "segformer",
    "architectures": ["SegformerForSemanticSegmentation"],
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 32, 64, 96],
    "num_attention_heads": [1, 2, 4, 6],
    "decoder_hidden_size": 64,
    "drop_path_rate": 0.0,
    "classifier_dropout_prob": 0.0,
}
NOTE = """\
Small demo weights in the layout of CatVTON's published files, written by `comfyui_tryon.demo.checkpoint`.
They are {kind}.
They derive from no other weights and from no photographs, and carry the project's own licence.
"""
KINDS = {
    "random": "random numbers: they prove the path from request to picture and make noise",
    "trained": "trained by this project on pictures that this project draws (training/train.py)",
}


def write(folder: Path) -> Path:
    """Write the demo checkpoint into `folder` unless it is already there; returns `folder`.

    Makes `stable-diffusion-inpainting/{unet,scheduler}`, `sd-vae-ft-mse`, `CatVTON/mix-48k-1024/attention` and, where
    trained, the parser `segformer_b2_clothes`, all float32; a licence note; and `demo.json`: {"weights": "random" or
    "trained", "version": a hash of their sources}.
    The base UNet holds untrained self-attention, as the published one does: without the attention file nothing dresses.
    """
    marker = {"weights": "trained" if trained() else "random", "version": _version()}
    path = folder / MARKER
    if path.is_file() and path.read_text() == json.dumps(marker):
        return folder
    path.unlink(missing_ok=True)
    unet_shapes, vae_shapes = _shapes()
    unet = {name: random_tensor("unet", name, shape) for name, shape in unet_shapes.items()}
    if trained():
        unet |= _load("unet")
        attention = _load("attention")
        vae = _load("vae")
        _write_parser(folder / PARSER)
    else:
        keys = attention_keys(unet_shapes)
        attention = {key: random_tensor("attention", key, unet_shapes[name]) for key, name in keys.items()}
        vae = {name: random_tensor("vae", name, shape) for name, shape in vae_shapes.items()}

    _save(folder / BASE / "unet", UNET_CONFIG, unet)
    _save(folder / VAE, VAE_CONFIG, vae)
    (folder / BASE / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / BASE / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER_CONFIG, indent=2))
    _save_tensors(folder / CATVTON / ATTENTION, attention)
    (folder / "LICENSE").write_text(NOTE.format(kind=KINDS[marker["weights"]]))
    path.write_text(json.dumps(marker))
    return folder


def kind(folder: Path) -> str | None:
    """"random" or "trained" for a folder that `write` made, None for any other."""
    try:
        return json.loads((folder / MARKER).read_text())["weights"]
    except FileNotFoundError:
        return None


def trained() -> bool:
    """Whether this package holds trained weights."""
    return all((WEIGHTS / f"{name}.safetensors").is_file() for name in ("unet", "attention", "vae", "parser"))


def parser_config() -> dict:
    """The demo parser's config.json, with ATR's labels."""
    from ..masker.agnostic import ATR_LABELS

    labels = {str(index): label for index, label in enumerate(ATR_LABELS)}
    return PARSER_CONFIG | {"id2label": labels, "label2id": {label: int(index) for index, label in labels.items()}}


def random_tensor(model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values that depend on nothing but the names: norms are 1, biases 0, weights normal / sqrt(fan in)."""
    if len(shape) == 1:
        return np.full(shape, 1.0 if "norm" in name and name.endswith("weight") else 0.0, np.float32)
    seed = int.from_bytes(hashlib.sha256(f"{model}.{name}".encode()).digest()[:8], "big")
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return values / np.float32(np.sqrt(np.prod(shape[1:])))


def attention_keys(names: list[str] | dict) -> dict[str, str]:
    """The published attention file's keys (integers 8 apart: down, up, mid) to the UNet's names, 16 x 5 tensors."""
    order = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
    split = {name: name.split(".attn1.") for name in names if ".attn1." in name}

    def rank(block: str) -> tuple[int, list[int]]:
        parts = block.split(".")
        return order[parts[0]], [int(part) for part in parts if part.isdigit()]

    blocks = sorted({block for block, _ in split.values()}, key=rank)
    return {f"{8 * blocks.index(block)}.{tensor}": name for name, (block, tensor) in split.items()}


def _shapes() -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        models = UNet2DConditionModel.from_config(UNET_CONFIG), AutoencoderKL.from_config(VAE_CONFIG)
    return tuple({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} for model in models)


def _version() -> str:
    digest = hashlib.sha256(json.dumps([LAYOUT, UNET_CONFIG, VAE_CONFIG, SCHEDULER_CONFIG]).encode())
    for path in sorted(WEIGHTS.glob("*")) if trained() else []:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _load(name: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    tensors = load_file(WEIGHTS / f"{name}.safetensors").items()
    return {key: tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor for key, tensor in tensors}


def _write_parser(folder: Path) -> None:
    _save_tensors(folder / "model.safetensors", _load("parser"))
    (folder / "config.json").write_text(json.dumps(parser_config(), indent=2))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": PARSER_SIZE}))


def _save(folder: Path, config: dict, tensors: dict[str, np.ndarray]) -> None:
    _save_tensors(folder / "diffusion_pytorch_model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.array(tensor, order="C") for name, tensor in tensors.items()}, path, {"format": "pt"})
