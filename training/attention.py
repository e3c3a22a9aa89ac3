"""Shows the UNet's self-attention where to look while it is trained: from what is worn to the garment's own cloth.

The drawings know it (`drawing.Pair.sources`). From the reconstruction's error alone small models learned a garment's
colour and not where anything is on it; shown, they look at the right cell, or one beside it, after some hundred steps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

LAYERS = ("up_blocks.2.attentions.1", "up_blocks.3.attentions.0", "up_blocks.3.attentions.1")
SMOOTHING = 0.05  # of the labels: neighbours are nearly as good


class Watched:
    """Keeps the queries and keys of the last call of each of `LAYERS`, (batch, tokens, width)."""

    def __init__(self, unet: Any) -> None:
        self.queries: dict[str, torch.Tensor] = {}
        self.keys: dict[str, torch.Tensor] = {}
        for layer in LAYERS:
            attention = unet.get_submodule(f"{layer}.transformer_blocks.0.attn1")
            for linear, kept in ((attention.to_q, self.queries), (attention.to_k, self.keys)):
                linear.register_forward_hook(self._keep(kept, layer))

    @staticmethod
    def _keep(kept: dict[str, torch.Tensor], layer: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            kept[layer] = output

        return hook

    def loss(self, sources: torch.Tensor) -> torch.Tensor:
        """Returns the layers' cross-entropies between where worn cells look and where their cloth is, added up.

        Args:
            sources: int64 (batch, h, w), cells of the garment as in `drawing.Pair`; -1 may look anywhere.
        """
        height, width = sources.shape[1:]
        losses = []
        for layer, queries in self.queries.items():
            # the person is above the garment, and a layer may have a 2nd or 4th of the cells
            step = round((2 * height * width / queries.shape[1]) ** 0.5)
            coarse = sources[:, step // 2 :: step, step // 2 :: step]
            rows, columns = coarse.shape[1:]
            batch, y, x = torch.nonzero(coarse >= 0, as_tuple=True)
            found = coarse[batch, y, x]
            targets = rows * columns + found // width // step * columns + found % width // step
            for index in batch.unique().tolist():
                here = batch == index
                asked = queries[index, (y * columns + x)[here]]
                likeness = asked @ self.keys[layer][index].T * queries.shape[-1] ** -0.5
                part = F.cross_entropy(likeness, targets[here], label_smoothing=SMOOTHING, reduction="sum")
                losses.append(part / len(targets))
        return torch.stack(losses).sum() if losses else sources.new_zeros((), dtype=torch.float32)
