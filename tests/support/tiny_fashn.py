"""Draws the weights of a small FASHN network from a seed, in the published layout."""

import json
import shutil
from pathlib import Path

import torch
from comfyui_tryon.fashn.blocks import Sizes
from comfyui_tryon.fashn.network import FashnNetwork
from safetensors.torch import save_file

from .parity import DATA
from .servers import ROOT

SIZES = Sizes(hidden=64, head=32, patch=6, mlp=256, mixers=2, doubles=2, singles=3)
CANVAS = 144, 96
PUBLISHED = DATA / "fashn/weights"  # tiny pose estimators and a tiny human parser in the published layout


def weights(sizes: Sizes = SIZES, seed: int = 1, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Draws bfloat16 tensors by their published names, on `device`: each kind has a generator of its own.

    Modulations and norms are not what they start a training with, so that a mistake with any of them shows.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in FashnNetwork(sizes).state_dict().items()}
    generator = torch.Generator(device).manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator, device=device)
        if name.endswith(".scale"):
            values = 1 + 0.3 * values
        elif name.endswith(".bias"):
            values *= 0.1
        elif name != "y_embedder.weight":
            values /= shape[1:].numel() ** 0.5
        made[name] = values.to(torch.bfloat16)
    return made | {"patch_mixer_token": torch.zeros(1, 1, 3 * sizes.patch**2, dtype=torch.bfloat16)}


def write(folder: Path, sizes: Sizes = SIZES, device: str = "cpu") -> Path:
    """Writes `folder`/model.safetensors; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(sizes, device=device), folder / "model.safetensors")
    return folder


def write_all(folder: Path, parser: bool = False, sizes: Sizes = SIZES, device: str = "cpu") -> Path:
    """Writes the network, the pose estimator and, if asked for, the human parser into `folder`; returns it."""
    write(folder, sizes, device)
    for name in ["dwpose", *(["human-parser"] if parser else [])]:
        shutil.copytree(PUBLISHED / name, folder / name)
    return folder


def workflow(folder: Path, **inputs: object) -> dict:
    """Returns the bundled workflow with the weights in `folder`, on a small canvas and with few steps."""
    graph = json.loads((ROOT / "workflows/fashn.json").read_text())
    height, width = CANVAS
    graph["4"]["inputs"]["fashn_path"] = str(folder)
    graph["5"]["inputs"] |= {"width": width, "height": height}
    graph["6"]["inputs"] |= {"canvas_width": width, "canvas_height": height, "steps": 2} | inputs
    return graph
