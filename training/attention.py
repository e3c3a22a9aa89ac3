"""How the UNet's self-attention is trained: shown where to look, and with a gradient that most queries do without."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

LAYERS = (
    "up_blocks.2.attentions.1",
    "up_blocks.3.attentions.0",
    "up_blocks.3.attentions.1",
    "up_blocks.4.attentions.0",
    "up_blocks.4.attentions.1",
)
ASKED = 512  # worn cells of an image, at most
ANYWHERE = -100
SMOOTHING = 0.05  # of the labels: neighbours are nearly as good
MANY = 3000  # tokens, from which on some queries must do for the gradient
TAUGHT = 0.16  # share of them


class Watched:
    """Shows some layers where to look: from what is worn to the garment's own cloth.

    The drawings know it (`drawing.Pair.sources`). From the reconstruction's error alone small models learned a
    garment's colour and not where anything is on it; shown, they look at the right cell, or one beside it, after some
    hundred steps. Keeps the queries and keys of the last call of each of `LAYERS`, (batch, tokens, width).
    """

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
        """Returns the layers' cross-entropies between where some worn cells look and where their cloth is, added up.

        Args:
            sources: int64 (batch, h, w), cells of the garment as in `drawing.Pair`; -1 may look anywhere.
        """
        height, width = sources.shape[1:]
        losses = []
        for layer, queries in self.queries.items():
            # the person is above the garment, and a layer may have a 2nd or 4th of the cells
            step = round((2 * height * width / queries.shape[1]) ** 0.5)
            coarse = sources[:, step // 2 :: step, step // 2 :: step]
            (rows, columns), cells = coarse.shape[1:], coarse.flatten(1)
            urgency = torch.rand(cells.shape, device=cells.device) + (cells >= 0)
            asked = urgency.topk(min(ASKED, rows * columns)).indices
            found = cells.gather(1, asked)
            targets = rows * columns + found // width // step * columns + found % width // step
            asking = queries.gather(1, asked[..., None].expand(-1, -1, queries.shape[-1]))
            likeness = (asking @ self.keys[layer].transpose(1, 2)).float() * queries.shape[-1] ** -0.5
            answers = torch.where(found >= 0, targets, ANYWHERE)
            some = dict(ignore_index=ANYWHERE, label_smoothing=SMOOTHING, reduction="sum")
            total = F.cross_entropy(likeness.flatten(0, 1), answers.flatten(), **some)
            losses.append(total / (found >= 0).sum().clamp(min=1))
        return torch.stack(losses).sum()


class Taught:
    """Self-attention of one head whose result is exact and whose gradient goes through some of the queries.

    A processor of diffusers' attention layers. Where there are many tokens attention is most of the work, and its
    gradient most of that; a sixth of the queries, those in the mask first, teach as much.
    """

    def __init__(self) -> None:
        self.order = self.back = torch.empty(0)

    def choose(self, mask: torch.Tensor) -> None:
        """Chooses queries for the next call with a gradient: in and beside the mask, float (batch, 1, h, w), first."""
        near = F.max_pool2d(mask, 3, 1, 1).flatten(1) * (torch.rand_like(mask.flatten(1)) < 0.9)
        urgency = torch.rand_like(torch.cat([near, near], 1))
        urgency[:, : near.shape[1]] += near
        # numpy sorts rows of 6144 on a CPU in a fraction of torch's time
        self.order = torch.from_numpy(np.argsort(-urgency.numpy(), 1))
        places = torch.arange(urgency.shape[1]).expand_as(urgency)
        self.back = torch.empty_like(self.order).scatter_(1, self.order, places)

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        queries, keys, values = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        tokens, width = queries.shape[1:]
        if not torch.is_grad_enabled() or tokens < MANY:
            result = attend(queries, keys, values)
        else:
            order, back = (some[..., None].expand(-1, -1, width) for some in (self.order, self.back))
            taught, rest = queries.gather(1, order).tensor_split([round(TAUGHT * tokens)], 1)
            with torch.no_grad():
                untaught = attend(rest, keys, values)
            result = torch.cat([attend(taught, keys, values), untaught], 1).gather(1, back)
        return attn.to_out[1](attn.to_out[0](result))


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Returns the attention of one head, (batch, queries, width)."""
    heads = (tensor[:, None] for tensor in (queries, keys, values))
    return F.scaled_dot_product_attention(*heads)[:, 0]
