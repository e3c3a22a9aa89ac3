"""Trains the demo's VAE, which starts as the mean colours of 8 x 8 blocks, and in the end its decoder once more."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from comfyui_tryon.demo import checkpoint
from data import HEIGHT, PERSON, SHARDS, WIDTH, ahead, load_shard, picture, pixels, shards_at, some_rows
from run import SEED, Machine, Network, Run
from sheets import sheet

STEPS, BATCH, RATE = 2400, 8, 8e-4
SHARPEN_STEPS, SHARPEN_BATCH, SHARPEN_RATE = 1200, 4, 1e-3
LATENT_NOISE = 0.07  # share of each channel's spread, so that small errors of the sampler stay small in the image
CROP = 64
SHOW_EVERY = 500
# Rows: luminance, two colour differences; what the errors of images are weighed in, and the first latents start as.
OPPONENT = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1, -1, 0], [0.5, 0.5, -1]])


def new_vae() -> Network:
    from diffusers import AutoencoderKL

    torch.manual_seed(SEED)
    vae = AutoencoderKL.from_config(checkpoint.VAE_CONFIG)
    start_linear(vae)
    return vae


def start_linear(vae: Network, reference: float = 2.0) -> None:
    """Start as the mean colour of every 8 x 8 block, from which training learns the rest in a tenth of the steps.

    Residual branches start at zero, resampling as averaging and repeating. What is left between the first and last
    convolution is a norm and a SiLU: features come as pairs x and -x, since silu(x) - silu(-x) = x, and their group
    also holds a constant pair, `reference`, so that the norm does not take away how strong they are.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    with torch.no_grad():
        for module in vae.modules():
            layer: Network = module
            if isinstance(module, ResnetBlock2D):
                layer.conv2.weight.zero_()
                if layer.conv_shortcut is not None:
                    torch.nn.init.dirac_(layer.conv_shortcut.weight)
            elif isinstance(module, Attention):
                layer.to_out[0].weight.zero_()
            elif isinstance(module, Downsample2D):
                torch.nn.init.dirac_(layer.conv.weight)
                layer.conv.weight[..., :2, :2] = layer.conv.weight.sum((2, 3), keepdim=True) / 4
            elif isinstance(module, Upsample2D):
                torch.nn.init.dirac_(layer.conv.weight)
            if isinstance(module, torch.nn.Conv2d):
                layer.bias.zero_()
        for entrance, mix in ((vae.encoder.conv_in, OPPONENT), (vae.decoder.conv_in, torch.eye(4)[:3])):
            entrance.weight[:8] = 0
            entrance.weight[:6, :, 1, 1] = torch.stack([mix, -mix], 1).flatten(0, 1)
            entrance.bias[6:8] = torch.tensor([reference, -reference])
        for exit_, mix in ((vae.encoder.conv_out, torch.eye(3)), (vae.decoder.conv_out, torch.linalg.inv(OPPONENT))):
            exit_.weight *= 0.1
            exit_.weight[:3, :8] = 0
            exit_.weight[:3, :6, 1, 1] = torch.stack([mix, -mix], 2).flatten(1, 2)
        for convolution in (vae.quant_conv, vae.post_quant_conv):
            torch.nn.init.dirac_(convolution.weight)


def train_vae(machine: Machine) -> Network:
    run = Run(machine, "vae", new_vae().to(machine.device), STEPS, RATE, 0.998)
    for images in ahead(partial(crops, machine), range(run.step, run.steps)):
        torch.manual_seed(machine.seed(run.step))
        mean = run.model.encode(images).latent_dist.mean
        noise = LATENT_NOISE * mean.detach().std((0, 2, 3), keepdim=True) * torch.randn_like(mean)
        rebuilt = run.model.decode(mean + noise).sample
        run.update(difference(images, rebuilt) + 1e-4 * mean.square().mean())
        if machine.leads and run.step % SHOW_EVERY == 0:
            show(machine, run.model)
    vae = run.averaged()
    whiten(machine, vae)
    return vae


