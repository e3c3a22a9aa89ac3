"""Where the weight files are: turns the nodes' `*_path` inputs into folders."""

import logging
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..demo import checkpoint as demo_checkpoint
from ..settings import PROJECT, settings
from .files import (
    BASE,
    CATVTON,
    MOVED,
    VAE,
    Needed,
    attention_files,
    base_files,
    download_command,
    parser_files,
    vae_files,
)

__all__ = ["BASE", "CATVTON", "VAE", "WeightsMissing", "demo_notice", "parser_folder", "pipeline_folders"]

logger = logging.getLogger(__name__)

VOLUME = Path("/runpod-volume")

DEMO_NOTICE = "These are the demo's small weights, trained on drawn pictures; they do little for photographs."


class WeightsMissing(FileNotFoundError):
    """Weight files are not here; the message lists them, where they were looked for, and what fetches them."""


def pipeline_folders(base: str, vae: str, catvton: str, attention_version: str) -> tuple[Path, Path, Path]:
    """The folders of the inpainting model, the VAE and CatVTON.

    Raises:
        WeightsMissing: with the files of all three that are not there.
    """
    return tuple(resolve_all(pipeline_needs(base, vae, catvton, attention_version)))


def pipeline_needs(base: str, vae: str, catvton: str, attention_version: str) -> list[tuple[str, Needed]]:
    return [(base, base_files()), (vae, vae_files()), (catvton, attention_files(attention_version))]


def parser_folder(path: str, parser: str) -> Path:
    """The folder with the weights of `parser`, schp_densepose or segformer.

    Raises:
        WeightsMissing
    """
    return resolve_all([(path, parser_files(parser))])[0]


def resolve_all(wanted: Sequence[tuple[str, Needed]]) -> list[Path]:
    """The first folder for each (path, files needed) that has all files.

    `path` is a folder name under one of the models folders, an absolute path, or a Hugging Face repository id, looked
    for in this order: as an absolute path, under `search_folders()`, in the Hugging Face caches.

    Raises:
        WeightsMissing
    """
    found, missing = [], []
    for path, needed in wanted:
        candidates = _candidates(path)
        folder = next((folder for folder in candidates if not _missing(folder, needed)), None)
        if folder is None:
            nearest = min(candidates, key=lambda folder: len(_missing(folder, needed)))
            missing += [(path, name) for name in _missing(nearest, needed)]
        else:
            _log_choice(path, folder)
        found.append(folder)
    if missing:
        raise WeightsMissing(_missing_message(missing))
    return found


def search_folders() -> list[Path]:
    """The folders that may hold models, best first."""
    own = settings().models_dir
    folders = [*([own] if own else []), *_comfyui_folders(), VOLUME / "models", VOLUME, PROJECT / "models"]
    return list(dict.fromkeys(folders))


@lru_cache
def demo_notice() -> str | None:
    """What to tell users of the demo weights in the models folder, if it holds them."""
    folder = settings().models_dir
    return DEMO_NOTICE if folder and demo_checkpoint.is_demo(folder) else None


def _candidates(path: str) -> list[Path]:
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
    """The folders that ComfyUI knows for models, extra_model_paths.yaml included; none where ComfyUI is not loaded."""
    folder_paths = sys.modules.get("folder_paths")
    if folder_paths is None:
        return []
    models = Path(folder_paths.models_dir)
    registered = [folder_paths.folder_names_and_paths.get(kind, ([],))[0] for kind in ("CatVTON", "diffusers")]
    return [*(Path(folder) for folders in registered for folder in folders), models / "huggingface", models]


def _hub_caches() -> list[Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    return [VOLUME / "huggingface-cache/hub", Path(HF_HUB_CACHE)]


def _missing(folder: Path, needed: Needed) -> list[str]:
    return [names[0] for names in needed if not any(os.path.isfile(folder / name) for name in names)]


def _missing_message(missing: Sequence[tuple[str, str]]) -> str:
    absolute = [Path(path) for path, _ in missing if os.path.isabs(path)]
    folders = list(dict.fromkeys([*absolute, *search_folders(), *_hub_caches()]))
    commands = {download_command(path, name) for path, name in missing}
    further = commands - {"./start.sh --download", None}
    lines = ["Missing weight files:", *(f"  {path}: {name}" for path, name in missing)]
    lines += ["Looked under:", *(f"  {folder}" for folder in folders)]
    if commands - {None}:
        lines += [f"Fetch them with:  {command}" for command in sorted(further or commands - {None})]
    if None in commands:
        lines.append("What is no repository that --download knows, put under one of these folders yourself.")
    return "\n".join(lines)


@lru_cache
def _log_choice(path: str, folder: Path) -> None:
    logger.info("Weights of %s: %s", path, folder)
