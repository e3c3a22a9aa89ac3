"""Registers the pack's nodes, each under its class's name, which workflow files use.

A node reads its inputs, calls the model code and hands the image on.
"""

from typing import Any

from .catvton import TryOnCatVTON, TryOnLoadCatVTON
from .fashn import TryOnFashn, TryOnLoadFashn
from .framing import TryOnCrop, TryOnPaste, TryOnRepaint
from .masks import TryOnAutoMasker, TryOnLoadAutoMasker
from .published import AutoMasker, CatVTON, LoadAutoMasker, LoadCatVTONPipeline
from .request import TryOnGarmentImage, TryOnMaskImage, TryOnOutput, TryOnPersonImage

_CLASSES = (
    TryOnLoadCatVTON,
    TryOnCatVTON,
    TryOnLoadFashn,
    TryOnFashn,
    TryOnLoadAutoMasker,
    TryOnAutoMasker,
    TryOnPersonImage,
    TryOnGarmentImage,
    TryOnMaskImage,
    TryOnCrop,
    TryOnPaste,
    TryOnRepaint,
    TryOnOutput,
)
# In a ComfyUI, a node of another pack that has one of these names stays.
PUBLISHED: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (LoadCatVTONPipeline, CatVTON, LoadAutoMasker, AutoMasker)
}
NODE_CLASS_MAPPINGS: dict[str, type[Any]] = {cls.__name__: cls for cls in _CLASSES} | PUBLISHED
NODE_DISPLAY_NAME_MAPPINGS = {name: cls.DISPLAY_NAME for name, cls in NODE_CLASS_MAPPINGS.items()}
