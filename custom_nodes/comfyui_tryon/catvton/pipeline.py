"""The CatVTON sampler: person and garment concatenated in latent space, an inpainting UNet without text."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from ..seeds import generator
from .blocks import take_layout
from .interruption import before_blocks, within_attention
from .processing import blur_mask, image_to_tensor, mask_to_tensor, resize_and_crop, resize_and_pad

Callback = Callable[[int, torch.Tensor | None], None]

SEED_LIMIT = 2**64
MOST_STEPS = 500  # with more, steps that are whole numbers apart would not begin with noise alone
DOWNSCALE = 8

# scheduler/scheduler_config.json of the base inpainting model
SCHEDULER: dict[str, Any] = dict(
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
SCHEDULERS = {"ddim": "DDIMScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}

# The VAE posterior is drawn from a stream of its own, so that the noise that follows the seed is the published one.
# In the low bits: of a seed, torch's generator takes 32.
POSTERIOR_STREAM = 0x7F4A7C15

# Activations in elements per pixel of the result, upper estimates: the VAE's, and the UNet's for one guided image
VAE_ACTIVATIONS, UNET_ACTIVATIONS = 1536, 640
# On a GPU images are denoised together up to this many bytes of the UNet's activations. It is fixed, because which
# images share a batch decides how they are rounded, and a request is to give the same bytes whatever else is loaded.
TOGETHER = 2**31

# What one unit of each Stable Diffusion 1 latent channel adds to red, green and blue in [-1, 1]; fitted, approximate
LATENT_COLOURS = [[0.35, 0.23, 0.32], [0.33, 0.50, 0.24], [-0.28, 0.18, 0.27], [-0.21, -0.26, -0.72]]


class CatVTONPipeline(torch.nn.Module):
    """Dresses a person in a garment (paper section 3; published as `CatVTONPipeline` in `model/pipeline.py`).

    Differs from the published class in four things that leave its function as it is: noise comes from a CPU generator
    in float32, so that a seed means the same image on every device and in every precision; the VAE posterior is drawn
    from the seed instead of the global generator; the scheduler's state stays float32; every image of a call has its
    own seed, so that it is, up to rounding, the image that its seed gives alone.
    """

    def __init__(self, unet: torch.nn.Module, vae: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.vae: Any = vae  # a diffusers AutoencoderKL

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
        scheduler: str = "ddim",
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        callback: Callback = lambda step, latents: None,
    ) -> torch.Tensor:
        """Samples one image per seed.

        Args:
            person: RGB; its largest centred part with the aspect ratio of `width` x `height` is used.
            garment: RGB; fitted whole on white.
            mask: grey, in the person's frame; white where the garment goes.
            num_inference_steps: denoising steps, 1 to 500.
            guidance_scale: classifier-free guidance on the garment; 1 or less turns it off and halves the work.
            seeds: one for each image, 0 to 2^64-1.
            width, height: of the result in pixels, multiples of 8 from 64.
            mask_blur: radius in pixels of the Gaussian that rounds the mask's outline, 0 for none.
            scheduler: ddim (with eta 1) as published; dpmpp_2m (Lu et al., "DPM-Solver++") and unipc (Zhao et al.,
                "UniPC") need fewer steps and give another image.
            guidance_start, guidance_end: the part of the steps that is guided, from 0 to 1 (Kynkaanniemi et al.,
                "Applying Guidance in a Limited Interval", NeurIPS 2024); a step outside it costs half.
            callback: called before every denoising step and at the end with the number of steps done, those of all
                images together, and the latents that the last step predicts for the end, float32 (B, 4, height/8,
                width/8) or None; also within the VAE's work, with the same number again; what it raises ends the call.

        Returns:
            uint8 (len(seeds), height, width, 3) on the CPU.

        Raises:
            ValueError: an argument is out of range.
            FloatingPointError: the model returned values that are not numbers.
        """
        check_inputs(num_inference_steps, seeds, width, height)
        size = (width, height)
        mask = blur_mask(resize_and_crop(mask.convert("L"), size), mask_blur)
        weight = next(self.unet.parameters())
        tokens = (width // DOWNSCALE) * (height // DOWNSCALE)
        together = images_together(width, height, weight.element_size(), weight.device)
        with torch.inference_mode():
            with before_blocks(self.vae, tokens, functools.partial(callback, 0, None)):
                conditions = self.encode(
                    image_to_tensor(resize_and_crop(person.convert("RGB"), size)),
                    image_to_tensor(resize_and_pad(garment.convert("RGB"), size)),
                    mask_to_tensor(mask),
                )
            images = []
            for first in range(0, len(seeds), together):
                batch = seeds[first : first + together]
                latents = self.denoise(
                    *conditions,
                    num_inference_steps,
                    guidance_scale,
                    batch,
                    _counting(callback, first * num_inference_steps, len(batch)),
                    scheduler,
                    guidance_start,
                    guidance_end,
                )
                done = (first + len(batch)) * num_inference_steps
                # one by one: the VAE's activations are the largest of all
                with before_blocks(self.vae, tokens, functools.partial(callback, done, None)):
                    images += [self.decode(single) for single in latents.split(1)]
            return torch.cat(images)

    def encode(
        self, person: torch.Tensor, garment: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encodes the masked person above the garment, and scales the mask to latent space.

        Args:
            person, garment: float (1, 3, H, W) in [-1, 1].
            mask: float (1, 1, H, W), 1 where the garment goes.

        Returns:
            The VAE posterior's mean and standard deviation, float32 (1, 4, 2H/8, W/8), scaled; the mask (1, 1, 2H/8,
            W/8) in the UNet's dtype.
        """
        weight = next(self.vae.parameters())
        layout = take_layout(self.vae, weight.device)
        posteriors = [
            self.vae.encode(pixels.to(weight.device, weight.dtype, memory_format=layout)).latent_dist
            for pixels in (person * (mask < 0.5), garment)
        ]
        scale = self.vae.config.scaling_factor
        mean = torch.cat([posterior.mean.float() for posterior in posteriors], dim=-2) * scale
        std = torch.cat([posterior.std.float() for posterior in posteriors], dim=-2) * scale
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
        seeds: Sequence[int],
        callback: Callback,
        scheduler: str = "ddim",
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
    ) -> torch.Tensor:
        """Denoises one image per seed, all in one batch; returns the person's half, float32 (len(seeds), 4, H/8, W/8).

        `mean`, `std` and `mask` come from `encode`; all else is as in `forward`. Never waits for the device: what a
        step needs of the host is there before, or copied while the UNet runs.
        """
        count, device = len(seeds), mean.device
        solver = make_scheduler(scheduler)
        solver.set_timesteps(num_inference_steps)
        guided = [
            guidance_scale > 1.0 and guidance_start <= step / num_inference_steps < guidance_end
            for step in range(num_inference_steps)
        ]

        posterior = _noise([generator(seed ^ POSTERIOR_STREAM) for seed in seeds], mean)
        garment_rows = mean.shape[-2] // 2
        # the UNet's input: noisy latents 4, mask 1, image latents 4; without the garment, then with it
        inputs = torch.empty(2 * count, 9, *mean.shape[-2:], dtype=mask.dtype, device=device)
        inputs = inputs.to(memory_format=take_layout(self.unet, device))
        inputs[:, 4:5] = mask
        inputs[:, 5:].unflatten(0, (2, count))[:] = mean + std * posterior
        inputs[:count, 5:, garment_rows:] = 0

        generators = [generator(seed) for seed in seeds]
        latents = _noise(generators, mean)
        predicted = None
        for step, (timestep, on_device) in enumerate(zip(solver.timesteps, solver.timesteps.to(device))):
            callback(step, predicted)
            inputs.unflatten(0, (2, count))[:, :, :4] = latents
            model_input = inputs if guided[step] else inputs[count:]
            with within_attention(device, mean.shape[-2:].numel(), functools.partial(callback, step, None)):
                noise = self.unet(model_input, on_device, encoder_hidden_states=None, return_dict=False)[0]
            noise = noise.to(torch.float32, memory_format=torch.contiguous_format)
            if guided[step]:
                unconditional_noise, conditional_noise = noise.chunk(2)
                noise = unconditional_noise + guidance_scale * (conditional_noise - unconditional_noise)
            alpha = solver.alphas_cumprod[timestep].item()
            predicted = ((latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5)[:, :, :garment_rows]
            random = {"eta": ETA, "variance_noise": _noise(generators, mean)} if scheduler == "ddim" else {}
            latents = solver.step(noise, timestep, latents, **random).prev_sample
        callback(num_inference_steps, predicted)
        return latents[:, :, :garment_rows]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes latents, float32 (1, 4, h, w), to uint8 (1, 8h, 8w, 3) on the CPU.

        Raises:
            FloatingPointError: the VAE returned values that are not numbers.
        """
        layout = take_layout(self.vae, latents.device)
        latents = (latents / self.vae.config.scaling_factor).to(self.vae.dtype, memory_format=layout)
        pixels = self.vae.decode(latents).sample.float()
        pixels = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().permute(0, 2, 3, 1).cpu()
        if not torch.isfinite(pixels).all():
            raise FloatingPointError(
                "The model returned values that are not numbers; use mixed_precision fp32 or bf16."
            )
        return pixels.to(torch.uint8)


def preview(latents: torch.Tensor) -> Image.Image:
    """Draws the first image of latents, float32 (B, 4, h, w), roughly: RGB of w x h pixels, without the VAE."""
    colours = torch.tensor(LATENT_COLOURS, device=latents.device)
    pixels = torch.einsum("chw,ck->hwk", latents[0], colours).add(1).mul(127.5).clamp(0, 255)
    return Image.fromarray(pixels.to(torch.uint8).cpu().numpy())


def check_inputs(num_inference_steps: int, seeds: Sequence[int], width: int, height: int) -> None:
    """Raises ValueError for what `CatVTONPipeline` cannot sample."""
    if not 1 <= num_inference_steps <= MOST_STEPS:
        raise ValueError(f"num_inference_steps must be from 1 to {MOST_STEPS}, not {num_inference_steps}.")
    for name, side in (("width", width), ("height", height)):
        if side < 64 or side % DOWNSCALE:
            raise ValueError(f"{name} must be a multiple of 8 and at least 64, not {side}.")
    if not seeds or not all(0 <= seed < SEED_LIMIT for seed in seeds):
        raise ValueError(f"seeds must be one or more numbers from 0 to 2^64-1, not {list(seeds)}.")


def make_scheduler(name: str) -> Any:
    """Makes the diffusers scheduler of a name in `SCHEDULERS`, with the base model's configuration.

    Raises:
        ValueError: the name is unknown.
    """
    import diffusers  # 4 s: see `load_pipeline`

    if name not in SCHEDULERS:
        raise ValueError(f"scheduler must be one of {', '.join(SCHEDULERS)}, not {name!r}.")
    published: Any = diffusers.DDIMScheduler(**SCHEDULER)
    return getattr(diffusers, SCHEDULERS[name]).from_config(published.config)


def images_together(width: int, height: int, element_size: int, device: torch.device) -> int:
    """Returns how many images of a size are denoised in one batch: one where a batch is no faster.

    `width` and `height` are in pixels, `element_size` is that of the UNet's dtype in bytes.
    """
    if device.type != "cuda":
        return 1
    return max(1, TOGETHER // (width * height * element_size * UNET_ACTIVATIONS))


def working_memory(width: int, height: int, element_size: int, device: torch.device, count: int = 1) -> int:
    """Estimates, from above, the bytes that sampling `count` images needs on top of the weights."""
    together = min(count, images_together(width, height, element_size, device))
    return width * height * element_size * max(VAE_ACTIVATIONS, together * UNET_ACTIVATIONS)


def _counting(callback: Callback, done: int, count: int) -> Callback:
    """Returns a callback for a batch of `count` images that adds its steps to those `done` before."""
    return lambda step, latents: callback(done + step * count, latents)


def _noise(generators: Sequence[torch.Generator], like: torch.Tensor) -> torch.Tensor:
    """Draws normal float32 (len(generators), ...) on the CPU and copies it to the device of `like` (1, ...)."""
    noise = torch.cat([torch.randn(like.shape, generator=generator) for generator in generators])
    return (noise.pin_memory() if like.is_cuda else noise).to(like.device, non_blocking=like.is_cuda)
