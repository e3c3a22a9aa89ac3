"""Samples with FASHN VTON v1.5: a flow from noise, at time 0, to the dressed person, at time 1, in pixels."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from ..seeds import generator
from .blocks import Modulation
from .network import FashnNetwork

CLASSES = {"tops": 1, "bottoms": 2, "one-pieces": 3}  # 0 is the class of no garment
CANVAS = 864, 576  # height and width that the published weights were made for
SHIFT = math.exp(-1.5)  # of the times, towards noise
STEPS_MAX = 100
# Activations in elements per token and channel of one branch, an upper estimate
ACTIVATIONS = 28

Callback = Callable[[int, torch.Tensor | None], None]


def schedule(steps: int) -> list[float]:
    """Returns the `steps` + 1 times, from 0 to 1, at which steps start and end; computed in float32, as published."""
    linear = torch.linspace(1, 0, steps + 1)
    return (SHIFT / (SHIFT + (1 / linear - 1))).flip(0).tolist()


def noise(seed: int, canvas: tuple[int, int]) -> torch.Tensor:
    """Draws what an image starts from, float32 (1, 3, height, width) on the CPU: the same on every device."""
    return torch.randn(1, 3, *canvas, generator=generator(seed))


def to_tensor(pixels: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Converts uint8 (H, W, C) to (1, C, H, W) in [-1, 1], in the dtype and on the device of `like`."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return values.to(like)


def to_pixels(raw: torch.Tensor) -> torch.Tensor:
    """Converts (B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3) on the CPU; truncates, as published.

    Raises:
        FloatingPointError: values are not numbers.
    """
    values = raw.float().clamp(-1, 1).add(1).div(2).mul(255).permute(0, 2, 3, 1).cpu()
    if not torch.isfinite(values).all():
        raise FloatingPointError("The model returned values that are not numbers; use mixed_precision fp32.")
    return values.to(torch.uint8)


def preview(predicted: torch.Tensor) -> Image.Image:
    """Draws the first image of (B, 3, H, W) in [-1, 1] at half its size."""
    return Image.fromarray(to_pixels(predicted[:1, :, ::2, ::2])[0].numpy())


def denoise(
    network: FashnNetwork,
    person: torch.Tensor,
    garment: torch.Tensor,
    category: int,
    start: torch.Tensor,
    *,
    steps: int,
    guidance_scale: float,
    unguided_last_steps: int = 1,
    callback: Callback = lambda step, predicted: None,
) -> torch.Tensor:
    """Makes an image of noise. Never waits for the device.

    Args:
        network: on the device and in the dtype to work in; published results on a GPU are those of bfloat16.
        person, garment: (1, 4, H, W) in [-1, 1]: an image, the person's agnostic one, and its pose.
        category: one of the values of `CLASSES`.
        start: of `noise`.
        steps: from 1.
        guidance_scale: classifier-free guidance; 1 turns it off and halves the work.
        unguided_last_steps: so many steps at the end go unguided, for half.
        callback: called before every step and at the end with the number of steps done and the image that the last
            step predicts, (1, 3, H, W), or None; also within a step, with the same number again; what it raises ends
            the call.

    Returns:
        (1, 3, H, W), not clamped, in the network's dtype.
    """
    weight = next(network.parameters())
    device, dtype = weight.device, weight.dtype
    times = schedule(steps)
    guided = 0 if guidance_scale == 1 else max(0, steps - unguided_last_steps)
    # Rounded to the dtype as the published sampler's: times, noise and the image itself.
    on_device = torch.tensor(times[:-1], dtype=dtype).to(device)
    modulations = _modulations(network, on_device, guided, category)
    # The branch without conditions has zeros in their place, which is grey, and the same noise.
    height, width = person.shape[-2:]
    inputs = torch.zeros(2, 3 + person.shape[1], height, width, dtype=dtype, device=device)
    inputs[:1, 3:] = person
    garment = garment.to(weight)
    tokens = network.garment_tokens(torch.cat([garment, torch.zeros_like(garment)]))
    rotary = network.rotary(height, width).to(device)
    image = start.to(dtype).to(device)
    predicted = None
    for step in range(steps):
        callback(step, predicted)
        rows = 2 if step < guided else 1
        inputs[:rows, :3] = image
        velocity = network(
            inputs[:rows], tokens[:rows], modulations[step], rotary, lambda step=step: callback(step, None)
        )
        if rows == 2:
            conditional, unconditional = velocity.chunk(2)
            velocity = unconditional + guidance_scale * (conditional - unconditional)
        predicted = image + (1 - times[step]) * velocity
        image = image + (times[step + 1] - times[step]) * velocity
    callback(steps, predicted)
    return image


def _modulations(
    network: FashnNetwork, times: torch.Tensor, guided: int, category: int
) -> Sequence[dict[str, Modulation]]:
    """Computes those of all steps, of which the first `guided` have a second row, for no category."""
    both = torch.tensor([category, 0]).to(times.device)
    return [
        *(network.modulations(times[:guided], both) if guided else ()),
        *(network.modulations(times[guided:], both[:1]) if guided < len(times) else ()),
    ]


def working_memory(network: FashnNetwork, canvas: tuple[int, int], element_size: int) -> int:
    """Estimates, from above, the bytes that sampling an image of `canvas` (height, width) needs beside the weights."""
    sizes = network.sizes
    tokens = 2 * (canvas[0] // sizes.patch) * (canvas[1] // sizes.patch)
    return 2 * tokens * sizes.hidden * ACTIVATIONS * element_size
