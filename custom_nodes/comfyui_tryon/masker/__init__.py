"""Finds which part of a person image is garment: the agnostic masks that CatVTON was trained with.

Plain torch and numpy; this package knows nothing of HTTP or of ComfyUI.
"""

from .agnostic import CLOTH_TYPES, LabelMaps
from .base import Masker, NoPersonFound
from .checkpoints import CheckpointError
from .geometric import GeometricMasker
from .schp_densepose import SchpDensePoseMasker
from .segformer import SegformerMasker

__all__ = [
    "CLOTH_TYPES",
    "CheckpointError",
    "GeometricMasker",
    "LabelMaps",
    "Masker",
    "NoPersonFound",
    "SchpDensePoseMasker",
    "SegformerMasker",
]
