"""The models' blocks with fewer passes over memory: diffusers' own modules and parameters, called in another way.

On a GPU a pass over an activation costs as much as a small convolution. In channels_last convolutions convert nothing,
1 x 1 convolutions and the way into attention and back are views, and the blocks below leave out what a bias, a time
embedding or a division by 1 would add. On a CPU they compute what diffusers computes, bit by bit, unless the weights
were on a GPU before and keep their layout.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

CHUNKS = 64  # of a sample's pixels, at most, each for other multiprocessors


def is_fast(x: torch.Tensor) -> bool:
    """Whether (N, C, H, W) lies on a GPU in channels_last, and is not being compiled, which fuses passes by itself."""
    return (
        x.is_cuda
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


def take_layout(model: torch.nn.Module, device: torch.device) -> torch.memory_format:
    """Puts a model's convolutions into channels_last, where they are not yet, if cuDNN computes them.

    Returns the layout that the model's input is to have. MIOpen (AMD), and torch without cuDNN (ZLUDA), convert
    channels_last to NCHW for every convolution.
    """
    if device.type != "cuda" or torch.version.hip or not torch.backends.cudnn.enabled:
        return torch.contiguous_format
    # the first parameter is a convolution's, and all are converted together; looking at each takes milliseconds
    if not next(model.parameters()).is_contiguous(memory_format=torch.channels_last):
        with torch.inference_mode(False):  # else its parameters could never be changed in place again
            model.to(memory_format=torch.channels_last)
    return torch.channels_last


def group_norm(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    offset: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalises x + offset in groups of channels, in the layout of `x`, with all of a GPU's multiprocessors.

    torch's own works on NCHW only and has one thread block for a sample's group: 64 for both halves of guidance.

    Args:
        x: (N, C, H, W), of any floating dtype.
        groups: how many; they divide C.
        weight, bias: (C,), in the dtype of `x`.
        eps: added to the variance.
        offset: (N, C) in the dtype of `x`, added to all of a channel.

    Returns:
        (N, C, H, W) in the dtype and layout of `x`. Statistics are float32.
    """
    pixels = x.shape[2] * x.shape[3]
    chunks = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(1, (math.gcd(pixels, CHUNKS), -1))
    # both read the half precision tensor and accumulate in float32, where `var_mean` would return half precision
    mean = chunks.mean(2, dtype=torch.float32).mean(1)
    norm = torch.linalg.vector_norm(torch.linalg.vector_norm(chunks, dim=2, dtype=torch.float32), dim=1)
    variance = torch.addcmul(norm.square_().div_(pixels), mean, mean, value=-1).clamp_(min=0)
    return normalise(x, mean, variance, groups, weight, bias, eps, offset)


def normalise(
    x: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    groups: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    offset: torch.Tensor | None,
) -> torch.Tensor:
    """The second half of `group_norm`: from each channel's mean and variance without `offset`, float32 (N, C)."""
    if offset is not None:
        mean = mean + offset
    # a group's variance is that within its channels and that between their means
    parts = len(x), groups, -1
    between, centre = torch.var_mean(mean.view(parts), -1, correction=0, keepdim=True)
    variance = variance.view(parts).mean(-1, keepdim=True).add_(between)
    if offset is not None:
        centre = centre - offset.view(parts)
    return scaled(x, centre, variance.add_(eps).rsqrt_(), weight, bias)


