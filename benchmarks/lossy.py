"""What fewer steps, other solvers and less guidance cost, against the published sampling, which is the default.

    python benchmarks/lossy.py [--parity FOLDER] [--images N]

With the demo's trained weights on images that the project draws, where the true image is known too; with --parity
also on results of the published code (FOLDER/checkpoint and FOLDER/*/{case.json,person.png,garment.png,mask.png,
output.png}). Errors are averaged over the images; `another seed` is for scale. Needs benchmarks/requirements.txt.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from common import report  # puts this project on the path

# isort: split

import numpy as np
from comfyui_tryon.catvton import CatVTONPipeline, load_pipeline
from drawing import draw_pair
from evaluate import demo_options
from models import demo_pipeline, folders, machine, psnr, ssim
from PIL import Image

DEMO, _ = demo_options()
WIDTH, HEIGHT, STEPS, GUIDANCE = DEMO["width"], DEMO["height"], 50, 2.0
FIRST_PAIR = 900_000  # away from what the weights were trained on

# scheduler, part of the steps, guided part of them
CHOICES = (
    ("ddim", 1.0, (0.0, 1.0)),
    ("ddim", 1.0, (0.0, 0.5)),
    ("ddim", 1.0, (0.2, 0.8)),
    ("ddim", 0.6, (0.0, 1.0)),
    ("ddim", 0.4, (0.0, 1.0)),
    ("ddim", 0.2, (0.0, 1.0)),
    ("dpmpp_2m", 0.4, (0.0, 1.0)),
    ("dpmpp_2m", 0.2, (0.0, 1.0)),
    ("unipc", 0.4, (0.0, 1.0)),
    ("unipc", 0.2, (0.0, 1.0)),
    ("unipc", 0.2, (0.0, 0.5)),
)

Sample = Callable[..., np.ndarray]
PASSES: Counter[str] = Counter()  # images that went through a UNet; a guided step is two


def counted(pipeline: CatVTONPipeline) -> CatVTONPipeline:
    pipeline.unet.register_forward_pre_hook(lambda module, inputs: PASSES.update(passes=len(inputs[0])))
    return pipeline


def table(cases: list[tuple[Sample, int, np.ndarray | None]]) -> list[dict[str, str]]:
    """A row for each choice. A case: how to sample it, its steps, and its true image."""
    exact = [sample(steps=steps) for sample, steps, _ in cases]
    others = [sample(steps=steps, other=True) for sample, steps, _ in cases]
    rows = [{"choice": "another seed", "UNet passes": "", "seconds": ""} | scores(cases, exact, others)]
    for scheduler, part, (start, end) in CHOICES:
        PASSES.clear()
        results, started = [], time.perf_counter()
        for sample, steps, _ in cases:
            count = max(2, round(part * steps))
            results.append(sample(steps=count, scheduler=scheduler, guidance_start=start, guidance_end=end))
        seconds = (time.perf_counter() - started) / len(cases)
        steps = "/".join(str(max(2, round(part * steps))) for steps in dict.fromkeys(case[1] for case in cases))
        guided = "" if (start, end) == (0, 1) else f", guided {start:g} to {end:g}"
        name = f"{scheduler}, {steps} steps{guided}"
        cost = {"choice": name, "UNet passes": f"{PASSES.total() / len(cases):.0f}", "seconds": f"{seconds:.1f}"}
        rows.append(cost | scores(cases, exact, results))
    return rows


def scores(cases: list, exact: list, results: list) -> dict[str, str]:
    level = psnr(flat(results), flat(exact))
    row = {
        "PSNR dB": "exact" if np.isinf(level) else f"{level:.1f}",
        "SSIM": f"{np.mean([ssim(result, wanted) for result, wanted in zip(results, exact)]):.3f}",
    }
    truth = [(result, case[2]) for result, case in zip(results, cases) if case[2] is not None]
    if truth:
        row["PSNR dB to the truth"] = f"{psnr(*map(flat, zip(*truth))):.1f}"
        row["SSIM to the truth"] = f"{np.mean([ssim(*pair) for pair in truth]):.3f}"
    return row


def flat(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([picture.ravel() for picture in pictures])


def demo_cases(count: int) -> list[tuple[Sample, int, np.ndarray]]:
    pipeline = counted(demo_pipeline())

    def case(seed: int) -> tuple[Sample, int, np.ndarray]:
        pair = draw_pair(seed, WIDTH, HEIGHT)

        def sample(steps: int, other: bool = False, **options) -> np.ndarray:
            return pipeline(
                pair.person,
                pair.garment,
                pair.mask,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                seeds=[seed + other],
                width=WIDTH,
                height=HEIGHT,
                mask_blur=2,
                **options,
            )[0].numpy()

        return sample, STEPS, np.asarray(pair.worn)

    return [case(FIRST_PAIR + number) for number in range(count)]


def parity_cases(folder: Path) -> list[tuple[Sample, int, None]]:
    def case(path: Path) -> tuple[Sample, int, None]:
        settings = json.loads((path / "case.json").read_text())
        pipeline = counted(load_pipeline(*folders(folder / "checkpoint"), attention_version=settings["version"]))
        pictures = [Image.open(path / f"{name}.png") for name in ("person", "garment", "mask")]

        def sample(steps: int, other: bool = False, **options) -> np.ndarray:
            return pipeline(
                *pictures,
                num_inference_steps=steps,
                guidance_scale=settings["guidance"],
                seeds=[settings["seed"] + other],
                width=settings["width"],
                height=settings["height"],
                mask_blur=0,
                **options,
            )[0].numpy()

        level = psnr(sample(settings["steps"]), np.array(Image.open(path / "output.png")))
        assert level >= 60, f"{path}: {level:.1f} dB to the published result"
        return sample, settings["steps"], None

    return [case(path.parent) for path in sorted(folder.glob("*/case.json"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parity", type=Path)
    parser.add_argument("--pictures", type=int, default=4)
    arguments = parser.parse_args()
    print(json.dumps(machine()))
    if arguments.parity:
        report("lossy_parity", table(parity_cases(arguments.parity)), machine=machine())
    rows = table(demo_cases(arguments.pictures))
    report("lossy", rows, machine=machine(), size=[WIDTH, HEIGHT], guidance=GUIDANCE, pictures=arguments.pictures)


if __name__ == "__main__":
    main()
