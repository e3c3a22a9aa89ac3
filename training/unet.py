"""Trains the demo's UNet, a small CatVTON: first at half size, then at full size."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from attention import Taught, Watched
from comfyui_tryon.catvton.checkpoint import remove_cross_attention
from comfyui_tryon.catvton.pipeline import ETA, CatVTONPipeline, make_scheduler
from comfyui_tryon.demo import checkpoint
from data import HEIGHT, WIDTH
from drawing import draw_pair
from latents import Latents
from muon import Muon
from PIL import Image
from run import SEED, Loss, Machine, Network, Run
from sheets import sheet


@dataclass(frozen=True)
class Stage:
    """A stretch of the UNet's training on images at 1/reduction of their size."""

    name: str
    reduction: int
    steps: int
    batch: int
    rate: float
    own: float = 0.0  # share of the samples that go on from the model's own first estimate
    smaller: float = 0.0  # share of the steps that take images of half the stage's size, twice as many
    minutes: float = math.inf  # at most, whatever the steps


HALF = Stage("half", 2, 1800, 32, 0.01)
FULL = Stage("full", 1, 2000, 8, 0.006, own=0.25, smaller=0.2)
# on a GPU, which does more at a time
MANY_HALF = replace(HALF, steps=4000, batch=96, minutes=0.6)
MANY_FULL = replace(FULL, steps=20_000, batch=64, rate=0.01, smaller=0.1, minutes=4)
FIRST_TIMESTEPS = 600, 920  # where a sampler of 3 to 12 steps begins with noise alone
HEAVIEST = 55.0  # noise to signal; a sampler's error beyond it would be all of the loss
ATTENTION_WEIGHT = 0.03
BROAD_WEIGHT, BROAD = 1.6, 4  # of the errors' means over so many latents' cells each way: they show as blotches
GARMENT_DROPOUT = 0.03
PASSED_THROUGH = 5.0  # what cross-attention's pass-through is made to carry
SHOWN = 4
SAMPLER_STEPS = 4  # as in the demo's workflow
EXTEND_EVERY = 20


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


def visible(vae: Network, worn: torch.Tensor) -> torch.Tensor:
    """How much an error in each channel of latents (n, 4, h, w) changes the image, (1, 4, 1, 1) of mean 1.

    Most of a latent's four channels' information is texture that hardly shows and that nothing predicts.
    """
    worn = worn[:8].float()
    with torch.no_grad():
        images = vae.decode(worn).sample
        changes = []
        for channel in range(worn.shape[1]):
            changed = worn.clone()
            changed[:, channel] += 0.5 * torch.randn_like(worn[:, channel]) / vae.config.scaling_factor
            changes.append((vae.decode(changed).sample - images).square().mean())
    weights = torch.stack(changes).view(1, -1, 1, 1)
    return 0.8 * weights / weights.mean() + 0.2


def loss_of(
    unet: Network,
    watched: Watched,
    taught: Taught | None,
    batch: dict[str, torch.Tensor],
    alphas: torch.Tensor,
    weights: torch.Tensor,
    own: float,
) -> torch.Tensor:
    """The clean latents' error, mostly in the mask, and where attention looks.

    Half of the samples are noise alone, as the sampler's first step is, at one of the timesteps where it may begin. A
    share of them, `own`, go on from what the model makes of that, with new noise, as the later steps do: it learns to
    correct its own errors.

    Args:
        batch: as from `Latents.batch`.
        weights: of the channels, see `visible`.
    """
    garment, mask = batch["garment"], batch["mask"]
    count, device = len(mask), mask.device
    clean = torch.cat([batch["worn"], garment], 2)
    kept = torch.rand(count, 1, 1, 1, device=device) >= GARMENT_DROPOUT
    condition = torch.cat([batch["masked"], garment * kept], 2)
    place = torch.cat([mask, torch.zeros_like(mask)], 2)
    timesteps = torch.randint(len(alphas), (count,), device=device)
    first = torch.randint(*FIRST_TIMESTEPS, (count,), device=device)
    alone = torch.rand(count, device=device) < 0.5
    estimated = round(own * count)
    source = clean.clone()
    if estimated:
        few = slice(estimated)
        with torch.no_grad():
            noise = torch.randn_like(clean[few])
            predicted = predict(unet, noise, place[few], condition[few], first[few])
        alpha = alphas[first[few]].view(-1, 1, 1, 1)
        source[few] = ((noise - (1 - alpha).sqrt() * predicted) / alpha.sqrt()).clamp(-6, 6)
        alone[few], timesteps[few] = False, timesteps[few] * first[few] // len(alphas)
    timesteps = torch.where(alone, first, timesteps)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(clean)
    noisy = torch.where(alone.view(-1, 1, 1, 1), noise, alpha.sqrt() * source + (1 - alpha).sqrt() * noise)
    target = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    if taught:
        taught.choose(mask)
    predicted = predict(unet, noisy, place, condition, timesteps)
    looked = watched.loss(torch.where(kept[:, 0], batch["sources"], -1))
    noise_to_signal = (1 - alpha) / alpha
    heavy = noise_to_signal.clamp(max=HEAVIEST)
    heavy[estimated:] = heavy[estimated:].clamp(min=0.3)  # epsilon is to be right where the image is nearly finished
    error = predicted - target
    places = torch.cat([0.1 + mask, torch.full_like(mask, 0.05)], 2)
    fine = 4 * (heavy * places * weights * error**2).mean()
    broad = F.avg_pool2d(error[:, :, : mask.shape[2]] * mask, BROAD)
    return fine + BROAD_WEIGHT * (heavy * weights * broad**2).mean() + ATTENTION_WEIGHT * looked


