"""Finds damaged weight files by their lock file, their ends and their headers, without loading them."""

import json
import os
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .command import download_command
from .files import ATTENTION_FOLDERS, FASHN, MODELS, folder_of, options_of, to_download
from .lock import file_sha256, read_lock

ATTENTION_COUNT = 80  # 16 modules with to_q, to_k, to_v, to_out.0 and its bias


def quick_damage(path: Path) -> str | None:
    """Describes the damage to a weight file, as far as its length and its ends show it; None if there is none.

    Raises:
        DownloadError: the lock file cannot be read.
    """
    size = path.stat().st_size
    locked = lock_entry(path)
    if locked and size != locked["size"]:
        return f"has {size} bytes, but {locked['size']} were downloaded"
    if size == 0:
        return "is empty"
    try:
        if path.suffix == ".json":
            _read_json(path.read_bytes())
        elif path.suffix == ".safetensors":
            read_header(path)
        elif path.suffix == ".onnx":
            _check_onnx(path)
        else:
            _check_ends(path)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def damage(path: Path) -> str | None:
    """Describes the damage to a weight file after reading every byte of it, or None if there is none.

    A file of another model than its place is meant for counts as damaged.

    Raises:
        DownloadError: the lock file cannot be read.
    """
    if quick := quick_damage(path):
        return quick
    locked = lock_entry(path)
    try:
        if locked and file_sha256(path) != locked["sha256"]:
            return "differs from the downloaded file (sha256)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return _wrong_model(path, read_header(path)) if path.suffix == ".safetensors" else None


def fix_command(path: Path) -> str:
    """Returns the command that makes a file readable, or fetches a damaged one again."""
    if not os.access(path, os.R_OK):
        return f"chmod a+r {shlex.quote(str(path))}"
    options = _options(path)
    if recorded := _recorded(path):
        return download_command(options, folder=recorded[0])
    return f"rm {shlex.quote(str(path))} && {download_command(options)}"


def _options(path: Path) -> str:
    """Returns the options of the download that fetches the file at `path`, as far as its place says so."""
    for repository, needed in to_download(tuple(ATTENTION_FOLDERS), segformer=True, models=MODELS).items():
        if any(path.match(f"*/{folder_of(repository)}/{name}") for names in needed for name in names):
            return options_of(repository)
    return ""


def lock_entry(path: Path) -> Mapping[str, Any] | None:
    """Returns the size and the sha256 that the lock file of a weight file's download records; None if it has none."""
    recorded = _recorded(path)
    return recorded[1] if recorded else None


def _recorded(path: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """Returns the folder whose lock file records a file, and what it says of it."""
    for root in path.parents[1:4]:
        for repository, entry in read_lock(root).items():
            folder = root / folder_of(repository)
            if path.is_relative_to(folder) and (found := entry["files"].get(path.relative_to(folder).as_posix())):
                return root, found
    return None


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the dtype, shape and place of each tensor of a safetensors file, by name.

    Raises:
        ValueError: the header is damaged, or the file is shorter or longer than it says.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            raise ValueError("is cut short, or not a safetensors file")
        header = _read_json(stream.read(length))
    try:
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (AttributeError, KeyError, TypeError, IndexError):
        raise ValueError("is damaged: its header describes no tensors") from None
    if size != expected:
        raise ValueError(f"has {size} bytes, but its header says {expected}")
    return tensors


def _read_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is damaged: invalid JSON") from None


def _check_ends(path: Path) -> None:
    """Raises ValueError if a pickle, bare or in torch's zip archive, lacks its beginning or its end."""
    with open(path, "rb") as stream:
        start = stream.read(2)
        stream.seek(-1, os.SEEK_END)
        end = stream.read(1)
    if start == b"PK":
        if not zipfile.is_zipfile(path):
            raise ValueError("is cut short")
    elif start[:1] != b"\x80":
        raise ValueError("is not a weights file")
    elif path.suffix == ".pkl" and end != b".":
        raise ValueError("is cut short")


def _check_onnx(path: Path) -> None:
    """Raises ValueError if a file is not the list of fields, each with its length, that an ONNX model is."""
    size, graph = path.stat().st_size, 7
    with open(path, "rb") as stream:

        def number() -> int:
            value = 0
            for shift in range(0, 64, 7):
                byte = stream.read(1)
                if not byte:
                    raise ValueError("is cut short")
                value |= (byte[0] & 127) << shift
                if byte[0] < 128:
                    return value
            raise ValueError("is not an ONNX file")

        found = set()
        while stream.tell() < size:
            field, kind = divmod(number(), 8)
            found.add(field)
            if kind == 0:
                number()
            elif kind == 2:
                length = number()
                if length > size - stream.tell():
                    raise ValueError("is cut short, or not an ONNX file")
                stream.seek(length, os.SEEK_CUR)
            else:
                raise ValueError("is not an ONNX file")
    if graph not in found:
        raise ValueError("is cut short, or not an ONNX file")


def _wrong_model(path: Path, tensors: Mapping[str, Mapping[str, Any]]) -> str | None:
    if path.parent.name == "attention":
        return None if len(tensors) >= ATTENTION_COUNT else f"has {len(tensors)} tensors, not {ATTENTION_COUNT}"
    if path.parent.name == folder_of(FASHN):
        shape = tensors.get("x_embedder.proj.weight", {}).get("shape", [])
        return None if shape[1:2] == [7] else "is not FASHN VTON's: x_embedder.proj.weight does not take 7 channels"
    if path.parent.name == "unet":
        shape = tensors.get("conv_in.weight", {}).get("shape", [])
        return None if shape[1:2] == [9] else "is not an inpainting model: conv_in.weight does not take 9 channels"
    return None
