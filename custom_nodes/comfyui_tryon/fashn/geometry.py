"""Computes the sizes that images go through on their way to the canvas. All sizes are (height, width) in pixels."""

from typing import NamedTuple

Size = tuple[int, int]


class Box(NamedTuple):
    """Places an image on the canvas, in pixels."""

    left: int
    top: int
    width: int
    height: int


class TooNarrow(ValueError):
    """An image is so narrow that a side of it vanishes when it is scaled."""

    def __init__(self, size: Size) -> None:
        height, width = size
        super().__init__(
            f"the image is too narrow: {width} x {height} pixels would be less than one pixel wide or high "
            "when scaled; send an image whose sides differ less"
        )


def reduced(size: Size, canvas: Size) -> Size:
    """Returns `size` scaled down so that no side is longer than the longest of the canvas, cut to whole pixels.

    Raises:
        TooNarrow: less than one pixel of a side is left.
    """
    height, width = size
    longest = max(canvas)
    return _scaled(size, min(longest / width, longest / height, 1.0))


def fitted(size: Size, canvas: Size) -> tuple[Size, bool]:
    """Scales `size` up or down to fit the canvas, cut to whole pixels; says whether that enlarges it.

    An image can be enlarged and still keep its size, when less than a pixel is missing.

    Raises:
        TooNarrow: less than one pixel of a side is left.
    """
    scale = min(canvas[1] / size[1], canvas[0] / size[0])
    return _scaled(size, scale), scale > 1


def centred(size: Size, canvas: Size) -> Box:
    """Places an image of `size` in the middle of the canvas; an odd pixel is to its right and below."""
    (height, width), (canvas_height, canvas_width) = size, canvas
    return Box((canvas_width - width) // 2, (canvas_height - height) // 2, width, height)


def _scaled(size: Size, scale: float) -> Size:
    height, width = (int(scale * side) for side in size)
    if not height or not width:
        raise TooNarrow(size)
    return height, width
