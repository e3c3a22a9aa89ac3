"""Finds what lies in the workflows folder and cannot be asked for by name, and says what to do about it."""

import os
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ..settings import WORKFLOW_NAME

MAX_LISTED = 200
# Holds the page's own graph where the file that is served is an API prompt that the graph does not convert to.
PAGE_FOLDER = "page"
NAME = re.compile(WORKFLOW_NAME)
IMAGES = re.compile(r".*\.(png|webp|jpe?g|avif|gif)", re.IGNORECASE)


def unservable(folder: Path) -> list[tuple[str, str]]:
    """Returns (file name, what is wrong with it and what to do) of files and folders that are never served.

    Hidden files are left out, and those that neither name nor content makes look like a workflow. The names can be
    encoded in UTF-8.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(islice(_problems(entries), MAX_LISTED))
    except OSError:
        return []


def _problems(entries: Iterator[os.DirEntry]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        problem = None if entry.name.startswith(".") else _problem(entry)
        if problem:
            yield entry.name.encode("utf-8", "replace").decode(), problem


def _problem(entry: os.DirEntry) -> str | None:
    stem, suffix = os.path.splitext(entry.name)
    if suffix == ".json" and NAME.fullmatch(stem):
        if entry.is_symlink() and not os.path.lexists(_target(entry.path)):
            return "it is a link to a file that does not exist: put the file there, or remove the link"
        return None
    if entry.is_dir():
        return _folder_problem(entry)
    if suffix.lower() == ".json":
        return f"requests cannot ask for a file of that name: rename it to {_suggestion(stem)}.json"
    if IMAGES.fullmatch(entry.name):
        return "it is an image: if it holds a workflow, open it in ComfyUI's web page and export the workflow as JSON"
    if ".json" in entry.name.lower() or _starts_as_json(entry):
        return f"the name of a workflow file ends in .json: rename it to {_suggestion(stem)}.json"
    return None


def _starts_as_json(entry: os.DirEntry) -> bool:
    try:
        if not entry.is_file():  # reading a pipe would wait for its writer
            return False
        with open(entry.path, "rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        return False


def _target(path: str) -> str:
    try:
        return os.path.realpath(path)
    except OSError:
        return path


def _folder_problem(entry: os.DirEntry) -> str | None:
    if entry.name == PAGE_FOLDER:
        return None
    try:
        holds_workflows = any(name.lower().endswith(".json") for name in islice(os.listdir(entry.path), 1000))
    except OSError:
        holds_workflows = False
    if holds_workflows or entry.name.lower().endswith(".json"):
        return "it is a folder, and workflow files in it are not found: move them up into the workflows folder"
    return None


def _suggestion(stem: str) -> str:
    """Returns a name that requests can ask for, close to the file's."""
    plain = unicodedata.normalize("NFKD", re.sub(r"(?i)\.json$", "", stem)).encode("ascii", "ignore").decode()
    return re.sub("[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:64].strip("-._") or "workflow"
