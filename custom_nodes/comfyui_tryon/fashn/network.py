"""The network of FASHN VTON v1.5: a transformer over the patches of two images, the person's and the garment's.

Names of modules are those of the published file's keys.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import DoubleBlock, Modulation, Projection, SingleBlock, Sizes, modulated

COLOURS, PERSON_CHANNELS, GARMENT_CHANNELS = 3, 7, 4
THETA = 10_000.0  # of the angles of times and of positions
TIME_SCALE = 1000

Check = Callable[[], None]


class FashnNetwork(nn.Module):
    """Predicts the velocity from noise to the dressed person.

    What does not change over the steps of a run is computed once: `modulations`, `garment_tokens` and `rotary`.
    """

    def __init__(self, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.sizes = sizes
        self.t_embedder = _TimeEmbedder(sizes)
        self.y_embedder = nn.Embedding(sizes.classes, sizes.hidden)
        self.x_embedder = _PatchEmbedder(PERSON_CHANNELS, sizes)
        self.garment_embedder = _PatchEmbedder(GARMENT_CHANNELS, sizes)
        self.x_patch_mixer = nn.ModuleList(SingleBlock(sizes) for _ in range(sizes.mixers))
        self.double_blocks = nn.ModuleList(DoubleBlock(sizes) for _ in range(sizes.doubles))
        self.single_blocks = nn.ModuleList(SingleBlock(sizes) for _ in range(sizes.singles))
        self.final_layer = _FinalLayer(sizes)

    def compile_blocks(self) -> None:
        """Compiles the blocks instead of the whole: those of a kind share one compilation, which takes seconds, and a
        run can be canceled between them."""
        for block in (*self.x_patch_mixer, *self.double_blocks, *self.single_blocks):
            block.compile(dynamic=False)

    def modulations(self, times: torch.Tensor, categories: torch.Tensor) -> list[dict[str, Modulation]]:
        """Computes the modulations of all layers, for each step.

        Args:
            times: in the network's dtype (S,), from 0, noise, to 1.
            categories: int64 (B,), 0 for none.

        Returns:
            For each of S steps, a modulation by layer name, whose rows are those of `categories`.
        """
        embedded = self.t_embedder(times)
        condition = F.silu(embedded[:, None] + self.y_embedder(categories)).flatten(0, 1)
        steps: list[dict[str, Modulation]] = [{} for _ in times]
        for name, module in self.named_modules():
            if isinstance(module, Projection):
                parts = module(condition).unflatten(0, (len(times), len(categories)))
                for step, values in zip(steps, parts.unbind()):
                    step[name.rpartition(".")[0]] = tuple(values[:, None].chunk(module.parts, dim=-1))
        return steps

    def garment_tokens(self, garment: torch.Tensor) -> torch.Tensor:
        """Embeds the garment and its pose, (B, 4, H, W); returns (B, tokens, hidden)."""
        return self.garment_embedder(garment)

    def rotary(self, height: int, width: int) -> torch.Tensor:
        """Returns cosine and sine of a canvas' positions, float32 (tokens, head / 2, 2) on the CPU, row after row."""
        rows, columns = height // self.sizes.patch, width // self.sizes.patch
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        angles = []
        for width_of_axis, position in zip(self.sizes.axes, (torch.zeros_like(row), row, column)):
            exponent = torch.arange(0, width_of_axis, 2, dtype=torch.float64) / width_of_axis
            angles.append(position.flatten()[:, None] * THETA**-exponent)
        whole = torch.cat(angles, dim=1)
        return torch.stack([whole.cos(), whole.sin()], dim=-1).float()

    def forward(
        self,
        person: torch.Tensor,
        garment_tokens: torch.Tensor,
        modulations: dict[str, Modulation],
        rotary: torch.Tensor,
        check: Check = lambda: None,
    ) -> torch.Tensor:
        """Predicts the velocity.

        Args:
            person: (B, 7, H, W): the noisy image, the agnostic image and the pose, in [-1, 1].
            garment_tokens: of `garment_tokens`, (B, tokens, hidden).
            modulations: of this step, as `modulations` returns them.
            rotary: of `rotary`.
            check: called before each block; what it raises ends the call.

        Returns:
            (B, 3, H, W) in the network's dtype.
        """
        both = torch.cat([rotary, rotary])
        tokens, garment = self.x_embedder(person), garment_tokens
        for number, block in enumerate(self.x_patch_mixer):
            check()
            tokens = block(tokens, modulations[f"x_patch_mixer.{number}.modulation"], rotary)
        for number, block in enumerate(self.double_blocks):
            check()
            name = f"double_blocks.{number}"
            person_parts, garment_parts = modulations[f"{name}.img_mod"], modulations[f"{name}.txt_mod"]
            tokens, garment = block(tokens, garment, person_parts, garment_parts, both)
        count, last = tokens.shape[1], len(self.single_blocks) - 1
        tokens = torch.cat([garment, tokens], dim=1)
        for number, block in enumerate(self.single_blocks):
            check()
            # nothing reads the garment's tokens after the last block
            parts = modulations[f"single_blocks.{number}.modulation"]
            tokens = block(tokens, parts, both, count if number == last else None)
        check()
        tokens = self.final_layer(tokens[:, -count:], modulations["final_layer.adaLN_modulation"])
        return self._to_pixels(tokens, *person.shape[-2:])

    def _to_pixels(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        patch = self.sizes.patch
        grid = tokens.unflatten(2, (COLOURS, patch, patch)).unflatten(1, (height // patch, width // patch))
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), COLOURS, height, width)


class _TimeEmbedder(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.frequencies = sizes.frequencies
        self.mlp = nn.ModuleDict(
            {
                "in_layer": nn.Linear(sizes.frequencies, sizes.hidden),
                "out_layer": nn.Linear(sizes.hidden, sizes.hidden),
            }
        )

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        return self.mlp["out_layer"](F.silu(self.mlp["in_layer"](self.features(times))))

    def features(self, times: torch.Tensor) -> torch.Tensor:
        half = self.frequencies // 2
        exponent = torch.arange(half, dtype=torch.float32, device=times.device) / half
        angles = (TIME_SCALE * times).float()[:, None] * torch.exp(-math.log(THETA) * exponent)
        return torch.cat([angles.cos(), angles.sin()], dim=1).to(times.dtype)


class _PatchEmbedder(nn.Module):
    def __init__(self, channels: int, sizes: Sizes) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, sizes.hidden, sizes.patch, sizes.patch)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class _FinalLayer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.linear = nn.Linear(sizes.hidden, COLOURS * sizes.patch**2)
        self.adaLN_modulation = nn.ModuleDict({"1": Projection(sizes, 2)})

    def forward(self, tokens: torch.Tensor, parts: Modulation) -> torch.Tensor:
        return self.linear(modulated(tokens, *parts))
