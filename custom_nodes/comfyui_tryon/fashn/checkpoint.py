"""Reads the published weight file into a `FashnNetwork`, strictly: every tensor is used or the file refused."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..masker.checkpoints import REMEDY, CheckpointError, load_weights, reading
from .blocks import Sizes
from .network import FashnNetwork

FILE = "model.safetensors"
UNUSED = "patch_mixer_token"  # a buffer that the published network does not read
LAST_CLASS = 3
LARGEST = 1 << 16  # of any of a network's numbers: what a hostile file may ask for


def load_network(folder: Path, dtype: torch.dtype = torch.float32, compile: bool = False) -> FashnNetwork:
    """Builds the network from `folder`/model.safetensors, on the CPU.

    Its numbers are read from the shapes. Tensors that are stored in `dtype` stay mapped to the file.

    Args:
        folder: in the published layout.
        dtype: float32 or bfloat16.
        compile: compile the blocks with torch.compile, once for every canvas.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit; the message names it.
    """
    file = folder / FILE
    with reading(file):
        weights = load_file(file)
    weights.pop(UNUSED, None)
    sizes = read_sizes({name: tuple(tensor.shape) for name, tensor in weights.items()}, file)
    with torch.device("meta"):
        network = FashnNetwork(sizes).to(dtype)
    load_weights(network, weights, file, dtype)
    if compile:
        network.compile_blocks()
    return network.eval()


def read_sizes(shapes: Mapping[str, tuple[int, ...]], file: Path) -> Sizes:
    """Reads a network's numbers from the shapes of its tensors.

    Raises:
        CheckpointError: a tensor that says one of them is missing, or no network has such numbers.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        found = shapes.get(name)
        if found is None:
            raise CheckpointError(f"{file} is of another network: it lacks {name!r}. {REMEDY}")
        if len(found) != dimensions or not all(0 < side <= LARGEST for side in found):
            raise CheckpointError(f"{file} is of another network: {name!r} is {found}. {REMEDY}")
        return found

    def depth(kind: str) -> int:
        return len({found[1] for name in shapes if (found := re.match(rf"{kind}\.(\d+)\.", name))})

    hidden, _, patch, _ = shape("x_embedder.proj.weight", 4)
    (head,) = shape("single_blocks.0.norm.query_norm.scale", 1)
    wide, _ = shape("single_blocks.0.linear1.weight", 2)
    classes, _ = shape("y_embedder.weight", 2)
    _, frequencies = shape("t_embedder.mlp.in_layer.weight", 2)
    # the eighths of a head that rows and columns turn are pairs of channels
    if hidden % head or head % 32 or wide <= 3 * hidden or frequencies % 2 or classes <= LAST_CLASS:
        raise CheckpointError(
            f"{file} is of another network: {hidden} channels, heads of {head}, {wide} in "
            f"'single_blocks.0.linear1', {frequencies} frequencies and {classes} classes do not go together. {REMEDY}"
        )
    return Sizes(
        hidden=hidden,
        head=head,
        patch=patch,
        mlp=wide - 3 * hidden,
        mixers=depth("x_patch_mixer"),
        doubles=depth("double_blocks"),
        singles=depth("single_blocks"),
        classes=classes,
        frequencies=frequencies,
    )
