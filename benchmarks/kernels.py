"""Choices that leave the function as it is: attention kernels, group norms, memory formats, blocks, CUDA graphs.

    python benchmarks/kernels.py [--sizes 768x1024] [--models FOLDER] [--compile]

On a GPU in fp16, with weights of the published sizes or those in FOLDER. Each choice beside the first of its table:
milliseconds, peak memory and PSNR of its result. A choice that the GPU or torch refuses says so in its row. On a CPU a
rehearsal.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import median, report  # puts this project on the path

# isort: split

import numpy as np
import torch
import torch.nn.functional as F
from comfyui_tryon.catvton import blocks, checkpoint, load_pipeline
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

NORM_SHAPE = (2, 320, 256, 96) if CUDA else (2, 320, 16, 8)  # of the UNet's first level at 768 x 1024
NORM_CALLS = 10  # at a time, as one is too short to be timed
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}

Work = Callable[[], torch.Tensor]
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


def table(part: str, size: str, choices: dict[str, Work], calls: int = 1) -> list[dict[str, Any]]:
    """A row for each choice, which is `calls` calls; the first is what the others are compared with."""
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
        spent = f"{milliseconds / calls:.{2 if calls == 1 else 4}f}"
        rows.append({**row, "ms": spent, "peak GB": f"{peak:.2f}", "PSNR dB": f"{level:.1f}"})
        print(rows[-1], flush=True)
    return rows


def attention(heads: int, tokens: int, width: int) -> dict[str, Work]:
    """Self-attention of both halves of guidance, with the kernel that torch chooses and with each one alone."""
    q, k, v = (torch.randn(2, heads, tokens, width, device=DEVICE, dtype=DTYPE) for _ in range(3))

    def plain() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def alone(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend):
            return plain()

    return {"as torch chooses": plain, **{name: functools.partial(alone, kind) for name, kind in BACKENDS.items()}}


def captured(work: Work) -> Work:
    """`work` as a CUDA graph, which is captured at the first call; on a CPU `work` itself."""
    graphs: list[tuple[Any, torch.Tensor]] = []

    def replay() -> torch.Tensor:
        if not graphs:
            work()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = work()
            graphs.append((graph, output))
        graphs[0][0].replay()
        return graphs[0][1]

    return replay if CUDA else work


def after(prepare: Callable[[], Any], work: Work) -> Work:
    """`work`, with `prepare` before its first call."""
    is_ready = False

    def run() -> torch.Tensor:
        nonlocal is_ready
        if not is_ready:
            prepare()
            is_ready = True
        return work()

    return run


# Group norms with the arguments of `blocks.group_norm`, which is the one in chunks


def of_torch(x: Any, groups: int, weight: Any, bias: Any, eps: float, offset: Any = None) -> torch.Tensor:
    return F.group_norm(x if offset is None else x + offset[:, :, None, None], groups, weight, bias, eps)


def in_one_stage(x: Any, groups: int, weight: Any, bias: Any, eps: float, offset: Any = None) -> torch.Tensor:
    """Reduces a whole group at once, which lies in pieces of C / groups channels in NHWC."""
    x = x if offset is None else x + offset[:, :, None, None]
    parts = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
    mean = parts.mean((1, 2, 4), dtype=torch.float32)
    norm = torch.linalg.vector_norm(parts, dim=(1, 2, 4), dtype=torch.float32)
    variance = torch.addcmul(norm.square_().div_(x[0].numel() // groups), mean, mean, value=-1).clamp_(min=0)
    return blocks.scaled(x, mean[..., None], variance.add_(eps).rsqrt_()[..., None], weight, bias)


def in_two_stages(x: Any, groups: int, weight: Any, bias: Any, eps: float, offset: Any = None) -> torch.Tensor:
    """Each channel's pixels, then the channels."""
    mean = x.mean((2, 3), dtype=torch.float32)
    norm = torch.linalg.vector_norm(x, dim=(2, 3), dtype=torch.float32)
    variance = torch.addcmul(norm.square_().div_(x.shape[2] * x.shape[3]), mean, mean, value=-1).clamp_(min=0)
    return blocks.normalise(x, mean, variance, groups, weight, bias, eps, offset)


def by_batch_norm(x: Any, groups: int, weight: Any, bias: Any, eps: float, offset: Any = None) -> torch.Tensor:
    """Reads each sample once, with the statistics of torch's batch norm (Welford's, float32); on a GPU only."""
    means, factors = zip(*(torch.batch_norm_stats(sample, eps) for sample in x.split(1)))
    variance = torch.stack(factors).pow(-2)  # with eps
    return blocks.normalise(x, torch.stack(means), variance, groups, weight, bias, 0.0, offset)


NORMS = {"two stages": in_two_stages, "one stage": in_one_stage, "chunks": blocks.group_norm}
if CUDA:
    NORMS["batch norm"] = by_batch_norm


