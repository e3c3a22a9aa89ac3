"""Shows what a running demo (`./start.sh --demo`) makes, over HTTP and with the masks that it finds itself.

`python training/show.py photos PERSONS GARMENTS` puts every photograph of a folder of garments on everybody in a folder
of persons. A garment's file name begins with its cloth type, as in `dress.jpg` or `lower-2.png`; else it is upper.
Prints a table and writes `photos.jpg`: person with the mask in red, garment and result, a row for each person.

`python training/show.py readme` writes the images of the README: `docs/demo.jpg` of the quick start's samples, and
`docs/demo-sheet.jpg` of drawn pairs that the weights never saw.

`python training/show.py templates` writes the images that ComfyUI's page shows for the templates, of other such pairs;
`python tests/templates.py` copies them to the repository's root.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "clients" / "python" / "src"), str(ROOT / "custom_nodes"), str(ROOT / "training")]

from comfyui_tryon.demo import SAMPLES  # noqa: E402
from comfyui_tryon.schema import CLOTH_TYPE_ALIASES, GARMENT_CATEGORIES  # noqa: E402
from evaluate import SHOWN, draw  # noqa: E402
from sheets import sheet  # noqa: E402
from tryon_client import TryOn  # noqa: E402

CLOTH_TYPES = [*GARMENT_CATEGORIES, *CLOTH_TYPE_ALIASES]
SIZE = (384, 512)
SEED = 42
TEMPLATES = ROOT / "custom_nodes/comfyui_tryon/example_workflows"
SQUARE = 512  # ComfyUI's page crops the images of templates to squares
# Which drawn pair stands for a template. The demo has the samples of the quick start.
PAIRS = {"catvton": 5, "catvton_mask": 0, "fashn": 3}


@dataclass(frozen=True)
class Shown:
    """One reply: the result, the mask (L) in the frame of the person, and what the reply says of them.

    colour_difference: CIEDE2000 to the garment, None if nothing changed; seconds: of the execution.
    """

    result: Image.Image
    mask: Image.Image
    colour_difference: float | None
    warnings: list[str]
    seconds: float


def try_on(
    client: TryOn, person: Image.Image, garment: Image.Image, cloth_type: str, mask: Image.Image | None = None
) -> Shown:
    """Sends a request; without a mask (L) the demo finds it itself."""
    given = {} if mask is None else {"mask": mask}
    reply = client.try_on(person, garment, cloth_type=cloth_type, seed=SEED, return_mask=True, **given)
    result, used = (Image.open(io.BytesIO(file)) for file in (reply.images[0].bytes, reply.mask or b""))
    difference = reply.report.colour_difference if reply.report else None
    codes = [warning.code for warning in reply.warnings]
    return Shown(result.convert("RGB"), used.convert("L"), difference, codes, reply.timings.execute_s)


def photos(folder: Path) -> dict[str, Image.Image]:
    """Returns the images of a folder, upright and RGB, by their names; ends the program if there are none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        sys.exit(f"No images in {folder}: put JPEG, PNG or WebP files there.")
    return {path.name: ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths}


def in_red(person: Image.Image, mask: Image.Image) -> Image.Image:
    """Returns the person, RGB, under red where the mask (L) is white."""
    red = Image.blend(person, Image.new("RGB", person.size, (230, 30, 40)), 0.5)
    return Image.composite(red, person, mask.resize(person.size))


def show_photos(client: TryOn, persons: Path, garments: Path, output: Path) -> None:
    """Prints the table and writes photos.jpg."""
    everybody, clothes = photos(persons), photos(garments)
    print(f"{'person':16}{'garment':16}{'type':10}{'mask':>7}{'CIEDE2000':>11}{'seconds':>9}  warnings")
    groups, differences = [], []
    for (name, person), (cloth, garment) in product(everybody.items(), clothes.items()):
        cloth_type = next(filter(cloth.lower().startswith, CLOTH_TYPES), "upper")
        shown = try_on(client, person, garment, cloth_type)
        groups.append((in_red(person, shown.mask), garment, shown.result))
        share = np.mean(np.asarray(shown.mask) >= 128)
        difference = "-"
        if shown.colour_difference is not None:
            differences.append(shown.colour_difference)
            difference = f"{shown.colour_difference:.1f}"
        figures = f"{share:7.1%}{difference:>11}{shown.seconds:9.1f}"
        print(f"{name:16}{cloth:16}{cloth_type:10}{figures}  {' '.join(shown.warnings)}", flush=True)
    if differences:
        print(f"median CIEDE2000 {statistics.median(differences):.1f}")
    output.mkdir(parents=True, exist_ok=True)
    sheet(groups, (216, 288), len(clothes), gap=4).save(output / "photos.jpg", quality=90)


def show_readme(client: TryOn) -> None:
    """Writes docs/demo.jpg and docs/demo-sheet.jpg."""
    person, garment = (Image.open(SAMPLES / f"{name}.png").convert("RGB") for name in ("person", "garment"))
    result = try_on(client, person, garment, "upper").result
    sheet([(person, garment, result)], SIZE, 1, gap=32).save(ROOT / "docs" / "demo.jpg", quality=92)
    groups = []
    for pair in draw(SHOWN, SIZE):
        made = try_on(client, pair.person, pair.garment, pair.cloth_type)
        groups.append((pair.person, pair.garment, made.result, pair.worn))
    sheet(groups, (144, 192), 3, gap=4).save(ROOT / "docs" / "demo-sheet.jpg", quality=85)


def show_templates(client: TryOn) -> None:
    """Writes the images of the templates: before, after and the garment. Drawn pairs are sent with their own masks."""
    person, garment = (Image.open(SAMPLES / f"{name}.png").convert("RGB") for name in ("person", "garment"))
    thumbnail(person, garment, try_on(client, person, garment, "upper").result).save(TEMPLATES / "demo.jpg", quality=90)
    pairs = draw(max(PAIRS.values()) + 1, SIZE)
    for name, number in PAIRS.items():
        pair = pairs[number]
        result = try_on(client, pair.person, pair.garment, pair.cloth_type, pair.mask).result
        before = in_red(pair.person, pair.mask) if name == "catvton_mask" else pair.person
        thumbnail(before, pair.garment, result).save(TEMPLATES / f"{name}.jpg", quality=90)


def thumbnail(before: Image.Image, garment: Image.Image, after: Image.Image) -> Image.Image:
    """Returns a square with the halves `before` and `after`, and the garment in a frame over their lower middle."""
    half, inset = (SQUARE // 2, SQUARE), (120, 160)
    whole = Image.new("RGB", (SQUARE, SQUARE))
    for left, image in ((0, before), (half[0], after)):
        whole.paste(ImageOps.fit(image, half, Image.Resampling.LANCZOS), (left, 0))
    framed = ImageOps.expand(ImageOps.pad(garment, inset, color="white"), 4, "#353")
    whole.paste(framed, ((SQUARE - framed.width) // 2, SQUARE - framed.height - 8))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the demo")
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("readme")
    commands.add_parser("templates")
    of_photos = commands.add_parser("photos")
    of_photos.add_argument("persons", type=Path)
    of_photos.add_argument("garments", type=Path)
    of_photos.add_argument("--output", type=Path, default=ROOT / "training" / "output", metavar="FOLDER")
    arguments = parser.parse_args()
    with TryOn(arguments.url) as client:
        if arguments.command == "photos":
            show_photos(client, arguments.persons, arguments.garments, arguments.output)
        elif arguments.command == "templates":
            show_templates(client)
        else:
            show_readme(client)


if __name__ == "__main__":
    main()
