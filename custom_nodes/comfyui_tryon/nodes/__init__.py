"""Registers the pack's nodes, each under its class's name, which workflow files use.

A node reads its inputs, calls the model code and hands the image on.
"""

from typing import Any

from .catvton import CatVTON, LoadCatVTONPipeline
from .framing import TryOnCrop, TryOnPaste, TryOnRepaint
from .masks import AutoMasker, LoadAutoMasker
from .request import TryOnGarmentImage, TryOnMaskImage, TryOnOutput, TryOnPersonImage

_CLASSES = (
    LoadCatVTONPipeline,
    CatVTON,
    LoadAutoMasker,
    AutoMasker,
    TryOnPersonImage,
    TryOnGarmentImage,
    TryOnMaskImage,
    TryOnCrop,
    TryOnPaste,
    TryOnRepaint,
    TryOnOutput,
)
NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {cls.__name__: cls for cls in _CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = {cls.__name__: cls.DISPLAY_NAME for cls in _CLASSES}
