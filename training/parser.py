"""Trains the demo's parser, a small SegFormer, to label the clothes of drawn people."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from comfyui_tryon.demo import checkpoint
from data import LABELS, some_rows
from run import SEED, Machine, Network, Run

BATCH = 8


@dataclass(frozen=True)
class ParserStage:
    steps: int
    rate: float


ANEW = ParserStage(4300, 1.5e-3)
ONCE_MORE = ParserStage(4500, 7e-4)
MIRRORED = [*range(9), 10, 9, 11, 13, 12, 15, 14, 16, 17]  # ATR's labels with left and right exchanged
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def new_parser() -> Network:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(SEED)
    return SegformerForSemanticSegmentation(SegformerConfig.from_dict(checkpoint.parser_config()))


def train_parser(machine: Machine, parser: Network, stage: ParserStage) -> Network:
    machine = replace(machine, bfloat16=False)
    parser.requires_grad_(True).to(machine.device)
    run = Run(machine, "parser", parser.train(), stage.steps, stage.rate, 0.995)
    mean, std = (torch.tensor(values, device=machine.device).view(3, 1, 1) for values in (MEAN, STD))

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return run.model(pixel_values=(images - mean) / std, labels=labels).loss

    for images, labels in run.batches(partial(some_people, machine)):
        run.update(loss, images, labels)
    return run.averaged()


def some_people(machine: Machine, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images (8, 3, H/2, W/2) in [0, 1] and their labels (8, H/2, W/2).

    They are mirrored, moved, turned, zoomed and in another light, or not.
    """
    rng = np.random.default_rng((machine.seed(step), 2))
    count = machine.part(BATCH)
    chosen = some_rows(machine.pairs, rng, count)[:, ::2, ::2].copy()
    flipped = rng.random(count) < 0.5
    chosen[flipped] = chosen[flipped][:, :, ::-1]
    chosen[flipped, ..., LABELS] = np.take(MIRRORED, chosen[flipped, ..., LABELS])
    planes = torch.from_numpy(chosen).to(machine.device).permute(0, 3, 1, 2).float()
    turn, zoom = rng.uniform(-0.06, 0.06, count), np.exp(rng.uniform(-0.25, 0.2, count))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * zoom
    moved = np.dstack([matrix.transpose(2, 0, 1), rng.uniform(-0.12, 0.12, (count, 2, 1))])
    moved[rng.random(count) < 0.4] = np.eye(3)[:2]

    def on_device(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).float().to(machine.device)

    grid = F.affine_grid(on_device(moved), [count, 3, *planes.shape[2:]], False)
    images = F.grid_sample(planes[:, :3] / 255, grid, "bilinear", "border", False)
    labels = F.grid_sample(planes[:, LABELS:], grid, "nearest", "border", False)[:, 0].long()
    contrast = on_device(np.exp(rng.uniform(-0.25, 0.25, (count, 1, 1, 1))))
    cast = on_device(rng.uniform(-0.06, 0.06, (count, 3, 1, 1)))
    grain = on_device(rng.uniform(0, 0.03, (count, 1, 1, 1)) * rng.standard_normal(images.shape, np.float32))
    return ((images - 0.5) * contrast + 0.5 + cast + grain).clamp(0, 1), labels
