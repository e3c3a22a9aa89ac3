"""One model's training: where it computes, its averaged weights, its loss curve, and the state that it resumes from."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from data import ahead
from PIL import Image, ImageDraw

T = TypeVar("T")
Network = Any  # a torch.nn.Module; mypy would take each of its layers for a Tensor or a Module
SEED = 7
SAY_EVERY, SAVE_EVERY_S = 20, 60


@dataclass(frozen=True)
class Machine:
    """What trains the models, and where it keeps everything but the finished weights.

    Of several processes each computes its part of every batch, with the same weights; the first one saves.
    """

    pairs: Path  # the folder of the drawn pairs, see `data`
    output: Path
    device: torch.device
    bfloat16: bool  # for the UNet, and on a GPU for the VAE
    shards: int  # of drawn pairs, at most
    rank: int = 0
    processes: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def readers(self) -> int:
        """Returns how many threads read batches ahead."""
        return 6 if self.is_gpu else 1

    def seed(self, step: int) -> int:
        """Returns the seed of a step's random numbers: the same whenever it is repeated, and of no other process."""
        return SEED + step * self.processes + self.rank

    def part(self, count: int) -> int:
        """Returns how many of a batch of `count` this process computes."""
        return max(1, count // self.processes)

    def say(self, line: str) -> None:
        if self.leads:
            print(time.strftime("%H:%M:%S"), line, flush=True)


Inputs = tuple[torch.Tensor, ...]
Loss = Callable[..., torch.Tensor]  # of what `Run.computing` makes of the inputs


class Run:
    """Takes `steps`, or as many as fit into `minutes`, and keeps the averages of the weights.

    Several processes cannot have `minutes`: they would not end together.
    """

    def __init__(
        self,
        machine: Machine,
        name: str,
        model: Network,
        steps: int,
        rate: float,
        decay: float,
        optimizer: torch.optim.Optimizer | None = None,
        minutes: float = math.inf,
    ):
        self.machine, self.name, self.model, self.steps, self.decay = machine, name, model, steps, decay
        self.optimizer = optimizer or torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4, capturable=machine.is_gpu
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:  # tensors, which a graph reads anew in every step
            group["lr"] = torch.zeros((), device=machine.device)
        self.average = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
        self.losses: list[float] = []
        self.progress = 0.0  # 1 at the end
        self._recent: list[torch.Tensor] = []  # losses still on the device, which is not to wait for them
        self._seconds, self._limit = 0.0, 60 * minutes
        self._before = self._saved = -math.inf  # until the first step
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Inputs, torch.Tensor]] = {}
        self.path = machine.output / f"{name}.pt"
        if self.path.is_file():
            self._resume(torch.load(self.path, map_location=machine.device))
        weights = model.state_dict()
        self._averaged = [(self.average[key], weights[key]) for key in weights]
        # what computes: on a GPU in bfloat16 a copy in that type, which spares it the conversions of every step
        self.computing = copy.deepcopy(model).to(torch.bfloat16) if machine.is_gpu and machine.bfloat16 else model

    @property
    def step(self) -> int:
        return len(self.losses) + len(self._recent)

    @property
    def is_over(self) -> bool:
        return self.progress == 1

    @property
    def dtype(self) -> torch.dtype:
        """Returns the type of what `computing` takes."""
        return next(self.computing.parameters()).dtype

    def batches(self, make: Callable[[int], T]) -> Iterator[T]:
        """Yields what `make` returns for each step that is left, made ahead, with torch seeded for the step."""
        for batch in ahead(make, range(self.step, self.steps), self.machine.readers):
            if self.is_over:
                return
            torch.manual_seed(self.machine.seed(self.step))
            yield batch

    def update(self, loss: Loss, *inputs: torch.Tensor) -> None:
        """Takes a step for the loss of some inputs. The same function is to do the same with inputs of the same shapes,
        and nothing that waits for the device: a GPU repeats what it did the first time."""
        if self._before == -math.inf:  # what came before, such as the first pairs, was waited for
            self._before = self._saved = time.monotonic()
        warm = min(1.0, (self.step + 1) / 100)
        share = warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"].fill_(rate * share)
        found = self._replayed(loss, inputs) if self.machine.is_gpu else self._stepped(loss, inputs)
        self._average(min(self.decay, (self.step + 1) / (self.step + 10)))
        self._recent.append(found)
        self._advance()

    def averaged(self) -> Network:
        """Returns the model in evaluation mode with the averaged weights, which replace those of the last step."""
        self._graphs.clear()
        self.model.load_state_dict(self.average)
        return self.model.eval().requires_grad_(False)

    def _resume(self, state: dict[str, Any]) -> None:
        self.average, self.losses = state["average"], state["losses"]
        self.progress, self._seconds = state["progress"], state["seconds"]
        if not self.is_over:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])

    def _stepped(self, loss: Loss, inputs: Inputs) -> torch.Tensor:
        self.model.zero_grad(set_to_none=True)
        self.computing.zero_grad(set_to_none=True)
        found = loss(*inputs)
        found.backward()
        if self.computing is not self.model:
            self._take_gradients()
        if self.machine.processes > 1:
            average_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.computing is not self.model:
            with torch.no_grad():
                torch._foreach_copy_([*self.computing.parameters()], [*self.model.parameters()])
        return found.detach()

    def _replayed(self, loss: Loss, inputs: Inputs) -> torch.Tensor:
        """Does the same as `_stepped`, and all of a step's kernels at once: launching them takes a GPU's host longer
        than the GPU needs for them."""
        key = (loss, *(tensor.shape for tensor in inputs))
        if key not in self._graphs:
            kept = tuple(tensor.clone() for tensor in inputs)
            rates = [group["lr"].clone() for group in self.optimizer.param_groups]
            for group in self.optimizer.param_groups:
                group["lr"].zero_()  # the first runs choose kernels, reserve memory and change no weights, only momenta
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._stepped(loss, kept)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            self.model.zero_grad(set_to_none=True)
            self.computing.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others read ahead
                found = self._stepped(loss, kept)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"].copy_(rate)
            self._graphs[key] = graph, kept, found
        graph, kept, found = self._graphs[key]
        for tensor, given in zip(kept, inputs, strict=True):
            tensor.copy_(given)
        graph.replay()
        return found.clone()

    def _take_gradients(self) -> None:
        """Moves the gradients of what computes to the model, as float32."""
        parameters, computing = [*self.model.parameters()], [*self.computing.parameters()]
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        torch._foreach_copy_(gradients, [parameter.grad for parameter in computing])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def _advance(self) -> None:
        now = time.monotonic()
        self._seconds, self._before = self._seconds + now - self._before, now
        self.progress = min(1.0, max(self.step / self.steps, self._seconds / self._limit))
        if self.is_over or self.step % SAY_EVERY == 0:
            self.losses += [loss.item() for loss in self._recent]
            self._recent.clear()
            of = f"{self.step}/{self.steps}" if self._limit == math.inf else f"{self.step} {self.progress:.1%}"
            self.machine.say(f"{self.name} {of} {np.mean(self.losses[-SAY_EVERY:]):.4f}")
            if self.machine.leads and (self.is_over or now > self._saved + SAVE_EVERY_S):
                self._saved = now
                self._save()

    def _average(self, decay: float) -> None:
        moving = [both for both in self._averaged if both[0].is_floating_point()]
        torch._foreach_lerp_([average for average, _ in moving], [weight for _, weight in moving], 1 - decay)
        for average, weight in self._averaged:
            if not average.is_floating_point():
                average.copy_(weight)

    def _save(self) -> None:
        partial = self.path.with_suffix(".part")
        state: dict[str, Any] = {"average": self.average, "losses": self.losses}
        state |= {"progress": self.progress, "seconds": self._seconds}
        if not self.is_over:
            state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, partial)
        partial.rename(self.path)
        plot(self.losses, self.path.with_name(f"{self.name}-loss.png"))


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