def predict(
    unet: Network, noisy: torch.Tensor, place: torch.Tensor, condition: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Returns the noise that the UNet finds, in float32."""
    model_input = torch.cat([noisy, place, condition], 1)
    return unet(model_input.to(unet.dtype), timesteps, None).sample.float()


def sampled(unet: Network, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the latents that the sampler of the demo's workflow makes of each pair, (n, 4, h, w).

    `CatVTONPipeline.denoise` takes one pair at a time.
    """
    solver: Any = make_scheduler("ddim")
    solver.set_timesteps(SAMPLER_STEPS)
    mask, condition = batch["mask"], torch.cat([batch["masked"], batch["garment"]], 2)
    place = torch.cat([mask, torch.zeros_like(mask)], 2)
    latents = torch.randn_like(condition)
    for timestep in solver.timesteps:
        noise = predict(unet, latents, place, condition, timestep.to(mask.device))
        random = {"eta": ETA, "variance_noise": torch.randn_like(latents)}
        latents = solver.step(noise, timestep, latents, **random).prev_sample
    return latents[:, :, : mask.shape[2]]


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


def train_unet(machine: Machine, stage: Stage, vae: Network, start: dict | None) -> Network:
    """Trains one stage, from the weights `start`."""
    unet = new_unet()
    if start:
        unet.load_state_dict(start)
    # on a GPU torch's group norm would convert it back and forth: 316 instead of 253 ms a step
    unet.to(machine.device, memory_format=torch.contiguous_format if machine.is_gpu else torch.channels_last)
    optimizer = Muon(unet.named_parameters(), stage.rate, stage.rate / 12, ("conv_in", "conv_out", "time_emb"))
    run = Run(machine, f"unet-{stage.name}", unet, stage.steps, stage.rate, 0.995, optimizer, stage.minutes)
    if run.is_over:
        return run.averaged()
    taught = None if machine.is_gpu else Taught()
    if taught:
        run.computing.set_attn_processor(taught)
    watched = Watched(run.computing)
    alphas = make_scheduler("ddim").alphas_cumprod.to(machine.device)
    reductions = [stage.reduction, *([2 * stage.reduction] if stage.smaller else [])]
    latents = [Latents(machine, vae.config.scaling_factor, reduction) for reduction in reductions]
    weights = [visible(vae, some.tensors["worn"]) for some in latents]
    names = [*latents[0].batch(1)]

    def loss_with(visible: torch.Tensor) -> Loss:
        def loss(*tensors: torch.Tensor) -> torch.Tensor:
            enabled = run.computing is unet and machine.bfloat16
            with torch.autocast(machine.device.type, torch.bfloat16, enabled=enabled):
                batch = dict(zip(names, tensors, strict=True))
                return loss_of(run.computing, watched, taught, batch, alphas, visible, stage.own)

        return loss

    losses = [loss_with(some) for some in weights]
    generator = torch.Generator()  # of choices that all processes make alike
    while not run.is_over:
        smaller = int(torch.rand((), generator=generator.manual_seed(SEED + run.step)) < stage.smaller)
        torch.manual_seed(machine.seed(run.step))
        if run.step % EXTEND_EVERY == 0:
            for some in latents:
                some.extend()
        batch = latents[smaller].batch(machine.part(stage.batch * (1 + smaller)))
        run.update(losses[smaller], *batch.values())
    machine.say(f"{run.name} had {len(latents[0].tensors['mask'])} pairs")
    unet = run.averaged()
    if machine.leads and stage.reduction == 1:
        show(machine, run.name, unet, vae)
    return unet


def show(machine: Machine, name: str, unet: Network, vae: Network) -> None:
    """Held-out pairs: person, garment, result, truth."""
    pipeline = CatVTONPipeline(copy.deepcopy(unet), copy.deepcopy(vae)).eval()  # it changes the layout of its models
    size = WIDTH, HEIGHT
    options = dict(num_inference_steps=SAMPLER_STEPS, guidance_scale=1.0, mask_blur=0, width=size[0], height=size[1])
    groups = []
    for seed in range(SHOWN):
        pair = draw_pair(seed, *size)
        made = pipeline(pair.person, pair.garment, pair.mask, **options)[0]
        groups.append((pair.person, pair.garment, Image.fromarray(made.cpu().numpy()), pair.worn))
    sheet(groups, size, 2).save(machine.output / f"{name}-samples.png")
