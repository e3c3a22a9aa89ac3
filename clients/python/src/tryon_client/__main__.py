"""The command `tryon`: dresses a person in garments and writes the result to a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ._errors import TryOnError
from ._results import Event, OutputEvent, Result
from ._synchronous import TryOn
from ._types import Fields, ProgressEvent, StatusEvent

# The suffix of the output file says the format.
SET_BY_OUTPUT = "output_format"
FORMATS = {"jpg": "jpeg", "": "png"}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status, 1 after an error."""
    options = vars(_parser().parse_args(arguments))
    output: Path = options["output"]
    fields: Any = {name: options[name] for name in Fields.__annotations__ if name in options}
    suffix = output.suffix.lower().lstrip(".")
    fields[SET_BY_OUTPUT] = FORMATS.get(suffix, suffix)
    try:
        with TryOn(options["url"], api_key=options["key"], max_retries=options["retries"]) as client:
            if not output.parent.is_dir():
                raise FileNotFoundError(f"There is no folder {output.parent} to write the result to.")
            result = _run(client, options, fields)
            _write(result, output)
    except (TryOnError, OSError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    for warning in result.warnings:
        print(f"{warning.code}: {warning.message}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tryon", description=__doc__.partition(": ")[2].capitalize())
    parser.add_argument("person", help="a file, or an https:// URL if the server allows its host")
    parser.add_argument("garment", nargs="+", help="one, or up to 4 that are put on in this order")
    parser.add_argument("-o", "--output", type=Path, default=Path("result.png"), help="a .png, .jpg or .webp file")
    parser.add_argument("--mask", help="white where the garment goes; made automatically if left out")
    parser.add_argument("--url", help="of the server; default TRYON_URL, or http://127.0.0.1:8000")
    parser.add_argument("--key", help="default TRYON_API_KEY")
    parser.add_argument("--retries", type=int, default=5, help="while the server is busy (default 5)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    api = parser.add_argument_group("fields of the API")
    for name, kind in Fields.__annotations__.items():
        if name != SET_BY_OUTPUT:
            several = "Sequence" in str(kind)
            note = "may be repeated, once for each garment or image" if several else None
            action = "append" if several else "store"
            api.add_argument("--" + name.replace("_", "-"), metavar="VALUE", action=action, help=note)
    return parser


def _run(client: TryOn, options: dict[str, Any], fields: Any) -> Result:
    if options["quiet"]:
        return client.try_on(options["person"], options["garment"], mask=options["mask"], **fields)
    with client.stream(options["person"], options["garment"], mask=options["mask"], **fields) as events:
        for event in events:
            if isinstance(event, OutputEvent):
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
                return event.result
            _show(event)
    raise AssertionError("a stream ends with its output or an error")


def _write(result: Result, output: Path) -> None:
    """Writes the images and the mask that came with the reply; prints where everything is."""
    for number, image in enumerate(result.images, 1):
        place: str | Path | None = image.url
        if place is None:
            place = output.with_stem(f"{output.stem}-{number}") if len(result.images) > 1 else output
            image.save(place)
        print(f"{place}: {image.width} x {image.height}, seed {image.seed}")
    if result.mask is not None:
        path = output.with_name(f"{output.stem}-mask.png")
        path.write_bytes(result.mask)
        print(f"{path}: the mask")


def _show(event: Event) -> None:
    """Draws a progress bar on the terminal."""
    if isinstance(event, ProgressEvent):
        done = round(30 * event.value / max(event.max, 1))
        line = f"[{'#' * done}{'.' * (30 - done)}] {event.value}/{event.max}"
    elif isinstance(event, StatusEvent):
        line = event.status if event.position is None else f"{event.status}, {event.position} ahead"
    else:
        return
    print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
