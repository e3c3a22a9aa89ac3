"""The pairs as the UNet is trained on them: encoded by the VAE once, shard by shard, and kept on disk."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from data import GARMENT, PERSON, SHARDS, WORN, load_shard, load_sources, pixels
from run import Machine, Network

PARTS = {"masked": PERSON, "garment": GARMENT, "worn": WORN}
AT_ONCE = 16  # pairs


class Latents:
    """The encoded pairs of the first shards, in 1/reduction of their size, on the machine's device.

    `masked`, `garment` and `worn` are float16 (n, 4, h, w), posterior means, unscaled; `mask` is uint8 (n, 1, h, w) of
    0 and 1; `sources` is int16 (n, h, w), as in `drawing.Pair`. Every other pair is mirrored.
    """

    def __init__(self, machine: Machine, vae: Network, reduction: int) -> None:
        self.machine, self.vae, self.reduction = machine, vae, reduction
        self.shards = 0
        self.tensors: dict[str, torch.Tensor] = {}

    def extend(self, shards: int) -> None:
        """Takes in more shards, `shards` in all; waits until they are drawn."""
        more = [self._load(shard) for shard in range(self.shards, shards)]
        if more:
            known = [self.tensors] if self.tensors else []
            self.tensors = {name: torch.cat([part[name] for part in (*known, *more)]) for name in more[0]}
            self.shards = shards

    def batch(self, count: int) -> dict[str, torch.Tensor]:
        """Returns `count` random pairs, the latents scaled and in float32, the sources as int64."""
        rows = torch.randint(len(self.tensors["mask"]), (count,), device=self.machine.device)
        chosen = {name: tensor[rows] for name, tensor in self.tensors.items()}
        scaled = {name: chosen[name].float() * self.vae.config.scaling_factor for name in PARTS}
        return {**scaled, "mask": chosen["mask"].float(), "sources": chosen["sources"].long()}

    def _load(self, shard: int) -> dict[str, torch.Tensor]:
        folder = self.machine.output / f"latents-{self.reduction}"
        path = folder / f"{shard:03}.pt"
        if self.machine.leads and not path.exists():
            folder.mkdir(exist_ok=True)
            partial = path.with_suffix(".part")
            torch.save(self._encode(shard), partial)
            partial.rename(path)
            self.machine.say(f"{folder.name} {shard + 1}/{SHARDS}")
        while not path.exists():
            time.sleep(1)
        return torch.load(path, map_location=self.machine.device)

    def _encode(self, shard: int) -> dict[str, torch.Tensor]:
        rows = np.array(load_shard(self.machine.pairs, shard))
        sources = reduced(torch.from_numpy(load_sources(self.machine.pairs, shard)), self.reduction)
        rows[1::2], sources[1::2] = rows[1::2, :, ::-1], mirrored(sources[1::2])
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in (*PARTS, "mask")}
        for start in range(0, len(rows), AT_ONCE):
            images, masks = pixels(rows[start : start + AT_ONCE], self.machine.device)
            masks = masks[..., :: self.reduction, :: self.reduction]
            images = F.avg_pool2d(images.flatten(0, 1), self.reduction).unflatten(0, (-1, 3))
            images[:, PERSON] *= 1 - masks
            with torch.no_grad():
                latents = self.vae.encode(images.flatten(0, 1)).latent_dist.mean.unflatten(0, (-1, 3))
            for name, index in PARTS.items():
                parts[name].append(latents[:, index].half())
            parts["mask"].append(masks[..., ::8, ::8].byte())
        return {name: torch.cat(tensors) for name, tensors in parts.items()} | {"sources": sources}


def reduced(sources: torch.Tensor, reduction: int) -> torch.Tensor:
    """The same of images at 1/reduction of their size."""
    width = sources.shape[2]
    sources = sources[:, reduction // 2 :: reduction, reduction // 2 :: reduction]
    cells = sources // width // reduction * (width // reduction) + sources % width // reduction
    return torch.where(sources < 0, sources, cells)


def mirrored(sources: torch.Tensor) -> torch.Tensor:
    sources, width = sources.flip(-1), sources.shape[2]
    return torch.where(sources < 0, sources, sources // width * width + width - 1 - sources % width)
