"""Draws the weights of a small FASHN network from a seed, in the published layout."""

from pathlib import Path

import torch
from comfyui_tryon.fashn.blocks import Sizes
from comfyui_tryon.fashn.network import FashnNetwork
from safetensors.torch import save_file

SIZES = Sizes(hidden=64, head=32, patch=6, mlp=256, mixers=2, doubles=2, singles=3)
CANVAS = 144, 96


def weights(sizes: Sizes = SIZES, seed: int = 1) -> dict[str, torch.Tensor]:
    """Makes bfloat16 tensors by their published names. Modulations and norms are not what they start a training with,
    so that a mistake with any of them shows."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in FashnNetwork(sizes).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith(".scale"):
            values = 1 + 0.3 * values
        elif name.endswith(".bias"):
            values *= 0.1
        elif name != "y_embedder.weight":
            values /= shape[1:].numel() ** 0.5
        made[name] = values.to(torch.bfloat16)
    return made | {"patch_mixer_token": torch.zeros(1, 1, 3 * sizes.patch**2, dtype=torch.bfloat16)}


def write(folder: Path, sizes: Sizes = SIZES) -> Path:
    """Writes `folder`/model.safetensors; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(sizes), folder / "model.safetensors")
    return folder
