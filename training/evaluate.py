"""Judges the demo's weights on drawn pairs that they never saw: `python training/evaluate.py`.

`scores.py` says what the figures mean. The sampler works as in `workflows/demo.json`, unless options say otherwise, and
its result is pasted into the person image as there. For comparison the table has the VAE alone, which is given the
truth, the person image as it was, and the truth itself.

Writes to the output folder: `scores.json`; `sheet.jpg`, which shows 24 times person, garment, result and truth; and
`letters.jpg`, which shows 24 prints beside the true ones, to see whether they can be read.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "custom_nodes"), str(ROOT / "training")]

from comfyui_tryon.demo import checkpoint  # noqa: E402
from drawing import Pair, draw_pair  # noqa: E402
from scores import scores, table  # noqa: E402
from sheets import sheet  # noqa: E402

FIRST_SEED = 500_000  # of the scored pairs; training draws from data.FIRST_SEED up
SHOWN = 24
WORKFLOW = ROOT / "workflows" / "demo.json"
RENAMED = {"steps": "num_inference_steps", "cfg": "guidance_scale"}  # inputs of the node, options of the pipeline
OPTIONS = ("width", "height", "num_inference_steps", "guidance_scale", "mask_blur")
DEFAULTS = {"scheduler": "ddim", "guidance_start": 0.0, "guidance_end": 1.0}


def demo_inputs() -> dict[str, dict[str, Any]]:
    """Returns the inputs of the nodes in the demo's workflow, by their classes."""
    return {node["class_type"]: node["inputs"] for node in json.loads(WORKFLOW.read_text()).values()}


def demo_options() -> tuple[dict[str, Any], int]:
    """Returns the pipeline's options in the demo's workflow, and the width of its seam in the sampler's pixels."""
    inputs = demo_inputs()
    sampler = DEFAULTS | {RENAMED.get(name, name): value for name, value in inputs["TryOnCatVTON"].items()}
    return {name: sampler[name] for name in (*OPTIONS, *DEFAULTS)}, inputs["TryOnPaste"]["feather"]


def draw(count: int, size: tuple[int, int]) -> list[Pair]:
    """Draws the first `count` scored pairs in a size of (width, height) pixels, one on each core."""
    import torch

    seeds = range(FIRST_SEED, FIRST_SEED + count)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,)) as workers:
        return [*workers.map(partial(draw_pair, width=size[0], height=size[1]), seeds, chunksize=4)]


def results(dress: Callable[..., Any], pairs: list[Pair], feather: int, **options: Any) -> list[Image.Image]:
    """Returns what `dress(person, garment, mask, seeds, ...)` makes of each pair, pasted into the person image."""
    return [
        pasted(pair, dress(pair.person, pair.garment, pair.mask, seeds=(number,), **options)[0], feather)
        for number, pair in enumerate(pairs)
    ]


def rebuilt(pipeline: Any, pairs: list[Pair], feather: int, size: tuple[int, int]) -> list[Image.Image]:
    """Returns what the VAE alone makes of each truth in the sampler's size, pasted into the person image."""
    import torch
    from comfyui_tryon.catvton.processing import image_to_tensor, resize_and_crop

    made = []
    with torch.inference_mode():
        for pair in pairs:
            pixels = image_to_tensor(resize_and_crop(pair.worn, size)).to(pipeline.vae.device)
            latents = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
            made.append(pasted(pair, pipeline.decode(latents)[0], feather))
    return made


def pasted(pair: Pair, made: Any, feather: int) -> Image.Image:
    """Puts uint8 (h, w, 3) that a sampler made into the pair's person image, inside the pair's mask."""
    import torch
    from comfyui_tryon.framing.paste import paste
    from comfyui_tryon.framing.window import Window

    def floats(image: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)

    whole = Window(0, 0, *pair.person.size)
    image = paste(floats(pair.person)[None], floats(made)[None], floats(pair.mask), whole, feather)
    return Image.fromarray(image[0].mul(255).round().byte().numpy())


