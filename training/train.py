"""Trains the demo's weights from nothing: `python training/train.py`. Resumes where it stopped.

Images are drawn by worker processes, then follow: a small VAE; a small CatVTON on the VAE's latents, first at half
size, then at full size; the VAE's decoder once more, on what that makes; and the parser. Everything goes to
`training/output` (losses and samples as images, too); the finished weights to the package, as float16.

`--further` trains the UNet or the parser of the package instead, on pairs of its own and in a folder of
`training/output` for these weights, and leaves the others as they are. `--bfloat16` computes the UNet in bfloat16, on a
GPU the VAE too: a fraction of the time on GPUs and on CPUs with AMX, many times as long on other CPUs. On several cores
`torchrun --nproc-per-node CORES training/train.py` does more than as many threads.
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
from data import FIRST_SEED, start_drawing  # noqa: E402
from decoder import train_decoder  # noqa: E402
from latents import start_encoding  # noqa: E402
from parser import ANEW, ONCE_MORE, new_parser, train_parser  # noqa: E402
from run import Machine, Network  # noqa: E402
from unet import FULL, HALF, MANY_FULL, MANY_HALF, Stage, leaning_on_pass_through, new_unet, train_unet  # noqa: E402
from vae import keep, new_vae, train_vae  # noqa: E402

OUTPUT = ROOT / "training" / "output"


def train(machine: Machine, full: Stage) -> None:
    """Trains everything from nothing, the UNet at full size as in a stage."""
    start_encoding(machine)
    vae = train_vae(machine)
    unet = train_unet(machine, MANY_HALF if machine.is_gpu else HALF, vae, None)
    unet = train_unet(machine, full, vae, unet.state_dict())
    train_decoder(machine, vae, unet)
    export(machine, vae=vae, unet=unet)
    export(machine, parser=train_parser(machine, new_parser(), ANEW))


def train_further(machine: Machine, full: Stage, name: str) -> None:
    """Trains the package's UNet, at full size and a tenth of a stage's rate, or its parser."""
    vae, unet, parser = package()
    if name == "parser":
        export(machine, parser=train_parser(machine, parser, ONCE_MORE))
        return
    keep(machine, vae.to(machine.device))
    start_encoding(machine)
    export(machine, unet=train_unet(machine, replace(full, rate=full.rate / 10), vae, unet.state_dict()))


def export(machine: Machine, **models: Network) -> None:
    """Writes some of the package's weights: float16, the UNet's self-attention apart under the published keys."""
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

    for name, model in models.items():
        weights = half(leaning_on_pass_through(model.state_dict()))
        attention = {key: weights.pop(name) for key, name in checkpoint.attention_keys(weights).items()}
        save(name, weights)
        if attention:
            save("attention", attention)


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
    parser.add_argument("--further", choices=["unet", "parser"])
    parser.add_argument("--steps", type=int, help="of the UNet at full size")
    parser.add_argument("--batch", type=int, help="of the UNet at full size")
    parser.add_argument("--minutes", type=float, help="for the UNet at full size, however many steps that is")
    parser.add_argument("--workers", type=int, help="processes that draw, 0 if others do")
    parser.add_argument("--only-draw", action="store_true")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    full = MANY_FULL if arguments.device.type == "cuda" else FULL
    chosen = {"steps": arguments.steps, "batch": arguments.batch, "minutes": arguments.minutes}
    full = replace(full, **{name: value for name, value in chosen.items() if value is not None})

    torch.set_float32_matmul_precision("high")
    processes = int(os.environ.get("WORLD_SIZE", 1))  # as torchrun sets it
    if processes > 1 and (arguments.minutes or arguments.device.type != "cpu"):
        parser.error("several processes are for a CPU, and for --steps")
    if processes > 1:
        torch.distributed.init_process_group("gloo")
    output, first_seed = OUTPUT, FIRST_SEED
    if arguments.further:  # apart from a training from nothing, whose VAE has other latents, and on other pairs
        digest = checkpoint.version()[:8]
        output, first_seed = OUTPUT / f"further-{digest}", FIRST_SEED * (2 + int(digest, 16))
    machine = Machine(
        pairs=output / "pairs",
        output=output,
        device=arguments.device,
        bfloat16=arguments.bfloat16,
        shards=64 if arguments.device.type == "cpu" else 192,  # of 138 MB each
        rank=int(os.environ.get("RANK", 0)),
        processes=processes,
    )
    machine.output.mkdir(parents=True, exist_ok=True)
    workers = max(1, (os.cpu_count() or 1) - 2) if machine.is_gpu or arguments.only_draw else 1
    if arguments.workers is not None:
        workers = arguments.workers
    drawing = start_drawing(machine.pairs, machine.shards, workers, first_seed) if machine.leads else []
    if arguments.only_draw:
        for process in drawing:
            process.join()
        return
    if arguments.further:
        train_further(machine, full, arguments.further)
    else:
        train(machine, full)


if __name__ == "__main__":
    main()
