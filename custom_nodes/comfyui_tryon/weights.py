"""Where the weight files are: turns the nodes' `*_path` inputs into folders."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from .demo import checkpoint as demo_checkpoint
from .engine import current as engine
from .settings import PROJECT, settings

BASE = "stable-diffusion-v1-5/stable-diffusion-inpainting"
VAE = "stabilityai/sd-vae-ft-mse"
CATVTON = "zhengchong/CatVTON"

# Repositories that are gone or unkept, and the one that serves the same files.
MOVED = {
    "runwayml/stable-diffusion-inpainting": BASE,
    "booksforcharlie/stable-diffusion-inpainting": BASE,
}

WEIGHT_NAMES = [
    f"diffusion_pytorch_model{variant}.{suffix}" for variant in (".fp16", "") for suffix in ("safetensors", "bin")
]
SCHP_FILES = ["SCHP/exp-schp-201908301523-atr.pth", "SCHP/exp-schp-201908261155-lip.pth"]
DENSEPOSE_FILES = ["DensePose/model_final_162be9.pkl"]

DEMO_NOTICES = {
    "random": "These are the demo's random weights: they prove the path from request to picture and dress nobody.",
    "trained": "These are the demo's small weights, trained on drawn pictures; they do little for photographs.",
}

# One entry per file: the names that serve, the first one named when none is there.
Needed = Sequence[Sequence[str]]


class WeightsMissing(FileNotFoundError):
    """Weight files are not on this machine; the message lists them, where they were looked for, and what fetches them."""


def pipeline_folders(base: str, vae: str, catvton: str, attention_version: str) -> tuple[Path, Path, Path]:
    """The folders of the inpainting model, the VAE and CatVTON.

    Raises:
        WeightsMissing: with the files of all three that are not there.
    """
    return tuple(
        resolve_all(
            [
                (base, base_files()),
                (vae, vae_files()),
                (catvton, [[attention_file(attention_version)]]),
            ]
        )
    )


def parser_folder(path: str, parser: str) -> Path:
    """The folder with the weights of `parser`, schp_densepose or segformer.

    Raises:
        WeightsMissing
    """
    return resolve_all([(path, parser_files(parser))])[0]


def base_files() -> Needed:
    return [["unet/config.json"], [f"unet/{name}" for name in WEIGHT_NAMES]]


def vae_files() -> Needed:
    return [["config.json"], WEIGHT_NAMES]


def attention_file(version: str) -> str:
    from .catvton.checkpoint import ATTENTION_FOLDERS

    return f"{ATTENTION_FOLDERS[version]}/attention/model.safetensors"


def parser_files(parser: str) -> Needed:
    if parser == "segformer":
        return [["config.json"], ["model.safetensors", "pytorch_model.bin"]]
    return [[name] for name in (*SCHP_FILES, *DENSEPOSE_FILES)]


def resolve_all(wanted: Sequence[tuple[str, Needed]]) -> list[Path]:
    """The first folder for each (path, files needed) that has all files.

    `path` is a folder name under one of the models folders, an absolute path, or a Hugging Face repository id, looked
    for in this order: as an absolute path, under `search_folders()`, in the Hugging Face caches.

    Raises:
        WeightsMissing
    """
    found, problems = [], []
    for path, needed in wanted:
        candidates = _candidates(path)
        folder = next((folder for folder in candidates if not _missing(folder, needed)), None)
        if folder is None:
            nearest = min(candidates, key=lambda folder: len(_missing(folder, needed)))
            problems += [f"{path}: {name}" for name in _missing(nearest, needed)]
        found.append(folder)
    if problems:
        raise WeightsMissing(
            "Missing weight files:\n  "
            + "\n  ".join(problems)
            + "\nLooked under:\n  "
            + "\n  ".join(str(folder) for folder in [*search_folders(), *_hub_caches()])
            + "\nFetch them with:  ./start.sh --download"
        )
    return found


def search_folders() -> list[Path]:
    """The folders that may hold models, best first."""
    own = settings().models_dir
    volume = Path("/runpod-volume")
    folders = [*([own] if own else []), *engine().model_folders(), volume / "models", volume, PROJECT / "models"]
    return list(dict.fromkeys(folders))


@lru_cache
def demo_notice() -> str | None:
    """What to tell users of the demo weights in the models folder, if it holds them."""
    folder = settings().models_dir
    kind = demo_checkpoint.kind(folder) if folder else None
    return DEMO_NOTICES[kind] if kind else None


def _candidates(path: str) -> list[Path]:
    if os.path.isabs(path):
        return [Path(path)]
    ids = [path, *(new for old, new in MOVED.items() if old == path), *(old for old, new in MOVED.items() if new == path)]
    parts = [part for part in Path(path).parts if part not in ("..", "/")]
    names = dict.fromkeys([*("/".join(Path(i).parts) for i in ids if ".." not in Path(i).parts), parts[-1] if parts else ""])
    folders = [root / name for root in search_folders() for name in names if name]
    for cache in _hub_caches():
        for repository in ids:
            snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
            if snapshots.is_dir():
                folders += sorted(snapshots.iterdir(), key=lambda snapshot: snapshot.stat().st_mtime, reverse=True)
    return folders or [PROJECT / "models"]


def _hub_caches() -> list[Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path("/runpod-volume/huggingface-cache/hub"), Path(HF_HUB_CACHE)]


def _missing(folder: Path, needed: Needed) -> list[str]:
    exists: Callable[[str], bool] = lambda name: (folder / name).is_file()
    return [names[0] for names in needed if not any(map(exists, names))]
