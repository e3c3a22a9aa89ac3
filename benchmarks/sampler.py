"""The sampler beside CatVTON's published algorithm written out plainly: the same weights, inputs and result.

    python benchmarks/sampler.py [--sizes 192x256 288x384] [--steps N] [--repeat N] [--dtype bfloat16]
    python benchmarks/sampler.py --count

Both sides load weights of the published sizes with random numbers, each in a process of its own, and sample in turns.
On a GPU: 768 x 1024, 50 steps, fp16, a third side with torch.compile, and ours in fp32 to compare with. --count needs
no GPU: it runs the loop on tensors without data, which no operation can read, and counts what a step does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Memory, median, report  # puts this project on the path

# isort: split

import numpy as np
import torch
from comfyui_tryon.catvton import CatVTONPipeline, load_pipeline
from comfyui_tryon.catvton.checkpoint import fuse_projections, remove_cross_attention
from comfyui_tryon.demo.checkpoint import attention_keys
from counting import Counter
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging
from models import UNET, VAE, demo_pipeline, folders, machine, pictures, psnr, write_published
from safetensors.torch import load_file
from support.reference import Published, skip_cross_attention

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
EXACT = "ours, float32"
SIDES = ("published", "ours", "ours, compiled", EXACT) if CUDA else ("published", "ours")
GUIDANCE, SEED = 2.5, 42
PUBLISHED_PEAK_GB = 5.94  # paper, table 5: 1024 x 768 on an A100

Sample = Callable[..., np.ndarray]  # person, garment, mask, steps, width, height, callback


def load_published(models: Path, dtype: torch.dtype) -> Sample:
    base, vae, catvton = folders(models)
    unet, autoencoder = meta_models()
    keys = attention_keys(list(unet.state_dict()))
    weights = load_file(base / "unet/diffusion_pytorch_model.fp16.safetensors")
    attention = load_file(next(catvton.rglob("model.safetensors")))
    weights.update((keys[key], tensor) for key, tensor in attention.items())
    unet.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
    weights = load_file(vae / "diffusion_pytorch_model.fp16.safetensors")
    autoencoder.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
    autoencoder.eval().requires_grad_(False)
    published = Published(skip_cross_attention(unet).to(DEVICE), autoencoder.to(DEVICE))

    def sample(person, garment, mask, steps, width, height, callback):
        return published.sample(person, garment, mask, steps, GUIDANCE, SEED, callback)

    return sample


def load_ours(models: Path, dtype: torch.dtype, compile: bool) -> Sample:
    pipeline = load_pipeline(*folders(models), dtype=dtype, compile=compile).to(DEVICE)

    def sample(person, garment, mask, steps, width, height, callback):
        return pipeline(
            person,
            garment,
            mask,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            seeds=[SEED],
            width=width,
            height=height,
            mask_blur=0,
            callback=lambda step, latents: callback(step),
        )[0].numpy()

    return sample


def side(name: str, models: Path, results: Path, dtype: torch.dtype) -> None:
    """A process that loads one side and samples on every line of its standard input."""
    answer = lambda **figures: print(json.dumps(figures), flush=True)  # noqa: E731
    memory, start = Memory(), time.perf_counter()
    memory.start()
    if name == "published":
        sample = load_published(models, dtype)
    else:
        sample = load_ours(models, torch.float32 if name == EXACT else dtype, compile="compiled" in name)
    answer(load_s=time.perf_counter() - start, load_gb=memory.peak())
    for line in sys.stdin:
        order, marks = json.loads(line), []

        def mark(step: int, marks=marks) -> None:
            if CUDA:
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

        # a GPU works behind its host: only the whole is timed there, so that nothing is waited for in between
        callback = (lambda step, last=order["steps"], mark=mark: step in (0, last) and mark(step)) if CUDA else mark
        memory.start()
        start = time.perf_counter()
        result = sample(*pictures(order["width"], order["height"]), callback=callback, **order)
        end = time.perf_counter()
        np.save(results / f"{name}.npy", result)
        steps = np.diff(marks) if not CUDA else np.full(order["steps"], (marks[-1] - marks[0]) / order["steps"])
        answer(step_s=list(steps), encode_s=marks[0] - start, decode_s=end - marks[-1], peak_gb=memory.peak())


def compare(sizes: list[tuple[int, int]], steps: int, repeat: int, dtype: str, models: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if models is None:
            models = Path(scratch) / "models"
            # in a process of its own, which gives its memory back
            subprocess.run([sys.executable, __file__, "--write", models], check=True)
        running = {
            name: subprocess.Popen(
                [sys.executable, __file__, "--side", name, models, scratch, "--dtype", dtype],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in SIDES
        }
        loads = {name: json.loads(process.stdout.readline()) for name, process in running.items()}
        rows = []
        for width, height in sizes:
            found: dict[str, list[dict]] = {name: [] for name in SIDES}
            order = json.dumps({"width": width, "height": height, "steps": steps})
            for number in range(repeat + CUDA):  # the first run on a GPU chooses kernels, or compiles them
                for name, process in running.items():
                    print(order, file=process.stdin, flush=True)
                    figures = json.loads(process.stdout.readline())
                    if number or not CUDA:
                        found[name].append(figures)
            results = {name: np.load(Path(scratch) / f"{name}.npy") for name in SIDES}
            rows += [row(name, width, height, dtype, found, results) for name in SIDES]
        for process in running.values():
            process.communicate()
    load_rows = [
        {"side": name, "load s": f"{load['load_s']:.1f}", "peak GB": f"{load['load_gb']:.2f}"}
        for name, load in loads.items()
    ]
    print(json.dumps(machine()))
    name = f"sampler_{dtype}" if CUDA else "sampler"
    report(f"{name}_load", load_rows, machine=machine(), dtype=dtype)
    report(name, rows, machine=machine(), dtype=dtype, steps=steps, repeat=repeat)


def row(name: str, width: int, height: int, dtype: str, found: dict, results: dict) -> dict[str, Any]:
    step = {side: median([seconds for run in runs for seconds in run["step_s"]]) for side, runs in found.items()}
    middle = {key: median([run[key] for run in found[name]]) for key in ("encode_s", "decode_s")}
    peak = {side: max(run["peak_gb"] for run in runs) for side, runs in found.items()}
    close = psnr(results[name], results["published"])
    lowest = {"float32": 60, "float16": 40, "bfloat16": 25}[dtype]
    assert name in ("published", EXACT) or close >= lowest, f"{name} is another function: {close:.1f} dB"
    figures = {
        "size": f"{width} x {height}",
        "side": name,
        "guided step s": f"{step[name]:.3f}",
        "ratio": f"{step['published'] / step[name]:.2f}",
        "encode s": f"{middle['encode_s']:.2f}",
        "decode s": f"{middle['decode_s']:.2f}",
        "peak GB": f"{peak[name]:.2f}",
        "PSNR dB": "" if name == "published" else f"{close:.1f}",
    }
    if CUDA:
        figures["PSNR dB to fp32"] = f"{psnr(results[name], results[EXACT]):.1f}"
        figures["TFLOP/s"] = f"{step_flops(width, height) / step[name] / 1e12:.0f}"
        figures["published peak GB"] = PUBLISHED_PEAK_GB if (width, height) == (768, 1024) else ""
    return figures


def meta_models() -> tuple[torch.nn.Module, torch.nn.Module]:
    logging.set_verbosity_error()
    with torch.device("meta"):
        return UNet2DConditionModel(**UNET).to(torch.float16), AutoencoderKL(**VAE).to(torch.float16)


def step_flops(width: int, height: int) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    unet = skip_cross_attention(meta_models()[0])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model_input = torch.empty(2, 9, height // 4, width // 8, device="meta", dtype=torch.float16)
        unet(model_input, torch.empty((), device="meta"), encoder_hidden_states=None)
    return counter.get_total_flops()


def count(width: int, height: int) -> None:
    """What a step does, on the meta device: any operation that reads a tensor's values would raise there."""
    plain, vae = meta_models()
    ours, _ = meta_models()
    remove_cross_attention(ours)
    fuse_projections(ours)
    pipeline = CatVTONPipeline(ours.eval().requires_grad_(False), vae.eval().requires_grad_(False))
    published = Published(skip_cross_attention(plain), vae)

    empty = lambda *shape: torch.empty(*shape, device="meta", dtype=torch.float16)  # noqa: E731
    h, w, steps = height // 8, width // 8, 4
    mean, mask = empty(1, 4, 2 * h, w).float(), empty(1, 1, 2 * h, w)
    loops = {
        "published": lambda callback: published.denoise(
            empty(1, 4, h, w), empty(1, 4, h, w), empty(1, 1, h, w), steps, GUIDANCE, SEED, callback
        ),
        "ours": lambda callback: pipeline.denoise(
            mean, mean, mask, steps, GUIDANCE, [SEED], lambda step, latents: callback(step)
        ),
    }
    rows = []
    for name, loop in loops.items():
        model = pipeline if name == "ours" else torch.nn.ModuleList([plain, vae])
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        with Counter(model) as counter, torch.no_grad():
            loop(lambda step, counter=counter: counter.start(step))
        encode, decode = Counter(model), Counter(model)
        with encode, torch.no_grad():
            pipeline.encode(empty(1, 3, height, width), empty(1, 3, height, width), empty(1, 1, height, width).float())
        with decode, torch.no_grad():
            vae.decode(empty(1, 4, h, w))
        rows.append(
            {
                "side": name,
                "kernels a step": counter.kernels,
                "copies from the host": counter.copies,
                "reads by the host": counter.reads,
                "weights GB": f"{weights / 1e9:.2f}",
                "activations GB: encode": f"{encode.peak / 1e9:.2f}",
                "UNet": f"{counter.peak / 1e9:.2f}",
                "decode": f"{decode.peak / 1e9:.2f}",
            }
        )
    flops = step_flops(width, height) / 1e12
    graphs, breaks = traced()
    print(f"{width} x {height}, fp16: {flops:.2f} TFLOP a guided step; torch.compile: {graphs} graph, {breaks} breaks")
    report("sampler_count", rows, width=width, height=height, tflop=flops, graphs=graphs, graph_breaks=breaks)


def traced() -> tuple[int, int]:
    """Graphs and graph breaks of the UNet under torch.compile; the demo's has the published one's layers."""
    unet = demo_pipeline().unet
    with torch.no_grad():
        explained = torch._dynamo.explain(unet)(torch.randn(2, 9, 64, 24), torch.tensor(1), encoder_hidden_states=None)
    return explained.graph_count, explained.graph_break_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["768x1024"] if CUDA else ["192x256", "288x384"])
    parser.add_argument("--steps", type=int, default=50 if CUDA else 2)
    parser.add_argument("--repeat", type=int, default=3 if CUDA else 1)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16" if CUDA else "float32")
    parser.add_argument("--models", type=Path, help="weights to use, in the published layout")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_published(arguments.write)
    elif arguments.side:
        name, models, results = arguments.side
        side(name, Path(models), Path(results), getattr(torch, arguments.dtype))
    elif arguments.count:
        count(768, 1024)
    else:
        sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes]
        compare(sizes, arguments.steps, arguments.repeat, arguments.dtype, arguments.models)


if __name__ == "__main__":
    main()
