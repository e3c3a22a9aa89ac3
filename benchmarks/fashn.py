"""FASHN VTON's sampler beside its published algorithm written out plainly: the same weights, inputs and result.

    python benchmarks/fashn.py [--canvas 288x192] [--steps N] [--repeat N] [--exact] [--compile]
                               [--models FOLDER] [--tiny]
    python benchmarks/fashn.py --count
    python benchmarks/fashn.py --load

Both sides load random weights of the published sizes, each in a process of its own, and sample in turns. On a GPU:
864 x 576, 30 steps, bfloat16. --exact compares both with ours in float32, --compile adds a side with torch.compile.
--count needs no data: it counts the operations of an image on tensors without any. --load does what a server does with
the published size on this machine: it loads the weights, estimates poses with small stand-ins and makes one step at
864 x 576.
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
from comfyui_tryon.fashn.blocks import Sizes
from comfyui_tryon.fashn.checkpoint import load_network
from comfyui_tryon.fashn.network import FashnNetwork
from comfyui_tryon.fashn.pipeline import load_pipeline
from comfyui_tryon.fashn.sampler import CANVAS, denoise, noise
from drawing import draw_pair
from models import machine, psnr
from safetensors.torch import load_file
from support import tiny_fashn
from support.fashn_reference import PublishedFashn
from torch.utils.flop_counter import FlopCounterMode

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
EXACT = "ours, float32"
LOWEST_DB = 30 if CUDA else 80  # between two sides
GUIDANCE, UNGUIDED, SEED, CATEGORY = 1.5, 1, 42, 1
# torch's own counter leaves out products that are added in place
ADDED = {torch.ops.aten.addmm_: lambda into, left, right, **_: 2 * left[0] * left[1] * right[1]}
# Of an H100 in bfloat16, in FLOP/s: what its matrix products and its attention reach at best
LINEAR_RATE, ATTENTION_RATE, ELEMENTWISE_S = 650e12, 550e12, 0.2

Sample = Callable[[tuple[int, int], int], torch.Tensor]  # canvas, steps


def conditions(canvas: tuple[int, int], like: torch.Tensor) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(1, 4, *canvas, generator=generator) * 2 - 1).to(like) for _ in range(2)]


def load(name: str, folder: Path) -> Sample:
    dtype = torch.bfloat16 if CUDA and name != EXACT else torch.float32
    if name == "published":
        weights = {key: tensor.to(DEVICE, dtype) for key, tensor in load_file(folder / "model.safetensors").items()}
        patch = weights["x_embedder.proj.weight"].shape[-1]
        head = weights["single_blocks.0.norm.query_norm.scale"].shape[0]
        plain, like = PublishedFashn(weights, patch, head), weights["y_embedder.weight"]
        return lambda canvas, steps: plain.sample(
            *conditions(canvas, like), CATEGORY, noise(SEED, canvas), steps, GUIDANCE, UNGUIDED
        )
    network = load_network(folder, dtype, compile="compiled" in name).to(DEVICE)
    like = next(network.parameters())

    def sample(canvas: tuple[int, int], steps: int) -> torch.Tensor:
        with torch.inference_mode():
            return denoise(
                network,
                *conditions(canvas, like),
                CATEGORY,
                noise(SEED, canvas),
                steps=steps,
                guidance_scale=GUIDANCE,
                unguided_last_steps=UNGUIDED,
            )

    return sample


def side(name: str, folder: Path, results: Path) -> None:
    """A process that loads one side and samples on every line of its standard input."""
    torch.backends.cudnn.allow_tf32 = False  # else a convolution in float32 is none
    memory, start = Memory(), time.perf_counter()
    memory.start()
    sample = load(name, folder)
    print(json.dumps({"load_s": time.perf_counter() - start, "load_gb": memory.peak()}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        memory.start()
        start = time.perf_counter()
        result = sample(tuple(order["canvas"]), order["steps"]).float().cpu()
        seconds = time.perf_counter() - start
        np.save(results / f"{name}.npy", result.numpy())
        print(json.dumps({"image_s": seconds, "peak_gb": memory.peak()}), flush=True)


def compare(
    canvas: tuple[int, int], steps: int, repeat: int, sizes: Sizes, models: Path | None, exact: bool, compile: bool
) -> None:
    names = ("published", "ours", *(["ours, compiled"] if compile else []), *([EXACT] if exact else []))
    with tempfile.TemporaryDirectory() as scratch:
        folder = models or tiny_fashn.write(Path(scratch) / "fashn", sizes, DEVICE)
        running = {
            name: subprocess.Popen(
                [sys.executable, __file__, "--side", name, folder, scratch],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in names
        }

        def answer(name: str) -> dict[str, float]:
            line = running[name].stdout.readline()
            return json.loads(line) if line else sys.exit(f"{name} ended; look above for the reason.")

        def sampled(name: str, steps: int) -> dict[str, float]:
            print(json.dumps({"canvas": canvas, "steps": steps}), file=running[name].stdin, flush=True)
            return answer(name)

        try:
            loads = {name: answer(name) for name in names}
            if CUDA:  # the first run chooses kernels, or compiles them
                for name in names:
                    sampled(name, 2)
            found: dict[str, list[dict]] = {name: [] for name in names}
            for number in range(repeat):
                for name in names if number == 0 else [name for name in names if name != EXACT]:
                    found[name].append(sampled(name, steps))
            results = {name: np.load(Path(scratch) / f"{name}.npy") for name in names}
        finally:
            for process in running.values():
                process.kill()
                process.wait()
    seconds = {name: median([run["image_s"] for run in runs]) for name, runs in found.items()}
    flops = sum(image_flops(sizes, canvas, steps))
    levels = {
        (name, to): psnr(*((results[key] + 1) * 127.5 for key in (name, to)))
        for name in names
        for to in ("published", names[-1])
    }
    rows = [
        {
            "canvas, steps": f"{canvas[0]} x {canvas[1]}, {steps}",
            "side": name,
            "image s": f"{seconds[name]:.2f}",
            "ratio": f"{seconds['published'] / seconds[name]:.2f}",
            "load s": f"{loads[name]['load_s']:.1f}",
            "peak GB": f"{max(run['peak_gb'] for run in found[name]):.2f}",
            "TFLOP/s of ours": f"{flops / seconds[name] / 1e12:.2f}",
            "PSNR dB": "" if name == "published" else f"{levels[name, 'published']:.1f}",
            **({"PSNR dB to fp32": f"{levels[name, EXACT]:.1f}"} if exact else {}),
        }
        for name in names
    ]
    title = f"fashn{'_compiled' if compile else '_gpu' if CUDA else ''}"
    report(title, rows, machine=machine(), canvas=canvas, steps=steps, repeat=repeat)
    for name in names:
        level = levels[name, "published"]
        assert name in ("published", EXACT) or level >= LOWEST_DB, f"{name} is another function: {level:.1f} dB"


def image_flops(sizes: Sizes, canvas: tuple[int, int], steps: int) -> tuple[float, float]:
    """FLOP of an image, of matrix products and convolutions, and of attention."""
    with torch.device("meta"):
        network = FashnNetwork(sizes)
    like = next(network.parameters())

    def counted(steps: int) -> tuple[float, float]:
        with FlopCounterMode(display=False, custom_mapping=ADDED) as counter, torch.no_grad():
            start = torch.empty(1, 3, *canvas)
            inputs = [torch.empty(1, 4, *canvas, device="meta")] * 2
            denoise(network, *inputs, CATEGORY, start.to(like), steps=steps, guidance_scale=GUIDANCE)
        return split(counter)

    # all steps but the last, which is unguided, are the same
    one, two = counted(1), counted(2)
    return tuple(last + (steps - 1) * (both - last) for last, both in zip(one, two))


def published_flops(sizes: Sizes, canvas: tuple[int, int], steps: int) -> tuple[float, float]:
    with torch.device("meta"):
        weights = FashnNetwork(sizes).state_dict()
    plain = PublishedFashn(weights, sizes.patch, sizes.head)
    empty = lambda channels, rows: torch.empty(rows, channels, *canvas, device="meta")  # noqa: E731
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain.velocity(
            empty(3, 2), empty(3, 2), empty(1, 2), empty(3, 2), empty(1, 2),
            torch.zeros(2, dtype=torch.int64, device="meta"), torch.zeros(2, device="meta"),
        )  # fmt: skip
    return tuple(steps * part for part in split(counter))


def split(counter: FlopCounterMode) -> tuple[float, float]:
    counts = counter.get_flop_counts()["Global"]
    attention = sum(
        count for operation, count in counts.items() if "bmm" in str(operation) or "attention" in str(operation)
    )
    return sum(counts.values()) - attention, attention


def count() -> None:
    rows: list[dict[str, Any]] = []
    for name, counted in (("published", published_flops), ("ours", image_flops)):
        linear, attention = counted(Sizes(), CANVAS, 30)
        seconds = linear / LINEAR_RATE + attention / ATTENTION_RATE + ELEMENTWISE_S
        rows.append(
            {
                "side": name,
                "TFLOP an image": f"{(linear + attention) / 1e12:.1f}",
                "linear": f"{linear / 1e12:.1f}",
                "attention": f"{attention / 1e12:.1f}",
                "floor on an H100 s": f"{seconds:.2f}",
            }
        )
    report("fashn_count", rows, canvas=CANVAS, steps=30)


def load_published() -> None:
    """Loads the published size and makes one step at the published canvas."""
    with tempfile.TemporaryDirectory() as scratch:
        # in a process of its own, which gives its memory back
        subprocess.run([sys.executable, __file__, "--write", scratch], check=True)
        memory, start = Memory(), time.perf_counter()
        memory.start()
        pipeline = load_pipeline(Path(scratch)).to(DEVICE)
        loaded_s, loaded_gb = time.perf_counter() - start, memory.peak()
        pair, start = draw_pair(1, 768, 1024), time.perf_counter()
        image = pipeline(
            np.asarray(pair.person),
            np.asarray(pair.garment),
            category="tops",
            num_inference_steps=1,
        )
        row = {
            "load s": f"{loaded_s:.1f}",
            "loaded GB": f"{loaded_gb:.2f}",
            "image": f"{image.shape[2]} x {image.shape[1]}, 1 step, unguided",
            "s": f"{time.perf_counter() - start:.0f}",
            "peak GB": f"{memory.peak():.2f}",
        }
    report("fashn_load", [row], machine=machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canvas", default="864x576" if CUDA else "288x192", help="height x width")
    parser.add_argument("--steps", type=int, default=30 if CUDA else 2)
    parser.add_argument("--repeat", type=int, default=3 if CUDA else 1)
    parser.add_argument("--tiny", action="store_true", help="small weights: says that it runs, nothing about speed")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--models", type=Path, help="weights of the published sizes, in the published layout")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        tiny_fashn.write_all(arguments.write, sizes=Sizes(), device=DEVICE)
    elif arguments.side:
        name, folder, results = arguments.side
        side(name, Path(folder), Path(results))
    elif arguments.count:
        count()
    elif arguments.load:
        load_published()
    elif arguments.tiny:
        compare(tiny_fashn.CANVAS, 3, 1, tiny_fashn.SIZES, None, arguments.exact, arguments.compile)
    else:
        canvas = tuple(map(int, arguments.canvas.split("x")))
        compare(
            canvas, arguments.steps, arguments.repeat, Sizes(), arguments.models, arguments.exact, arguments.compile
        )


if __name__ == "__main__":
    main()