def mask_agreement(pairs: list[Pair], masker: Any, mask_grow: int) -> float:
    """Returns the mean IoU of the masks that the demo's workflow finds with those of a parser that is always right."""
    from data import automatic_mask

    shares = []
    for pair in pairs:
        found = masker.mask(np.asarray(pair.person), pair.cloth_type, mask_grow=mask_grow) > 127
        right = np.asarray(automatic_mask(pair, mask_grow)) > 127
        shares.append((found & right).sum() / (found | right).sum())
    return float(np.mean(shares))


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Returns `function`, whose calls then add the seconds they take to a list, and say how many there were."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = time.monotonic()
        result = function(*arguments, **options)
        seconds.append(time.monotonic() - start)
        if len(seconds) % 20 == 0:
            print(f"{len(seconds)} images", file=sys.stderr, flush=True)
        return result

    return call


def prints(pairs: list[Pair], made: list[Image.Image]) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Yields the surroundings of each print, as it was made and as it truly is."""
    for pair, image in zip(pairs, made, strict=True):
        if box := pair.print_box:
            margin = (box[2] - box[0]) // 8
            near = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
            yield image.crop(near), pair.worn.crop(near)


def write_sheets(folder: Path, pairs: list[Pair], made: list[Image.Image]) -> None:
    """Writes sheet.jpg, and letters.jpg if any pair has a print."""
    shown = [(pair.person, pair.garment, image, pair.worn) for pair, image in islice(zip(pairs, made), SHOWN)]
    sheet(shown, (192, 256), 3, gap=4).save(folder / "sheet.jpg", quality=90)
    if both := [*islice(prints(pairs, made), SHOWN)]:
        sheet(both, (256, 192), 3, gap=4).save(folder / "letters.jpg", quality=92)


def main() -> None:
    import torch
    from comfyui_tryon.catvton.checkpoint import load_pipeline
    from comfyui_tryon.masker.segformer import SegformerMasker

    options, feather = demo_options()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=[384, 512], metavar="PIXELS", help="of the pairs")
    for name, value in (options | {"feather": feather}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "training" / "output", metavar="FOLDER")
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in options}
    feather, size, folder = arguments.feather, arguments.size, arguments.output

    pairs = draw(arguments.pairs, size)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as weights:
        demo = checkpoint.write(Path(weights))
        pipeline = load_pipeline(demo / checkpoint.BASE, demo / checkpoint.VAE, demo / checkpoint.CATVTON)
        masker = SegformerMasker.load(demo / checkpoint.PARSER)
    pipeline.to(arguments.device)
    seconds: list[float] = []
    made = results(timed(pipeline, seconds), pairs, feather, **options)
    rows = {
        "demo": scores(pairs, made),
        "VAE alone": scores(pairs, rebuilt(pipeline, pairs, feather, (options["width"], options["height"]))),
        "person": scores(pairs, [pair.person for pair in pairs]),
        "truth": scores(pairs, [pair.worn for pair in pairs]),
    }
    print(table(rows))
    an_image = statistics.median(seconds)
    where = f"{arguments.threads} threads" if arguments.device == "cpu" else arguments.device
    print(f"{len(pairs)} pairs of {size[0]} x {size[1]}; {an_image:.2f} s an image on {where}")
    masks = mask_agreement(pairs, masker, demo_inputs()["TryOnAutoMasker"]["mask_grow"])
    print(f"masks found by the parser: IoU {masks:.3f} with right ones")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**options, "feather": feather, "pairs": len(pairs), "size": size}
    report = {"settings": settings, "seconds": {where: an_image}, "scores": rows, "mask_iou": masks}
    (folder / "scores.json").write_text(json.dumps(report, indent=2))
    write_sheets(folder, pairs, made)


if __name__ == "__main__":
    main()
