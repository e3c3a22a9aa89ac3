"""The Python that the server runs with, and the packages that it needs."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from .host import CLONE, COMMAND, IS_WINDOWS, NOT_FROM_HERE, REPOSITORY, RUN, fail, has_gpu, say

VENV = REPOSITORY / ".venv"
REQUIREMENTS = REPOSITORY / "custom_nodes/comfyui_tryon/requirements.txt"
# torchaudio, which ComfyUI imports, has had its last release and does not load with torch 2.15
TORCH = ["torch>=2.6,<2.15", "torchvision", "torchaudio"]
WHEELS = "https://download.pytorch.org/whl"
LOOK_UP = f"""{NOT_FROM_HERE}
import importlib.metadata, re
for line in open(sys.argv[1]):
    if name := re.match(r"[\\w.-]+", line):
        importlib.metadata.version(name[0]) or sys.exit(1)  # None if only its folder is left
"""
IS_SUPPORTED = "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))"


def own_python() -> Path:
    """Returns the Python of `.venv`, which may not exist."""
    return VENV / ("Scripts/python.exe" if IS_WINDOWS else "bin/python")


def has_packages(python: str | Path, requirements: Path = REQUIREMENTS) -> bool:
    """Says by their names whether the packages are installed; imports none, as this runs at every start."""
    command = [str(python), "-c", LOOK_UP, str(requirements)]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def _runs(python: str, comfyui: Path | None) -> bool:
    """Says whether a Python can run ComfyUI: only of a clone of start.sh's own is that in doubt."""
    return comfyui is None or comfyui != REPOSITORY / CLONE or has_packages(python, comfyui / "requirements.txt")


def _is_supported(python: Path) -> bool:
    try:
        return subprocess.run([str(python), "-I", "-c", IS_SUPPORTED], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def set_up(mode: str, comfyui: Path | None) -> Path:
    """Returns a Python with all packages; makes `.venv` and installs them if it must."""
    python = own_python()
    if not os.path.lexists(python):
        present = shutil.which("python3") or sys.executable
        if mode != "test" and has_packages(present) and _runs(present, comfyui):
            return Path(present)
        if mode == "check":
            fail("no Python with the packages; the other modes install them into .venv")
        _make_venv()
    elif not _is_supported(python):
        fail(f"{VENV} has no Python from 3.10 to 3.13 that runs: delete it and start again, which makes another")
    complete = has_packages(python)
    if mode == "check" and not complete:
        fail(f"{VENV} lacks packages: {COMMAND} --demo installs them")
    if mode == "check":
        return python
    if not complete:
        say("Installing PyTorch and the packages; the first time takes some minutes")
        for stamp in VENV.glob(".installed-*"):  # they may be of packages that are gone
            stamp.unlink()
        _restore_pip(python)
        _choose_wheels()
    _install_once(python, [*TORCH, "-r"], REQUIREMENTS)
    if mode == "test":
        _install_once(python, ["-r"], REPOSITORY / "tests/requirements.txt")
    if comfyui:
        text = _required_by(comfyui)
        others = "".join(line for line in text.splitlines(True) if not line.startswith("comfyui-"))
        requirements = VENV / f"requirements-{_digest(text)}.txt"
        if not requirements.exists():
            part = requirements.with_suffix(f".{os.getpid()}")
            part.write_text(others)
            part.replace(requirements)
        _install_once(python, ["-r"], requirements)
    return python


def _required_by(comfyui: Path) -> str:
    path = comfyui / "requirements.txt"
    try:
        return path.read_text()
    except OSError as error:
        fail(f"{path} cannot be read ({error.strerror}): COMFYUI_DIR must be a whole ComfyUI")


def web_packages(python: Path, comfyui: Path) -> Path | None:
    """Returns a folder with the packages of ComfyUI's web page, of which it pins one version each, or None where the
    Python is not ours and has them."""
    if python != own_python():
        return None
    pins = [line for line in _required_by(comfyui).split() if re.match("comfyui-", line)]
    folder = VENV / "web" / _digest("\n".join(pins))
    if not folder.exists():
        say("Installing ComfyUI's web page")
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        _pip(python, "--quiet", "--target", str(part), *pins)
        part.rename(folder)
    return folder


def _make_venv() -> None:
    if not (3, 10) <= sys.version_info < (3, 14):
        fail(f"needs Python 3.10 to 3.13, and this is {sys.version.split()[0]}")
    say(f"Making .venv with Python {sys.version.split()[0]}")
    try:
        import ensurepip  # noqa: F401  # Debian has it apart
        import venv

        # links as `python -m venv` makes them: copies of some Pythons, such as uv's, do not find their library
        venv.create(VENV, with_pip=True, symlinks=not IS_WINDOWS)
    except BaseException as error:  # half of one, as after Ctrl-C, would pass for a whole one
        shutil.rmtree(VENV, ignore_errors=True)
        if isinstance(error, OSError):
            fail(f"{VENV} cannot be made ({error.strerror})")
        if isinstance(error, subprocess.CalledProcessError):
            said = (error.output or b"").decode(errors="replace").strip().splitlines()
            reason = f": {said[-1].strip()}" if said else ""
            fail(f"{sys.executable} cannot make a venv with pip{reason}. Start with another Python, 3.10 to 3.13")
        if not isinstance(error, ImportError):
            raise
        fail("needs Python 3.10 to 3.13 with venv (on Debian or Ubuntu: apt install python3 python3-venv)")


def _restore_pip(python: Path) -> None:
    """Installs pip if it is gone too."""
    module = [str(python), "-I", "-m"]
    if subprocess.run([*module, "pip", "--version"], capture_output=True).returncode == 0:
        return
    if subprocess.run([*module, "ensurepip"], stdout=sys.stderr).returncode:
        fail(f"{VENV} has no pip: delete it and start again, which makes another")


def _choose_wheels() -> None:
    """Has pip take PyTorch without CUDA where there is no GPU, a tenth of the size; for Windows PyPI has no other."""
    kind = "cpu" if not has_gpu() else "cu128" if IS_WINDOWS else ""
    if not kind:
        return
    try:
        urllib.request.urlopen(f"{WHEELS}/{kind}/torch/", timeout=5).close()
        os.environ["PIP_EXTRA_INDEX_URL"] = f"{WHEELS}/{kind}"
    except OSError:
        pass


def _install_once(python: Path, arguments: list[str], requirements: Path) -> None:
    """Runs pip once for the same arguments and content of the requirement file."""
    stamp = VENV / f".installed-{_digest(' '.join(arguments) + str(requirements) + requirements.read_text())}"
    if not stamp.exists():
        _pip(python, *arguments, str(requirements))
        stamp.touch()


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), str(RUN), "pip", "install", "--disable-pip-version-check", *arguments]
    status = subprocess.run(command, stdout=sys.stderr).returncode
    if status:
        sys.exit(status)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
