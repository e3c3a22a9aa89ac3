"""Labels clothes and body parts by FASHN's human parser, a SegFormer.

Its weights are for research and evaluation only: nothing fetches them unless they are asked for by name.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..masker.checkpoints import CheckpointError
from ..masker.segformer import SegformerMasker, read_labels, read_network
from ..resampling import area
from .agnostic import LABELS

_HEIGHT, _WIDTH = 576, 384  # pixels that the network sees, whatever an image's aspect ratio
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ParserMissing(ValueError):
    """The human parser is needed and was not loaded. The message says what needs it."""


class HumanParser(nn.Module):
    """Labels images, on the device of its weights and in float32."""

    def __init__(self, network: nn.Module, labels: list[str]) -> None:
        super().__init__()
        self.network = network
        self._indices = np.array([LABELS.index(label) for label in labels], np.uint8)

    @torch.inference_mode()
    def labels(self, image: np.ndarray) -> np.ndarray:
        """Labels each pixel of `image`, uint8 (H, W, 3) RGB; uint8 (H, W), indices of `LABELS`."""
        device = next(self.parameters()).device
        pixels = torch.from_numpy(area(image, _HEIGHT, _WIDTH)).to(device).permute(2, 0, 1)[None].float() / 255
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        logits = self.network(pixel_values=(pixels - mean) / std).logits
        logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
        return self._indices[logits[0].max(0).indices.to(torch.uint8).cpu().numpy()]


@torch.inference_mode(False)  # a host may load inside and move outside inference mode
def load(folder: Path) -> HumanParser:
    """Loads the parser, on the CPU, from a downloaded repository of `fashn-ai/fashn-human-parser`.

    Raises:
        CheckpointError: a file is missing, damaged, unsafe or of another parser.
    """
    folder = Path(folder)
    for file in SegformerMasker.missing_files(folder):
        raise CheckpointError(f"{file} is missing. Download the whole repository to this folder.")
    labels = read_labels(folder)
    if sorted(labels) != sorted(LABELS):
        raise CheckpointError(f"{folder / 'config.json'} has other labels than fashn-human-parser; give its folder.")
    return HumanParser(read_network(folder), labels)
