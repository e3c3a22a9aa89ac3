"""`python -m comfyui_tryon.check`: checks whether the server can start here, before anything heavy is loaded.

Without an option it looks at the settings, the workflow, its weight files and the addresses, as every start does. With
--table it also reads every byte of the files, looks at the machine and prints everything it found.
"""

import argparse
import itertools
import os
import platform
import re
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from . import log
from .guard import combined
from .needs import Problem, weight_files
from .settings import PACK, Settings, SettingsError, settings
from .weights import integrity
from .weights.lock import DownloadError, reason
from .weights.search import WeightsMissing

MEMORY_GB = 6  # of the GPU, for an image of 768 x 1024


class Row(NamedTuple):
    """One line of the table; `state` is ok, warn or FAIL."""

    state: str
    subject: str
    found: str
    fix: str = ""


def check_start() -> None:
    """Checks settings, workflow, weight files and addresses.

    Raises:
        SettingsError, WeightsMissing, DownloadError, Problem: the server cannot start; the message says what to do.
    """
    chosen = settings()
    damaged = {path: damage for path in weight_files(chosen) if (damage := integrity.quick_damage(path))}
    if damaged:
        lines = ["Damaged weight files:", *(f"  {path} {damage}" for path, damage in damaged.items()), "Fix with:"]
        raise Problem("\n".join([*lines, *sorted({f"  {integrity.fix_command(path)}" for path in damaged})]))
    check_addresses(chosen)


def check_addresses(chosen: Settings) -> None:
    """Raises Problem if the server could not listen, which it would find out only after everything is loaded."""
    ports = {chosen.port_health or chosen.port: "PORT_HEALTH", chosen.port: "PORT"}
    for host, (port, name) in itertools.product(chosen.listen.split(","), ports.items()):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            reason = str(error.strerror).partition(" (while")[0]
            raise Problem(
                f"Cannot listen on {host} port {port} ({reason}): stop the process that does, or set {name} and LISTEN."
            ) from None


def table(comfyui: Path | None) -> list[Row]:
    """Looks at everything that a start on this machine depends on, without a network."""
    rows = [_python(), *_packages(), _comfyui(comfyui)]
    try:
        chosen = settings()
    except SettingsError as error:
        return [*rows, Row("FAIL", "settings", str(error), "correct these environment variables")]
    rows.append(Row("ok", "settings", f"port {chosen.port}, workflow {chosen.workflow}"))
    with ThreadPoolExecutor() as pool:
        gpu = pool.submit(_gpu)  # imports torch while the files are read
        try:
            rows.extend(pool.map(_weight_file, weight_files(chosen)))
        except WeightsMissing as error:
            rows.append(Row("FAIL", "weights", error.listing, "; ".join(error.commands) or "see README.md"))
        except (Problem, DownloadError) as error:
            rows.append(Row("FAIL", "weights", str(error)))
    return [*rows, gpu.result(), *_memory(), _temporary_folder()]


def _python() -> Row:
    version = platform.python_version()
    if (3, 10) <= sys.version_info < (3, 14):
        return Row("ok", "Python", version)
    return Row("FAIL", "Python", version, "use Python 3.10 to 3.13")


