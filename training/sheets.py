"""Arranges images on sheets that are looked at."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps

GAP = 12


def sheet(groups: Sequence[Sequence[Image.Image]], cell: tuple[int, int], columns: int, gap: int = 0) -> Image.Image:
    """Puts groups of RGB images side by side, `columns` groups a row, and `GAP` pixels of white between the groups.

    Every image is fitted into a `cell` of (width, height) pixels, centred on white; `gap` pixels lie between those of
    a group.
    """
    width, height = cell
    members = max(map(len, groups))
    columns = min(columns, len(groups))
    across = members * width + (members - 1) * gap + GAP
    rows = -(-len(groups) // columns)
    whole = Image.new("RGB", (across * columns - GAP, (height + GAP) * rows - GAP), "white")
    for index, group in enumerate(groups):
        left, top = index % columns * across, index // columns * (height + GAP)
        for position, image in enumerate(group):
            fitted = ImageOps.pad(image, cell, Image.Resampling.LANCZOS, "white")
            whole.paste(fitted, (left + position * (width + gap), top))
    return whole
