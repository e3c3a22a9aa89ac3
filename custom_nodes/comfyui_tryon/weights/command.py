"""Says how to fetch weight files in this installation."""

import os
import shlex
import sys
from pathlib import Path

from ..settings import PACK, PROJECT, is_repository, settings


def download_command(options: str = "", folder: Path | None = None) -> str:
    """Returns the command line that fetches weight files: start.sh's, or Python's in a ComfyUI that it did not start.

    start.sh would install PyTorch once more for a pack whose ComfyUI has its own Python.

    Args:
        options: more options of the download, as they are typed.
        folder: where the files go, if not where start.sh puts them.
    """
    if _from_start_sh():
        default = settings().models_dir or PROJECT / "models"
        start = "./start.sh" if os.name == "posix" else "python -m comfyui_tryon"
        parts = [
            f"{start} --download",
            options,
            f"--to {shlex.quote(str(folder))}" if folder and folder != default else "",
        ]
    else:
        module = f"{PACK.name}.weights.download"
        parts = [
            f"cd {shlex.quote(str(PACK.parent))} && {shlex.quote(sys.executable)} -m {shlex.quote(module)}",
            options,
        ]
        parts.append(f"--to {shlex.quote(str(folder or _models_folder()))}")
    return " ".join(filter(None, parts))


def _from_start_sh() -> bool:
    """Whether start.sh started this process: with a file of this pack, such as guard.py, and not with ComfyUI's."""
    started = getattr(sys.modules["__main__"], "__file__", None) or ""
    return is_repository(PROJECT) and Path(started).resolve().is_relative_to(PACK)


def _models_folder() -> Path:
    folder_paths = sys.modules.get("folder_paths")
    return settings().models_dir or (Path(folder_paths.models_dir) if folder_paths else PROJECT / "models")
