"""Finds the weight files: turns the nodes' `*_path` inputs into folders."""

import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..demo import checkpoint as demo_checkpoint
from ..settings import PROJECT, settings
from .command import download_command
from .files import MODELS, MOVED, Needed, download_options
from .loaders import LOADERS, Needs, fashn_needs, masker_needs, pipeline_needs

logger = logging.getLogger(__name__)

VOLUME = Path("/runpod-volume")

DEMO = "tryon-demo/"
"""How a path of the demo weights begins: they come with this pack, and no folder of that name is searched for."""
PATHS = {name for loader in LOADERS.values() for name in loader.defaults if name.endswith("_path")}

DEMO_NOTICE = "These are the small demo weights, trained on drawings; on photographs they transfer little but colour."


class WeightsMissing(FileNotFoundError):
    """Weight files were not found. The message says which, where they were searched for and which commands fetch them.

    Attributes:
        missing: the path input and the file name of each missing file.
        listing: the message without the commands.
        commands: the commands that fetch the files; empty if the download knows none of them.
    """

    def __init__(self, missing: Sequence[tuple[str, str]], folders: Sequence[Path]) -> None:
        self.missing = missing
        found = [download_options(path, name) for path, name in missing]
        options = {option for option in found if option is not None}
        if options.difference(("", *MODELS)):  # which fetch what the plain command does, and more
            options.discard("")
        self.commands = [download_command(option) for option in sorted(options)]
        lines = ["Missing weight files:", *(f"  {path}: {name}" for path, name in missing)]
        lines += ["Looked under:", *(f"  {folder}" for folder in folders)]
        if None in found:
            lines.append("Put files that the download does not know under one of these folders yourself.")
        self.listing = "\n".join(lines)
        super().__init__("\n".join([self.listing, *(f"Fetch them with:  {command}" for command in self.commands)]))


def pipeline_folders(base: str, vae: str, catvton: str, attention_version: str) -> tuple[Path, Path, Path]:
    """Returns the folders of the inpainting model, the VAE and CatVTON.

    Raises:
        WeightsMissing: with the missing files of all three.
    """
    base_folder, vae_folder, catvton_folder = resolve_all(pipeline_needs(base, catvton, attention_version, vae))
    return base_folder, vae_folder, catvton_folder


def parser_folder(path: str, parser: str) -> Path:
    """Returns the folder with the weights of `parser`, schp_densepose or segformer.

    Raises:
        WeightsMissing
    """
    return resolve_all(masker_needs(path, parser))[0]


def fashn_folder(path: str) -> Path:
    """Returns the folder with FASHN VTON's weights.

    Raises:
        WeightsMissing
    """
    return resolve_all(fashn_needs(path))[0]


def resolve_all(wanted: Needs) -> list[Path]:
    """Returns, for each (path, files needed), the first folder that has all files.

    `path` is a folder name under one of the models folders, an absolute path, or a Hugging Face repository id, looked
    for in this order: as an absolute path, under `search_folders()`, in the Hugging Face caches.

    Raises:
        WeightsMissing: with the files that the fullest folder of each path lacks.
    """
    found, missing = [], []
    for path, needed in wanted:
        lacking = {folder: _missing(folder, needed) for folder in _candidates(path)}
        fullest = min(lacking, key=lambda folder: len(lacking[folder]))
        missing += [(path, name) for name in lacking[fullest]]
        found.append(fullest)
    if missing:
        absolute = [Path(path) for path, _ in missing if os.path.isabs(path)]
        raise WeightsMissing(missing, list(dict.fromkeys([*absolute, *search_folders(), *_hub_caches()])))
    for (path, _), folder in zip(wanted, found, strict=True):
        _log_choice(path, folder)
    return found


def search_folders() -> list[Path]:
    """Returns the folders that may hold models, best first."""
    own = settings().models_dir
    folders = [*([own] if own else []), *_comfyui_folders(), VOLUME / "models", VOLUME, PROJECT / "models"]
    return list(dict.fromkeys(folders))


def demo_notice(graph: Mapping[str, Mapping[str, Any]] | None = None) -> str | None:
    """Returns the caveat about the demo weights if the models folder holds them or `graph`, a prompt, names them.

    A graph that loads no weights has none.
    """
    inputs = [item for node in (graph or {}).values() for item in node["inputs"].items()]
    paths = [str(value) for name, value in inputs if name in PATHS]
    may_use = graph is None or bool(paths)
    return DEMO_NOTICE if may_use and (any(path.startswith(DEMO) for path in paths) or _has_demo_models()) else None


@lru_cache
def _has_demo_models() -> bool:
    folder = settings().models_dir
    return folder is not None and demo_checkpoint.is_demo(folder)


@lru_cache
def _own_demo() -> Path:
    """Writes the demo weights, which are part of this pack, where this process may; returns their folder."""
    folder_paths = sys.modules.get("folder_paths")
    models = Path(folder_paths.models_dir) if folder_paths else PROJECT / "models"
    try:
        return demo_checkpoint.write(models / DEMO)
    except OSError:
        return demo_checkpoint.write(Path(tempfile.mkdtemp(prefix="tryon-demo-")))


def _candidates(path: str) -> list[Path]:
    if path.startswith(DEMO):
        roots = [root for root in search_folders() if demo_checkpoint.is_demo(root)] or [_own_demo()]
        return [root / path.removeprefix(DEMO) for root in roots]
    if os.path.isabs(path):
        return [Path(path)]
    same = MOVED.get(path, path)
    ids = dict.fromkeys([path, same, *(old for old, new in MOVED.items() if new == same)])
    names = [name for name in dict.fromkeys([*ids, path.rsplit("/", 1)[-1]]) if name and ".." not in Path(name).parts]
    folders = [root / name for root in search_folders() for name in names]
    for cache in _hub_caches():
        for repository in ids:
            snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
            if os.path.isdir(snapshots):  # unlike Path.is_dir, False where it may not be read
                folders += sorted(snapshots.iterdir(), key=lambda snapshot: snapshot.stat().st_mtime, reverse=True)
    return folders or [PROJECT / "models"]


def _comfyui_folders() -> list[Path]:
    """Returns ComfyUI's model folders, those of extra_model_paths.yaml included; none if ComfyUI is not loaded."""
    folder_paths = sys.modules.get("folder_paths")
    if folder_paths is None:
        return []
    models = Path(folder_paths.models_dir)
    registered = [folder_paths.folder_names_and_paths.get(kind, ([],))[0] for kind in ("CatVTON", "fashn", "diffusers")]
    return [*(Path(folder) for folders in registered for folder in folders), models / "huggingface", models]


def _hub_caches() -> list[Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    return [VOLUME / "huggingface-cache/hub", Path(HF_HUB_CACHE)]


def _missing(folder: Path, needed: Needed) -> list[str]:
    return [names[0] for names in needed if not any(os.path.isfile(folder / name) for name in names)]


_logged: set[tuple[str, Path]] = set()


def _log_choice(path: str, folder: Path) -> None:
    if (path, folder) not in _logged:  # the loaders run with every request
        _logged.add((path, folder))
        logger.info("Weights of %s: %s", path, folder)
