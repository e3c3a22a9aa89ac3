"""Draws images and label maps of simple people for the masker's tests."""

import numpy as np
from comfyui_tryon.masker import LabelMaps
from comfyui_tryon.masker.agnostic import ATR_LABELS, LIP_LABELS
from PIL import Image, ImageDraw

# Label, RGB colour and box (x0, y0, x1, y1 in hundredths of the image) of each part, back to front.
_PARTS = [
    ("Hair", (60, 40, 30), (43, 3, 57, 14)),
    ("Left-leg", (225, 175, 150), (52, 70, 59, 94)),
    ("Right-leg", (225, 175, 150), (41, 70, 48, 94)),
    ("Left-shoe", (30, 30, 30), (52, 94, 60, 98)),
    ("Right-shoe", (30, 30, 30), (40, 94, 48, 98)),
    ("Left-arm", (225, 175, 150), (64, 24, 69, 54)),
    ("Right-arm", (225, 175, 150), (31, 24, 36, 54)),
    ("Pants", (40, 60, 140), (40, 44, 60, 72)),
    ("Upper-clothes", (190, 40, 50), (36, 19, 64, 47)),
    ("Face", (225, 175, 150), (45, 6, 55, 15)),
]
_NECK = (48, 13, 52, 20)  # no parser has a label for it
# DensePose part and box.
_DENSEPOSE = [
    (2, (37, 19, 63, 46)),
    (15, (64, 22, 69, 36)),
    (16, (31, 22, 36, 36)),
    (19, (64, 36, 69, 47)),
    (20, (31, 36, 36, 47)),
    (4, (64, 47, 69, 54)),
    (3, (31, 47, 36, 54)),
    (7, (51, 46, 60, 72)),
    (8, (40, 46, 49, 72)),
    (11, (52, 72, 59, 93)),
    (12, (41, 72, 48, 93)),
    (6, (52, 93, 60, 98)),
    (5, (40, 93, 48, 98)),
    (23, (44, 4, 56, 15)),
]


def label_maps(width: int, height: int) -> LabelMaps:
    """Draws the person's label maps, as if each parser had made no mistake."""
    planes = []
    for parts in (
        _DENSEPOSE,
        [(ATR_LABELS.index(label), box) for label, _, box in _PARTS],
        [(LIP_LABELS.index(label), box) for label, _, box in _PARTS],
    ):
        plane = Image.new("L", (width, height))
        for value, box in parts:
            _draw(plane, box, value)
        planes.append(np.array(plane))
    return LabelMaps(*planes)


def person_image(width: int, height: int, background: tuple[int, int, int] = (235, 235, 230)) -> np.ndarray:
    """Draws the person, who fills the image's height: uint8 (height, width, 3) RGB."""
    image = Image.new("RGB", (width, height), background)
    _draw(image, _NECK, (225, 175, 150))
    for _, colour, box in _PARTS:
        _draw(image, box, colour)
    return np.array(image)


def _draw(image: Image.Image, box: tuple[int, int, int, int], colour: int | tuple[int, int, int]) -> None:
    """Draws one part: round where it belongs to the head, else a rectangle."""
    (x0, x1), (y0, y1) = (
        [n * size // 100 for n in ends] for ends, size in zip((box[::2], box[1::2]), image.size, strict=True)
    )
    draw = ImageDraw.Draw(image)
    (draw.ellipse if box[1] < 10 else draw.rectangle)((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), fill=colour)
