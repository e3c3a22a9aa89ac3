"""Trains the VAE's decoder once more, in the end: on what the UNet makes, which is softer than what the VAE encodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from data import GARMENT, PERSON, WORN, load_shard, pixels
from latents import Latents
from run import Machine, Network, Run
from unet import sampled
from vae import LATENT_NOISE, difference


@dataclass(frozen=True)
class DecoderStage:
    steps: int
    batch: int
    shards: int  # of which the UNet dresses the people
    rate: float
    minutes: float = math.inf


ON_CPU = DecoderStage(1200, 4, 4, 1e-3)
ON_GPU = DecoderStage(6000, 16, 24, 1e-3, minutes=0.8)
OUTSIDE = 0.1  # weight of what is not in the mask, which nobody sees of what the UNet makes


def train_decoder(machine: Machine, vae: Network, unet: Network) -> None:
    """Trains the decoder on whole images: the latents, and so the UNet, stay as they are."""
    stage = ON_GPU if machine.is_gpu else ON_CPU
    decoder = torch.nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
    run = Run(machine, "decoder", decoder.requires_grad_(True), stage.steps, stage.rate, 0.998, minutes=stage.minutes)
    if not run.is_over:
        latents = Latents(machine, vae.config.scaling_factor, 1)
        results = [dressed(machine, unet, latents, shard) for shard in range(min(stage.shards, latents.shards))]

        def loss(made: torch.Tensor, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            half = len(made)
            people, others = images.tensor_split([half])
            with torch.no_grad():
                encoded = vae.encode(others).latent_dist.mean
            encoded = encoded + LATENT_NOISE / vae.config.scaling_factor * torch.randn_like(encoded)
            both = run.computing["post_quant_conv"](torch.cat([made, encoded]).to(run.dtype))
            rebuilt, others_rebuilt = run.computing["decoder"](both).float().tensor_split([half])
            seen = OUTSIDE + (1 - OUTSIDE) * masks[:half]
            return difference(people * seen, rebuilt * seen) + difference(others, others_rebuilt)

        for shard, rows, images, masks in run.batches(partial(wholes, machine, stage, len(results))):
            made = results[shard][rows[: len(rows) // 2]].float()
            run.update(loss, made, images, masks)
    run.averaged()


def dressed(machine: Machine, unet: Network, latents: Latents, shard: int) -> torch.Tensor:
    """Returns the latents that the UNet makes of a shard's pairs, float16 (pairs, 4, h, w), unscaled."""
    torch.manual_seed(machine.seed(shard))
    pairs = latents.scaled(latents.shard(shard))
    made = []
    with torch.no_grad(), torch.autocast(machine.device.type, torch.float16, enabled=machine.is_gpu):
        for first in range(0, len(pairs["mask"]), at_once := 64 if machine.is_gpu else 4):
            few = {name: tensor[first : first + at_once] for name, tensor in pairs.items()}
            made.append(sampled(unet, few).half())
    return torch.cat(made) / latents.scaling_factor


def wholes(
    machine: Machine, stage: DecoderStage, shards: int, step: int
) -> tuple[int, np.ndarray, torch.Tensor, torch.Tensor]:
    """Returns a shard, some of its rows, their images (n, 3, H, W) in [-1, 1] and masks (n, 1, H, W).

    They are mirrored as the latents are, and mostly of people who wear the garment; those of the first half all are.
    """
    rng = np.random.default_rng((machine.seed(step), 1))
    shard, number = int(rng.integers(shards)), max(2, machine.part(stage.batch))
    drawn = load_shard(machine.pairs, shard)
    rows = rng.choice(len(drawn), number, replace=False)
    chosen = np.array(drawn[rows])
    mirrored = rows % 2 == 1
    chosen[mirrored] = chosen[mirrored][:, :, ::-1]
    images, masks = pixels(chosen, machine.device)
    part = rng.choice([PERSON, GARMENT, WORN], number, p=[0.2, 0.3, 0.5])
    part[: number // 2] = WORN
    return shard, rows, images[range(number), part], masks
