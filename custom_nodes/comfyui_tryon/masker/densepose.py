"""DensePose R50-FPN s1x (Guler et al., CVPR 2018; model zoo id 165712039, `model_final_162be9.pkl`) in plain PyTorch.

A Faster R-CNN person detector on a ResNet-50 FPN, and a head that labels the pixels of one detected person with body
parts. Frozen batch norms are folded into the convolutions; modules are named as the weights in the published file. The
U and V coordinates are left out.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.ops import batched_nms, clip_boxes_to_image, nms, roi_align

from .checkpoints import REMEDY, CheckpointError, as_weights, fold_norms, load_weights, read_array_pickle

_LONGEST = 1024  # pixels of the image that is parsed
_SHORT_SIDE, _LONG_SIDE = 800, 1333  # pixels of what the network sees
_MEAN_BGR = (103.53, 116.28, 123.675)
_STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's levels p2 to p6
_RATIOS = (0.5, 1.0, 2.0)  # height to width of an anchor, which covers (8 strides)^2 pixels
_PROPOSALS = 1000
_MIN_SCORE = 0.8
_MAX_PEOPLE = 100
_LARGEST_LOG_SCALE = float(np.log(1000 / 16))
# Of the published file: what no label depends on, and buffers of old versions of detectron2, which passes them over.
_UNUSED = (
    *("roi_heads.densepose_predictor.u_lowres.", "roi_heads.densepose_predictor.v_lowres."),
    *("proposal_generator.anchor_generator.cell_anchors.", "pixel_mean", "pixel_std"),
)


class People(NamedTuple):
    """Holds who is in an image, and the body parts of one of them."""

    boxes: np.ndarray
    """float32 (N, 4), N >= 1: x0, y0, x1, y1 in pixels of the image, highest score first."""
    chosen: int
    """Index of the person that `labels` is about."""
    labels: np.ndarray
    """uint8 (H, W): DensePose's fine body parts, 0 (background) to 24."""


