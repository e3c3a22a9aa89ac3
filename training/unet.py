"""Trains the demo's UNet, a small CatVTON: first at half size, then at full size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from attention import Taught, Watched
from comfyui_tryon.catvton.checkpoint import remove_cross_attention
from comfyui_tryon.catvton.pipeline import CatVTONPipeline
from comfyui_tryon.demo import checkpoint
from data import HEIGHT, WIDTH, shards_at
from drawing import draw_pair
from latents import Latents
from muon import Muon
from PIL import Image
from run import SEED, Machine, Network, Run
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


HALF = Stage("half", 2, 1800, 32, 0.01)
FULL = Stage("full", 1, 2000, 8, 0.006, own=0.25, smaller=0.2)
FIRST_TIMESTEPS = 600, 920  # where a sampler of 3 to 12 steps begins with noise alone
HEAVIEST = 55.0  # noise to signal; a sampler's error beyond it would be all of the loss
ATTENTION_WEIGHT = 0.03
BROAD_WEIGHT, BROAD = 1.6, 4  # of the errors' means over so many latents' cells each way: they show as blotches
GARMENT_DROPOUT = 0.03
PASSED_THROUGH = 5.0  # what cross-attention's pass-through is made to carry
SHOW_EVERY = 500


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
    worn = worn[:32].float()
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
    taught: Taught,
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


def train_unet(machine: Machine, stage: Stage, vae: Network, start: dict | None) -> Network:
    """Trains one stage, from the weights `start`."""
    from diffusers import DDIMScheduler

    unet, taught = new_unet(), Taught()
    unet.set_attn_processor(taught)
    if start:
        unet.load_state_dict(start)
    unet.to(machine.device, memory_format=torch.channels_last)
    optimizer = Muon(unet.named_parameters(), stage.rate, stage.rate / 12, ("conv_in", "conv_out", "time_emb"))
    run = Run(machine, f"unet-{stage.name}", unet, stage.steps, stage.rate, 0.995, optimizer)
    watched = Watched(unet)
    alphas = DDIMScheduler.from_config(checkpoint.SCHEDULER_CONFIG).alphas_cumprod.to(machine.device)
    reductions = [stage.reduction, *([2 * stage.reduction] if stage.smaller else [])]
    latents = [Latents(machine, vae, reduction) for reduction in reductions]
    for some in latents:
        some.extend(1)
    weights = [visible(vae, some.tensors["worn"]) for some in latents]
    generator = torch.Generator()  # of choices that all processes make alike
    while run.step < run.steps:
        smaller = int(torch.rand((), generator=generator.manual_seed(SEED + run.step)) < stage.smaller)
        torch.manual_seed(machine.seed(run.step))
        latents[smaller].extend(shards_at(run.step))
        batch = latents[smaller].batch(machine.part(stage.batch * (1 + smaller)))
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.bfloat16):
            loss = loss_of(run.model, watched, taught, batch, alphas, weights[smaller], stage.own)
        run.update(loss)
        if machine.leads and (run.step % SHOW_EVERY == 0 or run.step == run.steps):
            show(run, vae, stage.reduction)
    return run.averaged()


def show(run: Run, vae: Network, reduction: int) -> None:
    """Eight held-out pairs: person, garment, result of the averaged weights, truth."""
    unet = new_unet()
    unet.load_state_dict(run.average)
    pipeline = CatVTONPipeline(unet.to(run.machine.device), vae).eval()
    size = WIDTH // reduction, HEIGHT // reduction
    options = dict(num_inference_steps=4, guidance_scale=1.0, mask_blur=0, width=size[0], height=size[1])
    groups = []
    for seed in range(8):
        pair = draw_pair(seed, *size)
        made = pipeline(pair.person, pair.garment, pair.mask, **options)[0]
        groups.append((pair.person, pair.garment, Image.fromarray(made.cpu().numpy()), pair.worn))
    sheet(groups, size, 2).save(run.machine.output / f"{run.name}-samples-{run.step}.png")
