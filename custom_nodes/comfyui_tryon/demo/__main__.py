"""`python -m comfyui_tryon.demo FOLDER`: writes the demo's weights and sample images, and says how to send them."""

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path

from .. import log
from ..settings import Settings, SettingsError, settings
from . import SAMPLES, checkpoint

FOR_POWERSHELL = os.name == "nt"  # where curl is another command, and lines go on in other ways


def main(folder: Path) -> None:
    """Writes weights and sample images into `folder`, and prints where the page is and what to send."""
    log.keep_printing()
    try:
        chosen = settings()
        checkpoint.write(folder / "models")
        for sample in SAMPLES.glob("*.png"):
            shutil.copy(sample, folder)
    except SettingsError as error:
        log.leave(str(error))
    except OSError as error:
        log.leave(f"{folder} cannot be used for the demo ({error.strerror}): free some space, or make it writable.")
    page = f"open this page:\n\n  {chosen.local_url()}/playground\n\nOr " if chosen.playground else ""
    header, where = _key(chosen)
    command = _command(f"{chosen.local_url()}/api/v1/tryon", header, folder)
    print(
        f"\nWhen it says Ready, {page}send the sample images from another terminal{where}:\n\n  {command}\n", flush=True
    )


def _key(chosen: Settings) -> tuple[str, str]:
    """Returns curl's option for the key, in a variable because a secret is not printed, and what to set that to."""
    if not chosen.api_key:
        return "", ""
    is_one = chosen.keys().caller([chosen.api_key.get_secret_value()]) is not None
    name = "TRYON_API_KEY" if is_one else "KEY"
    where = f", where {name} is " + ("set as it is here" if is_one else "one of the keys in TRYON_API_KEY")
    return f' -H "X-API-Key: ${"env:" if FOR_POWERSHELL else ""}{name}"', where


def _command(url: str, header: str, folder: Path) -> str:
    """Returns the command that sends the sample images."""
    curl, newline = ("curl.exe", "") if FOR_POWERSHELL else ("curl", "\\\n    ")
    fields = [f"{name}_image=@{_file(folder / f'{name}.png')}" for name in ("person", "garment")]
    images = " ".join(f"-F {_quoted(field)}" for field in fields)
    return f"{curl} {_quoted(url)} -H {_quoted('Accept: image/png')}{header} {newline}{images} -o result.png"


def _quoted(word: str) -> str:
    return f'"{word}"' if FOR_POWERSHELL else shlex.quote(word)


def _file(path: Path) -> str:
    """Returns a path as curl reads it in a form's field: within double quotes if it has separators."""
    with contextlib.suppress(ValueError):  # it is elsewhere
        path = path.relative_to(os.getcwd())
    text = str(path)
    if FOR_POWERSHELL or not set(text) & set(',;"'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    main(Path(sys.argv[1]))