class DensePose(nn.Module):
    """Finds people and labels the body parts of one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _Fpn()
        self.proposal_generator = _ProposalGenerator()
        self.roi_heads = _RoiHeads()

    @classmethod
    @torch.inference_mode(False)  # a host may load inside and move outside inference mode
    def load(cls, file: Path, dtype: torch.dtype) -> "DensePose":
        """Loads the network, on the CPU, with the weights of the published `model_final_162be9.pkl`.

        Raises:
            CheckpointError: the file is missing, damaged, unsafe or of another network.
        """
        saved = read_array_pickle(file)
        if not isinstance(saved, dict) or "model" not in saved:
            raise CheckpointError(f"{file} is not a DensePose checkpoint: it lacks 'model'. {REMEDY}")
        entries = saved["model"]
        if isinstance(entries, dict):
            entries = {name: value for name, value in entries.items() if not str(name).startswith(_UNUSED)}
        weights = as_weights(entries, file)
        with torch.device("meta"):
            network = cls()
        load_weights(network, fold_norms(weights, lambda norm: norm.removesuffix(".norm"), file), file, dtype)
        return network.eval()

    @torch.inference_mode()
    def parse(self, person: np.ndarray, largest: bool = False) -> People | None:
        """Finds the people in an image and labels the body parts of the one with the highest score.

        Args:
            person: uint8 (H, W, 3) RGB, any size.
            largest: label the one with the largest box instead.

        Returns:
            The people, or None where nobody has a score above 0.8.
        """
        height, width = person.shape[:2]
        h, w = _fitted(height, width, 1.0, _LONGEST)
        image = person if (h, w) == (height, width) else _resize(person, h, w)
        seen = _fitted(h, w, _SHORT_SIDE / min(h, w), _LONG_SIDE)
        pixels = Image.fromarray(image).resize(seen[::-1], Image.Resampling.BILINEAR)

        features = self.backbone(self._normalise(np.array(pixels)))
        proposals = self.proposal_generator.rpn_head.propose(features, seen)
        found = self.roi_heads.detect(features[:4], proposals, seen)
        boxes = clip_boxes_to_image(found * found.new_tensor([w / seen[1], h / seen[0]] * 2), (h, w))
        kept = _not_empty(boxes)
        found, boxes = found[kept], boxes[kept]
        if not len(boxes):
            return None
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        chosen = int(areas.argmax()) if largest else 0
        coarse, fine = self.roi_heads.label(features[:4], found[chosen : chosen + 1])
        parts = Image.fromarray(_paste(coarse, fine, boxes[chosen].tolist(), h, w))
        labels = np.array(parts.resize((width, height), Image.Resampling.NEAREST))
        scale = np.array([width / w, height / h] * 2, np.float32)
        return People(boxes.float().cpu().numpy() * scale, chosen, labels)

    def _normalise(self, pixels: np.ndarray) -> torch.Tensor:
        """Converts RGB (H, W, 3) to BGR (1, 3, H', W') for the backbone, H' and W' multiples of 32."""
        weight = next(self.parameters())
        planes = torch.from_numpy(pixels).to(weight.device).permute(2, 0, 1)[None].flip(1).float()
        planes = planes - torch.tensor(_MEAN_BGR, device=weight.device).view(1, 3, 1, 1)
        height, width = planes.shape[2:]
        return F.pad(planes, (0, -width % 32, 0, -height % 32)).to(weight.dtype)


def _fitted(height: int, width: int, scale: float, longest: int) -> tuple[int, int]:
    """Scales (height, width) by `scale`, or by less so that no side is longer than `longest`."""
    scale = min(scale, longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes bilinearly without antialiasing, as `cv2.resize` does."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    planes = F.interpolate(planes, (height, width), mode="bilinear", align_corners=False)
    return planes[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def _paste(coarse: torch.Tensor, fine: torch.Tensor, box: list[float], height: int, width: int) -> np.ndarray:
    """Labels the box's inside in uint8 (height, width).

    Args:
        coarse: logits (1, 2, S, S): background or body.
        fine: logits (1, 25, S, S): which part.
        box: x0, y0, x1, y1 in pixels.
    """
    x, y, x_end, y_end = box
    size = (max(1, int(y_end - y)), max(1, int(x_end - x)))
    coarse, fine = (F.interpolate(part.float(), size, mode="bilinear", align_corners=False) for part in (coarse, fine))
    body, part = (logits[0].max(0).indices for logits in (coarse, fine))
    labels = torch.where(body > 0, part, 0).to(torch.uint8).cpu().numpy()
    pasted = np.zeros((height, width), np.uint8)
    target = pasted[int(y) : int(y) + size[0], int(x) : int(x) + size[1]]
    target[:] = labels[: target.shape[0], : target.shape[1]]
    return pasted


def _not_empty(boxes: torch.Tensor) -> torch.Tensor:
    return ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)


def _decode(deltas: torch.Tensor, boxes: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Moves and scales boxes (N, 4) by regressed `deltas` (N, 4), whose parts are divided by `weights` first."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    middles = boxes[:, :2] + 0.5 * sizes
    middles = middles + deltas[:, :2] / weights[0] * sizes
    sizes = (deltas[:, 2:] / weights[1]).clamp(max=_LARGEST_LOG_SCALE).exp() * sizes
    return torch.cat([middles - 0.5 * sizes, middles + 0.5 * sizes], 1)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, 4 * width, 1, stride) if inputs != 4 * width else None
        self.conv1 = nn.Conv2d(inputs, width, 1, stride)  # Caffe's ResNet: the stride is here
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, 4 * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut(x) if self.shortcut else x
        return F.relu(shortcut + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))


class _ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 7, 2, 3)})
        inputs = 64
        for level, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
            width = 16 * 2**level
            first = _Bottleneck(inputs, width, 1 if level == 2 else 2)
            stage = nn.Sequential(first, *[_Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)])
            self.add_module(f"res{level}", stage)
            inputs = 4 * width

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        x = F.max_pool2d(F.relu(self.stem["conv1"](pixels)), 3, 2, 1)
        levels = []
        for level in (2, 3, 4, 5):
            x = self.get_submodule(f"res{level}")(x)
            levels.append(x)
        return levels


class _Fpn(nn.Module):
    """Computes the feature pyramid p2 to p6, 256 channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom_up = _ResNet50()
        for level in (2, 3, 4, 5):
            self.add_module(f"fpn_lateral{level}", nn.Conv2d(128 * 2 ** (level - 1), 256, 1))
            self.add_module(f"fpn_output{level}", nn.Conv2d(256, 256, 3, padding=1))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        above: torch.Tensor | None = None
        pyramid: list[torch.Tensor] = []
        for level, x in reversed(list(enumerate(self.bottom_up(pixels), 2))):
            x = self.get_submodule(f"fpn_lateral{level}")(x)
            if above is not None:
                x = x + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = x
            pyramid.insert(0, self.get_submodule(f"fpn_output{level}")(x))
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, 2)]


class _ProposalGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rpn_head = _RpnHead()


class _RpnHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(256, 256, 3, padding=1)
        self.objectness_logits = nn.Conv2d(256, len(_RATIOS), 1)
        self.anchor_deltas = nn.Conv2d(256, 4 * len(_RATIOS), 1)

    def propose(self, pyramid: list[torch.Tensor], limits: tuple[int, int]) -> torch.Tensor:
        """Returns boxes (N, 4), N <= 1000, within (height, width) `limits`, that may hold somebody."""
        boxes, scores, levels = [], [], []
        for level, (features, stride) in enumerate(zip(pyramid, _STRIDES, strict=True)):
            x = F.relu(self.conv(features))
            objectness = self.objectness_logits(x)[0].permute(1, 2, 0).flatten().float()
            deltas = self.anchor_deltas(x)[0].unflatten(0, (len(_RATIOS), 4)).permute(2, 3, 0, 1).reshape(-1, 4).float()
            top, index = objectness.topk(min(_PROPOSALS, len(objectness)))
            boxes.append(_decode(deltas[index], _anchors(features, stride)[index], (1.0, 1.0)))
            scores.append(top)
            levels.append(torch.full_like(index, level))
        box, score, origin = clip_boxes_to_image(torch.cat(boxes), limits), torch.cat(scores), torch.cat(levels)
        kept = _not_empty(box) & box.isfinite().all(1) & score.isfinite()
        box, score, origin = box[kept], score[kept], origin[kept]
        return box[batched_nms(box, score, origin, 0.7)[:_PROPOSALS]]