def sharpen(machine: Machine, vae: Network) -> None:
    """Trains the decoder alone on whole images: the latents, and so the UNet, stay as they are."""
    spread = 1 / vae.config.scaling_factor
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    run = Run(machine, "decoder", decoder, SHARPEN_STEPS, SHARPEN_RATE, 0.998)
    for images in ahead(partial(wholes, machine), range(run.step, run.steps)):
        torch.manual_seed(machine.seed(run.step))
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
        rebuilt = vae.decode(latents + LATENT_NOISE * spread * torch.randn_like(latents)).sample
        run.update(difference(images, rebuilt))
    run.averaged()


def crops(machine: Machine, step: int) -> torch.Tensor:
    """Returns (8, 3, 64, 64) in [-1, 1]; every fourth time, and in the end always, whole images, half size or full."""
    rng = np.random.default_rng(machine.seed(step))
    rows = some_rows(machine.pairs, rng, shards_at(step), machine.part(BATCH))
    whole = step % 4 == 0 or step > 0.8 * STEPS
    if whole:
        rows = rows[: (len(rows) + 1) // 2]
    else:
        top, left = rng.integers(HEIGHT - CROP + 1), rng.integers(WIDTH - CROP + 1)
        rows = rows[:, top : top + CROP, left : left + CROP]
    images, masks = pixels(rows, machine.device)
    masked = images[:, PERSON] * (1 - masks)
    choice = rng.choice(4, len(rows), p=[0.2, 0.3, 0.35, 0.15])
    chosen = torch.stack([masked[i] if c == 3 else images[i, c] for i, c in enumerate(choice)])
    return F.avg_pool2d(chosen, 2) if whole and step % 3 else chosen


def wholes(machine: Machine, step: int) -> torch.Tensor:
    """Returns (4, 3, H, W) in [-1, 1], mostly of people who wear the garment."""
    rng = np.random.default_rng((machine.seed(step), 1))
    images, _ = pixels(some_rows(machine.pairs, rng, SHARDS, machine.part(SHARPEN_BATCH)), machine.device)
    return images[range(len(images)), rng.choice(3, len(images), p=[0.1, 0.2, 0.7])]


def difference(images: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor:
    """Returns L1 in opponent colours on pixels and on 1/8-size means, and on differences of neighbours (edges)."""
    error = rebuilt - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    weighed = OPPONENT * torch.tensor([[1.0], [1.5], [1.5]])
    error = torch.einsum("ij,bjhw->bihw", weighed.to(error.device), error)
    return 2 * error.abs().mean() + F.avg_pool2d(error, 8).abs().mean() + 0.5 * edges


def whiten(machine: Machine, vae: Network) -> None:
    """Gives the latents zero mean, unit covariance after scaling by `scaling_factor`, and no posterior spread.

    The encoder's last and the decoder's first convolution are 1 x 1, so this changes no image.
    """
    rows = np.concatenate([load_shard(machine.pairs, shard)[:32] for shard in range(4)])
    with torch.no_grad():
        images = F.avg_pool2d(pixels(rows, machine.device)[0][:, 1:].flatten(0, 1), 2)
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(32)])
        latents = latents.transpose(0, 1).flatten(1)
        mean = latents.mean(1)
        values, vectors = torch.linalg.eigh(torch.cov(latents))
        spread = 1 / vae.config.scaling_factor
        forward = torch.diag(spread / values.sqrt()) @ vectors.T
        backward = torch.linalg.inv(forward)
        quant, post = vae.quant_conv, vae.post_quant_conv
        post.bias += post.weight[..., 0, 0] @ mean
        post.weight.copy_((post.weight[..., 0, 0] @ backward)[..., None, None])
        quant.bias[:4] = forward @ (quant.bias[:4] - mean)
        quant.weight[:4] = (forward @ quant.weight[:4, :, 0, 0])[..., None, None]
        quant.weight[4:], quant.bias[4:] = 0, -30


def show(machine: Machine, vae: Network) -> None:
    """Four pairs and what the VAE makes of them."""
    images = pixels(load_shard(machine.pairs, 0)[:4], machine.device)[0].flatten(0, 1)
    with torch.no_grad():
        rebuilt = vae.decode(vae.encode(images).latent_dist.mode()).sample
    machine.say(f"vae L1 {(rebuilt - images).abs().mean() / 2:.4f}")
    both = [[picture(one) for one in pair] for pair in zip(images, rebuilt)]
    sheet(both, (WIDTH, HEIGHT), 3).save(machine.output / "vae-samples.png")
