"""What this machine has: ComfyUI, a GPU. And how messages reach whoever starts the server."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

# Not resolved: a link to the pack would lead away from the repository that has the link.
REPOSITORY = Path(os.path.abspath(__file__)).parents[3]
RELEASE = "v0.3.64"  # of ComfyUI, cloned if none is found
CLONE_TIMEOUT_S = 300
IS_WINDOWS = os.name == "nt"
COMMAND = "python -m comfyui_tryon" if IS_WINDOWS else "./start.sh"


def say(text: str) -> None:
    is_terminal = sys.stderr.isatty() and not IS_WINDOWS
    print(f"\033[1m{text}\033[0m" if is_terminal else text, file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    print(f"start.sh: {text}", file=sys.stderr)
    sys.exit(1)


def has_gpu() -> bool:
    devices = any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/kfd"))
    return devices or platform.system() == "Darwin" or (IS_WINDOWS and shutil.which("nvidia-smi") is not None)


def find_comfyui(may_clone: bool) -> Path | None:
    """Returns ComfyUI's folder, or None for the embedded engine; clones a release if there is none and `may_clone`.

    COMFYUI_DIR comes first, then the ComfyUI whose `custom_nodes` this repository is in.
    """
    given = os.environ.get("COMFYUI_DIR")
    if given is not None:
        if given and not Path(given, "main.py").is_file():
            fail(f"COMFYUI_DIR={given} holds no ComfyUI (no main.py)")
        return Path(os.path.abspath(given)) if given else None
    own = REPOSITORY / ".comfyui"
    around = [REPOSITORY.parent.parent] if REPOSITORY.parent.name == "custom_nodes" else []
    for folder in (*around, Path("/comfyui"), Path.home() / "comfy/ComfyUI", own):
        if (folder / "main.py").is_file():
            return folder
    if not may_clone or not shutil.which("git"):
        return None
    say(f"No ComfyUI found: cloning {RELEASE}")
    part = REPOSITORY / ".comfyui.part"
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
