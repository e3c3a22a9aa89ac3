"""The layers of FASHN VTON v1.5's transformer."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

EPSILON = 1e-6  # of every norm

Modulation = tuple[torch.Tensor, ...]  # for each of a layer's parts: shift, 1 + scale and gate, (B, 1, hidden)


class Sizes(NamedTuple):
    """The numbers of a network; the published ones are the defaults."""

    hidden: int = 1280
    head: int = 128
    patch: int = 12
    mlp: int = 5120
    mixers: int = 4
    doubles: int = 8
    singles: int = 16
    classes: int = 4
    frequencies: int = 256

    @property
    def heads(self) -> int:
        return self.hidden // self.head

    @property
    def axes(self) -> tuple[int, int, int]:
        """Channels of a head that are turned by nothing, by the row and by the column."""
        return self.head // 8, self.head * 7 // 16, self.head * 7 // 16


class Projection(nn.Linear):
    """Projects the activated condition, (N, hidden), to a layer's shift, 1 + scale and gate, once for each of its uses.

    `parts` is 3 for each use; the last layer has no gate.
    """

    def __init__(self, sizes: Sizes, parts: int) -> None:
        super().__init__(sizes.hidden, parts * sizes.hidden)
        self.parts = parts

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        projected = super().forward(condition)
        projected.unflatten(-1, (self.parts, -1))[:, 1::3] += 1
        return projected


def modulated(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON), scale)


def _turned(
    tokens: torch.Tensor, scales: torch.Tensor, rotary: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Normalises heads by their RMS, and turns neighbouring pairs of channels by their positions, in float32.

    What a head is divided by commutes with turning it, so the pass that rounds divides too.

    Args:
        tokens: queries, keys or both, (B, tokens, parts, heads, head), in any layout.
        scales: of the norms, float32 (parts, 1, head).
        rotary: (tokens, head / 2, 2).
        out: where to write the result.

    Returns:
        The shape and dtype of `tokens`.
    """
    out = torch.empty_like(tokens) if out is None else out
    length = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = torch.rsqrt(length.square() / tokens.shape[-1] + EPSILON)
    pairs, turns = (tokens * scales).unflatten(-1, (-1, 2)), rotary[:, None, None]
    # a compiler makes one kernel of all, but none of complex numbers, which some devices lack
    if torch.compiler.is_compiling() or tokens.device.type not in ("cpu", "cuda"):
        (even, odd), (cosine, sine) = pairs.unbind(-1), turns.unbind(-1)
        pairs = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
        return out.copy_(pairs.flatten(-2) * inverse)
    torch.view_as_complex(pairs).mul_(torch.view_as_complex(turns))
    return torch.mul(pairs.flatten(-2), inverse, out=out)


