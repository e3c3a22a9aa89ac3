"""Cuts a window out of an image, and puts a sampler's result back into it."""

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from .window import Window, bounds


def cut(image: Image.Image, window: Window, size: tuple[int, int], beyond: int | None = None) -> Image.Image:
    """Cuts `window` out of `image` and resizes it to `size` (width, height) with Lanczos.

    Args:
        image: RGB or L.
        window: may reach beyond the image.
        size: of the result.
        beyond: the value of pixels beyond the image; None repeats the image's edge.
    """
    seen = window.within(Window(0, 0, *image.size))
    part = image.crop((seen.x, seen.y, seen.x + seen.width, seen.y + seen.height))
    if seen != window:
        before = seen.y - window.y, seen.x - window.x
        after = window.height - seen.height - before[0], window.width - seen.width - before[1]
        pixels = np.asarray(part)
        sides = [*zip(before, after), (0, 0)][: pixels.ndim]
        if beyond is None:
            pixels = np.pad(pixels, sides, mode="edge")
        else:
            pixels = np.pad(pixels, sides, constant_values=beyond)
        part = Image.fromarray(pixels)
    return part if part.size == size else part.resize(size, Image.Resampling.LANCZOS)


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
    seam = min(seam, (box[2] - box[0]) // 2, (box[3] - box[1]) // 2)  # a wider one would leave nothing of a small mask
    # Blending more than the mask and the reach of its seam would change nothing.
    left, top, right, bottom = box[0] - seam, box[1] - seam, box[2] + seam, box[3] + seam
    reach = Window(left, top, right - left, bottom - top)
    part = reach.within(window).within(Window(0, 0, person.shape[2], person.shape[1]))
    rows, columns = slice(part.y, part.y + part.height), slice(part.x, part.x + part.width)
    fitted = torch.stack([_resized(image, window, part) for image in result])
    pasted = torch.from_numpy(np.repeat(person.numpy(), len(result), 0))  # in half the time of torch's own copy
    pasted[:, rows, columns] = repaint(person[:, rows, columns], fitted, mask[rows, columns], seam)
    return pasted


def _resized(image: torch.Tensor, window: Window, part: Window) -> torch.Tensor:
    """Returns `part` of `image`, float (h, w, 3) in [0, 1], when that is scaled to `window`.

    With Lanczos, by way of 8 bits a channel.
    """
    y, x = part.y - window.y, part.x - window.x
    if (image.shape[1], image.shape[0]) == window[2:]:
        return image[y : y + part.height, x : x + part.width]
    pixels = Image.fromarray(image.mul(255).round().clamp(0, 255).to(torch.uint8).numpy())
    across, down = image.shape[1] / window.width, image.shape[0] / window.height
    box = (x * across, y * down, (x + part.width) * across, (y + part.height) * down)
    resized = np.asarray(pixels.resize(part[2:], Image.Resampling.LANCZOS, box))
    return torch.from_numpy(np.divide(resized, 255.0, dtype=np.float32))


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
    """
    weight = torch.from_numpy(_weight(mask.numpy() >= 0.5, feather // 2))[..., None]
    return torch.addcmul(person * (1.0 - weight), result, weight)


def _weight(inside: np.ndarray, radius: int) -> np.ndarray:
    """Returns how much of the result to take, float32 (H, W), of a mask, bool (H, W), and half the seam's width."""
    if not radius:
        return inside.astype(np.float32)
    width = 2 * radius + 1
    shrunk = ndimage.minimum_filter(inside.astype(np.uint8), width, mode="nearest")
    # By running sums: they cost the same however wide the seam is, and those of whole numbers are exact.
    sums = np.pad(shrunk, radius, mode="edge").astype(np.int32)
    for axis in (0, 1):
        total = np.cumsum(sums, axis=axis, dtype=np.int32)
        first = np.take(total, [width - 1], axis)
        rest = np.take(total, range(width, total.shape[axis]), axis) - np.take(
            total, range(total.shape[axis] - width), axis
        )
        sums = np.concatenate([first, rest], axis)
    return np.where(inside, np.divide(sums, width * width, dtype=np.float32), np.float32(0))
