"""FASHN VTON v1.5's published network and sampling, written out plainly: the tests compare ours with it, the benchmarks
its speed.

Everything is computed in every step, for both branches and all tokens, in the dtype of the weights.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

Weights = Mapping[str, torch.Tensor]


def norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def turn(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    pairs = x.float().unflatten(-1, (-1, 1, 2))
    return (positions[..., 0] * pairs[..., 0] + positions[..., 1] * pairs[..., 1]).flatten(-2).to(x.dtype)


class PublishedFashn:
    """Samples as the published pipeline does, from its weights by their published names."""

    def __init__(self, weights: Weights, patch: int, head: int) -> None:
        self.weights, self.patch, self.head = weights, patch, head
        self.depth = {
            kind: len({name.split(".")[1] for name in weights if name.startswith(f"{kind}.")})
            for kind in ("x_patch_mixer", "double_blocks", "single_blocks")
        }

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def time(self, t: torch.Tensor) -> torch.Tensor:
        angles = (t * 1000).float()[:, None] * torch.exp(-math.log(10_000) * torch.arange(128, device=t.device) / 128)
        features = torch.cat([angles.cos(), angles.sin()], 1).to(t.dtype)
        return self.linear("t_embedder.mlp.out_layer", F.silu(self.linear("t_embedder.mlp.in_layer", features)))

    def embed(self, name: str, image: torch.Tensor) -> torch.Tensor:
        weights = self.weights[f"{name}.proj.weight"], self.weights[f"{name}.proj.bias"]
        return F.conv2d(image, *weights, stride=self.patch).flatten(2).transpose(1, 2)

    def positions(self, rows: int, columns: int, device: torch.device) -> torch.Tensor:
        widths = self.head // 8, self.head * 7 // 16, self.head * 7 // 16
        ids = torch.zeros(rows, columns, 3)
        ids[..., 1] += torch.arange(rows)[:, None]
        ids[..., 2] += torch.arange(columns)
        parts = [
            ids.view(-1, 3)[:, axis, None].double() / 10_000 ** (torch.arange(0, width, 2).double() / width)
            for axis, width in enumerate(widths)
        ]
        angles = torch.cat(parts, 1)
        turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1)
        return turns.unflatten(-1, (2, 2)).float().to(device)

    def qk(self, name: str, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return (x.float() * scale).to(x.dtype) * self.weights[f"{name}.scale"]

    def attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        q, k = turn(q, positions), turn(k, positions)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.unflatten(-1, (3, -1, self.head)).permute(2, 0, 3, 1, 4).unbind(0)

    def single(self, name: str, x: torch.Tensor, vec: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden = x.shape[-1]
        shift, scale, gate = self.linear(f"{name}.modulation.lin", F.silu(vec))[:, None].chunk(3, -1)
        both = self.linear(f"{name}.linear1", (1 + scale) * norm(x) + shift)
        q, k, v = self.heads(both[..., : 3 * hidden])
        q, k = self.qk(f"{name}.norm.query_norm", q), self.qk(f"{name}.norm.key_norm", k)
        parts = [self.attention(q, k, v, positions), F.gelu(both[..., 3 * hidden :], approximate="tanh")]
        return x + gate * self.linear(f"{name}.linear2", torch.cat(parts, -1))

    def double(self, name, person, garment, vec, positions):
        streams = {}
        for stream, x in (("img", person), ("txt", garment)):
            parts = self.linear(f"{name}.{stream}_mod.lin", F.silu(vec))[:, None].chunk(6, -1)
            attention = f"{name}.{stream}_attn"
            q, k, v = self.heads(self.linear(f"{attention}.qkv", (1 + parts[1]) * norm(x) + parts[0]))
            q, k = self.qk(f"{attention}.norm.query_norm", q), self.qk(f"{attention}.norm.key_norm", k)
            streams[stream] = x, parts, (q, k, v)
        q, k, v = (torch.cat([streams["txt"][2][i], streams["img"][2][i]], 2) for i in range(3))
        attended = self.attention(q, k, v, positions)
        made = []
        for stream, seen in (("img", attended[:, garment.shape[1] :]), ("txt", attended[:, : garment.shape[1]])):
            x, parts, _ = streams[stream]
            x = x + parts[2] * self.linear(f"{name}.{stream}_attn.proj", seen)
            wide = self.linear(f"{name}.{stream}_mlp.0", (1 + parts[4]) * norm(x) + parts[3])
            made.append(x + parts[5] * self.linear(f"{name}.{stream}_mlp.2", F.gelu(wide, approximate="tanh")))
        return made

    def velocity(self, x, agnostic, person_pose, garment, garment_pose, category, t) -> torch.Tensor:
        vec = self.time(t) + self.weights["y_embedder.weight"][category]
        person = self.embed("x_embedder", torch.cat([x, agnostic, person_pose], 1))
        garment = self.embed("garment_embedder", torch.cat([garment, garment_pose], 1))
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        positions = self.positions(rows, columns, x.device)
        both = torch.cat([positions, positions])
        for number in range(self.depth["x_patch_mixer"]):
            person = self.single(f"x_patch_mixer.{number}", person, vec, positions)
        for number in range(self.depth["double_blocks"]):
            person, garment = self.double(f"double_blocks.{number}", person, garment, vec, both)
        tokens = torch.cat([garment, person], 1)
        for number in range(self.depth["single_blocks"]):
            tokens = self.single(f"single_blocks.{number}", tokens, vec, both)
        shift, scale = self.linear("final_layer.adaLN_modulation.1", F.silu(vec))[:, None].chunk(2, -1)
        out = self.linear("final_layer.linear", norm(tokens[:, garment.shape[1] :]) * (1 + scale) + shift)
        out = out.view(len(x), rows, columns, 3, self.patch, self.patch)
        return out.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    @torch.no_grad()
    def sample(
        self,
        person: torch.Tensor,
        garment: torch.Tensor,
        category: int,
        noise: torch.Tensor,
        steps: int,
        guidance: float,
        unguided_last_steps: int,
        callback: Callable[[int], None] = lambda step: None,
    ) -> torch.Tensor:
        """Returns the image before it is clamped, (1, 3, H, W); takes what `sampler.denoise` takes."""
        like = self.weights["y_embedder.weight"]
        line = torch.linspace(1, 0, steps + 1)
        times = (math.exp(-1.5) / (math.exp(-1.5) + (1 / line - 1))).tolist()[::-1]
        x = noise.to(like)
        given = [part.to(like) for image in (person, garment) for part in (image[:, :3], image[:, 3:])]
        doubled = [torch.cat([part, torch.zeros_like(part)]) for part in given]
        categories = torch.tensor([category, 0], device=like.device)
        for step in range(steps):
            callback(step)
            t = torch.full((2,), times[step], dtype=like.dtype, device=like.device)
            v_c, v_u = self.velocity(torch.cat([x, x]), *doubled, categories, t).chunk(2)
            v = v_c if step >= steps - unguided_last_steps else v_u + guidance * (v_c - v_u)
            x = x + (times[step + 1] - times[step]) * v
        callback(steps)
        return x
