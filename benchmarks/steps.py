"""Where a denoising step spends the GPU's time, CatVTON's and FASHN VTON's, kernel by kernel; and the card's ceilings.

    python benchmarks/steps.py [--size 768x1024] [--canvas 864x576] [--models FOLDER] [--fashn FOLDER] [--tiny]

Guided steps in the middle of a run, in fp16 and bf16, with random weights of the published sizes, those in the folders,
or the tests' small ones (--tiny). The ceilings are those of a large matrix product and a large copy on this card. On a
CPU the names are those of torch's operations.
"""

import argparse
import functools
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import report, timed  # puts this project on the path

# isort: split

import torch
from comfyui_tryon.catvton import CatVTONPipeline, load_pipeline
from comfyui_tryon.fashn.blocks import Sizes
from comfyui_tryon.fashn.checkpoint import load_network
from comfyui_tryon.fashn.network import FashnNetwork
from comfyui_tryon.fashn.sampler import denoise, noise
from models import demo_pipeline, folders, machine, write_published
from support import tiny_fashn
from torch.profiler import ProfilerActivity, profile

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
HALF, BRAIN = (torch.float16, torch.bfloat16) if CUDA else (torch.float32, torch.float32)
STEPS = 3  # that a profile covers
MOST = 25  # kernels listed

# The kinds by what kernels are called, on a GPU or as operations of torch; the first that fits counts
KINDS = {
    "attention": r"flash|fmha|attention|sdpa|sdp_",
    "convolution": r"conv|implicit|winograd|cudnn.*(fprop|nhwc|nchw)|fprop|im2col|nchwToNhwc|nhwcToNchw",
    "matrix product": r"gemm|cutlass|cublas|nvjet|matmul|addmm|::mm|::bmm|::linear|gemv|splitK",
    "normalisation": r"norm|RowwiseMoments|welford",
    "copy": r"memcpy|memset|copy|CatArray|::cat",
    "elementwise": r"elementwise|vectorized|silu|gelu|::(add|mul|sub|div|addcmul|fill)|reduce",
}


