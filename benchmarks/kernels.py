"""Choices that would leave the function as it is: attention kernels, memory formats, CUDA graphs, tiles of the VAE.

    python benchmarks/kernels.py [--sizes 768x1024] [--models FOLDER]

On a GPU, in fp16, with weights of the published sizes or those in FOLDER. Each choice beside what the sampler does now:
milliseconds, peak memory and PSNR of its result. A choice that the GPU or torch refuses says so in its row.
"""

import argparse
import contextlib
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
REPEAT = 20 if CUDA else 2
HEADS, HEAD_DIM = 8, 40  # of the UNet's first level

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
            rows.append({**row, "ms": f"refused: {str(error).splitlines()[0][:80]}"})
            continue
        exact = result if exact is None else exact
        error = (result - exact).square().mean().item()
        spread = (exact.max() - exact.min()).item()
        level = 10 * np.log10(spread**2 / error) if error else float("inf")
        rows.append({**row, "ms": f"{milliseconds:.2f}", "peak GB": f"{peak:.2f}", "PSNR dB": f"{level:.1f}"})
        print(rows[-1], flush=True)
    return rows


def ceiling() -> float:
    """TFLOP/s of a large matrix product, which nothing here can exceed."""
    side = 8192 if CUDA else 512
    a, b = (torch.randn(side, side, device=DEVICE, dtype=DTYPE) for _ in range(2))
    return 2 * side**3 / measured(lambda: a @ b)[0] / 1e9


def attention(width: int, height: int) -> dict[str, Callable[[], torch.Tensor]]:
    """The first level's self-attention: person above garment, both halves of guidance."""
    tokens = 2 * (height // 8) * (width // 8)
    q, k, v = (torch.randn(2, HEADS, tokens, HEAD_DIM, device=DEVICE, dtype=DTYPE) for _ in range(3))

    def with_backend(*backends: SDPBackend) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with sdpa_kernel(list(backends)):
                return F.scaled_dot_product_attention(q, k, v)

        return run

    def padded(*backends: SDPBackend) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            wide = [F.pad(tensor, (0, 64 - HEAD_DIM)) for tensor in (q, k, v)]
            with sdpa_kernel(list(backends)) if backends else contextlib.nullcontext():
                return F.scaled_dot_product_attention(*wide, scale=HEAD_DIM**-0.5)[..., :HEAD_DIM]

        return run

    return {
        "as torch chooses": lambda: F.scaled_dot_product_attention(q, k, v),
        "flash": with_backend(SDPBackend.FLASH_ATTENTION),
        "cuDNN": with_backend(SDPBackend.CUDNN_ATTENTION),
        "memory-efficient": with_backend(SDPBackend.EFFICIENT_ATTENTION),
        "padded to 64, as torch chooses": padded(),
        "padded to 64, flash": padded(SDPBackend.FLASH_ATTENTION),
        "padded to 64, cuDNN": padded(SDPBackend.CUDNN_ATTENTION),
    }


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

    graphs: list[tuple[Any, torch.Tensor]] = []

    def graph() -> torch.Tensor:
        if not graphs:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                output = plain()
            graphs.append((captured, output))
        graphs[0][0].replay()
        return graphs[0][1]

    choices = {"as it is": plain, "CUDA graph": graph, "channels_last": channels_last}
    if not CUDA:
        del choices["CUDA graph"]
    return choices


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
            rows += table("attention, head dimension 40", size, attention(width, height))
            pipeline = load_pipeline(*folders(models), dtype=DTYPE).to(DEVICE)
            rows += table("UNet, guided step", size, unet_step(pipeline.unet, width, height))
            rows += table("VAE decode", size, vae_decode(pipeline.vae, width, height))
    limit = ceiling()
    print(f"a large matrix product: {limit:.0f} TFLOP/s")
    report("kernels", rows, machine=machine(), dtype=str(DTYPE), ceiling_tflops=limit)


if __name__ == "__main__":
    main()
