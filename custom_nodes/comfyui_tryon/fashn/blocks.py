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


def _turned(tokens: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Turns neighbouring pairs of channels, (B, heads, tokens, head), by their positions, in float32."""
    even, odd = tokens.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rotary.unbind()
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2).to(tokens.dtype)


class _Scale(nn.Module):
    """RMS norm over a head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(sizes.head))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(tokens, tokens.shape[-1:], eps=EPSILON) * self.scale


class _QueryKeyNorm(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.query_norm = _Scale(sizes)
        self.key_norm = _Scale(sizes)


def _heads(tokens: torch.Tensor, head: int) -> torch.Tensor:
    """Splits (B, tokens, hidden) into (B, heads, tokens, head)."""
    return tokens.unflatten(-1, (-1, head)).transpose(1, 2)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class _SelfAttention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head = sizes.head
        self.qkv = nn.Linear(sizes.hidden, 3 * sizes.hidden)
        self.norm = _QueryKeyNorm(sizes)
        self.proj = nn.Linear(sizes.hidden, sizes.hidden)

    def project(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns query, key and value, not yet turned, (B, heads, tokens, head)."""
        query, key, value = (_heads(part, self.head) for part in self.qkv(tokens).chunk(3, dim=-1))
        return self.norm.query_norm(query), self.norm.key_norm(key), value


class DoubleBlock(nn.Module):
    """Lets person ("img") and garment ("txt") attend to both, each with weights of its own."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
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
        projected = [attention.project(modulated(tokens, *parts[:2])) for tokens, parts, attention, _ in streams]
        query, key, value = (torch.cat(parts, dim=2) for parts in zip(*projected))
        attended = _attention(_turned(query, rotary), _turned(key, rotary), value)
        both = attended.split([garment.shape[1], person.shape[1]], dim=1)
        results = []
        for (tokens, parts, attention, mlp), seen in zip(streams, both):
            tokens = torch.addcmul(tokens, parts[2], attention.proj(seen))
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
        attended = self._attended(ready, rotary, last)
        if last is not None:
            tokens, ready = tokens[:, -last:], ready[:, -last:]
        mlp = F.gelu(self._part(ready, 3, None), approximate="tanh")
        return torch.addcmul(tokens, parts[2], self.linear2(torch.cat([attended, mlp], dim=-1)))

    def _attended(self, ready: torch.Tensor, rotary: torch.Tensor, last: int | None) -> torch.Tensor:
        if last is None:
            query, key, value = self._part(ready, 0, 3).chunk(3, dim=-1)
        else:
            query = self._part(ready[:, -last:], 0, 1)
            key, value = self._part(ready, 1, 3).chunk(2, dim=-1)
        query, key, value = (_heads(part, self.sizes.head) for part in (query, key, value))
        query = _turned(self.norm.query_norm(query), rotary[:, -query.shape[2] :])
        return _attention(query, _turned(self.norm.key_norm(key), rotary), value)

    def _part(self, ready: torch.Tensor, first: int, end: int | None) -> torch.Tensor:
        """Returns some of `linear1`'s outputs: query, key and value have one `hidden` each, and the MLP the rest.

        Not all at once, because they are the largest tensors of a run, and those of the attention are then gone when
        the MLP's are made.
        """
        rows = slice(first * self.sizes.hidden, None if end is None else end * self.sizes.hidden)
        return F.linear(ready, self.linear1.weight[rows], self.linear1.bias[rows])
