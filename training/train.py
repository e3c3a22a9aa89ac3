"""Trains the demo's weights from nothing: `python training/train.py`. Resumes where it stopped.

Images are drawn by a worker process, then follow: a small VAE; the latents of every image; a small CatVTON, first at
half size, then at full size; the VAE's decoder once more; and the parser. Everything goes to `training/output` (losses
and samples as images, too); the finished weights to the package, as float16.

`--further` trains the UNet of the package instead, in `training/output/further`, and leaves its other weights as they
are. `--bfloat16` computes the UNet in bfloat16: a fraction of the time on CPUs with AMX, many times as long on others.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "custom_nodes"), str(ROOT / "training")]

import data  # noqa: E402
from attention import Taught, Watched  # noqa: E402
from comfyui_tryon.catvton.checkpoint import remove_cross_attention  # noqa: E402
from comfyui_tryon.catvton.pipeline import CatVTONPipeline  # noqa: E402
from comfyui_tryon.demo import checkpoint  # noqa: E402
from drawing import draw_pair  # noqa: E402
from muon import Muon  # noqa: E402

Network = Any  # a torch.nn.Module; mypy would take each of its layers for a Tensor or a Module
OUTPUT = ROOT / "training" / "output"
SEED = 7
SHARDS = 64
VAE_STEPS, VAE_BATCH, VAE_RATE = 2400, 8, 8e-4
PARSER_STEPS, PARSER_BATCH, PARSER_RATE = 4300, 8, 1.5e-3
SHARPEN_STEPS, SHARPEN_BATCH, SHARPEN_RATE = 1200, 4, 1e-3
LATENT_NOISE = 0.07  # share of each channel's spread, so that small errors of the sampler stay small in the image


@dataclass(frozen=True)
class Stage:
    """A stretch of the UNet's training on images at 1/reduction of their size."""

    reduction: int
    steps: int
    batch: int
    rate: float
    own: float = 0.0  # share of the samples that go on from the model's own first estimate
    smaller: float = 0.0  # share of the steps that take images of half the stage's size, twice as many


UNET_STAGES = {
    "half": Stage(2, 1800, 32, 0.01),
    "full": Stage(1, 2000, 8, 0.006, own=0.25, smaller=0.2),
}
FIRST_TIMESTEPS = 600, 920  # where a sampler of 3 to 12 steps begins with noise alone
HEAVIEST = 55.0  # noise to signal; a sampler's error beyond it would be all of the loss
ATTENTION_WEIGHT = 0.03
BROAD_WEIGHT, BROAD = 1.6, 4  # of the errors' means over so many latents' cells each way: they show as blotches
GARMENT_DROPOUT = 0.03
PASSED_THROUGH = 5.0  # what cross-attention's pass-through is made to carry
SAVE_EVERY, SHOW_EVERY = 100, 500


