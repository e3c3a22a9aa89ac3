"""Trains the demo's weights from nothing: `python training/train.py`. Resumes where it stopped.

Images are drawn by worker processes, then follow: a small VAE; a small CatVTON on the VAE's latents, first at half
size, then at full size; the VAE's decoder once more; and the parser. Everything goes to `training/output` (losses and
samples as images, too); the finished weights to the package, as float16.

`--further` trains the UNet of the package instead, in `training/output/further`, and leaves its other weights as they
are. `--bfloat16` computes the UNet in bfloat16: a fraction of the time on GPUs and on CPUs with AMX, many times as long
on other CPUs. On several cores `torchrun --nproc-per-node CORES training/train.py` does more than as many threads.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "custom_nodes"), str(ROOT / "training")]

from comfyui_tryon.demo import checkpoint  # noqa: E402
from data import start_drawing  # noqa: E402
from parser import new_parser, train_parser  # noqa: E402
from run import Machine, Network  # noqa: E402
from unet import FULL, HALF, Stage, leaning_on_pass_through, new_unet, train_unet  # noqa: E402
from vae import new_vae, sharpen, train_vae  # noqa: E402

OUTPUT = ROOT / "training" / "output"


def train(machine: Machine, full: Stage) -> None:
    """Trains everything from nothing, the UNet at full size as in a stage."""
    vae = train_vae(machine)
    unet = train_unet(machine, HALF, vae, None)
    unet = train_unet(machine, full, vae, unet.state_dict())
    sharpen(machine, vae)
    export(machine, vae, unet, train_parser(machine))


def train_further(machine: Machine, full: Stage) -> None:
    """Trains the package's UNet."""
    vae, unet, parser = package()
    unet = train_unet(machine, full, vae.to(machine.device), unet.state_dict())
    export(machine, vae, unet, parser)


def export(machine: Machine, vae: Network, unet: Network, parser: Network) -> None:
    """Writes the package's weights: float16, self-attention apart under the published keys."""
    from safetensors.torch import save_file

    if not machine.leads:
        return
    folder = checkpoint.WEIGHTS
    folder.mkdir(exist_ok=True)

    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, path)
        path.chmod(0o644)

    def half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

    weights = half(leaning_on_pass_through(unet.state_dict()))
    attention = {key: weights.pop(name) for key, name in checkpoint.attention_keys(weights).items()}
    save("unet", weights)
    save("attention", attention)
    save("vae", half(vae.state_dict()))
    save("parser", half(parser.state_dict()))


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
    parser.add_argument("--steps", type=int, default=FULL.steps, help="of the UNet at full size")
    parser.add_argument("--batch", type=int, default=FULL.batch, help="of the UNet at full size")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    full = replace(FULL, steps=arguments.steps, batch=arguments.batch)

    torch.set_float32_matmul_precision("high")
    processes = int(os.environ.get("WORLD_SIZE", 1))  # as torchrun sets it
    if processes > 1:
        torch.distributed.init_process_group("gloo")
    machine = Machine(
        pairs=OUTPUT / "pairs",
        # apart from a training from nothing, whose VAE has other latents
        output=OUTPUT / "further" if arguments.further else OUTPUT,
        device=arguments.device,
        bfloat16=arguments.bfloat16,
        rank=int(os.environ.get("RANK", 0)),
        processes=processes,
    )
    machine.output.mkdir(parents=True, exist_ok=True)
    if machine.leads:
        workers = 1 if machine.device.type == "cpu" else max(1, (os.cpu_count() or 1) - 2)
        start_drawing(machine.pairs, workers)
    train_further(machine, full) if arguments.further else train(machine, full)


if __name__ == "__main__":
    main()
