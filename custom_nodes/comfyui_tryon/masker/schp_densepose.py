"""The published AutoMasker: two SCHP parsers and DensePose, from CatVTON's own weight files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from .agnostic import LabelMaps
from .base import Callback, NoPersonFound, ParserMasker
from .schp import Schp

if TYPE_CHECKING:
    from .densepose import DensePose, People

_ATR = "SCHP/exp-schp-201908301523-atr.pth"
_LIP = "SCHP/exp-schp-201908261155-lip.pth"
_DENSEPOSE = "DensePose/model_final_162be9.pkl"


class SchpDensePoseMasker(ParserMasker):
    """Masks as CatVTON was trained with.

    Dresses the person with the highest score above 0.8 or, of `largest`, the largest box; others are left alone.
    """

    def __init__(self, atr: Schp, lip: Schp, densepose: DensePose) -> None:
        super().__init__()
        self.atr, self.lip, self.densepose = atr, lip, densepose

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype = torch.float32) -> SchpDensePoseMasker:
        """Loads the masker, on the CPU, from a download of CatVTON's repository (`zhengchong/CatVTON`).

        Raises:
            CheckpointError: a file is missing, damaged, unsafe or of another network; the message names it.
        """
        from .densepose import DensePose  # imports torchvision: 3.4 s of every start without ComfyUI, if done above

        folder = Path(folder)
        return cls(
            Schp.load(folder / _ATR, 18, 512, dtype),
            Schp.load(folder / _LIP, 20, 473, dtype),
            DensePose.load(folder / _DENSEPOSE, dtype),
        )

    def label_maps(self, person: np.ndarray, *, largest: bool = False) -> LabelMaps:
        """Returns what the three parsers say of `person`, uint8 (H, W, 3) RGB.

        Raises:
            NoPersonFound: DensePose sees nobody with a score above 0.8.
        """
        return self._parse(person, largest, lambda: None)[0]

    def _garment_maps(
        self, person: np.ndarray, cloth_type: str, largest: bool, callback: Callback
    ) -> tuple[LabelMaps, int]:
        maps, people = self._parse(person, largest, callback)
        return _without_others(maps, people), len(people.boxes)

    def _parse(self, person: np.ndarray, largest: bool, callback: Callback) -> tuple[LabelMaps, People]:
        person = np.array(person, order="C")  # torch takes no negative strides
        people = self.densepose.parse(person, largest)
        if people is None:
            raise NoPersonFound
        pixels = torch.tensor(person, device=next(self.parameters()).device)
        callback()
        atr = self.atr.parse(pixels).cpu().numpy()
        callback()
        lip = self.lip.parse(pixels).cpu().numpy()
        return LabelMaps(people.labels, atr, lip), people


def _without_others(maps: LabelMaps, people: People) -> LabelMaps:
    """Erases the figures that lie mostly in other people's boxes and do not touch the chosen one's body."""
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
