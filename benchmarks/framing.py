"""What keeping the frame of a phone's photograph costs beyond an image of 768 x 1024, largest part first.

    python benchmarks/framing.py [--repeat N]

CPU time of one thread, which a busy machine does not change much. The person is drawn, with a camera's noise; both
images are JPEG.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from common import median, report  # puts this project on the path

# isort: split

import numpy as np
import torch
from comfyui_tryon import images
from comfyui_tryon.delivery import make_report
from comfyui_tryon.exchange import Framed
from comfyui_tryon.masker.agnostic import LabelMaps
from comfyui_tryon.masker.base import ParserMasker
from comfyui_tryon.nodes import TryOnCrop, TryOnPaste
from comfyui_tryon.nodes.tensors import from_uint8, to_uint8
from drawing import draw_pair
from masker import figure
from models import machine
from PIL import Image

LARGE, SMALL = (3024, 4032), (768, 1024)
MAX_SIDE = 2048


def photograph(size: tuple[int, int]) -> bytes:
    """Returns a JPEG of a drawn person with a camera's noise."""
    person = draw_pair(1, *SMALL).person.resize(size)
    noise = np.random.default_rng(1).normal(0, 4, (size[1], size[0], 1))
    noisy = Image.fromarray((np.asarray(person) + noise).clip(0, 255).astype(np.uint8))
    return images.encode(np.asarray(noisy), "jpeg", 90)


class DrawnMasker(ParserMasker):
    """Has the labels of a drawn figure, and no networks."""

    def _garment_maps(self, person: np.ndarray, *_: Any) -> tuple[LabelMaps, int]:
        size = person.shape[1::-1]
        return LabelMaps(*(np.asarray(Image.fromarray(plane).resize(size, 0)) for plane in figure())), 1


def stages(size: tuple[int, int]) -> dict[str, Callable[[], Any]]:
    """What a request does with the person image beside the models."""
    data = photograph(size)
    pixels = images.decode(data, "", 10**9, max_side=MAX_SIDE)
    mask = DrawnMasker().mask(pixels, "upper")
    person, white = from_uint8(pixels)[None], from_uint8(mask)[None, :, :, None].expand(-1, -1, -1, 3)
    _, _, window = TryOnCrop().crop(person, white)
    result = torch.rand(1, SMALL[1], SMALL[0], 3, generator=torch.Generator().manual_seed(0))
    pasted, _ = TryOnPaste().paste(person, result, white, window)
    after, garment = to_uint8(pasted[0]), np.asarray(draw_pair(1, *SMALL).garment)
    return {
        "decode and reduce the JPEG": lambda: images.decode(data, "", 10**9, max_side=MAX_SIDE),
        "image to tensor": lambda: from_uint8(pixels),
        "mask: all but the networks": lambda: DrawnMasker().mask(pixels, "upper"),
        "crop": lambda: TryOnCrop().crop(person, white),
        "paste": lambda: TryOnPaste().paste(person, result, white, window),
        "tensor to image": lambda: to_uint8(pasted[0]),
        "report": lambda: make_report(garment, Framed(window, pixels), after),
        "encode the PNG": lambda: images.encode(after, "png", 95),
    }


def cpu_ms(work: Callable[[], Any], repeat: int) -> float:
    work()
    taken = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - start))
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(1)
    print(json.dumps(machine()))
    large, small = ({name: cpu_ms(work, repeat) for name, work in stages(size).items()} for size in (LARGE, SMALL))
    large["all"], small["all"] = sum(large.values()), sum(small.values())
    rows = [
        {"stage": name, "12 MP, ms": f"{large[name]:.0f}", "768 x 1024, ms": f"{small[name]:.0f}",
         "beyond, ms": f"{large[name] - small[name]:.0f}"}
        for name in sorted(large, key=lambda name: small[name] - large[name])
    ]  # fmt: skip
    report("framing", rows, machine=machine(), max_side=MAX_SIDE)


if __name__ == "__main__":
    main()