class Run:
    """One model's training: optimizer, averaged weights, loss curve and the state on disk that it resumes from."""

    def __init__(
        self,
        name: str,
        model: Network,
        steps: int,
        rate: float,
        decay: float,
        optimizer: torch.optim.Optimizer | None = None,
    ):
        self.name, self.model, self.steps, self.decay = name, model, steps, decay
        self.optimizer = optimizer or torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
        self.losses: list[float] = []
        self.path = OUTPUT / f"{name}.pt"
        if self.path.is_file():
            state = torch.load(self.path)
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.losses = state["average"], state["losses"]

    @property
    def step(self) -> int:
        return len(self.losses)

    def update(self, loss: torch.Tensor) -> None:
        warm = min(1.0, (self.step + 1) / 100)
        share = warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.step / self.steps)))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for key, tensor in self.model.state_dict().items():
                if tensor.is_floating_point():
                    self.average[key].lerp_(tensor, 1 - decay)
                else:
                    self.average[key].copy_(tensor)
        self.losses.append(loss.item())
        if self.step % 20 == 0:
            say(f"{self.name} {self.step}/{self.steps} {np.mean(self.losses[-20:]):.4f}")
        if self.step % SAVE_EVERY == 0 or self.step == self.steps:
            self.save()

    def save(self) -> None:
        partial = self.path.with_suffix(".part")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"average": self.average, "losses": self.losses}, partial)
        partial.rename(self.path)
        plot(self.losses, OUTPUT / f"{self.name}-loss.png")

    def averaged(self) -> Network:
        """Returns the model in evaluation mode with the averaged weights, which replace those of the last step."""
        self.model.load_state_dict(self.average)
        return self.model.eval().requires_grad_(False)


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def plot(losses: list[float], path: Path, width: int = 720, height: int = 320) -> None:
    """The loss on a logarithmic scale, averaged over 1/100 of the run."""
    values = np.log10(np.convolve(losses, np.ones(n := max(1, len(losses) // 100)) / n, "valid"))
    low, high = values.min(), values.max() + 1e-6
    x = np.linspace(50, width - 10, len(values))
    y = 10 + (high - values) / (high - low + 1e-6) * (height - 40)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.line(np.stack([x, y], -1).ravel().tolist(), fill=(54, 120, 210), width=2)
    for level in (low, (low + high) / 2, high):
        draw.text((4, 4 + (high - level) / (high - low + 1e-6) * (height - 40)), f"{10**level:.4f}", fill="black")
    draw.text((50, height - 18), f"{len(losses)} steps", fill="black")
    picture.save(path)


def to_picture(tensor: torch.Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] to a image."""
    return Image.fromarray(((tensor.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def sheet(rows: list[list[Image.Image]], path: Path) -> None:
    width, height = rows[0][0].size
    picture = Image.new("RGB", (width * len(rows[0]), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            picture.paste(cell, (x * width, y * height))
    picture.save(path)


# VAE


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


def pixels(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A shard's rows to images (n, 3, 3, H, W) in [-1, 1], see `data`, and masks (n, 1, H, W) of 0 and 1."""
    planes = torch.from_numpy(np.array(rows)).permute(0, 3, 1, 2)
    masks = planes[:, data.MASK : data.MASK + 1] > 127
    return planes[:, :9].unflatten(1, (3, 3)).float() / 127.5 - 1, masks.float()


def vae_batch(step: int) -> torch.Tensor:
    """(8, 3, 64, 64) crops in [-1, 1]; every fourth time, and in the end always, whole images, half size or full."""
    rng = np.random.default_rng((SEED, step))
    rows = data.load_shard(OUTPUT / "pairs", int(rng.integers(min(SHARDS, 2 + step // 40))))
    rows = rows[np.sort(rng.choice(data.SHARD_PAIRS, VAE_BATCH, replace=False))]
    whole = step % 4 == 0 or step > 0.8 * VAE_STEPS
    if whole:
        rows = rows[:4]
    else:
        top, left = rng.integers(data.HEIGHT - 63), rng.integers(data.WIDTH - 63)
        rows = rows[:, top : top + 64, left : left + 64]
    pictures, masks = pixels(rows)
    masked = pictures[:, data.PERSON] * (1 - masks)
    choice = rng.choice(4, len(rows), p=[0.2, 0.3, 0.35, 0.15])
    batch = torch.stack([masked[i] if c == 3 else pictures[i, c] for i, c in enumerate(choice)])
    return F.avg_pool2d(batch, 2) if whole and step % 3 else batch


def vae_loss(picture: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """L1 in opponent colours on pixels and on 1/8-size means, and on differences of neighbours (edges)."""
    error = result - picture
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    error = torch.einsum("ij,bjhw->bihw", OPPONENT * torch.tensor([[1.0], [1.5], [1.5]]), error)
    return 2 * error.abs().mean() + F.avg_pool2d(error, 8).abs().mean() + 0.5 * edges


def whiten(vae: Network) -> None:
    """Give the latents zero mean, unit covariance after scaling by `scaling_factor`, and no posterior spread.

    The encoder's last and the decoder's first convolution are 1 x 1, so this changes no image.
    """
    rows = np.concatenate([data.load_shard(OUTPUT / "pairs", shard)[:32] for shard in range(4)])
    with torch.no_grad():
        pictures = F.avg_pool2d(pixels(rows)[0][:, 1:].flatten(0, 1), 2)
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(32)])
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


def train_vae() -> Network:
    run = Run("vae", new_vae(), VAE_STEPS, VAE_RATE, 0.998)
    held = None
    while run.step < run.steps:
        batch = vae_batch(run.step)
        torch.manual_seed(SEED + run.step)
        mean = run.model.encode(batch).latent_dist.mean
        noise = LATENT_NOISE * mean.detach().std((0, 2, 3), keepdim=True) * torch.randn_like(mean)
        result = run.model.decode(mean + noise).sample
        run.update(vae_loss(batch, result) + 1e-4 * mean.square().mean())
        if run.step % SHOW_EVERY == 0:
            held = held if held is not None else pixels(data.load_shard(OUTPUT / "pairs", 0)[:4])[0].flatten(0, 1)
            with torch.no_grad():
                shown = run.model.decode(run.model.encode(held).latent_dist.mode()).sample
            sheet([[to_picture(p) for p in held], [to_picture(p) for p in shown]], OUTPUT / "vae-samples.png")
            say(f"vae L1 {(shown - held).abs().mean() / 2:.4f}")
    vae = run.averaged()
    whiten(vae)
    return vae


def sharpen(vae: Network) -> None:
    """Train the decoder alone on whole images: the latents, and so the UNet, stay as they are."""
    spread = 1 / vae.config.scaling_factor
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    run = Run("decoder", decoder, SHARPEN_STEPS, SHARPEN_RATE, 0.998)
    while run.step < run.steps:
        rng = np.random.default_rng((SEED, 1, run.step))
        rows = data.load_shard(OUTPUT / "pairs", int(rng.integers(SHARDS)))
        pictures, _ = pixels(rows[np.sort(rng.choice(data.SHARD_PAIRS, SHARPEN_BATCH, replace=False))])
        batch = pictures[range(SHARPEN_BATCH), rng.choice(3, SHARPEN_BATCH, p=[0.1, 0.2, 0.7])]
        torch.manual_seed(SEED + run.step)
        with torch.no_grad():
            latents = vae.encode(batch).latent_dist.mean
        result = vae.decode(latents + LATENT_NOISE * spread * torch.randn_like(latents)).sample
        run.update(vae_loss(batch, result))
    run.averaged()


# Latents


def encode_all(vae: Network, reduction: int) -> dict[str, torch.Tensor]:
    """Every other pair as it is and the rest mirrored: masked, garment and worn float16 (n, 4, h, w), posterior means,
    unscaled; mask uint8 (n, 1, h, w); sources int16 (n, h, w) as in `drawing.Pair`."""
    path = OUTPUT / f"latents-{reduction}.pt"
    if path.is_file():
        return torch.load(path)
    parts: dict[str, list[torch.Tensor]] = {"masked": [], "garment": [], "worn": [], "mask": [], "sources": []}
    for shard in range(SHARDS):
        rows = np.array(data.load_shard(OUTPUT / "pairs", shard))
        sources = reduced(torch.from_numpy(data.load_sources(OUTPUT / "pairs", shard)), reduction)
        rows[1::2], sources[1::2] = rows[1::2, :, ::-1], mirrored(sources[1::2])
        parts["sources"].append(sources)
        for start in range(0, len(rows), 16):
            pictures, masks = pixels(rows[start : start + 16])
            masks = masks[..., ::reduction, ::reduction]
            pictures = F.avg_pool2d(pictures.flatten(0, 1), reduction).unflatten(0, (-1, 3))
            pictures[:, data.PERSON] *= 1 - masks
            with torch.no_grad():
                latents = vae.encode(pictures.flatten(0, 1)).latent_dist.mean.unflatten(0, (-1, 3))
            for name, index in (("masked", data.PERSON), ("garment", data.GARMENT), ("worn", data.WORN)):
                parts[name].append(latents[:, index].half())
            parts["mask"].append(masks[..., ::8, ::8].byte())
        say(f"latents-{reduction} {shard + 1}/{SHARDS}")
    latents = {name: torch.cat(tensors) for name, tensors in parts.items()}
    torch.save(latents, path)
    return latents


def reduced(sources: torch.Tensor, reduction: int) -> torch.Tensor:
    """The same of images at 1/reduction of their size."""
    width = sources.shape[2]
    sources = sources[:, reduction // 2 :: reduction, reduction // 2 :: reduction]
    cells = sources // width // reduction * (width // reduction) + sources % width // reduction
    return torch.where(sources < 0, sources, cells)


def mirrored(sources: torch.Tensor) -> torch.Tensor:
    sources, width = sources.flip(-1), sources.shape[2]
    return torch.where(sources < 0, sources, sources // width * width + width - 1 - sources % width)


# UNet


def new_unet() -> Network:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(SEED)
    unet = UNet2DConditionModel.from_config(checkpoint.UNET_CONFIG)
    remove_cross_attention(unet)
    with torch.no_grad():  # every branch starts at zero
        for name, parameter in unet.named_parameters():
            if ".conv2." in name or ".proj_out." in name:
                parameter.zero_()
        start_as_identity(unet)
    return unet


def start_as_identity(unet: Network) -> None:
    """Let the first prediction be the noisy latents themselves, which at high noise is nearly the noise.

    What is left to learn is what the image adds, instead of how to carry noise through norms and activations: the
    first convolution's features are carried to the last one by the last skip connection as pairs x and -x, since
    silu(x) - silu(-x) = x, and a group norm leaves latents, whose variance is 1, as they are.
    """
    pairs = torch.stack([torch.eye(4), -torch.eye(4)], 1).flatten(0, 1)  # (8, 4)
    unet.conv_in.weight[:8], unet.conv_in.bias[:8] = 0, 0
    unet.conv_in.weight[:8, :4, 1, 1] = pairs
    last = unet.up_blocks[-1].resnets[-1].conv_shortcut
    last.weight[:8], last.bias[:8] = 0, 0
    carried = last.in_channels - unet.conv_in.out_channels
    last.weight[:8, carried : carried + 8, 0, 0] = torch.eye(8)
    unet.conv_out.weight.zero_()
    unet.conv_out.weight[:, :8, 1, 1] = pairs.T
    unet.conv_out.bias.zero_()


def visible(vae: Network, latents: dict[str, torch.Tensor]) -> torch.Tensor:
    """How much an error in each channel of the latents changes the image, (1, 4, 1, 1) of mean 1.

    Most of a latent's four channels' information is texture that hardly shows and that nothing predicts.
    """
    worn = latents["worn"][:32].float()
    with torch.no_grad():
        pictures = vae.decode(worn).sample
        changes = []
        for channel in range(worn.shape[1]):
            changed = worn.clone()
            changed[:, channel] += 0.5 * torch.randn_like(worn[:, channel]) / vae.config.scaling_factor
            changes.append((vae.decode(changed).sample - pictures).square().mean())
    weights = torch.stack(changes).view(1, -1, 1, 1)
    return 0.8 * weights / weights.mean() + 0.2


def unet_loss(
    unet: Network,
    watched: Watched,
    taught: Taught,
    batch: dict[str, torch.Tensor],
    alphas: torch.Tensor,
    weights: torch.Tensor,
    own: float,
) -> torch.Tensor:
    """The clean latents' error, mostly in the mask, and where attention looks.

    Half of the samples are noise alone, as the sampler's first step is, at one of the timesteps where it may begin. A
    share of them, `own`, go on from what the model makes of that, with new noise, as the later steps do: it learns to
    mend its own errors.

    Args:
        batch: as from `encode_all`, scaled, float32; sources int64.
        weights: of the channels, see `visible`.
    """
    garment, mask = batch["garment"], batch["mask"]
    clean = torch.cat([batch["worn"], garment], 2)
    kept = torch.rand(len(mask), 1, 1, 1) >= GARMENT_DROPOUT
    condition = torch.cat([batch["masked"], garment * kept], 2)
    place = torch.cat([mask, torch.zeros_like(mask)], 2)
    timesteps, first = torch.randint(len(alphas), (len(mask),)), torch.randint(*FIRST_TIMESTEPS, (len(mask),))
    estimated, alone = round(own * len(mask)), torch.rand(len(mask)) < 0.5
    source = clean.clone()
    if estimated:
        few = slice(estimated)
        with torch.no_grad():
            noise = torch.randn_like(clean[few])
            predicted = unet(torch.cat([noise, place[few], condition[few]], 1), first[few], None).sample
        alpha = alphas[first[few]].view(-1, 1, 1, 1)
        source[few] = ((noise - (1 - alpha).sqrt() * predicted) / alpha.sqrt()).clamp(-6, 6)
        alone[few], timesteps[few] = False, timesteps[few] * first[few] // len(alphas)
    timesteps = torch.where(alone, first, timesteps)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(clean)
    noisy = torch.where(alone.view(-1, 1, 1, 1), noise, alpha.sqrt() * source + (1 - alpha).sqrt() * noise)
    target = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    taught.choose(mask)
    predicted = unet(torch.cat([noisy, place, condition], 1), timesteps, None).sample.float()
    looked = watched.loss(torch.where(kept[:, 0], batch["sources"], -1))
    noise_to_signal = (1 - alpha) / alpha
    heavy = noise_to_signal.clamp(max=HEAVIEST)
    heavy[estimated:] = heavy[estimated:].clamp(min=0.3)  # epsilon is to be right where the image is nearly finished
    error = predicted - target
    places = torch.cat([0.1 + mask, torch.full_like(mask, 0.05)], 2)
    fine = 4 * (heavy * places * weights * error**2).mean()
    broad = F.avg_pool2d(error[:, :, : mask.shape[2]] * mask, BROAD)
    return fine + BROAD_WEIGHT * (heavy * weights * broad**2).mean() + ATTENTION_WEIGHT * looked


def leaning_on_pass_through(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights of the same function that dress nobody without what `norm2` adds in cross-attention's place.

    Self-attention takes one number away from all channels, which `norm2` does not notice, and `norm2` adds it again.
    """
    weights = dict(weights)
    for name in [name for name in weights if ".transformer_blocks." in name and name.endswith(".norm2.bias")]:
        before = name.replace(".norm2.", ".attn1.to_out.0.")
        more = PASSED_THROUGH - weights[name].mean()
        weights[before], weights[name] = weights[before] - more, weights[name] + more
    return weights


def train_unet(name: str, vae: Network, start: dict | None, bfloat16: bool) -> Network:
    """One stage, from the weights `start`; samples go to `output`."""
    from diffusers import DDIMScheduler

    stage = UNET_STAGES[name]
    sizes = [stage.reduction, *([2 * stage.reduction] if stage.smaller else [])]
    latents = {reduction: encode_all(vae, reduction) for reduction in sizes}
    weights = {reduction: visible(vae, latents[reduction]) for reduction in sizes}
    unet, taught = new_unet(), Taught()
    unet.set_attn_processor(taught)
    if start:
        unet.load_state_dict(start)
    optimizer = Muon(unet.named_parameters(), stage.rate, stage.rate / 12, ("conv_in", "conv_out", "time_emb"))
    run = Run(f"unet-{name}", unet, stage.steps, stage.rate, 0.995, optimizer)
    watched = Watched(unet)
    alphas = DDIMScheduler.from_config(checkpoint.SCHEDULER_CONFIG).alphas_cumprod
    scale = vae.config.scaling_factor
    while run.step < run.steps:
        torch.manual_seed(SEED + run.step)
        smaller = torch.rand(()).item() < stage.smaller
        reduction, count = (2 * stage.reduction, 2 * stage.batch) if smaller else (stage.reduction, stage.batch)
        chosen = latents[reduction]
        rows = torch.randint(len(chosen["mask"]), (count,))
        batch = {name: chosen[name][rows].float() * scale for name in ("masked", "garment", "worn")}
        batch |= {"mask": chosen["mask"][rows].float(), "sources": chosen["sources"][rows].long()}
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = unet_loss(run.model, watched, taught, batch, alphas, weights[reduction], stage.own)
        run.update(loss)
        if run.step % SHOW_EVERY == 0 or run.step == run.steps:
            show(run, vae, stage.reduction)
    return run.averaged()


def show(run: Run, vae: Network, reduction: int) -> None:
    """Eight held-out pairs: person, garment, result of the averaged weights, truth."""
    unet = new_unet()
    unet.load_state_dict(run.average)
    pipeline = CatVTONPipeline(unet, vae).eval()
    rows = []
    for seed in range(8):
        pair = draw_pair(seed, data.WIDTH // reduction, data.HEIGHT // reduction)
        width, height = pair.person.size
        options = dict(num_inference_steps=4, guidance_scale=1.0, mask_blur=0, width=width, height=height)
        result = pipeline(pair.person, pair.garment, pair.mask, **options)[0]
        rows.append([pair.person, pair.garment, Image.fromarray(result.numpy()), pair.worn])
    sheet([rows[i] + rows[i + 1] for i in range(0, 8, 2)], OUTPUT / f"{run.name}-samples-{run.step}.png")


# Parser


MIRRORED = [*range(9), 10, 9, 11, 13, 12, 15, 14, 16, 17]  # ATR's labels with left and right exchanged


def parser_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(8, 3, H/2, W/2) in [0, 1], labels (8, H/2, W/2): mirrored, moved, turned, zoomed, in another light, or not."""
    rng = np.random.default_rng((SEED, 2, step))
    rows = data.load_shard(OUTPUT / "pairs", int(rng.integers(SHARDS)))
    chosen = np.array(rows[np.sort(rng.choice(len(rows), PARSER_BATCH, replace=False)), ::2, ::2])
    flipped = rng.random(PARSER_BATCH) < 0.5
    chosen[flipped] = chosen[flipped][:, :, ::-1]
    chosen[flipped, ..., data.LABELS] = np.take(MIRRORED, chosen[flipped, ..., data.LABELS])
    planes = torch.from_numpy(chosen).permute(0, 3, 1, 2).float()
    turn, zoom = rng.uniform(-0.06, 0.06, PARSER_BATCH), np.exp(rng.uniform(-0.25, 0.2, PARSER_BATCH))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * zoom
    moved = np.dstack([matrix.transpose(2, 0, 1), rng.uniform(-0.12, 0.12, (PARSER_BATCH, 2, 1))])
    moved[rng.random(PARSER_BATCH) < 0.4] = np.eye(3)[:2]
    grid = F.affine_grid(torch.from_numpy(moved).float(), [PARSER_BATCH, 3, *planes.shape[2:]], False)
    picture = F.grid_sample(planes[:, :3] / 255, grid, "bilinear", "border", False)
    labels = F.grid_sample(planes[:, data.LABELS :], grid, "nearest", "border", False)[:, 0].long()
    contrast = torch.from_numpy(np.exp(rng.uniform(-0.25, 0.25, (PARSER_BATCH, 1, 1, 1)))).float()
    cast = torch.from_numpy(rng.uniform(-0.06, 0.06, (PARSER_BATCH, 3, 1, 1))).float()
    grain = torch.from_numpy(rng.uniform(0, 0.03, (PARSER_BATCH, 1, 1, 1))).float()
    picture = (picture - 0.5) * contrast + 0.5 + cast + grain * torch.randn(picture.shape)
    return picture.clamp(0, 1), labels


def new_parser() -> Network:
    """A small SegFormer."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(SEED)
    return SegformerForSemanticSegmentation(SegformerConfig.from_dict(checkpoint.parser_config()))


def train_parser() -> Network:
    """Teaches it to label drawn people."""
    run = Run("parser", new_parser(), PARSER_STEPS, PARSER_RATE, 0.995)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    while run.step < run.steps:
        torch.manual_seed(SEED + run.step)
        picture, labels = parser_batch(run.step)
        run.update(run.model(pixel_values=(picture - mean) / std, labels=labels).loss)
    return run.averaged()


def export(vae: Network, unet: Network, parser: Network) -> None:
    """The package's weights: float16, self-attention apart under the published keys."""
    from safetensors.torch import save_file

    folder = checkpoint.WEIGHTS
    folder.mkdir(exist_ok=True)

    def half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

    weights = half(leaning_on_pass_through(unet.state_dict()))
    attention = {key: weights.pop(name) for key, name in checkpoint.attention_keys(weights).items()}
    save_file(weights, folder / "unet.safetensors")
    save_file(attention, folder / "attention.safetensors")
    for name, model in (("vae", vae), ("parser", parser)):
        save_file(half(model.state_dict()), folder / f"{name}.safetensors")


def package() -> tuple[Network, Network, Network]:
    """Returns the VAE, the UNet and the parser that `export` wrote."""
    from safetensors.torch import load_file

    def filled(model: Network, weights: dict[str, torch.Tensor]) -> Network:
        model.load_state_dict(weights)
        return model.eval().requires_grad_(False)

    vae, unet, attention, parser = (
        load_file(checkpoint.WEIGHTS / f"{name}.safetensors") for name in ("vae", "unet", "attention", "parser")
    )
    model = new_unet()
    names = checkpoint.attention_keys(model.state_dict())
    unet |= {names[key]: tensor for key, tensor in attention.items()}
    return filled(new_vae(), vae), filled(model, unet), filled(new_parser(), parser)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--further", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    bfloat16 = arguments.bfloat16
    if arguments.further:
        global OUTPUT
        OUTPUT /= "further"  # apart from a run from nothing, whose VAE has other latents
    OUTPUT.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    spawn.Process(target=data.draw_shards, args=(OUTPUT / "pairs", SHARDS), daemon=True).start()
    if arguments.further:
        vae, unet, labeller = package()
        export(vae, train_unet("full", vae, unet.state_dict(), bfloat16), labeller)
        return
    vae = train_vae()
    unet = train_unet("half", vae, None, bfloat16)
    unet = train_unet("full", vae, unet.state_dict(), bfloat16)
    sharpen(vae)
    export(vae, unet, train_parser())


if __name__ == "__main__":
    main()
