"""Defines what every masker takes, checks and returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import nn

from .agnostic import CLOTH_TYPES, LabelMaps, agnostic_mask

Callback = Callable[[], None]
# Pixels of the longer side in which people are parsed and masked; the networks themselves see no more than half of it.
PARSED_SIDE = 1024


class GarmentArea(NamedTuple):
    """Says where a garment goes, and how many people there are.

    Attributes:
        mask: uint8 (H, W), 255 where the garment goes, else 0.
        people: how many people the masker tells apart; 1 if it cannot.
    """

    mask: np.ndarray
    people: int = 1


class NoPersonFound(ValueError):
    """Nobody whom the masker could dress is in the image."""

    def __init__(self) -> None:
        super().__init__("no person was found in the image; send one that shows the person clearly")


class Masker(nn.Module):
    """Finds where a garment goes on a person, on the device and in the dtype of its parameters."""

    def mask(self, person: np.ndarray, cloth_type: str, **options: Any) -> np.ndarray:
        """Returns the garment area, uint8 (H, W), as `find` does."""
        return self.find(person, cloth_type, **options).mask

    def find(
        self,
        person: np.ndarray,
        cloth_type: str,
        *,
        mask_grow: int = 0,
        square: bool = False,
        largest: bool = False,
        callback: Callback = lambda: None,
    ) -> GarmentArea:
        """Finds the garment area.

        Args:
            person: uint8 (H, W, 3) RGB, any size.
            cloth_type: one of `CLOTH_TYPES`.
            mask_grow: pixels to add around the area; negative shrinks it. Head and hands stay clear.
            square: mask the area's bounding box, so that the outline of the worn garment does not show.
            largest: of several people dress the largest; a masker that cannot tell them apart ignores it.
            callback: called before each stage of the work; what it raises ends the call.

        Raises:
            NoPersonFound: the parsers see nobody.
            ValueError: `person` is not a uint8 RGB image, or the cloth type is unknown.
        """
        if cloth_type not in CLOTH_TYPES:
            raise ValueError(f"cloth_type is {cloth_type!r}; give one of {', '.join(CLOTH_TYPES)}")
        if person.dtype != np.uint8 or person.ndim != 3 or person.shape[2] != 3 or 0 in person.shape:
            raise ValueError(f"person must be a uint8 (H, W, 3) RGB image, not {person.dtype} {person.shape}")
        callback()
        return self._find(person, cloth_type, mask_grow, square, largest, callback)

    def _find(
        self, person: np.ndarray, cloth_type: str, mask_grow: int, square: bool, largest: bool, callback: Callback
    ) -> GarmentArea:
        raise NotImplementedError


class ParserMasker(Masker):
    """Applies CatVTON's mask logic to what human parsers say of each pixel.

    A person image with a side above `PARSED_SIDE` is reduced to it, and the mask is enlarged to the image again.
    """

    def _find(
        self, person: np.ndarray, cloth_type: str, mask_grow: int, square: bool, largest: bool, callback: Callback
    ) -> GarmentArea:
        height, width = person.shape[:2]
        scale = min(1.0, PARSED_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if scale < 1:
            person = np.array(Image.fromarray(person).resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0))
        maps, people = self._garment_maps(person, cloth_type, largest, callback)
        callback()
        mask = agnostic_mask(maps, cloth_type, mask_grow=round(mask_grow * scale), square=square)
        if scale < 1:
            enlarged = Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR)
            mask = (np.asarray(enlarged) >= 128).astype(np.uint8) * 255
        return GarmentArea(mask, people)

    def _garment_maps(
        self, person: np.ndarray, cloth_type: str, largest: bool, callback: Callback
    ) -> tuple[LabelMaps, int]:
        """Returns the label maps of those to dress, with the labels that `cloth_type` asks for; how many people there
        are."""
        raise NotImplementedError
