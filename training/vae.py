"""Trains the demo's VAE, which starts as the mean colours of 8 x 8 blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from comfyui_tryon.demo import checkpoint
from data import HEIGHT, PERSON, WIDTH, load_shard, picture, pixels, some_rows
from run import SEED, Machine, Network, Run
from sheets import sheet


@dataclass(frozen=True)
class VaeStage:
    """How the VAE is trained: on square crops, and in the end on whole images."""

    steps: int
    crops: int
    crop: int  # pixels
    wholes: int
    rate: float
    minutes: float = math.inf


ON_CPU = VaeStage(2400, 8, 64, 4, 8e-4)
ON_GPU = VaeStage(6000, 96, 128, 12, 1e-3, minutes=1.3)
STRUCTURE_WEIGHT = 0.3
LATENT_NOISE = 0.07  # share of each channel's spread, so that small errors of the sampler stay small in the image
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
    if known := trained_vae(machine):
        return known
    vae = new_vae().to(machine.device)
    stage = ON_GPU if machine.is_gpu else ON_CPU
    run = Run(machine, "vae", vae, stage.steps, stage.rate, 0.998, minutes=stage.minutes)

    def loss(images: torch.Tensor) -> torch.Tensor:
        mean = run.computing.encode(images.to(run.dtype)).latent_dist.mean.float()
        noise = LATENT_NOISE * mean.detach().std((0, 2, 3), keepdim=True) * torch.randn_like(mean)
        rebuilt = run.computing.decode((mean + noise).to(run.dtype)).sample.float()
        return difference(images, rebuilt) + 1e-4 * mean.square().mean()

    for images in run.batches(partial(crops, machine, stage, run)):
        run.update(loss, images)
    run.averaged()
    whiten(machine, vae)
    if machine.leads:
        show(machine, vae)
    keep(machine, vae)
    return vae


def keep(machine: Machine, vae: Network) -> None:
    """Rounds a VAE as the package will, so that the UNet learns its very latents, and keeps it for `trained_vae`."""
    vae.half()
    if machine.leads:
        partial = trained_path(machine).with_suffix(".part")
        torch.save(vae.state_dict(), partial)
        partial.rename(trained_path(machine))
    vae.float()


def trained_vae(machine: Machine) -> Network | None:
    """Returns the VAE that was kept, if there is one: another whitening might give its axes other signs."""
    if not trained_path(machine).is_file():
        return None
    vae = new_vae().to(machine.device)
    vae.load_state_dict(torch.load(trained_path(machine), map_location=machine.device))
    return vae.eval().requires_grad_(False)


def trained_path(machine: Machine) -> Path:
    return machine.output / "vae-whitened.pt"


def crops(machine: Machine, stage: VaeStage, run: Run, step: int) -> torch.Tensor:
    """Returns (n, 3, H, W) in [-1, 1]: crops; every fourth time, and in the end always, images, half size or full."""
    rng = np.random.default_rng(machine.seed(step))
    whole = step % 4 == 0 or run.progress > 0.8
    number = machine.part(stage.wholes if whole else stage.crops)
    rows = some_rows(machine.pairs, rng, number, None if whole else stage.crop)
    images, masks = pixels(rows, machine.device)
    masked = images[:, PERSON] * (1 - masks)
    choice = rng.choice(4, len(rows), p=[0.2, 0.3, 0.35, 0.15])
    chosen = torch.cat([images, masked[:, None]], 1)[range(len(rows)), choice]
    return F.avg_pool2d(chosen, 2) if whole and step % 3 else chosen


def difference(images: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor:
    """Returns L1 in opponent colours on pixels and on 1/8-size means, and on differences of neighbours (edges); and
    what is missing of structural similarity, which keeps plain cloth plain."""
    error = rebuilt - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    error = torch.einsum("ij,bjhw->bihw", weighed(error.device), error)
    absolute = 2 * error.abs().mean() + F.avg_pool2d(error, 8).abs().mean()
    return absolute + 0.5 * edges + STRUCTURE_WEIGHT * (1 - similarity(images, rebuilt))


@lru_cache
def weighed(device: torch.device) -> torch.Tensor:
    """Returns the weights of opponent colours."""
    return (OPPONENT * torch.tensor([[1.0], [1.5], [1.5]])).to(device)


def similarity(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Returns the mean structural similarity of images (n, 3, h, w) in [-1, 1], in windows of 7 x 7 pixels."""

    def mean(values: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(values, 7, 2)

    steady, contrast = (2 * 0.01) ** 2, (2 * 0.03) ** 2
    one, other = mean(images), mean(others)
    spread, other_spread = mean(images**2) - one**2, mean(others**2) - other**2
    common = mean(images * others) - one * other
    light = (2 * one * other + steady) / (one**2 + other**2 + steady)
    return (light * (2 * common + contrast) / (spread + other_spread + contrast)).mean()


def whiten(machine: Machine, vae: Network) -> None:
    """Gives the latents zero mean, unit covariance after scaling by `scaling_factor`, and no posterior spread.

    The encoder's last and the decoder's first convolution are 1 x 1, so this changes no image.
    """
    rows = load_shard(machine.pairs, 0)
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
