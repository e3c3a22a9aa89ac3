"""The sample pictures of the quick start."""

from __future__ import annotations

from pathlib import Path

from .drawing import draw_pair

SEED = 500_012
WIDTH, HEIGHT = 384, 512


def write(folder: Path) -> dict[str, Path]:
    """Write `person.png`, `garment.png` and `mask.png` into `folder`; returns their paths by those names' stems."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = draw_pair(SEED, WIDTH, HEIGHT)
    pictures = {"person": pair.person, "garment": pair.garment, "mask": pair.mask}
    paths = {name: folder / f"{name}.png" for name in pictures}
    for name, picture in pictures.items():
        picture.save(paths[name])
    return paths
