"""The pairs as the UNet is trained on them: encoded by the VAE once, shard by shard, and kept on disk."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from data import GARMENT, PERSON, WORN, load_shard, load_sources, pixels
from run import Machine, Network
from vae import trained_vae

PARTS = {"masked": PERSON, "garment": GARMENT, "worn": WORN}
REDUCTIONS = 1, 2
AT_ONCE = 2  # pairs, on a CPU; more take longer
MANY_AT_ONCE = 16
ENCODER = "encoder"  # name of a process

Shard = dict[str, torch.Tensor]


class Latents:
    """The encoded pairs in 1/reduction of their size, on the machine's device: those that are ready.

    `masked`, `garment` and `worn` are float16 (n, 4, h, w), posterior means, unscaled; `mask` is uint8 (n, 1, h, w) of
    0 and 1; `sources` is int16 (n, h, w), as in `drawing.Pair`. Every other pair is mirrored.
    """

    def __init__(self, machine: Machine, scaling_factor: float, reduction: int) -> None:
        self.machine, self.scaling_factor, self.reduction = machine, scaling_factor, reduction
        self.shards = 0
        self.tensors: Shard = {}
        self.extend()
        while not self.shards:
            is_coming = not machine.leads or is_encoding()  # asked before: it ends when it has written all
            time.sleep(0.1)
            self.extend()
            if not self.shards and not is_coming:
                raise RuntimeError("The process that encodes the pairs ended; look above for the reason.")

    def extend(self) -> None:
        """Takes in the shards that have become ready."""
        more = []
        while (path := shard_path(self.machine, self.shards + len(more))).exists():
            more.append(torch.load(path, map_location=self.machine.device)[self.reduction])
        if more:
            parts = [self.tensors, *more] if self.tensors else more
            self.tensors = {name: torch.cat([part[name] for part in parts]) for name in more[0]}
            self.shards += len(more)

    def shard(self, number: int) -> Shard:
        """Returns the pairs of one of the shards, which are of one size."""
        size = len(self.tensors["mask"]) // self.shards
        return {name: tensor[number * size : (number + 1) * size] for name, tensor in self.tensors.items()}

    def batch(self, count: int) -> dict[str, torch.Tensor]:
        """Returns `count` random pairs, the latents scaled and in float32, the sources as int64."""
        rows = torch.randint(len(self.tensors["mask"]), (count,), device=self.machine.device)
        return self.scaled({name: tensor[rows] for name, tensor in self.tensors.items()})

    def scaled(self, shard: Shard) -> dict[str, torch.Tensor]:
        """Returns pairs as the UNet takes them: the latents scaled and in float32, the sources as int64."""
        latents = {name: shard[name].float() * self.scaling_factor for name in PARTS}
        return {**latents, "mask": shard["mask"].float(), "sources": shard["sources"].long()}


def is_encoding() -> bool:
    return any(child.name == ENCODER for child in multiprocessing.active_children())


def start_encoding(machine: Machine) -> None:
    """Encodes the shards in a process that ends with this one: each as soon as it is drawn and the VAE is ready."""
    if machine.leads:
        spawn = multiprocessing.get_context("spawn")
        spawn.Process(target=encode_shards, args=(machine,), name=ENCODER, daemon=True).start()


def encode_shards(machine: Machine) -> None:
    torch.set_num_threads(1)
    while (vae := trained_vae(machine)) is None:
        time.sleep(1)
    if not machine.is_gpu:
        vae.to(memory_format=torch.channels_last)
    for shard in range(machine.shards):
        path = shard_path(machine, shard)
        if path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".part")
        torch.save(encoded(machine, vae, shard), partial)
        partial.rename(path)


def encoded(machine: Machine, vae: Network, shard: int) -> dict[int, Shard]:
    """Returns a shard for each of the reductions; waits until it is drawn."""
    # float16 has three bits more, bfloat16 is what CPUs compute fast
    lower, enabled = (torch.float16, True) if machine.is_gpu else (torch.bfloat16, machine.bfloat16)
    rows = np.array(load_shard(machine.pairs, shard))
    sources = torch.from_numpy(load_sources(machine.pairs, shard))
    rows[1::2], sources[1::2] = rows[1::2, :, ::-1], mirrored(sources[1::2])
    made: dict[int, Shard] = {}
    at_once = MANY_AT_ONCE if machine.is_gpu else AT_ONCE
    for reduction in REDUCTIONS:
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in (*PARTS, "mask")}
        for start in range(0, len(rows), at_once):
            images, masks = pixels(rows[start : start + at_once], machine.device)
            masks = masks[..., ::reduction, ::reduction]
            images = F.avg_pool2d(images.flatten(0, 1), reduction).unflatten(0, (-1, 3))
            images[:, PERSON] *= 1 - masks
            with torch.no_grad(), torch.autocast(machine.device.type, lower, enabled=enabled):
                latents = vae.encode(images.flatten(0, 1)).latent_dist.mean.unflatten(0, (-1, 3))
            for name, index in PARTS.items():
                parts[name].append(latents[:, index].half().cpu())
            parts["mask"].append(masks[..., ::8, ::8].byte().cpu())
        made[reduction] = {name: torch.cat(tensors) for name, tensors in parts.items()}
        made[reduction]["sources"] = reduced(sources, reduction)
    return made


def shard_path(machine: Machine, shard: int) -> Path:
    return machine.output / "latents" / f"{shard:03}.pt"


def reduced(sources: torch.Tensor, reduction: int) -> torch.Tensor:
    """The same of images at 1/reduction of their size."""
    width = sources.shape[2]
    sources = sources[:, reduction // 2 :: reduction, reduction // 2 :: reduction]
    cells = sources // width // reduction * (width // reduction) + sources % width // reduction
    return torch.where(sources < 0, sources, cells)


def mirrored(sources: torch.Tensor) -> torch.Tensor:
    sources, width = sources.flip(-1), sources.shape[2]
    return torch.where(sources < 0, sources, sources // width * width + width - 1 - sources % width)
