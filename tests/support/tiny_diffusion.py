"""Writes random weights, a few MB each: those of a one-level Stable Diffusion U-Net and of the TAESD autoencoder."""

from pathlib import Path

import torch
from safetensors.torch import save_file

CHANNELS, CONTEXT, EMBEDDING = 320, 1024, 1280
HIDDEN = 64


def write(folder: Path) -> Path:
    """Writes them into `folder`; returns an extra_model_paths file that points ComfyUI to them."""
    generator = torch.Generator().manual_seed(1)
    files = {
        "diffusion_models/tiny.safetensors": unet(generator),
        "vae_approx/taesd_encoder.safetensors": autoencoder(generator, 3, 4, strided=(2, 6, 10), blocks=ENCODER_BLOCKS),
        "vae_approx/taesd_decoder.safetensors": autoencoder(
            generator, 4, 3, strided=(7, 12, 17), blocks=DECODER_BLOCKS
        ),
    }
    for name, weights in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / name)
    paths = folder / "paths.yaml"
    paths.write_text(f"tiny:\n  base_path: {folder}\n  diffusion_models: diffusion_models\n  vae_approx: vae_approx\n")
    return paths


def layer(generator: torch.Generator, name: str, *shape: int, bias: bool = True) -> dict[str, torch.Tensor]:
    """Makes a linear or convolutional layer."""
    fan_in = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) / fan_in**0.5}
    return weights | ({f"{name}.bias": torch.zeros(shape[0])} if bias else {})


def norm(name: str, channels: int = CHANNELS) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.ones(channels), f"{name}.bias": torch.zeros(channels)}


def residual(generator: torch.Generator, name: str, inputs: int = CHANNELS) -> dict[str, torch.Tensor]:
    weights = norm(f"{name}.in_layers.0", inputs) | norm(f"{name}.out_layers.0")
    weights |= layer(generator, f"{name}.in_layers.2", CHANNELS, inputs, 3, 3)
    weights |= layer(generator, f"{name}.emb_layers.1", CHANNELS, EMBEDDING)
    weights |= layer(generator, f"{name}.out_layers.3", CHANNELS, CHANNELS, 3, 3)
    if inputs != CHANNELS:
        weights |= layer(generator, f"{name}.skip_connection", CHANNELS, inputs, 1, 1)
    return weights


def transformer(generator: torch.Generator, name: str) -> dict[str, torch.Tensor]:
    weights = norm(f"{name}.norm")
    for projection in ("proj_in", "proj_out"):
        weights |= layer(generator, f"{name}.{projection}", CHANNELS, CHANNELS)
    block = f"{name}.transformer_blocks.0"
    for attention, context in (("attn1", CHANNELS), ("attn2", CONTEXT)):
        weights |= layer(generator, f"{block}.{attention}.to_q", CHANNELS, CHANNELS, bias=False)
        weights |= layer(generator, f"{block}.{attention}.to_k", CHANNELS, context, bias=False)
        weights |= layer(generator, f"{block}.{attention}.to_v", CHANNELS, context, bias=False)
        weights |= layer(generator, f"{block}.{attention}.to_out.0", CHANNELS, CHANNELS)
    for number in (1, 2, 3):
        weights |= norm(f"{block}.norm{number}")
    weights |= layer(generator, f"{block}.ff.net.0.proj", 8 * CHANNELS, CHANNELS)
    return weights | layer(generator, f"{block}.ff.net.2", CHANNELS, 4 * CHANNELS)


def unet(generator: torch.Generator) -> dict[str, torch.Tensor]:
    weights = layer(generator, "time_embed.0", EMBEDDING, CHANNELS)
    weights |= layer(generator, "time_embed.2", EMBEDDING, EMBEDDING)
    weights |= layer(generator, "input_blocks.0.0", CHANNELS, 4, 3, 3)
    for name, inputs in (("input_blocks.1", 1), ("output_blocks.0", 2), ("output_blocks.1", 2)):
        weights |= residual(generator, f"{name}.0", inputs * CHANNELS) | transformer(generator, f"{name}.1")
    weights |= residual(generator, "middle_block.0") | transformer(generator, "middle_block.1")
    weights |= residual(generator, "middle_block.2")
    weights |= norm("out.0") | layer(generator, "out.2", 4, CHANNELS, 3, 3)
    return {name: tensor.half() for name, tensor in weights.items()}


ENCODER_BLOCKS = (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
DECODER_BLOCKS = (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)


def autoencoder(
    generator: torch.Generator, inputs: int, outputs: int, strided: tuple[int, ...], blocks: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """Makes one half of TAESD: `inputs` and `outputs` are channels, the rest positions in its sequence of layers."""
    first, last = (0, 14) if inputs == 3 else (1, 19)
    weights = layer(generator, str(first), HIDDEN, inputs, 3, 3) | layer(generator, str(last), outputs, HIDDEN, 3, 3)
    for number in strided:
        weights |= layer(generator, str(number), HIDDEN, HIDDEN, 3, 3, bias=False)
    for number in blocks:
        for part in (0, 2, 4):
            weights |= layer(generator, f"{number}.conv.{part}", HIDDEN, HIDDEN, 3, 3)
            weights[f"{number}.conv.{part}.weight"] *= 0.5  # the blocks add up
    weights[f"{last}.weight"] *= 0.1
    return weights