def _anchors(features: torch.Tensor, stride: int) -> torch.Tensor:
    """Returns (H * W * ratios, 4) boxes around the corners of `features`' cells."""
    ratios = torch.tensor(_RATIOS, device=features.device)
    widths = 8 * stride / ratios.sqrt()
    half = torch.stack([widths, widths * ratios], 1) / 2
    y, x = (torch.arange(size, device=features.device) * float(stride) for size in features.shape[2:])
    corners = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[:, :, None]
    return torch.cat([corners - half, corners + half], -1).view(-1, 4)


class _RoiHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.box_head = nn.ModuleDict({"fc1": nn.Linear(256 * 7 * 7, 1024), "fc2": nn.Linear(1024, 1024)})
        self.box_predictor = nn.ModuleDict({"cls_score": nn.Linear(1024, 2), "bbox_pred": nn.Linear(1024, 4)})
        self.decoder = _Decoder()
        self.densepose_head = nn.ModuleDict(
            {f"body_conv_fcn{n}": nn.Conv2d(256 if n == 1 else 512, 512, 3, padding=1) for n in range(1, 9)}
        )
        self.densepose_predictor = nn.ModuleDict(
            {
                "ann_index_lowres": nn.ConvTranspose2d(512, 2, 4, 2, 1),
                "index_uv_lowres": nn.ConvTranspose2d(512, 25, 4, 2, 1),
            }
        )

    def detect(self, pyramid: list[torch.Tensor], proposals: torch.Tensor, limits: tuple[int, int]) -> torch.Tensor:
        """Returns boxes (N, 4), N <= 100, of the people, highest score first."""
        sizes = proposals[:, 2:] - proposals[:, :2]
        level = (4 + torch.log2(sizes.prod(1).sqrt() / 224 + 1e-8)).floor().clamp(2, 5)
        pooled = proposals.new_zeros((len(proposals), 256, 7, 7), dtype=pyramid[0].dtype)
        for index, (features, stride) in enumerate(zip(pyramid, _STRIDES, strict=False)):
            here = (level == index + 2).nonzero()[:, 0]
            pooled[here] = _roi_align(features, proposals[here], 7, stride)
        x = F.relu(self.box_head["fc2"](F.relu(self.box_head["fc1"](pooled.flatten(1)))))
        scores = self.box_predictor["cls_score"](x).float().softmax(1)[:, 0]
        boxes = _decode(self.box_predictor["bbox_pred"](x).float(), proposals, (10.0, 5.0))
        boxes = clip_boxes_to_image(boxes, limits)
        likely = (scores > _MIN_SCORE) & boxes.isfinite().all(1)
        boxes, scores = boxes[likely], scores[likely]
        return boxes[nms(boxes, scores, 0.5)[:_MAX_PEOPLE]]

    def label(self, pyramid: list[torch.Tensor], box: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns logits of the inside of `box` (1, 4): body or not (1, 2, 112, 112), and part (1, 25, 112, 112)."""
        x = _roi_align(self.decoder(pyramid), box, 28, _STRIDES[0])
        for conv in self.densepose_head.values():
            x = F.relu(conv(x))
        coarse, fine = (
            F.interpolate(deconv(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            for deconv in self.densepose_predictor.values()
        )
        return coarse, fine


def _roi_align(features: torch.Tensor, boxes: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Cuts `boxes` (N, 4) out of `features` (1, C, H, W): (N, C, size, size). In fp32, since not every dtype has it."""
    pooled = roi_align(features.float(), [boxes], size, 1 / stride, sampling_ratio=2, aligned=False)
    return pooled.to(features.dtype)


class _Decoder(nn.Module):
    """Sums p2 to p5 at the size of p2 (Panoptic FPN)."""

    def __init__(self) -> None:
        super().__init__()
        for level in (2, 3, 4, 5):
            convs = {str(2 * n): nn.Conv2d(256, 256, 3, padding=1) for n in range(max(1, level - 2))}
            self.add_module(f"p{level}", nn.ModuleDict(convs))
        self.predictor = nn.Conv2d(256, 256, 1)

    def forward(self, pyramid: list[torch.Tensor]) -> torch.Tensor:
        total: torch.Tensor | None = None
        for level, x in enumerate(pyramid, 2):
            for conv in self.get_submodule(f"p{level}").children():
                x = F.relu(conv(x))
                if level > 2:
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        return self.predictor(total)
