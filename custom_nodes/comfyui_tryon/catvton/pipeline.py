"""The CatVTON sampler: person and garment concatenated in latent space, an inpainting UNet without text."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from PIL import Image

from .images import blur_mask, image_to_tensor, mask_to_tensor, resize_and_crop, resize_and_pad

SEED_LIMIT = 2**64
DOWNSCALE = 8

# scheduler/scheduler_config.json of the base inpainting model
SCHEDULER = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    prediction_type="epsilon",
    timestep_spacing="leading",
)
ETA = 1.0

# The VAE posterior is drawn from a stream of its own, so that the noise that follows the seed is the published one.
POSTERIOR_STREAM = 1 << 63

# What one unit of each Stable Diffusion 1 latent channel adds to red, green and blue in [-1, 1]; fitted, approximate
LATENT_COLOURS = [[0.35, 0.23, 0.32], [0.33, 0.50, 0.24], [-0.28, 0.18, 0.27], [-0.21, -0.26, -0.72]]


class CatVTONPipeline(torch.nn.Module):
    """Dresses a person in a garment (paper section 3; published as `CatVTONPipeline` in `model/pipeline.py`).

    Differs from the published class in four things that leave its function as it is: noise comes from a CPU generator
    in float32, so that a seed means the same picture on every device and in every precision; the VAE posterior is drawn
    from the seed instead of the global generator; the scheduler's state stays float32; pictures of one call are
    sampled one after the other, so that each is the picture its seed gives alone.
    """

    def __init__(self, unet: torch.nn.Module, vae: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.vae = vae

    def forward(
        self,
        person: Image.Image,
        garment: Image.Image,
        mask: Image.Image,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 2.5,
        seeds: Sequence[int] = (42,),
        width: int = 768,
        height: int = 1024,
        mask_blur: int = 9,
        callback: Callable[[int, torch.Tensor | None], None] = lambda step, latents: None,
    ) -> torch.Tensor:
        """Samples one picture per seed.

        Args:
            person: RGB; its largest centred part with the aspect ratio of `width` x `height` is used.
            garment: RGB; fitted whole on white.
            mask: grey, in the person's frame; white where the garment goes.
            num_inference_steps: DDIM steps, 1 to 1000.
            guidance_scale: classifier-free guidance on the garment; 1 or less turns it off and halves the work.
            seeds: one picture each, 0 to 2^64-1.
            width, height: of the result in pixels, multiples of 8.
            mask_blur: radius in pixels of the Gaussian that rounds the mask's outline, 0 for none.
            callback: called before every denoising step with the number of steps done and the latents that the last
                step predicts for the end, float32 (1, 4, height/8, width/8) or None; what it raises ends the call.

        Returns:
            uint8 (len(seeds), height, width, 3) on the CPU.

        Raises:
            ValueError: an argument is out of range.
            FloatingPointError: the model returned values that are not numbers.
        """
        check_inputs(num_inference_steps, seeds, width, height)
        size = (width, height)
        mask = blur_mask(resize_and_crop(mask.convert("L"), size), mask_blur)
        with torch.inference_mode():
            conditions = self.encode(
                image_to_tensor(resize_and_crop(person.convert("RGB"), size)),
                image_to_tensor(resize_and_pad(garment.convert("RGB"), size)),
                mask_to_tensor(mask),
            )
            images = []
            for index, seed in enumerate(seeds):
                done = index * num_inference_steps
                latents = self.denoise(
                    *conditions,
                    num_inference_steps,
                    guidance_scale,
                    seed,
                    lambda step, latents, done=done: callback(done + step, latents),
                )
                images.append(self.decode(latents))
            return torch.cat(images)

    def encode(
        self, person: torch.Tensor, garment: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The VAE's posterior of the masked person above the garment, and the mask in latent space.

        Args:
            person, garment: float (1, 3, H, W) in [-1, 1].
            mask: float (1, 1, H, W), 1 where the garment goes.

        Returns:
            mean and standard deviation, float32 (1, 4, 2H/8, W/8), scaled; mask (1, 1, 2H/8, W/8) in the UNet's dtype.
        """
        weight = next(self.vae.parameters())
        pixels = torch.cat([person * (mask < 0.5), garment]).to(weight.device, weight.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        scale = self.vae.config.scaling_factor
        mean, std = (torch.cat(moment.float().chunk(2), dim=-2) * scale for moment in (posterior.mean, posterior.std))
        mask = F.interpolate(mask, size=(mask.shape[-2] // DOWNSCALE, mask.shape[-1] // DOWNSCALE), mode="nearest")
        mask = torch.cat([mask, torch.zeros_like(mask)], dim=-2)
        return mean, std, mask.to(next(self.unet.parameters()))

    def denoise(
        self,
        mean: torch.Tensor,
        std: torch.Tensor,
        mask: torch.Tensor,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
        callback: Callable[[int, torch.Tensor | None], None],
    ) -> torch.Tensor:
        """DDIM with eta 1 over the concatenated latents; returns the person's half, float32 (1, 4, H/8, W/8)."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(**SCHEDULER)
        scheduler.set_timesteps(num_inference_steps)
        generator = torch.Generator().manual_seed(seed)
        posterior = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed ^ POSTERIOR_STREAM))
        image_latents = (mean + std * posterior.to(mean.device)).to(mask.dtype)

        guided = guidance_scale > 1.0
        if guided:
            person_half, garment_half = image_latents.chunk(2, dim=-2)
            unconditional = torch.cat([person_half, torch.zeros_like(garment_half)], dim=-2)
            image_latents = torch.cat([unconditional, image_latents])
        mask = mask.expand(len(image_latents), -1, -1, -1)

        latents = torch.randn(mean.shape, generator=generator).to(mean.device)
        predicted = None
        for step, timestep in enumerate(scheduler.timesteps):
            callback(step, predicted)
            model_input = latents.to(mask.dtype).expand(len(image_latents), -1, -1, -1)
            model_input = torch.cat([model_input, mask, image_latents], dim=1)
            noise = self.unet(model_input, timestep, encoder_hidden_states=None, return_dict=False)[0].float()
            if guided:
                unconditional_noise, conditional_noise = noise.chunk(2)
                noise = unconditional_noise + guidance_scale * (conditional_noise - unconditional_noise)
            variance = torch.randn(mean.shape, generator=generator).to(mean.device)
            output = scheduler.step(noise, timestep, latents, eta=ETA, variance_noise=variance)
            latents, predicted = output.prev_sample, output.pred_original_sample.chunk(2, dim=-2)[0]
        callback(num_inference_steps, predicted)
        return latents.chunk(2, dim=-2)[0]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents, float32 (1, 4, h, w), to uint8 (1, 8h, 8w, 3) on the CPU."""
        latents = (latents / self.vae.config.scaling_factor).to(next(self.vae.parameters()).dtype)
        pixels = self.vae.decode(latents).sample.float()
        pixels = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().permute(0, 2, 3, 1).cpu()
        if not torch.isfinite(pixels).all():
            raise FloatingPointError(
                "The model returned values that are not numbers; use mixed_precision fp32 or bf16."
            )
        return pixels.to(torch.uint8)


def preview(latents: torch.Tensor) -> Image.Image:
    """A rough picture of latents, float32 (1, 4, h, w), at w x h pixels, without the VAE."""
    colours = torch.tensor(LATENT_COLOURS, device=latents.device)
    pixels = torch.einsum("chw,ck->hwk", latents[0], colours).add(1).mul(127.5).clamp(0, 255)
    return Image.fromarray(pixels.to(torch.uint8).cpu().numpy())


def check_inputs(num_inference_steps: int, seeds: Sequence[int], width: int, height: int) -> None:
    """Raises ValueError for what `CatVTONPipeline` cannot sample."""
    if not 1 <= num_inference_steps <= SCHEDULER["num_train_timesteps"]:
        raise ValueError(f"num_inference_steps must be from 1 to 1000, not {num_inference_steps}.")
    for name, side in (("width", width), ("height", height)):
        if side < 64 or side % DOWNSCALE:
            raise ValueError(f"{name} must be a multiple of 8 and at least 64, not {side}.")
    if not seeds or not all(0 <= seed < SEED_LIMIT for seed in seeds):
        raise ValueError(f"seeds must be one or more numbers from 0 to 2^64-1, not {list(seeds)}.")


def working_memory(width: int, height: int, element_size: int) -> int:
    """Bytes that sampling needs beside the weights, an upper estimate: the VAE decoder's widest activations."""
    return width * height * 256 * element_size * 6