def _packages() -> Iterator[Row]:
    from packaging.requirements import Requirement

    found = []
    for line in (PACK / "requirements.txt").read_text().splitlines():
        requirement = Requirement(line)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        if not version:  # None, against its annotation, where only the package's folder is left
            yield Row("FAIL", requirement.name, "not installed", f"pip install '{requirement}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            yield Row("FAIL", requirement.name, version, f"pip install '{requirement}'")
    yield Row("ok", "packages", ", ".join(found))


def _comfyui(folder: Path | None) -> Row:
    if folder is None:
        return Row("warn", "ComfyUI", "none: the embedded engine serves", "set COMFYUI_DIR to use other nodes")
    path = folder / "comfyui_version.py"
    version = re.search(r'__version__ = "(.+)"', path.read_text()) if path.is_file() else None
    return Row("ok", "ComfyUI", f"{version[1] if version else 'unknown version'} in {folder}")


def _weight_file(path: Path) -> Row:
    if damage := integrity.damage(path):
        return Row("FAIL", "weights", f"{path} {damage}", integrity.fix_command(path))
    facts = [f"{path.stat().st_size:,} bytes"]
    if path.suffix == ".safetensors":
        facts.append(f"{len(integrity.read_header(path))} tensors")
    facts.append("sha256 as downloaded" if integrity.lock_entry(path) else "not in a lock file")
    return Row("ok", "weights", f"{path}: {', '.join(facts)}")


def _gpu() -> Row:
    try:
        import torch
    except Exception as error:  # such as a library of CUDA that is not there
        return Row("FAIL", "torch", f"cannot be imported ({reason(error)})", "pip install --force-reinstall torch")
    if torch.cuda.is_available():
        try:
            free, total = (size / 1e9 for size in torch.cuda.mem_get_info())
        except RuntimeError as error:
            fix = "look at nvidia-smi: other processes may use all of its memory, or one may have it for itself"
            return Row("FAIL", "GPU", f"cannot be used ({reason(error)})", fix)
        found = f"{torch.cuda.get_device_name()}, {free:.1f} of {total:.1f} GB free, CUDA {torch.version.cuda}"
        if free >= MEMORY_GB:
            return Row("ok", "GPU", found)
        return Row("warn", "GPU", found, f"free {MEMORY_GB} GB, or ask for images smaller than 768 x 1024")
    if Path("/dev/nvidiactl").exists():
        found = f"torch {torch.__version__} cannot use it (CUDA {torch.version.cuda})"
        return Row("FAIL", "GPU", found, "update the driver, or install a torch built for its CUDA version")
    return Row("warn", "GPU", "none: an image takes minutes", "start on a machine with a GPU; for Docker: --gpus all")


def _memory() -> Iterator[Row]:
    available = _available_memory()
    if available is not None:
        enough = available >= MEMORY_GB
        fix = "" if enough else f"provide {MEMORY_GB} GB: the weights pass through memory on their way to the GPU"
        yield Row("ok" if enough else "warn", "memory", f"{available:.1f} GB available", fix)


def _available_memory() -> float | None:
    """Returns the GB that this process may still take within its container's limit; None if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # files that were read, such as the weights just now, make room for others
        available = min(available, limit - used + int(facts.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass
    return available / 1e9


def _temporary_folder() -> Row:
    try:
        with tempfile.TemporaryFile():
            return Row("ok", "temporary folder", tempfile.gettempdir())
    except OSError as error:
        return Row("FAIL", "temporary folder", str(error), "make /tmp writable, or set TMPDIR to a writable folder")


def print_table(rows: Iterable[Row]) -> None:
    for row in rows:
        found = row.found.replace("\n", "\n" + " " * 24)
        print(f"{row.state:5} {row.subject:17} {found}")
        if row.fix:
            print(f"{'':24}-> {row.fix}")


def load_comfyui_folders(comfyui: Path, arguments: Sequence[str]) -> None:
    """Lets ComfyUI read its arguments and extra_model_paths.yaml, so that the search sees the same folders."""
    os.chdir(comfyui)
    sys.path.insert(0, str(comfyui))
    sys.argv = ["main.py", *arguments]
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths  # noqa: F401
    from comfy.cli_args import args
    from utils.extra_config import load_extra_path_config

    default = comfyui / "extra_model_paths.yaml"
    for path in [*([default] if default.is_file() else []), *itertools.chain(*(args.extra_model_paths_config or []))]:
        load_extra_path_config(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m comfyui_tryon.check", description=__doc__)
    parser.add_argument("--table", action="store_true", help="look at everything and print a table")
    parser.add_argument("comfyui", help="ComfyUI's folder; empty for the embedded engine")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="ComfyUI's arguments")
    options = parser.parse_args()
    combined(options.arguments)  # PORT and LISTEN follow them
    comfyui = Path(options.comfyui).resolve() if options.comfyui else None
    if comfyui:
        load_comfyui_folders(comfyui, options.arguments)
    if options.table:
        rows = table(comfyui)
        print_table(rows)
        sys.exit(int(any(row.state == "FAIL" for row in rows)))
    try:
        check_start()
    except (SettingsError, WeightsMissing, DownloadError, Problem) as error:
        log.leave(str(error))


if __name__ == "__main__":
    main()
