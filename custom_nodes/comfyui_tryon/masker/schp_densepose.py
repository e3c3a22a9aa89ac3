"""The published AutoMasker: two SCHP parsers and DensePose, from CatVTON's own weight files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from .agnostic import LabelMaps, NoPersonFound, agnostic_mask, check_request
from .checkpoints import missing
from .densepose import DensePose, People
from .schp import Schp

_ATR = "SCHP/exp-schp-201908301523-atr.pth"
_LIP = "SCHP/exp-schp-201908261155-lip.pth"
_DENSEPOSE = "DensePose/model_final_162be9.pkl"


class SchpDensePoseMasker(nn.Module):
    """Masks as CatVTON was trained with. Computes on the device and in the dtype of its parameters."""

    def __init__(self, atr: Schp, lip: Schp, densepose: DensePose) -> None:
        super().__init__()
        self.atr, self.lip, self.densepose = atr, lip, densepose

    @staticmethod
    def missing_files(folder: Path) -> list[Path]:
        """The weight files that `load` needs and `folder` lacks."""
        return missing(folder, (_ATR, _LIP, _DENSEPOSE))

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> "SchpDensePoseMasker":
        """The masker on the CPU from a download of CatVTON's repository (`zhengchong/CatVTON`).

        Raises:
            CheckpointError: a file is missing, damaged, unsafe or of another network; the message names it.
        """
        folder = Path(folder)
        return cls(
            Schp.load(folder / _ATR, 18, 512, dtype),
            Schp.load(folder / _LIP, 20, 473, dtype),
            DensePose.load(folder / _DENSEPOSE, dtype),
        )

    def mask(
        self,
        person: np.ndarray,
        cloth_type: str,
        *,
        mask_grow: int = 0,
        square: bool = False,
        largest: bool = False,
        callback: Callable[[], None] | None = None,
    ) -> np.ndarray:
        """The garment area, uint8 (H, W) in {0, 255}.

        Args:
            person: uint8 (H, W, 3) RGB, any size.
            cloth_type: one of `CLOTH_TYPES`.
            mask_grow: pixels to add around the published area; negative shrinks it.
            square: mask the area's bounding box, so that the outline of the worn garment does not show.
            largest: of several people dress the one with the largest box, not the one with the highest score.
            callback: called between the stages; may raise to stop the work.

        Face, hands and feet stay clear (see `agnostic_mask`). People apart from the one to dress are left alone.

        Raises:
            NoPersonFound: DensePose sees nobody with a score above 0.8.
            ValueError: no uint8 RGB picture, or an unknown cloth type.
        """
        check_request(person, cloth_type)
        maps, people = self._parse(person, largest, callback)
        if callback:
            callback()
        maps = _without_others(maps, people)
        return agnostic_mask(maps, cloth_type, mask_grow=mask_grow, square=square)

    def label_maps(self, person: np.ndarray, *, largest: bool = False) -> LabelMaps:
        """What the three parsers say of `person`, uint8 (H, W, 3) RGB.

        Raises:
            NoPersonFound: DensePose sees nobody with a score above 0.8.
        """
        return self._parse(person, largest, None)[0]

    def _parse(
        self, person: np.ndarray, largest: bool, callback: Callable[[], None] | None
    ) -> tuple[LabelMaps, People]:
        callback = callback or (lambda: None)
        person = np.array(person, order="C")
        callback()
        people = self.densepose.parse(person, largest)
        if people is None:
            raise NoPersonFound("no person was found in the picture; send one that shows the person clearly")
        pixels = torch.tensor(person, device=next(self.parameters()).device)
        parsed = []
        for parser in (self.atr, self.lip):
            callback()
            parsed.append(parser.parse(pixels).cpu().numpy())
        return LabelMaps(people.labels, *parsed), people


def _without_others(maps: LabelMaps, people: People) -> LabelMaps:
    """`maps` without the figures that lie mostly in other people's boxes and do not touch the chosen one's body."""
    if len(people.boxes) == 1:
        return maps
    theirs = np.zeros(maps.densepose.shape, bool)
    for index, (x0, y0, x1, y1) in enumerate(people.boxes.astype(int)):
        if index != people.chosen:
            theirs[y0 : y1 + 1, x0 : x1 + 1] = True
    figures, count = ndimage.label((maps.atr != 0) | (maps.lip != 0), np.ones((3, 3)))
    sizes, inside, chosen = (
        np.bincount(figures.ravel(), plane, count + 1) for plane in (None, theirs.ravel(), (maps.densepose > 0).ravel())
    )
    others = (inside > 0.5 * sizes) & (chosen == 0)
    others[0] = False
    erased = others[figures]
    return LabelMaps(maps.densepose, np.where(erased, 0, maps.atr), np.where(erased, 0, maps.lip))
