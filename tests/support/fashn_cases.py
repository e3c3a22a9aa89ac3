"""Results of FASHN VTON's published preparation: what this repository has of them, and the rest beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .parity import DATA, PHOTOGRAPHS

FASHN = DATA / "fashn"
WEIGHTS = FASHN / "weights"
OTHERS = PHOTOGRAPHS / "fashn"


def with_photographs(*globs: str) -> list:
    """Lists folders of cases with photographs as parameters; without them, one that is skipped and says so."""
    found = [path for glob in globs for path in sorted(OTHERS.glob(glob))]
    if found:
        return [pytest.param(path, id=path.name) for path in found]
    reason = f"NO PHOTOGRAPHS IN {OTHERS}: the preparation of photographs is not compared with the published one"
    return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def rgb(file: Path) -> np.ndarray:
    return np.array(Image.open(file).convert("RGB"))


def grey(file: Path) -> np.ndarray:
    return np.array(Image.open(file).convert("L"))


def read(file: Path) -> dict:
    return json.loads(file.read_text())