class _Scale(nn.Module):
    """The weight of an RMS norm over a head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(sizes.head))


class _QueryKeyNorm(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.query_norm = _Scale(sizes)
        self.key_norm = _Scale(sizes)

    def scales(self) -> torch.Tensor:
        """Returns those of queries and of keys, float32 (2, 1, head)."""
        return torch.stack([self.query_norm.scale, self.key_norm.scale]).float()[:, None]


def _heads(projected: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Splits (B, tokens, parts * hidden) into (B, tokens, parts, heads, head)."""
    return projected.unflatten(-1, (-1, sizes.heads, sizes.head))


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Takes (B, tokens, heads, head), in any layout; returns (B, tokens, hidden)."""
    attended = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return attended.transpose(1, 2).flatten(2)


class _SelfAttention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.qkv = nn.Linear(sizes.hidden, 3 * sizes.hidden)
        self.norm = _QueryKeyNorm(sizes)
        self.proj = nn.Linear(sizes.hidden, sizes.hidden)


class DoubleBlock(nn.Module):
    """Lets person ("img") and garment ("txt") attend to both, each with weights of its own."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        for stream in ("img", "txt"):
            setattr(self, f"{stream}_mod", nn.ModuleDict({"lin": Projection(sizes, 6)}))
            setattr(self, f"{stream}_attn", _SelfAttention(sizes))
            layers = nn.Linear(sizes.hidden, sizes.mlp), nn.GELU("tanh"), nn.Linear(sizes.mlp, sizes.hidden)
            setattr(self, f"{stream}_mlp", nn.Sequential(*layers))

    def forward(
        self,
        person: torch.Tensor,
        garment: torch.Tensor,
        person_parts: Modulation,
        garment_parts: Modulation,
        rotary: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        streams: list[tuple[torch.Tensor, Modulation, Any, Any]] = [
            (garment, garment_parts, self.txt_attn, self.txt_mlp),
            (person, person_parts, self.img_attn, self.img_mlp),
        ]
        lengths = [tokens.shape[1] for tokens, *_ in streams]
        shape = len(person), sum(lengths), 2, self.sizes.heads, self.sizes.head
        turned, values = person.new_empty(shape), []
        for (tokens, parts, attention, _), out, turns in zip(
            streams, turned.split(lengths, dim=1), rotary.split(lengths)
        ):
            projected = _heads(attention.qkv(modulated(tokens, *parts[:2])), self.sizes)
            _turned(projected[:, :, :2], attention.norm.scales(), turns, out)
            values.append(projected[:, :, 2])
        query, key = turned.unbind(2)
        attended = _attention(query, key, torch.cat(values, dim=1))
        results = []
        for (tokens, parts, attention, mlp), seen in zip(streams, attended.split(lengths, dim=1)):
            # a product of what is not contiguous adds its bias in a pass of its own
            tokens = torch.addcmul(tokens, parts[2], attention.proj(seen.contiguous()))
            results.append(torch.addcmul(tokens, parts[5], mlp(modulated(tokens, *parts[3:5]))))
        return results[1], results[0]


class SingleBlock(nn.Module):
    """Attention and MLP beside each other, over one stream of tokens."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.modulation = nn.ModuleDict({"lin": Projection(sizes, 3)})
        self.linear1 = nn.Linear(sizes.hidden, 3 * sizes.hidden + sizes.mlp)
        self.linear2 = nn.Linear(sizes.hidden + sizes.mlp, sizes.hidden)
        self.norm = _QueryKeyNorm(sizes)

    def forward(
        self, tokens: torch.Tensor, parts: Modulation, rotary: torch.Tensor, last: int | None = None
    ) -> torch.Tensor:
        """Returns the tokens behind the block; only the `last` ones, if that is given."""
        ready = modulated(tokens, *parts[:2])
        seen = ready if last is None else ready[:, -last:].contiguous()
        attended = self._attended(ready, seen, rotary)
        mlp = F.gelu(self._part(seen, 3, None), approximate="tanh")
        # `linear2` of both without copying them beside each other; the sum of the smaller values is rounded in between
        hidden = self.sizes.hidden
        made = F.linear(attended, self.linear2.weight[:, :hidden], self.linear2.bias)
        made.flatten(0, 1).addmm_(mlp.flatten(0, 1), self.linear2.weight[:, hidden:].T)
        return torch.addcmul(tokens[:, -seen.shape[1] :], parts[2], made)

    def _attended(self, ready: torch.Tensor, seen: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        """Attends from the tokens of `seen`, the last of `ready`, to all."""
        scales = self.norm.scales()
        if seen is ready:
            projected = _heads(self._part(ready, 0, 3), self.sizes)
            query, key = _turned(projected[:, :, :2], scales, rotary).unbind(2)
        else:
            projected = _heads(self._part(seen, 0, 1), self.sizes)
            query = _turned(projected, scales[:1], rotary[-seen.shape[1] :])[:, :, 0]
            projected = _heads(self._part(ready, 1, 3), self.sizes)
            key = _turned(projected[:, :, :1], scales[1:], rotary)[:, :, 0]
        return _attention(query, key, projected[:, :, -1])

    def _part(self, ready: torch.Tensor, first: int, end: int | None) -> torch.Tensor:
        """Returns some of `linear1`'s outputs: query, key and value have one `hidden` each, and the MLP the rest.

        Not all at once, because they are the largest tensors of a run, and those of the attention are then gone when
        the MLP's are made.
        """
        rows = slice(first * self.sizes.hidden, None if end is None else end * self.sizes.hidden)
        return F.linear(ready, self.linear1.weight[rows], self.linear1.bias[rows])
