"""Scores images of drawn pairs against the truth, the pair's `worn`.

The *area* is where the truth shows the garment inside the mask.

- `ssim`: scikit-image's `structural_similarity` on RGB with the Gaussian window of Wang et al. (sigma 1.5); the mean of
  its full map over the area and the three channels.
- `psnr`: of the area's RGB, in dB, at most 99.
- `ciede2000`: between the main colours of the garment image, without its background, and of the area, as in the API's
  reports.
- `nearest`: the share of images that are nearer to their own truth than to the truths of the 99 other pairs of their
  hundred. The distance is that of the areas' colours: 25 percentiles each of L*, a* and b*, their differences added up.
  The truth itself is always right, and one unchanged person of a hundred.
- `halo`: the mean absolute error of the mask's pixels that are at most 8 pixels from its edge, `edge_error`, divided by
  that of its other pixels, `inside_error`. Much of the edge is background that the truth leaves alone, so a halo shows
  in an `edge_error` above that of the unchanged person, too.

Of several pairs `ciede2000` is the median, and all else the mean.
"""

from __future__ import annotations

import statistics

import numpy as np
from comfyui_tryon.framing.report import colour_difference
from drawing import Pair
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity

CHOICES = 100
EDGE = 8
PERCENTILES = range(2, 100, 4)
REACH = 5  # pixels of SSIM's Gaussian
TINY = 1e-6  # so that two errors of 0 are no halo


def scores(pairs: list[Pair], made: list[Image.Image]) -> dict[str, float]:
    """Scores RGB images of the first pairs, in their size; the module's text says what is in the result.

    Pairs without an image are only among the truths that `nearest` has to choose from. The area must not be empty, and
    a mask must be more than `EDGE` pixels deep somewhere.
    """
    both = [*zip(pairs, made)]
    edge, inside = np.mean([errors(*one) for one in both], 0).tolist()
    return {
        "ssim": float(np.mean([ssim(*one) for one in both])),
        "psnr": float(np.mean([psnr(*one) for one in both])),
        "ciede2000": statistics.median(ciede2000(*one) for one in both),
        "nearest": nearest(pairs, made),
        "halo": (edge + TINY) / (inside + TINY),
        "edge_error": edge,
        "inside_error": inside,
    }


def ssim(pair: Pair, made: Image.Image) -> float:
    """Returns the mean structural similarity of the area, at most 1."""
    where = area(pair)
    near = tuple(slice(max(0, at.min() - REACH), at.max() + REACH + 1) for at in np.nonzero(where))
    _, similarity = structural_similarity(
        np.asarray(pair.worn)[near],  # the rest would take time and change nothing
        np.asarray(made)[near],
        channel_axis=-1,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    return float(similarity[where[near]].mean())


def psnr(pair: Pair, made: Image.Image) -> float:
    """Returns the peak signal-to-noise ratio of the area in dB, at most 99."""
    square = np.mean((np.asarray(made, np.float64) - np.asarray(pair.worn))[area(pair)] ** 2)
    return min(99.0, float(10 * np.log10(255**2 / max(square, 1e-9))))


def ciede2000(pair: Pair, made: Image.Image) -> float:
    """Returns the difference between the main colours of the garment image and of the area."""
    return float(colour_difference(np.asarray(pair.garment), np.asarray(made)[area(pair)]) or 0)


def nearest(pairs: list[Pair], made: list[Image.Image]) -> float:
    """Returns the share of images that are nearest to their own truth, among those of at most `CHOICES` pairs."""
    truths = np.array([colours(pair, pair.worn) for pair in pairs])
    right = []
    for index, (pair, image) in enumerate(zip(pairs, made)):
        first = index // CHOICES * CHOICES
        distances = np.abs(truths[first : first + CHOICES] - colours(pair, image)).sum((1, 2))
        right.append(first + int(np.argmin(distances)) == index)
    return float(np.mean(right))


def errors(pair: Pair, made: Image.Image) -> tuple[float, float]:
    """Returns the mean absolute errors, 0 to 255, of the mask's pixels at its edge and of its other pixels."""
    wrong = np.abs(np.asarray(made, np.float64) - np.asarray(pair.worn)).mean(-1)
    depth = distance_transform_edt(np.asarray(pair.mask) > 0)
    return float(wrong[(depth > 0) & (depth <= EDGE)].mean()), float(wrong[depth > EDGE].mean())


def area(pair: Pair) -> np.ndarray:
    """Returns where the truth shows the garment inside the mask, bool (H, W)."""
    return (np.asarray(pair.dressed) > 0) & (np.asarray(pair.mask) > 0)


def colours(pair: Pair, image: Image.Image) -> np.ndarray:
    """Returns the percentiles of L*, a* and b* of the area, float64 (25, 3)."""
    return np.percentile(rgb2lab(np.asarray(image)[area(pair)]), PERCENTILES, axis=0)


def table(rows: dict[str, dict[str, float]]) -> str:
    """Sets rows of the same figures, by their names, as lines of text."""
    names = [*next(iter(rows.values()))]
    widest = max(map(len, rows))
    lines = [" " * widest + "".join(f"{name:>14}" for name in names)]
    for row, figures in rows.items():
        lines.append(f"{row:{widest}}" + "".join(f"{figures[name]:14.3f}" for name in names))
    return "\n".join(lines)
