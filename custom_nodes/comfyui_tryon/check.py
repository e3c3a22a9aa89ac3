"""`python -m comfyui_tryon.check`: whether the server can start here, found out before anything heavy is loaded.

Without an option it looks at the settings, the workflow and its weight files, as every start does. With --table it also
reads every byte of the files, looks at the machine and prints all it found.
"""

import argparse
import itertools
import json
import os
import platform
import re
import socket
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from .settings import PROJECT, Settings, SettingsError, settings
from .weights import search as weights
from .weights.download import DownloadError, file_sha256, read_lock
from .weights.files import BASE, CATVTON, VAE, Needed, parser_files

# The nodes that load published weights: the inputs that choose files, first as the web page saves them, with defaults.
LOADERS = {
    "LoadCatVTONPipeline": {
        "sd15_inpaint_path": BASE,
        "catvton_path": CATVTON,
        "mixed_precision": "auto",
        "attention_version": "mix",
        "vae_path": VAE,
    },
    "LoadAutoMasker": {"catvton_path": CATVTON, "parser": "schp_densepose"},
}
NEVER, BYPASS = 2, 4
ATTENTION_TENSORS = 80  # 16 modules with to_q, to_k, to_v, to_out.0 and its bias
MEMORY_GB = 6  # of the GPU, for a picture of 768 x 1024


class Problem(Exception):
    """Why the server cannot start; the message says what to do."""


class Row(NamedTuple):
    """One line of the table; `state` is ok, warn or FAIL."""

    state: str
    subject: str
    found: str
    mend: str = ""


def check_start() -> None:
    """Raises Problem unless settings, workflow, weight files and addresses allow a start."""
    try:
        chosen = settings()
    except SettingsError as error:
        raise Problem(str(error)) from None
    damaged = [(path, damage) for path in weight_files(chosen) if (damage := quick_damage(path))]
    if damaged:
        lines = ["Damaged weight files:", *(f"  {path} {damage}" for path, damage in damaged), "Mend them with:"]
        raise Problem("\n".join([*lines, *sorted({f"  {_mend(path)}" for path, _ in damaged})]))
    check_addresses(chosen)


def check_addresses(chosen: Settings) -> None:
    """Raises Problem where the server could not listen, which it would find out after everything is loaded."""
    for host, port in itertools.product(chosen.listen.split(","), {chosen.port, chosen.port_health or chosen.port}):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            reason = error.strerror.partition(" (while")[0]
            raise Problem(
                f"Cannot listen on {host} port {port} ({reason}): stop what does, or set PORT and LISTEN."
            ) from None


def weight_files(chosen: Settings) -> list[Path]:
    """The files that the workflow's loaders will read.

    Raises:
        Problem: the workflow or a file is not there.
    """
    wanted = list(needs(read_workflow(chosen)))
    try:
        folders = weights.resolve_all(wanted)
    except weights.WeightsMissing as error:
        raise Problem(str(error)) from None
    return [
        folder / next(name for name in names if (folder / name).is_file())
        for folder, (_, needed) in zip(folders, wanted, strict=True)
        for names in needed
    ]


def read_workflow(chosen: Settings) -> Any:
    path = chosen.workflows_dir / f"{chosen.workflow}.json"
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        names = ", ".join(sorted(path.stem for path in chosen.workflows_dir.glob("*.json"))) or "none"
        raise Problem(
            f"TRYON_WORKFLOW is {chosen.workflow}, but {path} cannot be read ({error.strerror}). There are: {names}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is not JSON ({error}): export the workflow again.") from None


def needs(workflow: Any) -> Iterator[tuple[str, Needed]]:
    """What each loader node of a workflow, in either format, needs: its path and the files in it.

    Unlike the server this asks for no node class, so it says nothing of a loader that takes its path from another node.
    """
    for class_type, values in _loaders(workflow):
        inputs = {**LOADERS[class_type], **values}
        if not all(isinstance(value, str) for value in inputs.values()):
            continue
        if class_type == "LoadCatVTONPipeline":
            yield from weights.pipeline_needs(
                *(inputs[name] for name in ("sd15_inpaint_path", "vae_path", "catvton_path", "attention_version"))
            )
        elif inputs["parser"] != "geometric":
            yield inputs["catvton_path"], parser_files(inputs["parser"])


