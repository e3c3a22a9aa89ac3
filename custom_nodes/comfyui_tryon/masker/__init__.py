"""Agnostic masks for CatVTON: which part of a person picture is garment."""

from .agnostic import CLOTH_TYPES, LabelMaps, NoPersonFound
from .checkpoints import CheckpointError
from .geometric import GeometricMasker
from .schp_densepose import SchpDensePoseMasker
from .segformer import SegformerMasker

__all__ = [
    "CLOTH_TYPES",
    "CheckpointError",
    "GeometricMasker",
    "LabelMaps",
    "NoPersonFound",
    "SchpDensePoseMasker",
    "SegformerMasker",
]
