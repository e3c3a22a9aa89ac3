"""Choices that would leave the function as it is: attention kernels, memory formats, CUDA graphs, tiles of the VAE.

    python benchmarks/kernels.py [--sizes 768x1024] [--models FOLDER]

On a GPU in fp16, with weights of the published sizes or those in FOLDER. Each choice beside what the sampler does now:
milliseconds, peak memory and PSNR of its result. A choice that the GPU or torch refuses says so in its row.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import median, report  # puts this project on the path

# isort: split

import numpy as np
import torch
import torch.nn.functional as F
from comfyui_tryon.catvton import load_pipeline
from models import folders, machine, write_published
from torch.nn.attention import SDPBackend, sdpa_kernel

CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.float16) if CUDA else ("cpu", torch.float32)
REPEAT = 10 if CUDA else 2
HEADS, HEAD_DIM = 8, 40  # of the UNet's first level
FASHN_HEADS, FASHN_HEAD_DIM, FASHN_TOKENS = 10, 128, 2 * (864 // 12) * (576 // 12)  # of FASHN VTON at its canvas
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}

Result = tuple[float, float, torch.Tensor]


def measured(work: Callable[[], torch.Tensor]) -> Result:
    """Milliseconds at the median, peak GB, and the result; after three runs that choose kernels."""
    for _ in range(3 if CUDA else 1):
        result = work()
    if not CUDA:
        times = []
        for _ in range(REPEAT):
            started = time.perf_counter()
            result = work()
            times.append(1000 * (time.perf_counter() - started))
        return median(times), 0.0, result.float().cpu()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(REPEAT):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times), torch.cuda.max_memory_allocated() / 1e9, result.float().cpu()


def table(part: str, size: str, choices: dict[str, Callable[[], torch.Tensor]]) -> list[dict[str, Any]]:
    """A row for each choice; the first is what the others are compared with."""
    rows, exact = [], None
    for name, work in choices.items():
        row = {"part": part, "size": size, "choice": name}
        try:
            milliseconds, peak, result = measured(work)
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
            rows.append({**row, "ms": f"refused: {reason}", "peak GB": "", "PSNR dB": ""})
            continue
        exact = result if exact is None else exact
        error = (result - exact).square().mean().item()
        spread = (exact.max() - exact.min()).item()
        level = 10 * np.log10(spread**2 / error) if error else float("inf")
        rows.append({**row, "ms": f"{milliseconds:.2f}", "peak GB": f"{peak:.2f}", "PSNR dB": f"{level:.1f}"})
        print(rows[-1], flush=True)
    return rows


def attention(heads: int, tokens: int, width: int, padding: int = 0) -> dict[str, Callable[[], torch.Tensor]]:
    """Self-attention of both halves of guidance; and with heads that are padded to `padding`."""
    q, k, v = (torch.randn(2, heads, tokens, width, device=DEVICE, dtype=DTYPE) for _ in range(3))

    def plain() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def padded() -> torch.Tensor:
        wide = [F.pad(tensor, (0, padding - width)) for tensor in (q, k, v)]
        return F.scaled_dot_product_attention(*wide, scale=width**-0.5)[..., :width]

    choices = with_backends("", plain)
    return choices | with_backends(f"padded to {padding}, ", padded) if padding else choices


def with_backends(name: str, work: Callable[[], torch.Tensor]) -> dict[str, Callable[[], torch.Tensor]]:
    """`work` with the attention that torch chooses, and with each one alone."""
    return {f"{name}as torch chooses": work, **{f"{name}{key}": using(work, [key]) for key in BACKENDS}}


def using(work: Callable[[], torch.Tensor], names: list[str]) -> Callable[[], torch.Tensor]:
    """`work` with the first of some kinds of attention that can do it."""

    def run() -> torch.Tensor:
        with sdpa_kernel([BACKENDS[name] for name in names], set_priority=True):
            return work()

    return run


def unet_step(unet: torch.nn.Module, width: int, height: int) -> dict[str, Callable[[], torch.Tensor]]:
    """A guided step of the UNet."""
    shape = (2, 9, height // 4, width // 8)
    model_input = torch.randn(shape, device=DEVICE, dtype=DTYPE)
    timestep = torch.tensor(500, device=DEVICE)

    def plain(given: torch.Tensor = model_input) -> torch.Tensor:
        return unet(given, timestep, encoder_hidden_states=None, return_dict=False)[0]

    def channels_last() -> torch.Tensor:
        unet.to(memory_format=torch.channels_last)
        return plain(model_input.to(memory_format=torch.channels_last))

    def tried(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """`work` with the convolutions that cuDNN finds to be the fastest by trying them."""

        def run() -> torch.Tensor:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False):
                return work()

        return run

    graphs: list[tuple[Any, torch.Tensor]] = []

    def graph() -> torch.Tensor:
        if not graphs:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                output = plain()
            graphs.append((captured, output))
        graphs[0][0].replay()
        return graphs[0][1]

    choices = {"as it is": plain}
    if CUDA:
        # the deeper levels have wider heads, for which some attention has no kernel
        choices |= {f"{name} first": using(plain, [name, *BACKENDS]) for name in BACKENDS}
        choices |= {"CUDA graph": graph, "cuDNN tries": tried(plain)}
    choices["channels_last"] = channels_last
    if CUDA:
        choices["channels_last, cuDNN first"] = using(channels_last, ["cuDNN", *BACKENDS])
        choices["channels_last, cuDNN tries"] = tried(channels_last)
    return choices


def compiled_step(unet: torch.nn.Module, width: int, height: int) -> dict[str, Callable[[], torch.Tensor]]:
    """The same as it is now, and compiled; which takes longest."""
    if not CUDA:
        return {}
    model_input = torch.randn(2, 9, height // 4, width // 8, device=DEVICE, dtype=DTYPE)
    timestep = torch.tensor(500, device=DEVICE)

    def step(model: Any) -> Callable[[], torch.Tensor]:
        return lambda: model(model_input, timestep, encoder_hidden_states=None, return_dict=False)[0]

    return {"channels_last": step(unet), "channels_last, compiled": step(torch.compile(unet))}


def vae_decode(vae: Any, width: int, height: int) -> dict[str, Callable[[], torch.Tensor]]:
    latents = torch.randn(1, 4, height // 8, width // 8, device=DEVICE, dtype=DTYPE)

    def whole() -> torch.Tensor:
        return vae.decode(latents).sample

    def tiled() -> torch.Tensor:
        vae.enable_tiling()
        try:
            return vae.decode(latents).sample
        finally:
            vae.disable_tiling()

    def channels_last() -> torch.Tensor:
        vae.to(memory_format=torch.channels_last)
        return whole()

    return {"as it is": whole, "tiled": tiled, "channels_last": channels_last}


def write(rows: list[dict[str, Any]]) -> None:
    report("kernels", rows, machine=machine(), dtype=str(DTYPE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["768x1024"] if CUDA else ["192x256"])
    parser.add_argument("--models", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        models = arguments.models or write_published(Path(scratch))
        for size in arguments.sizes:
            width, height = map(int, size.split("x"))
            tokens = 2 * (height // 8) * (width // 8)  # person above garment
            rows += table("attention, head dimension 40", size, attention(HEADS, tokens, HEAD_DIM, padding=64))
            if CUDA:
                fashn = attention(FASHN_HEADS, FASHN_TOKENS, FASHN_HEAD_DIM)
                rows += table("attention, head dimension 128", "864 x 576", fashn)
            write(rows)
            pipeline = load_pipeline(*folders(models), dtype=DTYPE).to(DEVICE)
            rows += table("UNet, guided step", size, unet_step(pipeline.unet, width, height))
            write(rows)
            rows += table("VAE decode", size, vae_decode(pipeline.vae, width, height))
            write(rows)
            rows += table("UNet, compiled", size, compiled_step(pipeline.unet, width, height))
            write(rows)


if __name__ == "__main__":
    main()
