"""Time and memory of the AutoMasker at 768 x 1024, per image.

    python benchmarks/masker.py [--weights FOLDER] [--repeat N] [--device cpu|cuda] [--dtype float32|float16|bfloat16]

FOLDER is a CatVTON download with SCHP/ and DensePose/. Without it the networks get made-up weights that see a person
everywhere: the time does not depend on what they see.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

from common import median, report  # puts this project on the path

# isort: split

import numpy as np
import torch
from comfyui_tryon.masker import LabelMaps, SchpDensePoseMasker
from comfyui_tryon.masker.agnostic import agnostic_mask
from comfyui_tryon.masker.densepose import DensePose
from comfyui_tryon.masker.schp import Schp
from models import machine

WIDTH, HEIGHT = 768, 1024


def made_up_masker() -> SchpDensePoseMasker:
    masker = SchpDensePoseMasker(Schp(18, 512), Schp(20, 473), DensePose())
    predictor = masker.densepose.roi_heads.box_predictor
    torch.nn.init.zeros_(predictor["cls_score"].weight)
    predictor["cls_score"].bias.data = torch.tensor([5.0, 0.0])
    return masker.to(memory_format=torch.channels_last).requires_grad_(False).eval()


def figure() -> LabelMaps:
    """Label maps of a block of a person, so that the mask logic has something to do."""
    densepose, atr, lip = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    for x in (240, 500):  # arms
        densepose[300:640, x : x + 50], atr[300:640, x : x + 50], lip[300:640, x : x + 50] = 19, 14, 14
    densepose[260:620, 300:490], atr[240:600, 290:500], lip[240:600, 290:500] = 2, 4, 5
    densepose[620:980, 310:480], atr[600:950, 300:490], lip[600:950, 300:490] = 9, 6, 9
    densepose[60:220, 340:450], atr[60:220, 340:450], lip[60:220, 340:450] = 23, 11, 13
    return LabelMaps(densepose, atr, lip)


def median_ms(work: Callable[[], object], repeat: int) -> float:
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"])
    arguments = parser.parse_args()
    device, dtype = arguments.device, arguments.dtype or ("float16" if arguments.device == "cuda" else "float32")

    masker = SchpDensePoseMasker.load(arguments.weights) if arguments.weights else made_up_masker()
    masker.to(device, getattr(torch, dtype))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    person = np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)
    pixels, maps = torch.tensor(person, device=device), figure()

    stages = {
        "DensePose": lambda: masker.densepose.parse(person),
        "SCHP ATR": lambda: masker.atr.parse(pixels).cpu(),
        "SCHP LIP": lambda: masker.lip.parse(pixels).cpu(),
        "mask logic": lambda: agnostic_mask(maps, "overall"),
    }
    milliseconds = {name: median_ms(work, arguments.repeat) for name, work in stages.items()}
    milliseconds["a picture"] = sum(milliseconds.values())
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident
    print(json.dumps(machine()))
    rows = [{"stage": name, "ms": f"{value:.1f}"} for name, value in milliseconds.items()]
    report("masker", rows, machine=machine(), dtype=dtype, size=[WIDTH, HEIGHT], peak_bytes=peak)


if __name__ == "__main__":
    main()
