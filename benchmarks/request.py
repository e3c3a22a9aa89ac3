"""Where the time of one request goes, largest first: with the demo's weights, and with the published sizes.

    python benchmarks/request.py [--published WIDTHxHEIGHT] [--repeat N]

The person and the garment are drawn, 768 x 1024, PNG in and out. The published sizes hold random numbers: the time does
not depend on them. There one denoising step is timed and counted 50 times, and everything else once.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import median, report, timed  # puts this project on the path

# isort: split

import numpy as np
import torch
import torchvision.ops  # noqa: F401  # its seconds of import are no part of a request
from comfyui_tryon import images
from comfyui_tryon.catvton import CatVTONPipeline, load_pipeline, processing
from comfyui_tryon.masker.agnostic import agnostic_mask
from comfyui_tryon.nodes import TryOnRepaint
from drawing import draw_pair
from evaluate import demo_options
from masker import figure, made_up_masker
from models import demo_masker, demo_pipeline, folders, machine, write_published

SENT = (768, 1024)


def stages(
    pipeline: CatVTONPipeline, size: tuple[int, int], steps: int, timed_steps: int, guidance: float, blur: int
) -> dict[str, tuple[Callable[[], Any], float]]:
    """What a request does apart from its mask: each stage, and how often it happens."""
    pair = draw_pair(1, *SENT)
    files = [images.encode(np.asarray(picture), "png", 95) for picture in (pair.person, pair.garment)]
    person = torch.from_numpy(np.array(pair.person)).float()[None] / 255
    white = torch.from_numpy(np.array(pair.mask)).float()[None, :, :, None].expand(-1, -1, -1, 3) / 255
    result = torch.rand(1, size[1], size[0], 3, generator=torch.Generator().manual_seed(0))
    pixels = (result[0] * 255).byte().numpy()

    def prepare() -> list[torch.Tensor]:
        mask = processing.blur_mask(processing.resize_and_crop(pair.mask, size), blur)
        return [
            processing.image_to_tensor(processing.resize_and_crop(pair.person, size)),
            processing.image_to_tensor(processing.resize_and_pad(pair.garment, size)),
            processing.mask_to_tensor(mask),
        ]

    prepared = prepare()
    conditions = pipeline.encode(*prepared)
    denoise = lambda: pipeline.denoise(*conditions, timed_steps, guidance, [42], lambda step, latents: None)  # noqa: E731
    latents = torch.randn(1, 4, size[1] // 8, size[0] // 8, device=conditions[0].device)
    return {
        "decode both PNGs": (lambda: [images.decode(file, "", 10**9) for file in files], 1),
        "crop, pad, resize, blur": (prepare, 1),
        "VAE encode, both": (lambda: pipeline.encode(*prepared)[0].cpu(), 1),
        f"{steps} denoising steps": (lambda: denoise().cpu(), steps / timed_steps),
        "VAE decode": (lambda: pipeline.decode(latents), 1),
        "repaint": (lambda: TryOnRepaint().repaint(person, result, white), 1),
        "encode the PNG": (lambda: images.encode(pixels, "png", 95), 1),
    }


def table(work: dict[str, tuple[Callable[[], Any], float]], repeat: int) -> list[dict[str, str]]:
    with torch.inference_mode():
        seconds = {name: times * median([timed(run) for _ in range(repeat)]) for name, (run, times) in work.items()}
    total = sum(seconds.values())
    return [
        {"stage": name, "ms": f"{1000 * value:.1f}", "share": f"{100 * value / total:.1f} %"}
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def demo(repeat: int) -> list[dict[str, str]]:
    """As workflows/demo.json has it."""
    person = np.asarray(draw_pair(1, *SENT).person)
    options, _ = demo_options()
    size, steps = (options["width"], options["height"]), options["num_inference_steps"]
    with torch.inference_mode():
        work = stages(demo_pipeline(), size, steps, steps, options["guidance_scale"], options["mask_blur"])
    masker = demo_masker()
    work["mask: SegFormer"] = (lambda: masker.mask(person, "upper", mask_grow=8), 1)
    return table(work, repeat)


def published(size: tuple[int, int]) -> list[dict[str, str]]:
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = load_pipeline(*folders(write_published(Path(scratch))), dtype=dtype).to(device)
    masker = made_up_masker().to(device, dtype)
    person = np.array(draw_pair(1, *SENT).person)
    on_device, maps = torch.tensor(person, device=device), figure()
    timed_steps = 50 if device == "cuda" else 1
    with torch.inference_mode():
        work = stages(pipeline, size, steps=50, timed_steps=timed_steps, guidance=2.5, blur=9)
    work["mask: DensePose"] = (lambda: masker.densepose.parse(person), 1)
    work["mask: SCHP, ATR"] = (lambda: masker.atr.parse(on_device).cpu(), 1)
    work["mask: SCHP, LIP"] = (lambda: masker.lip.parse(on_device).cpu(), 1)
    work["mask: logic"] = (lambda: agnostic_mask(maps, "upper"), 1)
    return table(work, 3 if device == "cuda" else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", default="768x1024" if torch.cuda.is_available() else "384x512")
    parser.add_argument("--repeat", type=int, default=5, help="of the demo's stages")
    arguments = parser.parse_args()
    print(json.dumps(machine()))
    report("request", demo(arguments.repeat), machine=machine(), weights="demo", options=demo_options()[0])
    size = tuple(map(int, arguments.published.split("x")))
    report("request_published", published(size), machine=machine(), weights="published sizes, random", size=size)


if __name__ == "__main__":
    main()
