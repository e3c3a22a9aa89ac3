"""What this machine has: ComfyUI, a GPU. And how messages reach whoever starts the server."""

import os
import platform
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from .. import log

# Not resolved: a link to the pack would lead away from the repository that has the link.
REPOSITORY = Path(os.path.abspath(__file__)).parents[3]
RELEASE = "v0.3.64"  # of ComfyUI, cloned if none is found
CLONE, CLONE_TIMEOUT_S = ".comfyui", 300
IS_WINDOWS = os.name == "nt"
COMMAND = "python -m comfyui_tryon" if IS_WINDOWS else "./start.sh"
RUN = REPOSITORY / "custom_nodes/comfyui_tryon/launch/run.py"
NOT_FROM_HERE = "import sys; sys.path[:] = filter(None, sys.path)\n"  # code for -c: imports nothing of the caller's


def say(text: str) -> None:
    is_terminal = sys.stderr.isatty() and not IS_WINDOWS
    print(f"\033[1m{text}\033[0m" if is_terminal else text, file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    log.leave(f"start.sh: {text}")


def has_gpu(python: Path | None = None) -> bool:
    """Says whether PyTorch finds a GPU here: of AMD's, the one that `python` has. Does not import it, to be quick."""
    if os.path.exists("/dev/nvidiactl") or platform.system() == "Darwin":
        return True
    if IS_WINDOWS or os.path.exists("/dev/dxg"):  # the latter in the Windows Subsystem for Linux
        return bool(shutil.which("nvidia-smi") or os.path.exists("/usr/lib/wsl/lib/nvidia-smi"))
    return os.path.exists("/dev/kfd") and python is not None and "rocm" in _version(python, "torch")


@lru_cache
def _version(python: Path, package: str) -> str:
    code = f"{NOT_FROM_HERE}import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout


def find_comfyui(may_clone: bool) -> Path | None:
    """Returns ComfyUI's folder, or None for the embedded engine; clones a release if there is none and `may_clone`.

    COMFYUI_DIR comes first, then the ComfyUI whose `custom_nodes` this repository is in.
    """
    given = os.environ.get("COMFYUI_DIR")
    if given is not None:
        if given and not os.path.isfile(os.path.join(given, "main.py")):
            fail(f"COMFYUI_DIR={given} holds no ComfyUI (no main.py, or none that this user may see)")
        return Path(os.path.abspath(given)) if given else None
    own = REPOSITORY / CLONE
    around = [REPOSITORY.parent.parent] if REPOSITORY.parent.name == "custom_nodes" else []
    usual = Path(os.path.expanduser("~/comfy/ComfyUI"))  # Path.home raises if there is none
    for folder in (*around, Path("/comfyui"), usual, own):
        if os.path.isfile(folder / "main.py"):  # Path.is_file raises where a folder cannot be entered
            return folder
    if not may_clone or not shutil.which("git"):
        return None
    say(f"No ComfyUI found: cloning {RELEASE}")
    part = REPOSITORY / ".comfyui.part"
    shutil.rmtree(part, ignore_errors=True)  # of a start that was ended
    options = ["--quiet", "--depth", "1", "--branch", RELEASE, "https://github.com/Comfy-Org/ComfyUI", str(part)]
    try:
        environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
        command = ["git", "clone", *options]
        subprocess.run(command, env=environment, stdout=sys.stderr, timeout=CLONE_TIMEOUT_S, check=True)
        part.rename(own)
        return own
    except (subprocess.SubprocessError, OSError):
        shutil.rmtree(part, ignore_errors=True)
        say("It cannot be cloned: the embedded engine serves instead, which needs no ComfyUI")
        return None
