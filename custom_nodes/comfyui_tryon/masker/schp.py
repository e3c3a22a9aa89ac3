"""SCHP, the human parser "Self-Correction for Human Parsing" (Li et al., TPAMI 2020), in plain PyTorch.

A CE2P network: ResNet-101 at stride 16, pyramid pooling, a decoder and an edge branch whose features are fused. Batch
norms are folded into the convolutions; modules are named as the weights in the published files.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..resampling import sample, warp_positions
from .checkpoints import REMEDY, CheckpointError, as_weights, fold_norms, load_weights, read_torch

# BGR statistics, which the published AutoMasker applies to RGB pixels.
_MEAN, _STD = (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)
_STRIP = 128  # rows whose logits are held at full size at once
_UNUSED = ("edge.conv4.", "edge.conv5.", "decoder.conv4.")  # outputs that only training looks at


class Schp(nn.Module):
    """Labels each pixel of an image with one of `classes` garments and body parts.

    Args:
        classes: 18 for ATR, 20 for LIP.
        side: of the square that the network sees, in pixels: 512 for ATR, 473 for LIP.
    """

    def __init__(self, classes: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1)
        self.conv2 = nn.Conv2d(64, 64, 3, 1, 1)
        self.conv3 = nn.Conv2d(64, 128, 3, 1, 1)
        self.layer1 = _stage(128, 64, 3)
        self.layer2 = _stage(256, 128, 4, stride=2)
        self.layer3 = _stage(512, 256, 23, stride=2)
        self.layer4 = _stage(1024, 512, 3, dilation=2)
        self.context_encoding = _PyramidPooling()
        self.edge = _Edge()
        self.decoder = _Decoder()
        self.fushion = nn.Sequential(_conv(1024, 256), *_activation(2), nn.Conv2d(256, classes, 1))

    @classmethod
    @torch.inference_mode(False)  # a host may load inside and move outside inference mode
    def load(cls, file: Path, classes: int, side: int, dtype: torch.dtype) -> "Schp":
        """Loads the network, on the CPU, with the weights of a published `exp-schp-*.pth` file.

        Raises:
            CheckpointError: the file is missing, damaged, unsafe or of another network.
        """
        saved = read_torch(file)
        if not isinstance(saved, dict) or "state_dict" not in saved:
            raise CheckpointError(f"{file} is not an SCHP checkpoint: it lacks 'state_dict'. {REMEDY}")
        weights = {name.removeprefix("module."): value for name, value in as_weights(saved["state_dict"], file).items()}
        weights = {
            name: value
            for name, value in weights.items()
            if not name.startswith(_UNUSED) and not name.endswith("num_batches_tracked")
        }
        with torch.device("meta"):
            network = cls(classes, side)
        load_weights(network, fold_norms(weights, _conv_of, file), file, dtype)
        return network.eval()

    @torch.inference_mode()
    def parse(self, person: torch.Tensor) -> torch.Tensor:
        """Labels `person`, uint8 (H, W, 3) RGB on this module's device; returns uint8 (H, W)."""
        height, width = person.shape[:2]
        device, dtype, side = person.device, next(self.parameters()).dtype, self.side
        scale = (side - 1) / max(width - 1, height - 1, 1)

        def positions(count: int, step: float, other: int) -> torch.Tensor:
            start = (other - 1) / 2 - (count - 1) / 2 * step  # both middles meet
            return torch.from_numpy(warp_positions(count, step, start)).to(device)

        rows, columns = positions(side, 1 / scale, height), positions(side, 1 / scale, width)
        pixels = (sample(person.permute(2, 0, 1)[None].float(), rows, columns) + 0.5).floor() / 255
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        logits = self(((pixels - mean) / std).to(dtype)).float()
        logits = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=True)
        rows, columns = positions(height, scale, side), positions(width, scale, side)
        strips = [sample(logits, strip, columns)[0].max(0).indices.to(torch.uint8) for strip in rows.split(_STRIP)]
        return torch.cat(strips)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Computes class logits (B, classes, S/4, S/4) of normalised pixels (B, 3, S, S)."""
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(pixels))))))
        x1 = self.layer1(F.max_pool2d(x, 3, 2, 1))
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        parsing = self.decoder(self.context_encoding(self.layer4(x3)), x1)
        return self.fushion(torch.cat([parsing, self.edge(x1, x2, x3)], 1))


def _conv_of(norm: str) -> str:
    """Names the convolution before a norm: convN for bnN, the entry before it in a sequence."""
    head, _, last = norm.rpartition(".")
    conv = last.replace("bn", "conv") if last.startswith("bn") else str(int(last) - 1) if last.isdigit() else last
    return f"{head}.{conv}" if head else conv


def _conv(inputs: int, outputs: int, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def _activation(places: int) -> list[nn.Module]:
    """Makes a leaky ReLU that takes as many places in a sequence as the published layers it stands for."""
    return [nn.LeakyReLU(0.01), *[nn.Identity()] * (places - 1)]


def _upsample(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


def _stage(inputs: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = _Bottleneck(inputs, width, stride, dilation)
    return nn.Sequential(first, *[_Bottleneck(4 * width, width, 1, dilation) for _ in range(blocks - 1)])


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation)
        self.conv3 = nn.Conv2d(width, 4 * width, 1)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride)) if inputs != 4 * width else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x) if self.downsample else x
        return F.relu(shortcut + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))


class _Pool(nn.AdaptiveAvgPool2d):
    """On Apple's GPUs torch pools only where the sides are multiples of the bins, which 32 is not of 3 and 6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.cpu()).to(x.device) if x.device.type == "mps" else super().forward(x)


class _PyramidPooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(_Pool(bins), _conv(2048, 512), *_activation(1)) for bins in (1, 2, 3, 6)
        )
        self.bottleneck = nn.Sequential(_conv(2048 + 4 * 512, 512, 3), *_activation(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bottleneck(torch.cat([*(_upsample(stage(x), x) for stage in self.stages), x], 1))


class _Edge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_conv(256, 256), *_activation(1))
        self.conv2 = nn.Sequential(_conv(512, 256), *_activation(1))
        self.conv3 = nn.Sequential(_conv(1024, 256), *_activation(1))

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, x3: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.conv1(x1), _upsample(self.conv2(x2), x1), _upsample(self.conv3(x3), x1)], 1)


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_conv(512, 256), *_activation(1))
        self.conv2 = nn.Sequential(_conv(256, 48), *_activation(1))
        self.conv3 = nn.Sequential(_conv(304, 256), *_activation(1), _conv(256, 256), *_activation(1))

    def forward(self, context: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
        return self.conv3(torch.cat([_upsample(self.conv1(context), x1), self.conv2(x1)], 1))
