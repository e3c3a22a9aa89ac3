"""CatVTON's published sampling, written out plainly: the tests compare the pipeline's function with it, the benchmarks
its speed.

Everything is in one dtype, a step's tensors are made in the step, cross-attention is skipped by a processor, and the
VAE posterior's mode stands for its sample.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image


class SkipProcessor:
    """Skips cross-attention as published: the block still normalises and adds."""

    def __call__(self, attention: Any, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        return hidden_states


def skip_cross_attention(unet: Any) -> Any:
    processors = unet.attn_processors
    unet.set_attn_processor({k: SkipProcessor() if "attn2" in k else v for k, v in processors.items()})
    return unet.eval().requires_grad_(False)


class Published:
    """Samples as the published pipeline does, with diffusers' UNet, its cross-attention skipped, and VAE."""

    def __init__(self, unet: Any, vae: Any) -> None:
        self.unet, self.vae = unet, vae

    @torch.no_grad()
    def sample(
        self,
        person: Image.Image,
        garment: Image.Image,
        mask: Image.Image,
        steps: int,
        guidance: float,
        seed: int,
        callback: Callable[[int], None] = lambda step: None,
    ) -> np.ndarray:
        """Returns uint8 (H, W, 3). The three images have that size, the mask is black and white."""
        planes = [torch.from_numpy(np.array(image)) for image in (person, garment, mask.convert("L"))]
        worn, flat = (plane.permute(2, 0, 1)[None] / 127.5 - 1 for plane in planes[:2])
        white = (planes[2][None, None] > 127).float()
        scale, like = self.vae.config.scaling_factor, next(self.vae.parameters())
        masked, cloth = (
            self.vae.encode(pixels.to(like)).latent_dist.mode() * scale for pixels in (worn * (1 - white), flat)
        )
        latents = self.denoise(masked, cloth, white[:, :, ::8, ::8].to(like), steps, guidance, seed, callback)
        pixels = self.vae.decode(latents / scale).sample
        return ((pixels[0] / 2 + 0.5).clamp(0, 1).float() * 255).round().byte().permute(1, 2, 0).cpu().numpy()

    @torch.no_grad()
    def denoise(
        self,
        masked: torch.Tensor,
        cloth: torch.Tensor,
        mask: torch.Tensor,
        steps: int,
        guidance: float,
        seed: int,
        callback: Callable[[int], None] = lambda step: None,
    ) -> torch.Tensor:
        """Returns the person's latents (1, 4, h, w), of two pairs of latents of that size and a mask (1, 1, h, w)."""
        scheduler = DDIMScheduler(
            num_train_timesteps=1000,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
        scheduler.set_timesteps(steps, device=masked.device)
        generator = torch.Generator().manual_seed(seed)
        image = torch.cat([masked, cloth], -2)
        noise = lambda: torch.randn(image.shape, generator=generator).to(image)  # noqa: E731
        latents = noise()
        images, masks = image, torch.cat([mask, torch.zeros_like(mask)], -2)
        if guidance > 1:
            images = torch.cat([torch.cat([masked, torch.zeros_like(cloth)], -2), image])
            masks = torch.cat([masks] * 2)
        for step, timestep in enumerate(scheduler.timesteps):
            callback(step)
            model_input = torch.cat([torch.cat([latents] * len(images)), masks, images], 1)
            predicted = self.unet(model_input, timestep, encoder_hidden_states=None).sample
            if guidance > 1:
                without, with_garment = predicted.chunk(2)
                predicted = without + guidance * (with_garment - without)
            latents = scheduler.step(predicted, timestep, latents, eta=1.0, variance_noise=noise()).prev_sample
        callback(steps)
        return latents.chunk(2, -2)[0]