def _loaders(workflow: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Class and inputs of every loader whose output something uses."""
    if not isinstance(workflow, dict):
        return
    if isinstance(workflow.get("nodes"), list):
        graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
        for node in itertools.chain.from_iterable(graph["nodes"] for graph in graphs):
            used = any(output.get("links") or output.get("linkIds") for output in node.get("outputs", []))
            if node.get("type") in LOADERS and used and node.get("mode", 0) not in (NEVER, BYPASS):
                values = node.get("widgets_values", [])
                linked = {slot["name"]: slot["link"] for slot in node.get("inputs", []) if slot.get("link") is not None}
                named = values if isinstance(values, dict) else dict(zip(LOADERS[node["type"]], values, strict=False))
                yield node["type"], {**named, **linked}
        return
    prompt = next((workflow[key] for key in ("prompt", "output") if isinstance(workflow.get(key), dict)), workflow)
    nodes = {node: entry for node, entry in prompt.items() if isinstance(entry, dict)}
    inputs = [value for entry in nodes.values() for value in entry.get("inputs", {}).values()]
    used = {value[0] for value in inputs if isinstance(value, list) and value and isinstance(value[0], str)}
    for node, entry in nodes.items():
        if entry.get("class_type") in LOADERS and node in used:
            yield entry["class_type"], entry.get("inputs", {})


def quick_damage(path: Path) -> str | None:
    """What is wrong with a weight file, as far as its length and its ends tell; None if nothing."""
    size = path.stat().st_size
    locked = _locked(path)
    if locked and size != locked["size"]:
        return f"has {size} bytes where {locked['size']} were downloaded"
    if size == 0:
        return "is empty"
    try:
        if path.suffix == ".json":
            _read_json(path.read_bytes())
        elif path.suffix == ".safetensors":
            read_header(path)
        else:
            _check_ends(path)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors file by name: their dtype, shape and place.

    Raises:
        ValueError: the header is damaged, or the file is shorter or longer than it says.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            raise ValueError("is cut short or no safetensors file")
        header = _read_json(stream.read(length))
    try:
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (AttributeError, KeyError, TypeError, IndexError):
        raise ValueError("is damaged: its header describes no tensors") from None
    if size != expected:
        raise ValueError(f"has {size} bytes where its header says {expected}")
    return tensors


def _read_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is damaged: it is not JSON where it should be") from None


def _check_ends(path: Path) -> None:
    """Raises ValueError where a pickle, bare or in torch's zip archive, lacks its beginning or end."""
    with open(path, "rb") as stream:
        start = stream.read(2)
        stream.seek(-1, os.SEEK_END)
        end = stream.read(1)
    if start == b"PK":
        if not zipfile.is_zipfile(path):
            raise ValueError("is cut short")
    elif start[:1] != b"\x80":
        raise ValueError("is no file of weights")
    elif path.suffix == ".pkl" and end != b".":
        raise ValueError("is cut short")


def _locked(path: Path) -> Mapping[str, Any] | None:
    """What the lock file beside a weight file's folder says of it: size and sha256."""
    for folder in path.parents[:3]:
        for repository, entry in read_lock(folder.parent).items():
            if repository.rsplit("/", 1)[-1] == folder.name:
                return entry["files"].get(str(path.relative_to(folder)))
    return None


def _mend(path: Path) -> str:
    """The command that makes a file readable, or fetches a damaged one again."""
    if not os.access(path, os.R_OK):
        return f"chmod a+r {path}"
    for folder in path.parents[:3]:
        if read_lock(folder.parent):
            default = settings().models_dir or PROJECT / "models"
            return "./start.sh --download" + ("" if folder.parent == default else f" --to {folder.parent}")
    return f"rm {path} && ./start.sh --download"


def table(comfyui: Path | None) -> list[Row]:
    """Everything that can be found out about a start on this machine, without a network."""
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
        except Problem as problem:
            found, *mend = str(problem).split("\nFetch them with:  ")
            rows.append(Row("FAIL", "weights", found, "; ".join(mend) or "see README.md"))
        except DownloadError as error:
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
    for line in (PROJECT / "custom_nodes/comfyui_tryon/requirements.txt").read_text().splitlines():
        requirement = Requirement(line)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Row("FAIL", requirement.name, "not installed", f"pip install '{requirement}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            yield Row("FAIL", requirement.name, version, f"pip install '{requirement}'")
    yield Row("ok", "packages", ", ".join(found))


def _comfyui(folder: Path | None) -> Row:
    if folder is None:
        return Row("warn", "ComfyUI", "none: the embedded engine serves", "COMFYUI_DIR, for other nodes")
    path = folder / "comfyui_version.py"
    version = re.search(r'__version__ = "(.+)"', path.read_text()) if path.is_file() else None
    return Row("ok", "ComfyUI", f"{version[1] if version else 'of unknown version'} in {folder}")


def _weight_file(path: Path) -> Row:
    damage = quick_damage(path)
    locked = _locked(path)
    if damage is None and locked and file_sha256(path) != locked["sha256"]:
        damage = "has another content than was downloaded (sha256)"
    tensors: dict[str, Any] = {}
    if damage is None and path.suffix == ".safetensors":
        tensors = read_header(path)
        damage = _wrong_model(path, tensors)
    if damage:
        return Row("FAIL", "weights", f"{path} {damage}", _mend(path))
    facts = [f"{path.stat().st_size:,} bytes", *([f"{len(tensors)} tensors"] if tensors else [])]
    facts.append("sha256 as downloaded" if locked else "not in a lock file")
    return Row("ok", "weights", f"{path}: {', '.join(facts)}")


def _wrong_model(path: Path, tensors: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why the tensors of a file are not those of the model that belongs in its place."""
    if path.parent.name == "attention":
        return None if len(tensors) >= ATTENTION_TENSORS else f"has {len(tensors)} tensors, not {ATTENTION_TENSORS}"
    if path.parent.name == "unet":
        shape = tensors.get("conv_in.weight", {}).get("shape", [])
        return None if shape[1:2] == [9] else "has no inpainting model: conv_in.weight does not take 9 channels"
    return None


def _gpu() -> Row:
    import torch

    if torch.cuda.is_available():
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info())
        found = f"{torch.cuda.get_device_name()}, {free:.1f} of {total:.1f} GB free, CUDA {torch.version.cuda}"
        if free >= MEMORY_GB:
            return Row("ok", "GPU", found)
        return Row("warn", "GPU", found, f"free {MEMORY_GB} GB, or ask for smaller pictures than 768 x 1024")
    if Path("/dev/nvidiactl").exists():
        found = f"there is one that torch {torch.__version__} cannot use (CUDA {torch.version.cuda})"
        return Row("FAIL", "GPU", found, "update the driver, or install the torch that is built for its CUDA version")
    return Row("warn", "GPU", "none: a picture takes minutes", "start on a machine with one; for Docker: --gpus all")


def _memory() -> Iterator[Row]:
    available = _available_memory()
    if available is not None:
        enough = available >= MEMORY_GB
        mend = "" if enough else f"give it {MEMORY_GB} GB: the weights pass through memory on their way to the GPU"
        yield Row("ok" if enough else "warn", "memory", f"{available:.1f} GB available", mend)


def _available_memory() -> float | None:
    """GB that this process may still take, its container's limit included; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        available = min(available, limit - used)
    except (OSError, ValueError):
        pass
    return available / 1e9


def _temporary_folder() -> Row:
    try:
        with tempfile.TemporaryFile():
            return Row("ok", "temporary folder", tempfile.gettempdir())
    except OSError as error:
        return Row("FAIL", "temporary folder", str(error), "make /tmp writable, or set TMPDIR to a folder that is")


def print_table(rows: Iterable[Row]) -> None:
    for row in rows:
        found = row.found.replace("\n", "\n" + " " * 24)
        print(f"{row.state:5} {row.subject:17} {found}")
        if row.mend:
            print(f"{'':24}-> {row.mend}")


def load_comfyui_folders(comfyui: Path, arguments: Sequence[str]) -> None:
    """Lets ComfyUI's own code read its arguments and extra_model_paths.yaml, so that the search is the server's."""
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
    comfyui = Path(options.comfyui).resolve() if options.comfyui else None
    if comfyui:
        load_comfyui_folders(comfyui, options.arguments)
    if options.table:
        rows = table(comfyui)
        print_table(rows)
        sys.exit(any(row.state == "FAIL" for row in rows))
    try:
        check_start()
    except (Problem, DownloadError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
