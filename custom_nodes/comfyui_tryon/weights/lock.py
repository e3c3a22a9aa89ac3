"""Reads and writes the lock file of downloads: the commit of each repository, size and sha256 of each file.

Needs nothing but the standard library, so that the image's download stage installs no more.
"""

import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

LOCK = "tryon-weights.lock.json"


class DownloadError(Exception):
    """A file cannot be fetched, or the lock file not read; the message says in one line why and what to do."""


def reason(error: Exception) -> str:
    """Returns the first line of what an error says, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_lock(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads what was fetched into `folder`: {repository: {"revision", "commit", "files": {name: {"size", "sha256"}}}}.

    Raises:
        DownloadError: the lock file is damaged.
    """
    path = folder / LOCK
    try:
        repositories = json.loads(path.read_bytes())["repositories"]
        _check(repositories)
        return repositories
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        raise DownloadError(f"{path} cannot be read: chmod a+r {shlex.quote(str(path))}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DownloadError(f"{path} is damaged: restore it, or delete it to trust the next download.") from None


def _check(repositories: Any) -> None:
    """Raises TypeError, LookupError or AttributeError if this is not what `write_lock` writes."""
    for entry in repositories.values():
        files = entry["files"].values()
        if not all(isinstance(text, str) for text in (entry["commit"], *(file["sha256"] for file in files))):
            raise TypeError
        if not all(isinstance(file["size"], int) for file in files):
            raise TypeError


def write_lock(folder: Path, repositories: dict[str, dict[str, Any]]) -> None:
    """Replaces the lock file of `folder` in one step."""
    path = folder / LOCK
    path.with_suffix(".part").write_text(json.dumps({"repositories": repositories}, indent=2, sort_keys=True) + "\n")
    os.replace(path.with_suffix(".part"), path)


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def file_entry(path: Path) -> dict[str, Any]:
    """Returns what the lock file records of a file."""
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}
