"""One model's training: where it computes, its averaged weights, its loss curve, and the state that it resumes from."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from PIL import Image, ImageDraw

Network = Any  # a torch.nn.Module; mypy would take each of its layers for a Tensor or a Module
SEED = 7
SAY_EVERY, SAVE_EVERY = 20, 100


@dataclass(frozen=True)
class Machine:
    """What trains the models, and where it keeps everything but the finished weights.

    Of several processes each computes its part of every batch, with the same weights; the first one saves.
    """

    pairs: Path  # the folder of the drawn pairs, see `data`
    output: Path
    device: torch.device
    bfloat16: bool  # for the UNet
    rank: int = 0
    processes: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def seed(self, step: int) -> int:
        """Returns the seed of a step's random numbers: the same whenever it is repeated, and of no other process."""
        return SEED + step * self.processes + self.rank

    def part(self, count: int) -> int:
        """Returns how many of a batch of `count` this process computes."""
        return max(1, count // self.processes)

    def say(self, line: str) -> None:
        if self.leads:
            print(time.strftime("%H:%M:%S"), line, flush=True)


class Run:
    def __init__(
        self,
        machine: Machine,
        name: str,
        model: Network,
        steps: int,
        rate: float,
        decay: float,
        optimizer: torch.optim.Optimizer | None = None,
    ):
        self.machine, self.name, self.model, self.steps, self.decay = machine, name, model, steps, decay
        self.optimizer = optimizer or torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
        self.losses: list[float] = []
        self._recent: list[torch.Tensor] = []  # losses still on the device, which is not to wait for them
        self.path = machine.output / f"{name}.pt"
        if self.path.is_file():
            state = torch.load(self.path, map_location=machine.device)
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.losses = state["average"], state["losses"]

    @property
    def step(self) -> int:
        return len(self.losses) + len(self._recent)

    def update(self, loss: torch.Tensor) -> None:
        warm = min(1.0, (self.step + 1) / 100)
        share = warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.step / self.steps)))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.machine.processes > 1:
            average_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._average(min(self.decay, (self.step + 1) / (self.step + 10)))
        self._recent.append(loss.detach())
        last = self.step == self.steps
        if last or self.step % SAY_EVERY == 0:
            self._collect()
            self.machine.say(f"{self.name} {self.step}/{self.steps} {np.mean(self.losses[-SAY_EVERY:]):.4f}")
        if self.machine.leads and (last or self.step % SAVE_EVERY == 0):
            self._collect()
            self._save()

    def _collect(self) -> None:
        self.losses += [loss.item() for loss in self._recent]
        self._recent.clear()

    def _average(self, decay: float) -> None:
        with torch.no_grad():
            weights = self.model.state_dict()
            moving = [key for key, tensor in weights.items() if tensor.is_floating_point()]
            torch._foreach_lerp_([self.average[key] for key in moving], [weights[key] for key in moving], 1 - decay)
            for key in weights.keys() - set(moving):
                self.average[key].copy_(weights[key])

    def _save(self) -> None:
        partial = self.path.with_suffix(".part")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"average": self.average, "losses": self.losses}, partial)
        partial.rename(self.path)
        plot(self.losses, self.path.with_name(f"{self.name}-loss.png"))

    def averaged(self) -> Network:
        """Returns the model in evaluation mode with the averaged weights, which replace those of the last step."""
        self.model.load_state_dict(self.average)
        return self.model.eval().requires_grad_(False)


def average_gradients(model: Network) -> None:
    """Replaces the gradients by their means over all processes."""
    gradients = [parameter.grad for parameter in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def plot(losses: list[float], path: Path, width: int = 720, height: int = 320) -> None:
    """The loss on a logarithmic scale, averaged over 1/100 of the run."""
    values = np.log10(np.convolve(losses, np.ones(n := max(1, len(losses) // 100)) / n, "valid"))
    low, high = values.min(), values.max() + 1e-6
    x = np.linspace(50, width - 10, len(values))
    y = 10 + (high - values) / (high - low + 1e-6) * (height - 40)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.line(np.stack([x, y], -1).ravel().tolist(), fill=(54, 120, 210), width=2)
    for level in (low, (low + high) / 2, high):
        draw.text((4, 4 + (high - level) / (high - low + 1e-6) * (height - 40)), f"{10**level:.4f}", fill="black")
    draw.text((50, height - 18), f"{len(losses)} steps", fill="black")
    picture.save(path)
