"""Holds what the quick start needs: small weights in the published layout, and sample images in `samples/`."""

import contextlib
import shutil
from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"
SAMPLES_FOLDER = "tryon"  # in ComfyUI's input folder, where its own LoadImage does not list them


def offer_samples(input_folder: Path) -> None:
    """Copies the sample images to where ComfyUI's page can show them, unless they are there."""
    folder = input_folder / SAMPLES_FOLDER
    with contextlib.suppress(OSError):  # without them the templates open all the same
        folder.mkdir(parents=True, exist_ok=True)
        for sample in SAMPLES.glob("*.png"):
            if not (folder / sample.name).exists():
                shutil.copy(sample, folder)
