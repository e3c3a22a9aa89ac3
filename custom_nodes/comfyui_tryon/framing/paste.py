"""Cuts a window out of an image, and puts a sampler's result back into it."""

import math
from typing import Literal

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from .window import Window, bounds

LANCZOS_REACH = 3  # pixels of the smaller of two images


def cut(image: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """Cuts `window` out of an image and resizes it with Lanczos; what is beyond the image repeats its edge.

    Args:
        image: uint8, (H, W, 3) or (H, W).
        window: may reach beyond the image.
        size: (width, height) of the result.
    """
    inside = window.within(_whole(image))
    if inside == window:
        return _resized(_part(image, window), size)
    reached = _reached(inside, window, size)
    resized = _cut_out(image, window, size, reached, "edge")
    after = size[1] - reached.y - reached.height, size[0] - reached.x - reached.width
    widths = [(reached.y, after[0]), (reached.x, after[1]), (0, 0)]
    return np.pad(resized, widths[: image.ndim], mode="edge")


def cut_mask(mask: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """Cuts `window` out of a mask as `cut` does; what is beyond it is black.

    Only what comes out other than black is computed, a fifth of the time for a garment.

    Args:
        mask: uint8 (H, W).
    """
    inside = window.within(_whole(mask))
    box = bounds(_part(mask, inside) > 0)
    result = np.zeros((size[1], size[0]), np.uint8)
    if box is None:
        return result
    white = Window(inside.x + box[0], inside.y + box[1], box[2] - box[0], box[3] - box[1])
    reached = _reached(white, window, size)
    _part(result, reached)[:] = _cut_out(mask, window, size, reached, "constant")
    return result


def _reached(part: Window, window: Window, size: tuple[int, int]) -> Window:
    """Returns the part of a result of `size` (width, height) that `part` of the image makes a difference to."""
    across, down = window.width / size[0], window.height / size[1]
    beside, above = (math.ceil(LANCZOS_REACH / min(1, scale)) + 1 for scale in (across, down))
    x, y = part.x - window.x, part.y - window.y
    left, top = max(0, int(x / across) - beside), max(0, int(y / down) - above)
    right = min(size[0], math.ceil((x + part.width) / across) + beside)
    bottom = min(size[1], math.ceil((y + part.height) / down) + above)
    return Window(left, top, right - left, bottom - top)


def _cut_out(
    image: np.ndarray, window: Window, size: tuple[int, int], part: Window, beyond: Literal["edge", "constant"]
) -> np.ndarray:
    """Returns `part` of what `window` of an image becomes at `size` (width, height).

    What is beyond the image repeats its edge or, if constant, is black. Only what `part` is made of is looked at: a
    narrow window may be thirty times as high as the image.
    """
    across, down = window.width / size[0], window.height / size[1]
    box = part.x * across, part.y * down, (part.x + part.width) * across, (part.y + part.height) * down
    beside, above = (math.ceil(LANCZOS_REACH * max(1, scale)) + 1 for scale in (across, down))
    left, top = max(0, int(box[0]) - beside), max(0, int(box[1]) - above)
    right, bottom = min(window.width, math.ceil(box[2]) + beside), min(window.height, math.ceil(box[3]) + above)
    seen = Window(window.x + left, window.y + top, right - left, bottom - top)
    inside = seen.within(_whole(image))
    before = inside.y - seen.y, inside.x - seen.x
    after = seen.height - inside.height - before[0], seen.width - inside.width - before[1]
    padded = np.pad(_part(image, inside), [*zip(before, after), (0, 0)][: image.ndim], mode=beyond)
    return _resized(padded, part[2:], (box[0] - left, box[1] - top, box[2] - left, box[3] - top))


def _whole(image: np.ndarray) -> Window:
    return Window(0, 0, image.shape[1], image.shape[0])


def _part(image: np.ndarray, part: Window) -> np.ndarray:
    return image[part.y : part.y + part.height, part.x : part.x + part.width]


def _resized(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resizes `box` (left, top, right, bottom) of an image, or the whole, to `size` (width, height) with Lanczos."""
    if box is None and (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box))


def paste(person: torch.Tensor, result: torch.Tensor, mask: torch.Tensor, window: Window, feather: int) -> torch.Tensor:
    """Puts results into the person image: scaled to the window, blended inside the mask.

    Args:
        person: float (1, H, W, 3) in [0, 1].
        result: float (B, h, w, 3) in [0, 1]: what a sampler made of the window.
        mask: float (H, W); 0.5 or more is inside.
        window: what the sampler was given of the person image.
        feather: width in the result's pixels of the seam inside the mask; it grows with the result.

    Returns:
        float (B, H, W, 3) in [0, 1]; pixels outside the mask or the window are exactly those of `person`.
    """
    seam = round(feather * window.width / result.shape[2])
    box = bounds(mask.numpy() >= 0.5)
    if box is None:
        return person.repeat(len(result), 1, 1, 1)
    # Blending more than the mask and the reach of its seam would change nothing.
    left, top, right, bottom = box[0] - seam, box[1] - seam, box[2] + seam, box[3] + seam
    reach = Window(left, top, right - left, bottom - top)
    part = reach.within(window).within(Window(0, 0, person.shape[2], person.shape[1]))
    if part.width <= 0 or part.height <= 0:
        return person.repeat(len(result), 1, 1, 1)
    rows, columns = slice(part.y, part.y + part.height), slice(part.x, part.x + part.width)
    fitted = torch.stack([_fitted(image, window, part) for image in result])
    # In half the time of torch's own copy, and without holding up other threads, as numpy's `repeat` does.
    copies = np.empty((len(result), *person.shape[1:]), np.float32)
    copies[:] = person.numpy()
    pasted = torch.from_numpy(copies)
    pasted[:, rows, columns] = repaint(person[:, rows, columns], fitted, mask[rows, columns], seam)
    return pasted


def _fitted(image: torch.Tensor, window: Window, part: Window) -> torch.Tensor:
    """Returns `part` of `image`, float (h, w, 3) in [0, 1], when that is scaled to `window`.

    With Lanczos, by way of 8 bits a channel.
    """
    y, x = part.y - window.y, part.x - window.x
    if (image.shape[1], image.shape[0]) == window[2:]:
        return image[y : y + part.height, x : x + part.width]
    pixels = image.mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
    across, down = image.shape[1] / window.width, image.shape[0] / window.height
    box = (x * across, y * down, (x + part.width) * across, (y + part.height) * down)
    return torch.from_numpy(np.divide(_resized(pixels, part[2:], box), 255.0, dtype=np.float32))


def repaint(person: torch.Tensor, result: torch.Tensor, mask: torch.Tensor, feather: int) -> torch.Tensor:
    """Takes `result` inside the mask and `person` outside it, blended over a seam that lies wholly inside the mask.

    Args:
        person: float (B, H, W, 3) in [0, 1].
        result: float (B, H, W, 3) in [0, 1].
        mask: float (H, W); 0.5 or more is inside.
        feather: width of the seam in pixels; 0 cuts hard.

    Returns:
        float (B, H, W, 3) in [0, 1]; pixels outside the mask are exactly those of `person`.

    The published `inference.py --repaint` blurs the mask to both sides, which also changes pixels outside it. Here the
    mask is first shrunk by half the seam and then averaged over it, so that the weight reaches 0 at the mask's edge.
    Where that would leave nothing of the mask, as of a strap, the seam is narrower.
    """
    weight = torch.from_numpy(_weight(mask.numpy() >= 0.5, feather // 2))[..., None]
    return torch.addcmul(person * (1.0 - weight), result, weight)


def _weight(inside: np.ndarray, radius: int) -> np.ndarray:
    """Returns how much of the result to take, float32 (H, W), of a mask, bool (H, W), and half the seam's width."""
    if not radius:
        return inside.astype(np.float32)
    shrunk = ndimage.minimum_filter(inside.astype(np.uint8), 2 * radius + 1, mode="nearest")
    weight = np.where(inside, _mean(shrunk, radius), np.float32(0))
    # Of a thick mask every pixel is near one that the seam leaves whole.
    whole = (weight == 1).astype(np.uint8)
    thin = inside & ~ndimage.maximum_filter(whole, 6 * radius + 1, mode="nearest").view(bool)
    if not thin.any():
        return weight
    # The narrower seam fades in towards what is thin, so that no gap is left where that joins the rest.
    around = ndimage.maximum_filter(thin.astype(np.uint8), 6 * radius + 1, mode="nearest")
    narrower = np.maximum(weight, _weight(inside, radius // 2))
    return weight + _mean(around, radius) * (narrower - weight)


def _mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Returns the means of uint8 (H, W) over squares with sides of 2 * `radius` + 1, float32 (H, W)."""
    width = 2 * radius + 1
    # By running sums: they cost the same however wide the seam is, and those of whole numbers are exact.
    sums = np.pad(values, radius + 1, mode="edge").astype(np.int32).cumsum(0, np.int32).cumsum(1, np.int32)[:-1, :-1]
    sums = sums[width:] - sums[:-width]
    sums = sums[:, width:] - sums[:, :-width]
    return np.divide(sums, width * width, dtype=np.float32)
