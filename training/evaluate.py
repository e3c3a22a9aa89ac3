"""Scores of the demo's weights on held-out pairs: `python training/evaluate.py --pairs 200 --sheet 24`.

Two figures, both of the area where the truth wears the garment: CIEDE2000 between the garment's main colour and the
result's, and how often the result's colours are nearer to its own garment than to nine others of the same cloth type.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "custom_nodes"), str(ROOT / "training")]

from comfyui_tryon.demo import checkpoint  # noqa: E402
from drawing import Pair, draw_pair  # noqa: E402

FIRST_SEED = 500_000  # of the scored pairs; training draws from data.FIRST_SEED up
CHOICES = 10


def colours(picture: Image.Image, area: np.ndarray) -> np.ndarray:
    """(5, 3): the 10th, 30th, 50th, 70th and 90th percentiles of L*, a* and b* in a boolean (H, W) area."""
    return np.percentile(rgb2lab(np.asarray(picture)[area]), [10, 30, 50, 70, 90], axis=0)


def on_paper(garment: Image.Image) -> np.ndarray:
    """(H, W) bool: where a garment lies on the white paper."""
    return np.asarray(garment).min(-1) < 250


def results(dress: Callable[..., np.ndarray], pairs: list[Pair], **options) -> list[Image.Image]:
    """What `dress(person, garment, mask, ...)` makes of every pair, pasted into the person's image by the mask."""
    made = []
    for index, pair in enumerate(pairs):
        width, height = pair.person.size
        picture = dress(pair.person, pair.garment, pair.mask, seeds=(index,), width=width, height=height, **options)[0]
        made.append(Image.composite(Image.fromarray(np.asarray(picture)), pair.person, pair.mask))
    return made


def scores(pairs: list[Pair], made: list[Image.Image]) -> dict[str, float]:
    """Median CIEDE2000 to the own garment and to all others, and the share of right picks among ten."""
    rng = np.random.default_rng(0)
    worn = [colours(picture, np.asarray(pair.dressed) > 0) for pair, picture in zip(pairs, made, strict=True)]
    flat = [colours(pair.garment, on_paper(pair.garment)) for pair in pairs]
    difference = deltaE_ciede2000(np.array(worn)[:, None, 2], np.array(flat)[None, :, 2])
    own, others = np.diag(difference), difference[~np.eye(len(pairs), dtype=bool)]
    right = []
    for i, pair in enumerate(pairs):
        same = [j for j in range(len(pairs)) if j != i and pairs[j].cloth_type == pair.cloth_type]
        chosen = rng.choice(same, min(CHOICES - 1, len(same)), replace=False)
        distance = [np.abs(worn[i] - flat[j]).sum() for j in [i, *chosen]]
        right.append(int(np.argmin(distance)) == 0)
    return {
        "ciede2000": float(np.median(own)),
        "ciede2000_shuffled": float(np.median(others)),
        "nearest_of_ten": float(np.mean(right)),
    }


def contact_sheet(pairs: list[Pair], made: list[Image.Image], columns: int = 4) -> Image.Image:
    """Person, garment, result for every pair, `columns` triples a row."""
    width, height = pairs[0].person.size
    rows = -(-len(pairs) // columns)
    picture = Image.new("RGB", ((3 * width + 12) * columns - 12, (height + 12) * rows - 12), "white")
    for index, (pair, result) in enumerate(zip(pairs, made, strict=True)):
        for position, cell in enumerate((pair.person, pair.garment, result)):
            x, y = index % columns * (3 * width + 12) + position * width, index // columns * (height + 12)
            picture.paste(cell, (x, y))
    return picture


def main() -> None:
    from comfyui_tryon.catvton.checkpoint import load_pipeline

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--sheet", type=int, default=24, help="results on the contact sheet")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--mask-blur", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "training" / "output")
    arguments = parser.parse_args()
    pairs = [draw_pair(FIRST_SEED + index, *arguments.size) for index in range(arguments.pairs)]
    with tempfile.TemporaryDirectory() as folder:
        demo = checkpoint.write(Path(folder))
        pipeline = load_pipeline(demo / checkpoint.BASE, demo / checkpoint.VAE, demo / checkpoint.CATVTON)
    start = time.monotonic()
    made = results(
        pipeline,
        pairs,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        mask_blur=arguments.mask_blur,
    )
    print(f"{(time.monotonic() - start) / len(pairs):.2f} s a picture")
    print(scores(pairs, made))
    print("the truth itself:", scores(pairs, [pair.worn for pair in pairs]))
    print("undressed:", scores(pairs, [pair.person for pair in pairs]))
    arguments.output.mkdir(parents=True, exist_ok=True)
    contact_sheet(pairs[: arguments.sheet], made[: arguments.sheet]).save(arguments.output / "sheet.png")


if __name__ == "__main__":
    main()