def kind(name: str) -> str:
    return next((key for key, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def profiled(steps: Callable[[int], Any]) -> tuple[Counter[str], Counter[str], float]:
    """Milliseconds and calls of a step by kernel, and its milliseconds by the clock, without the profiler."""
    finished(steps, 2)  # chooses kernels
    whole = [timed(functools.partial(finished, steps, count)) for count in (1, 1 + STEPS)]
    activity = ProfilerActivity.CUDA if CUDA else ProfilerActivity.CPU
    with profile(activities=[activity]) as one:
        finished(steps, 1)
    with profile(activities=[activity]) as several:
        finished(steps, 1 + STEPS)
    times, calls = Counter[str](), Counter[str]()
    for found, sign in ((several, 1), (one, -1)):  # what is done once for a run cancels out
        for event in found.key_averages():
            if CUDA and event.device_type == torch.autograd.DeviceType.CPU:  # calls of the driver
                continue
            spent = event.self_device_time_total if CUDA else event.self_cpu_time_total
            times[event.key] += sign * spent / 1000 / STEPS
            calls[event.key] += sign * event.count / STEPS
    return times, calls, 1000 * (whole[1] - whole[0]) / STEPS


def finished(steps: Callable[[int], Any], count: int) -> None:
    steps(count)
    if CUDA:
        torch.cuda.synchronize()


def catvton_steps(pipeline: CatVTONPipeline, width: int, height: int) -> Callable[[int], Any]:
    weight = next(pipeline.unet.parameters())
    mean = torch.randn(1, 4, height // 4, width // 8, device=DEVICE)
    mask = torch.ones(1, 1, height // 4, width // 8, device=DEVICE, dtype=weight.dtype)
    ignore = lambda step, latents: None  # noqa: E731
    return lambda count: pipeline.denoise(mean, mean, mask, count, 2.5, [42], ignore)


def fashn_steps(network: FashnNetwork, canvas: tuple[int, int]) -> Callable[[int], Any]:
    like = next(network.parameters())
    images = [torch.rand(1, 4, *canvas, device=DEVICE, dtype=like.dtype) for _ in range(2)]
    start = noise(42, canvas)
    return lambda count: denoise(
        network, *images, 1, start, steps=count, guidance_scale=1.5, unguided_last_steps=0
    )  # fmt: skip


def rows_of(model: str, steps: Callable[[int], Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows by kind, and by kernel."""
    times, calls, clock = profiled(steps)
    total = sum(times.values())
    by_kind, count_of = Counter[str](), Counter[str]()
    for name, spent in times.items():
        by_kind[kind(name)] += spent
        count_of[kind(name)] += calls[name]
    kinds = [(name, spent, count_of[name]) for name, spent in by_kind.most_common()]
    kinds += [("all kernels", total, sum(calls.values())), ("by the clock", clock, 0)]
    return [
        {
            "model": model,
            "kind": name,
            "ms a step": f"{spent:.3f}",
            "share": f"{spent / total:.1%}",
            "kernels": f"{count:.0f}" if count else "",
        }
        for name, spent, count in kinds
    ], [
        {
            "model": model,
            "kernel": name[:120],
            "kind": kind(name),
            "ms a step": f"{spent:.3f}",
            "share": f"{spent / total:.1%}",
            "calls": f"{calls[name]:.0f}",
        }
        for name, spent in times.most_common(MOST)
    ]


def ceilings() -> dict[str, float]:
    """TFLOP/s of a large matrix product and TB/s of a large copy, bytes read and written."""
    side = 8192 if CUDA else 512
    a, b = (torch.randn(side, side, device=DEVICE, dtype=HALF) for _ in range(2))
    c, d = (torch.empty(side * side * 16, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    found = {}
    for name, work, amount in (
        ("matrix product TFLOP/s", lambda: torch.mm(a, b), 2 * side**3),
        ("copy TB/s", lambda: c.copy_(d), 2 * c.numel()),
    ):
        repeated = lambda count, work=work: [work() for _ in range(count)]  # noqa: E731
        finished(repeated, 3)
        found[name] = 10 * amount / timed(lambda repeated=repeated: finished(repeated, 10)) / 1e12
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="768x1024" if CUDA else "192x256", help="width x height")
    parser.add_argument("--canvas", default="864x576" if CUDA else "288x192", help="height x width")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--fashn", type=Path)
    parser.add_argument("--tiny", action="store_true", help="small weights: says that it runs, nothing about speed")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    canvas = tuple(map(int, arguments.canvas.split("x")))
    facts = {"machine": machine(), "size": arguments.size, "canvas": arguments.canvas, **ceilings()}
    print(facts)
    kinds: list[dict[str, Any]] = []
    kernels: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():

        def add(model: str, steps: Callable[[int], Any]) -> None:
            for rows, more in zip((kinds, kernels), rows_of(model, steps)):
                rows += more
            report("steps", kinds, **facts)
            report("steps_kernels", kernels, **facts)

        if arguments.tiny:
            pipeline = demo_pipeline()
        else:
            models = arguments.models or write_published(Path(scratch) / "models")
            pipeline = load_pipeline(*folders(models), dtype=HALF)
        add(f"CatVTON {arguments.size}, {str(HALF)[6:]}", catvton_steps(pipeline.to(DEVICE), width, height))
        del pipeline
        if arguments.tiny:
            folder, canvas = tiny_fashn.write(Path(scratch) / "fashn"), tiny_fashn.CANVAS
        else:
            folder = arguments.fashn or tiny_fashn.write(Path(scratch) / "fashn", Sizes(), DEVICE)
        network = load_network(folder, BRAIN).to(DEVICE)
        add(f"FASHN VTON {arguments.canvas}, {str(BRAIN)[6:]}", fashn_steps(network, canvas))


if __name__ == "__main__":
    main()
