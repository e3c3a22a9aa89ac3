"""Says in figures what a try-on did to an image, so that failures can be sorted out without looking."""

import numpy as np

from .window import Window

SMALLEST_AREA = 64 * 64  # pixels: 8 x 8 of a sampler's latents
MEDIAN_OF = 20_000  # pixels are enough for a median, and take a few milliseconds
BACKGROUND = 6.0  # CIEDE2000 to the colour of the garment image's edge: what differs less is not the garment
SMALLEST_GARMENT = 0.02  # of its image; less is a garment of the background's colour


def doubts(mask: np.ndarray, window: Window, size: tuple[int, int]) -> list[str]:
    """Returns the codes of what speaks against a good result, before one is made.

    `garment_area_small`: the mask has less than `SMALLEST_AREA` pixels, of the image or of what the sampler makes.
    `person_cut`: the mask reaches an edge of the image, so the image ends where the garment goes.

    Args:
        mask: bool (H, W), in the person image's frame.
        window: the part of the person image that the sampler sees.
        size: the (width, height) that the sampler works in.
    """
    found = []
    area = np.count_nonzero(mask)
    sampled = area * (size[0] / window.width) * (size[1] / window.height)
    if min(area, sampled) < SMALLEST_AREA:
        found.append("garment_area_small")
    if any(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])):
        found.append("person_cut")
    return found


def changed_pixels(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns which pixels of two images, uint8 (H, W, 3), differ in any channel, bool (H, W)."""
    return (before != after).any(axis=-1)


def colour_difference(garment: np.ndarray, changed: np.ndarray) -> float | None:
    """Returns the CIEDE2000 between the garment's colour and that of the changed pixels.

    Below 3 is hard to see, above 20 is another colour. Both colours are medians in CIE L*a*b*, channel by channel. The
    garment is what differs from the colour at the edge of its image.

    Args:
        garment: the garment image, uint8 (h, w, 3).
        changed: the result's pixels that changed, uint8 (N, 3).

    Returns:
        None if nothing changed.
    """
    from skimage.color import deltaE_ciede2000

    if not len(changed):
        return None
    edge = np.concatenate([garment[0], garment[-1], garment[:, 0], garment[:, -1]])
    pixels = _lab(garment.reshape(-1, 3))
    is_garment = deltaE_ciede2000(pixels, np.median(_lab(edge), axis=0, keepdims=True)) > BACKGROUND
    if is_garment.mean() > SMALLEST_GARMENT:
        pixels = pixels[is_garment]
    colours = (np.median(each, axis=0, keepdims=True) for each in (pixels, _lab(changed)))
    return float(deltaE_ciede2000(*colours)[0])


def _lab(pixels: np.ndarray) -> np.ndarray:
    """Converts evenly chosen pixels of uint8 (N, 3) to L*a*b*."""
    from skimage.color import rgb2lab

    return rgb2lab(pixels[:: max(1, len(pixels) // MEDIAN_OF)] / 255.0)
