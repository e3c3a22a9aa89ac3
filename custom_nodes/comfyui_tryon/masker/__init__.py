"""Agnostic masks for CatVTON: which part of a person picture is garment."""

from .agnostic import CLOTH_TYPES, NoPersonFound
from .geometric import GeometricMasker

__all__ = ["CLOTH_TYPES", "GeometricMasker", "NoPersonFound"]
