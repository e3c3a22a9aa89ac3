"""Finds garment areas with one SegFormer parser (Xie et al., NeurIPS 2021) instead of SCHP and DensePose.

For any checkpoint with ATR's labels, such as `mattmdjaga/segformer_b2_clothes`, and for `fashn-ai/fashn-human-parser`,
whose labels tell hands, feet and torso too. Both are read through transformers from a local folder.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import nn

from .agnostic import ATR_LABELS, DENSEPOSE_PARTS, LIP_LABELS, LabelMaps
from .base import Callback, NoPersonFound, ParserMasker
from .checkpoints import CheckpointError, missing, reading

# fashn-human-parser's labels in ATR's words, and the DensePose part they stand for.
_FASHN = {
    "background": ("Background", None),
    "face": ("Face", None),
    "hair": ("Hair", None),
    "top": ("Upper-clothes", None),
    "dress": ("Dress", None),
    "skirt": ("Skirt", None),
    "pants": ("Pants", None),
    "belt": ("Belt", None),
    "bag": ("Bag", None),
    "hat": ("Hat", None),
    "scarf": ("Scarf", None),
    "glasses": ("Sunglasses", None),
    "arms": ("Left-arm", None),
    "hands": ("Left-arm", "hands"),
    "legs": ("Left-leg", None),
    "feet": ("Left-shoe", None),
    "torso": ("Background", "torso"),  # bare skin, which SCHP has no label for
    "jewelry": ("Sunglasses", None),  # kept, like other accessories
}
_ATR = {label.lower(): (label, None) for label in ATR_LABELS}
_BODY = ("Face", "Hair", "Left-arm", "Right-arm", "Left-leg", "Right-leg")

_HEAD = ("Hat", "Hair", "Sunglasses", "Face")
_COUNTED_EVERY = 4  # pixels: heads are larger, and further apart
_SMALLER_HEAD = 0.2  # of the largest one's area; smaller ones are in the background
_LONGEST = 1024  # pixels of the label map, which is then scaled to the image
_MIN_BODY = 0.0005  # of the image
_HAND_TO_FACE = 1.2  # a hand's length in square roots of the area labelled face
_SPECK_TO_FACE = 0.1  # of that area; a smaller piece of an arm is the parser's mistake


class SegformerMasker(ParserMasker):
    """Masks with a SegFormer human parser.

    ATR's labels do not tell hands from arms; there the far end of each arm is taken for the hand. No label tells a coat
    from a shirt; "outer" takes the top for a coat. Everybody is dressed or, of `largest`, the largest of the figures
    that stand apart.
    """

    def __init__(self, network: nn.Module, labels: list[tuple[str, str | None]], size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size  # height, width that the network was trained with
        self.tables = LabelMaps(
            np.array([DENSEPOSE_PARTS[part][0] if part else 0 for _, part in labels], np.uint8),
            np.array([ATR_LABELS.index(label) for label, _ in labels], np.uint8),
            np.array([LIP_LABELS.index(label) if label in LIP_LABELS else 0 for label, _ in labels], np.uint8),
        )

    @staticmethod
    def missing_files(folder: Path) -> list[Path]:
        """Lists the files that `load` needs and `folder` lacks; `pytorch_model.bin` replaces `model.safetensors`."""
        weights = () if not missing(folder, ("pytorch_model.bin",)) else ("model.safetensors",)
        return missing(folder, ("config.json", *weights))

    @classmethod
    @torch.inference_mode(False)  # a host may load inside and move outside inference mode
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> "SegformerMasker":
        """Loads the masker, on the CPU, from a downloaded SegFormer repository.

        Raises:
            CheckpointError: a file is missing, damaged, unsafe or not of a SegFormer, or its labels are unknown.
        """
        folder = Path(folder)
        for file in cls.missing_files(folder):
            raise CheckpointError(f"{file} is missing. Download the whole repository to this folder.")
        names = read_labels(folder)
        known = _FASHN if set(names) == set(_FASHN) else _ATR
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            found = f"has the label {unknown[0]!r}" if unknown else "has no labels"
            raise CheckpointError(
                f"{folder / 'config.json'} {found}; give a parser with ATR's labels (such as segformer_b2_clothes) or "
                "fashn-human-parser's."
            )
        size = _trained_size(folder / "preprocessor_config.json")
        return cls(read_network(folder).to(dtype), [known[name] for name in names], size)

    def _garment_maps(
        self, person: np.ndarray, cloth_type: str, largest: bool, callback: Callback
    ) -> tuple[LabelMaps, int]:
        maps, people = self._maps(person, largest)
        if cloth_type == "outer":
            coat, top = LIP_LABELS.index("Coat"), LIP_LABELS.index("Upper-clothes")
            maps = maps._replace(lip=np.where(maps.lip == top, coat, maps.lip))
        return maps, people

    def label_maps(self, person: np.ndarray, *, largest: bool = False) -> LabelMaps:
        """Returns the parser's labels of `person`, uint8 (H, W, 3) RGB, in the terms of the published parsers.

        `densepose` holds no more than hands (3) and torso (1).

        Raises:
            NoPersonFound: less than 0.05 % of the image is face, hair, arm or leg.
        """
        return self._maps(person, largest)[0]

    def _maps(self, person: np.ndarray, largest: bool) -> tuple[LabelMaps, int]:
        labels = self._parse(person)
        densepose, atr, lip = (table[labels] for table in self.tables)
        body = np.isin(atr, [ATR_LABELS.index(label) for label in _BODY])
        if body.mean() < _MIN_BODY:
            raise NoPersonFound
        people = _count(atr)
        if largest:
            figures, _ = ndimage.label((atr != 0) | (densepose != 0), np.ones((3, 3)))
            sizes = np.bincount(figures.ravel())
            sizes[0] = 0
            other = figures != sizes.argmax()
            for plane in (densepose, atr, lip):
                plane[other] = 0
        if not self.tables.densepose.any():
            densepose[_hands(atr)] = DENSEPOSE_PARTS["hands"][0]
        return LabelMaps(densepose, atr, lip), people

    @torch.inference_mode()
    def _parse(self, person: np.ndarray) -> np.ndarray:
        """Returns the checkpoint's own labels, uint8 (H, W)."""
        height, width = person.shape[:2]
        parameter = next(self.parameters())
        image = Image.fromarray(np.array(person, order="C")).resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).to(parameter.device).permute(2, 0, 1)[None].float() / 255
        mean, std = (
            torch.tensor(values, device=parameter.device).view(1, 3, 1, 1)
            for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        logits = self.network(pixel_values=((pixels - mean) / std).to(parameter.dtype)).logits.float()
        scale = min(1.0, _LONGEST / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        labels = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].max(0).indices
        small = Image.fromarray(labels.to(torch.uint8).cpu().numpy())
        return np.array(small.resize((width, height), Image.Resampling.NEAREST))


def read_labels(folder: Path) -> list[str]:
    """Reads the names of a SegFormer's labels, in lower case, from its config.json.

    Raises:
        CheckpointError: the file is missing, damaged or describes another model.
    """
    config_file = folder / "config.json"
    with reading(config_file):
        config = json.loads(config_file.read_text("utf-8"))
        kind, names = config.get("model_type"), config.get("id2label", {})
        names = [names[str(index)].lower() for index in range(len(names))]
    if kind != "segformer":
        raise CheckpointError(f"{config_file} describes a {kind!r} model; give the folder of a SegFormer parser.")
    return names


def read_network(folder: Path) -> nn.Module:
    """Loads the network of a downloaded SegFormer repository, float32 on the CPU.

    Raises:
        CheckpointError: a file is missing, damaged, unsafe or of another network.
    """
    from transformers import SegformerForSemanticSegmentation  # 1.2 s of every start, if done above

    safe = folder / "model.safetensors"
    weights = safe if safe.is_file() else folder / "pytorch_model.bin"
    with reading(weights), torch.random.fork_rng(devices=[]):
        loaded: Any = SegformerForSemanticSegmentation.from_pretrained(
            folder,
            local_files_only=True,
            weights_only=True,
            use_safetensors=weights == safe,
            output_loading_info=True,
        )
    network, report = loaded
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise CheckpointError(f"{weights} does not fit its config.json at {wrong[0]!r}. Download both files again.")
    return network.float().requires_grad_(False).eval()


def _trained_size(file: Path) -> tuple[int, int]:
    """Reads (height, width) from a preprocessor_config.json; SegFormer's 512 x 512 if there is none."""
    if not file.is_file():
        return 512, 512
    with reading(file):
        size = json.loads(file.read_text("utf-8")).get("size", 512)
        height, width = (size["height"], size["width"]) if isinstance(size, dict) else (size, size)
        return int(height), int(width)


def _count(atr: np.ndarray) -> int:
    """Counts the heads that have a face and are not much smaller than the largest; 1 at least.

    Heads, because whole figures fall apart: no label is for the neck.
    """
    coarse = atr[::_COUNTED_EVERY, ::_COUNTED_EVERY]
    heads, number = ndimage.label(np.isin(coarse, [ATR_LABELS.index(label) for label in _HEAD]), np.ones((3, 3)))
    sizes = np.bincount(heads.ravel(), minlength=number + 1)[1:]
    has_face = np.bincount(heads[coarse == ATR_LABELS.index("Face")], minlength=number + 1)[1:] > 0
    sizes = sizes[has_face]
    return max(1, int((sizes >= _SMALLER_HEAD * sizes.max(initial=1)).sum()))


def _hands(atr: np.ndarray) -> np.ndarray:
    """Guesses where hands are, bool (H, W): the part of each arm that is farthest from the face."""
    hands = np.zeros(atr.shape, bool)
    face = np.argwhere(atr == ATR_LABELS.index("Face"))
    if not len(face):
        return hands
    reach = _HAND_TO_FACE * len(face) ** 0.5
    for label in ("Left-arm", "Right-arm"):
        arm = np.argwhere(_without_specks(atr == ATR_LABELS.index(label), _SPECK_TO_FACE * len(face)))
        if len(arm):
            root = arm[np.linalg.norm(arm - face.mean(0), axis=1).argmin()]
            tip = arm[np.linalg.norm(arm - root, axis=1).argmax()]
            hands[tuple(arm[np.linalg.norm(arm - tip, axis=1) <= reach].T)] = True
    return hands


def _without_specks(plane: np.ndarray, smallest: float) -> np.ndarray:
    """Returns those 8-connected pieces of a bool plane (H, W) that have `smallest` pixels, and the largest in any case.

    A speck at somebody's hem would pass for the hand, since it is farther away than the hand itself.
    """
    pieces, number = ndimage.label(plane, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=number + 1)
    sizes[0] = 0
    return np.isin(pieces, np.flatnonzero((sizes >= smallest) | (sizes == sizes.max()))) & plane