def scaled(
    x: torch.Tensor, centre: torch.Tensor, factor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Returns (x - centre) * factor * weight + bias in one pass.

    `x` is (N, C, H, W), `weight` and `bias` are (C,); `centre` is float32 (N, groups, C / groups) or (N, groups, 1),
    `factor` float32 (N, groups, 1).
    """
    weight, bias = weight.view(factor.shape[1], -1), bias.view(factor.shape[1], -1)
    # written in the dtype of `x`: other dtypes beside it would cost the large pass its speed, and what rounding adds is
    # less than what it already did to `x`
    scale, shift = x.new_empty(2, len(x), *weight.shape)
    torch.mul(weight, factor, out=scale)
    torch.addcmul(bias, centre, scale, value=-1, out=shift)
    each = *x.shape[:2], 1, 1
    return torch.addcmul(shift.view(each), x, scale.view(each), out=torch.empty_like(x))


class GroupNorm(torch.nn.GroupNorm):
    """torch's group norm, of x + offset where there is one, (N, C); with `group_norm` where that is fast."""

    def forward(self, x: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
        if is_fast(x):
            return group_norm(x, self.num_groups, self.weight, self.bias, self.eps, offset)
        return super().forward(x if offset is None else x + offset[:, :, None, None])


class PointwiseConv(torch.nn.Conv2d):
    """A 1 x 1 convolution; in channels_last a matrix product, which adds its bias without another pass."""

    def forward(self, x: torch.Tensor, more: torch.Tensor | None = None) -> torch.Tensor:
        """Convolves (N, C, H, W); `more`, (out_channels,), is added to the bias."""
        bias = self.bias if more is None else self.bias + more
        if not is_fast(x):
            return self._conv_forward(x, self.weight, bias)
        pixels = x.permute(0, 2, 3, 1)
        product = F.linear(pixels.flatten(0, 2), self.weight.flatten(1), bias)
        return product.unflatten(0, pixels.shape[:3]).permute(0, 3, 1, 2)


class ResidualBlock(torch.nn.Module):
    """diffusers' ResnetBlock2D with a time embedding."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.conv1, self.time_emb_proj = block.norm1, block.conv1, block.time_emb_proj
        self.norm2, self.conv2, self.conv_shortcut = block.norm2, block.conv2, block.conv_shortcut

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Adds its convolutions to (N, C, H, W), with an embedding of the time, (N, E)."""
        hidden = F.silu(self.norm1(x), inplace=True)
        offset = self.time_emb_proj(F.silu(embedding))
        if not is_fast(x):
            hidden = F.silu(self.norm2(self.conv1(hidden), offset), inplace=True)
            return self.conv2(hidden).add_(x if self.conv_shortcut is None else self.conv_shortcut(x))
        # the first bias goes into the normalisation with the embedding, the second into the shortcut's
        hidden = _without_bias(self.conv1, hidden)
        hidden = F.silu(self.norm2(hidden, offset + self.conv1.bias), inplace=True)
        if self.conv_shortcut is None:
            return self.conv2(hidden).add_(x)
        return _without_bias(self.conv2, hidden).add_(self.conv_shortcut(x, self.conv2.bias))


class ImageTransformer(torch.nn.Module):
    """diffusers' Transformer2DModel with convolutions around its blocks."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = block.norm, block.proj_in, block.proj_out
        self.transformer_blocks = block.transformer_blocks

    def forward(self, x: torch.Tensor, **conditions: Any) -> tuple[torch.Tensor]:
        """Adds attention to (N, C, H, W); the conditions that diffusers passes are those of text, and None."""
        projected = self.proj_in(self.norm(x))
        tokens = projected.permute(0, 2, 3, 1).flatten(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        hidden = tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        # diffusers' own would copy to NCHW always
        return (self.proj_out(hidden if is_fast(x) else hidden.contiguous()).add_(x),)


class GatedLinear(torch.nn.Module):
    """diffusers' GEGLU: half of a projection, times the GELU of the other half."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.proj = block.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Projects (N, tokens, C) to (N, tokens, out_features / 2)."""
        if x.is_cuda and not torch.compiler.is_compiling():
            return in_halves(self.proj, x)
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


def in_halves(proj: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """`GatedLinear` with a product for each half: torch's kernels for halves with gaps reach half of the speed."""
    hidden, gate = (F.linear(x, weight, bias) for weight, bias in zip(proj.weight.chunk(2), proj.bias.chunk(2)))
    return hidden.mul_(F.gelu(gate))


def _without_bias(conv: Any, x: torch.Tensor) -> torch.Tensor:
    """A convolution of (N, C, H, W) without its bias, which torch adds in a pass of its own."""
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


def _replacement(module: Any) -> torch.nn.Module | None:
    """Makes the counterpart of a module of diffusers' UNet, if it has one."""
    kind = type(module).__name__
    if kind == "GEGLU":
        return GatedLinear(module)
    if kind == "Transformer2DModel" and module.is_input_continuous and not module.use_linear_projection:
        return ImageTransformer(module)
    if kind == "ResnetBlock2D" and module.time_emb_proj is not None:
        resamples = module.upsample is not None or module.downsample is not None
        adds_time = module.time_embedding_norm == "default" and not module.skip_time_act
        is_plain = module.output_scale_factor == 1 and isinstance(module.nonlinearity, torch.nn.SiLU)
        if adds_time and is_plain and not resamples:
            return ResidualBlock(module)
    return None


def _layer(module: torch.nn.Module) -> torch.nn.Module | None:
    """Makes the counterpart of a layer, with its parameters, if it has one."""
    found: Any = None
    with torch.device("meta"):
        if type(module) is torch.nn.GroupNorm and module.affine:
            found = GroupNorm(module.num_groups, module.num_channels, module.eps)
        elif type(module) is torch.nn.Conv2d and _is_pointwise(module):
            found = PointwiseConv(module.in_channels, module.out_channels, 1)
    if found is not None:
        found.weight, found.bias = module.weight, module.bias
    return found


def _is_pointwise(conv: torch.nn.Conv2d) -> bool:
    plain = conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
    return plain and conv.bias is not None


def replace_layers(model: torch.nn.Module) -> None:
    """Puts a layer of this module in the place of each group norm and 1 x 1 convolution; their parameters stay."""
    for name, module in list(model.named_modules()):
        if (layer := _layer(module)) is not None:
            model.set_submodule(name, layer)


def replace_blocks(unet: torch.nn.Module) -> None:
    """Puts the modules of this module in the place of diffusers' in its UNet; parameters and their names stay."""
    replace_layers(unet)
    for name, module in reversed(list(unet.named_modules())):  # those within others first
        if (block := _replacement(module)) is not None:
            unet.set_submodule(name, block)
