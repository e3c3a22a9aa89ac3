"""The sampler beside CatVTON's published algorithm written out plainly: the same weights, inputs and result.

    python benchmarks/sampler.py [--sizes 192x256 288x384] [--steps N] [--repeat N] [--dtype bfloat16 ...]
                                 [--exact] [--compile] [--models FOLDER]
    python benchmarks/sampler.py --count

Both sides load weights of the published sizes with random numbers, each in a process of its own, and sample in turns.
On a GPU: 768 x 1024, 50 steps, fp16. --exact compares all with ours in fp32, which takes longest and comes last;
--compile adds a side with torch.compile, which takes minutes for each size. What is measured is written down after
every size and dtype. --count needs no GPU: it runs the loop on tensors without data, which no operation can read, and
counts what a step does.
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
from comfyui_tryon.catvton.blocks import replace_blocks
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
EXACT = "ours", "float32"  # side and dtype
LOWEST_DB = {"float32": 60, "float16": 40, "bfloat16": 25}  # between two sides of one dtype
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


def side(name: str, models: Path, result: Path, dtype: torch.dtype) -> None:
    """A process that loads one side and samples on every line of its standard input."""
    torch.backends.cudnn.allow_tf32 = False  # else a convolution in float32 is none
    answer = lambda **figures: print(json.dumps(figures), flush=True)  # noqa: E731
    memory, start = Memory(), time.perf_counter()
    memory.start()
    if name == "published":
        sample = load_published(models, dtype)
    else:
        sample = load_ours(models, dtype, compile="compiled" in name)
    answer(load_s=time.perf_counter() - start, load_gb=memory.peak())
    for line in sys.stdin:
        order = json.loads(line)
        last = order["steps"]
        marks: dict[int, list[float]] = {}
        drawn = pictures(order["width"], order["height"])

        def mark(step: int, marks=marks) -> None:
            if CUDA:
                torch.cuda.synchronize()
            marks.setdefault(step, []).append(time.perf_counter())

        # a GPU works behind its host: only the whole is timed there, so that nothing is waited for in between
        callback = (lambda step, last=last, mark=mark: step in (0, last) and mark(step)) if CUDA else mark
        memory.start()
        start = time.perf_counter()
        pixels = sample(*drawn, callback=callback, **order)
        end = time.perf_counter()
        np.save(result, pixels)
        # ours also calls within the VAE: before the loop with the first step's number, after it with the last's
        first, behind = marks[0][-1], marks[last][0]
        between = [marks[step][0] for step in range(1, last)] if not CUDA else []
        steps = [(behind - first) / last] * last if CUDA else np.diff([first, *between, behind])
        answer(
            step_s=list(steps), encode_s=first - start, decode_s=end - behind, all_s=end - start, peak_gb=memory.peak()
        )


class Running:
    """The process of one side."""

    def __init__(self, name: str, dtype: str, models: Path, scratch: Path) -> None:
        self._result = scratch / f"{name}-{dtype}.npy"
        command = [sys.executable, __file__, "--side", name, models, self._result, "--dtype", dtype]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.load: dict[str, float] = {}

    def answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._result.stem} ended; look above for the reason.")
        return json.loads(line)

    def sample(self, **order: int) -> dict[str, Any]:
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self.answer()

    @property
    def result(self) -> np.ndarray:
        return np.load(self._result)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def compare(
    sizes: list[tuple[int, int]],
    steps: int,
    repeat: int,
    dtypes: list[str],
    models: Path | None,
    exact: bool,
    compile: bool,
) -> None:
    names = ("published", "ours", *(["ours, compiled"] if compile else []))
    sides = [(name, dtype) for dtype in dtypes for name in names]
    sides += [EXACT] if exact and EXACT not in sides else []
    with tempfile.TemporaryDirectory() as scratch:
        if models is None:
            models = Path(scratch) / "models"
            # in a process of its own, which gives its memory back
            subprocess.run([sys.executable, __file__, "--write", models], check=True)
        title = f"sampler{'_compiled' if compile else '_gpu' if CUDA else ''}"
        running = {side: Running(*side, models, Path(scratch)) for side in sides}
        try:
            measure(running, names, sizes, steps, repeat, dtypes, exact, title)
        finally:
            for process in running.values():
                process.end()


def measure(
    running: dict[tuple[str, str], Running],
    names: tuple[str, ...],
    sizes: list[tuple[int, int]],
    steps: int,
    repeat: int,
    dtypes: list[str],
    exact: bool,
    title: str,
) -> None:
    for process in running.values():
        process.load = process.answer()
    facts = {"machine": machine(), "steps": steps, "repeat": repeat}
    print(json.dumps(facts))
    loads = [
        {
            "side": name,
            "dtype": dtype,
            "load s": f"{process.load['load_s']:.1f}",
            "peak GB": f"{process.load['load_gb']:.2f}",
        }
        for (name, dtype), process in running.items()
    ]
    report(f"{title}_load", loads, **facts)
    rows: list[dict[str, Any]] = []
    for width, height in sizes:
        order = {"width": width, "height": height}
        if CUDA:  # the first run chooses kernels, or compiles them
            for process in running.values():
                process.sample(**order, steps=2)
        made: dict[tuple[str, str], np.ndarray] = {}
        for dtype in dtypes:
            found: dict[str, list[dict]] = {name: [] for name in names}
            for _ in range(repeat):
                for name, runs in found.items():
                    runs.append(running[name, dtype].sample(**order, steps=steps))
            results = {name: running[name, dtype].result for name in names}
            made |= {(name, dtype): result for name, result in results.items()}
            rows += [row(name, width, height, dtype, found, results) for name in names]
            report(title, rows, **facts)
        if exact:
            running[EXACT].sample(**order, steps=steps)
            for made_row in rows[-len(made) :]:
                level = psnr(made[made_row["side"], made_row["dtype"]], running[EXACT].result)
                made_row["PSNR dB to fp32"] = f"{level:.1f}"
            report(title, rows, **facts)
    strangers = [row for row in rows if row["PSNR dB"] and float(row["PSNR dB"]) < LOWEST_DB[row["dtype"]]]
    assert not strangers, f"computes another function: {strangers}"


def row(name: str, width: int, height: int, dtype: str, found: dict, results: dict) -> dict[str, Any]:
    step = {side: median([seconds for run in runs for seconds in run["step_s"]]) for side, runs in found.items()}
    middle = {side: median([run["all_s"] for run in runs]) for side, runs in found.items()}
    parts = {key: median([run[key] for run in found[name]]) for key in ("encode_s", "decode_s")}
    peak = max(run["peak_gb"] for run in found[name])
    figures = {
        "size": f"{width} x {height}",
        "dtype": dtype,
        "side": name,
        "guided step s": f"{step[name]:.4f}",
        "ratio": f"{step['published'] / step[name]:.2f}",
        "encode s": f"{parts['encode_s']:.2f}",
        "decode s": f"{parts['decode_s']:.2f}",
        "image s": f"{middle[name]:.2f}",
        "ratio of images": f"{middle['published'] / middle[name]:.2f}",
        "peak GB": f"{peak:.2f}",
        "PSNR dB": "" if name == "published" else f"{psnr(results[name], results['published']):.1f}",
    }
    figures["PSNR dB to fp32"] = ""  # which comes last
    if CUDA:
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
    replace_blocks(ours)
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
    parser.add_argument("--dtype", nargs="+", choices=LOWEST_DB, default=["float16" if CUDA else "float32"])
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--models", type=Path, help="weights to use, in the published layout")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_published(arguments.write)
    elif arguments.side:
        name, models, result = arguments.side
        side(name, Path(models), Path(result), getattr(torch, *arguments.dtype))
    elif arguments.count:
        count(768, 1024)
    else:
        sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes]
        compare(
            sizes, arguments.steps, arguments.repeat, arguments.dtype, arguments.models,
            arguments.exact, arguments.compile,
        )  # fmt: skip


if __name__ == "__main__":
    main()
