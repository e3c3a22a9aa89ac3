"""CatVTON's published sampling, written out plainly, to compare the pipeline with.

Cross-attention is skipped by a processor as published, everything is in one dtype, the two halves of the
guidance run one by one, and the VAE posterior's mode stands for its sample.
"""

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image


class SkipProcessor:
    def __call__(self, attn, hidden_states, *args, **kwargs):
        return hidden_states


def skip_cross_attention(unet: torch.nn.Module) -> None:
    processors = dict(unet.attn_processors)
    for name in processors:
        if "attn2" in name:
            processors[name] = SkipProcessor()
    unet.set_attn_processor(processors)


@torch.inference_mode()
def sample(
    unet, vae, person: Image.Image, garment: Image.Image, mask: Image.Image, steps: int, guidance: float, seed: int
) -> np.ndarray:
    """uint8 (H, W, 3); the three pictures have the result's size, the mask is black and white."""
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    to_tensor = lambda image: torch.tensor(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1  # noqa: E731
    white = (torch.tensor(np.array(mask.convert("L")))[None, None] > 127).float()
    encode = lambda pixels: vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor  # noqa: E731
    masked, cloth = encode(to_tensor(person) * (1 - white)), encode(to_tensor(garment))
    small = white[:, :, ::8, ::8]
    small = torch.cat([small, torch.zeros_like(small)], dim=2)
    conditional = torch.cat([masked, cloth], dim=2)
    unconditional = torch.cat([masked, torch.zeros_like(cloth)], dim=2)
    latents = torch.randn(conditional.shape, generator=generator)
    for t in scheduler.timesteps:
        conditional_noise = unet(torch.cat([latents, small, conditional], 1), t, encoder_hidden_states=None).sample
        noise = conditional_noise
        if guidance > 1:
            unconditional_noise = unet(
                torch.cat([latents, small, unconditional], 1), t, encoder_hidden_states=None
            ).sample
            noise = unconditional_noise + guidance * (conditional_noise - unconditional_noise)
        latents = scheduler.step(noise, t, latents, eta=1.0, generator=generator).prev_sample
    pixels = vae.decode(latents[:, :, : latents.shape[2] // 2] / vae.config.scaling_factor).sample
    return ((pixels[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