def group_norms() -> dict[str, Work]:
    """Group norms of one tensor, as CUDA graphs: a GPU is faster than the host starts them one by one."""
    given = torch.randn(NORM_SHAPE, device=DEVICE, dtype=DTYPE)
    weight, bias = torch.randn(2, NORM_SHAPE[1], device=DEVICE, dtype=DTYPE)

    def repeated(norm: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return [norm(x, 32, weight, bias, 1e-5) for _ in range(NORM_CALLS)][-1]

    return {
        f"{name}, {layout}": captured(functools.partial(repeated, norm, given.to(memory_format=memory_format)))
        for name, norm in {"torch": of_torch, **NORMS}.items()
        for layout, memory_format in LAYOUTS.items()
    }


def unet_step(unet: torch.nn.Module, width: int, height: int) -> dict[str, Work]:
    """A guided step of diffusers' UNet, and from then on with our blocks, in the order of the rows."""
    given = torch.randn(2, 9, height // 4, width // 8, device=DEVICE, dtype=DTYPE)
    timestep = torch.tensor(500, device=DEVICE)

    def step(layout: str) -> Work:
        model_input = given.to(memory_format=LAYOUTS[layout])
        return lambda: unet(model_input, timestep, encoder_hidden_states=None, return_dict=False)[0]

    def choose(layout: str, norm: Callable[..., torch.Tensor] = of_torch, blocks_too: bool = True) -> Work:
        def prepare() -> None:
            unet.to(memory_format=LAYOUTS[layout])
            if blocks_too:
                use_blocks(unet, layout, norm)

        return after(prepare, step(layout))

    choices = {"as it is": choose("NCHW", blocks_too=False), "channels_last": choose("NHWC", blocks_too=False)}
    choices["blocks"] = choose("NCHW")
    choices["blocks, group norm in two stages"] = choose("NCHW", in_two_stages)
    for name, norm in NORMS.items():
        choices[f"blocks, channels_last, {name}"] = choose("NHWC", norm)
    if CUDA:
        choices["blocks, channels_last, two stages, CUDA graph"] = captured(choose("NHWC", in_two_stages))
        choices["blocks, channels_last, chunks, CUDA graph"] = captured(choose("NHWC", blocks.group_norm))
    return choices


def use_blocks(unet: torch.nn.Module, layout: str, norm: Callable[..., torch.Tensor]) -> None:
    """Puts our blocks into the UNet, once, and a group norm into them; on a CPU those for a GPU too."""
    blocks.replace_blocks(unet)
    use_norm(layout, norm)


def use_norm(layout: str, norm: Callable[..., torch.Tensor]) -> None:
    def forward(self: Any, x: torch.Tensor, offset: Any = None) -> torch.Tensor:
        chosen = norm if x.dim() == 4 else of_torch  # the VAE's attention has (N, C, tokens)
        return chosen(x, self.num_groups, self.weight, self.bias, self.eps, offset)

    def is_fast(x: torch.Tensor) -> bool:
        return layout == "NHWC" and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)

    blocks.GroupNorm.forward, blocks.is_fast = forward, is_fast


def compiled_step(unet: torch.nn.Module, width: int, height: int) -> dict[str, Work]:
    """The same in channels_last, and compiled; which takes longest."""
    model_input = torch.randn(2, 9, height // 4, width // 8, device=DEVICE, dtype=DTYPE)
    timestep = torch.tensor(500, device=DEVICE)

    def step(model: Any) -> Work:
        return lambda: model(model_input, timestep, encoder_hidden_states=None, return_dict=False)[0]

    unet.to(memory_format=torch.channels_last)
    return {"channels_last": step(unet), "channels_last, compiled": step(torch.compile(unet))}


def vae_decode(vae: Any, width: int, height: int) -> dict[str, Work]:
    """The VAE's decoder as it is, and from then on in channels_last."""
    latents = torch.randn(1, 4, height // 8, width // 8, device=DEVICE, dtype=DTYPE)

    def whole() -> torch.Tensor:
        return vae.decode(latents).sample

    to_channels_last = functools.partial(vae.to, memory_format=torch.channels_last)
    return {
        "torch's group norm": after(functools.partial(use_norm, "NCHW", of_torch), whole),
        "channels_last": after(to_channels_last, whole),
        "channels_last, group norm in two stages": after(functools.partial(use_norm, "NHWC", in_two_stages), whole),
        "channels_last, group norm in chunks": after(functools.partial(use_norm, "NHWC", blocks.group_norm), whole),
    }


def write(rows: list[dict[str, Any]]) -> None:
    report("kernels", rows, machine=machine(), dtype=str(DTYPE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["768x1024"] if CUDA else ["192x256"])
    parser.add_argument("--models", type=Path)
    parser.add_argument("--compile", action="store_true", help="the compiled UNet too, which takes minutes")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        models = arguments.models or write_published(Path(scratch))
        for size in arguments.sizes:
            width, height = map(int, size.split("x"))
            tokens = 2 * (height // 8) * (width // 8)  # person above garment
            rows += table("attention, head dimension 40", size, attention(HEADS, tokens, HEAD_DIM))
            if CUDA:
                fashn = attention(FASHN_HEADS, FASHN_TOKENS, FASHN_HEAD_DIM)
                rows += table("attention, head dimension 128", "864 x 576", fashn)
            rows += table("group norm", "x".join(map(str, NORM_SHAPE)), group_norms(), calls=NORM_CALLS)
            write(rows)
            with patch.object(checkpoint, "replace_blocks"):  # with diffusers' own at first
                pipeline = load_pipeline(*folders(models), dtype=DTYPE).to(DEVICE)
            # restores what the rows change
            with patch.object(blocks, "is_fast"), patch.object(blocks.GroupNorm, "forward"):
                rows += table("UNet, guided step", size, unet_step(pipeline.unet, width, height))
                write(rows)
                rows += table("VAE decode", size, vae_decode(pipeline.vae, width, height))
                write(rows)
            if arguments.compile:
                rows += table("UNet, compiled", size, compiled_step(pipeline.unet, width, height))
                write(rows)


if __name__ == "__main__":
    main()
