"""Training images: drawn ahead of time into shards by worker processes, read back as memory maps."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import torch
from camera import photographed
from comfyui_tryon.masker.agnostic import ATR_LABELS
from comfyui_tryon.masker.segformer import SegformerMasker
from drawing import Pair, draw_pair
from PIL import Image

T = TypeVar("T")
WIDTH, HEIGHT = 384, 512
SHARD_PAIRS = 64
FIRST_SEED = 1_000_000  # seeds below are held out; a further training has its own, see `train.py`
PERSON, GARMENT, WORN = range(3)
MASK, LABELS = 9, 10  # planes after the three images'
SAME_SHARD = 16  # rows of a batch, which is quicker to read
MASK_GROW = (6, 15)  # pixels, around those in `workflows/demo.json`


class Knowing(torch.nn.Module):
    """A parser that is right: it answers with the labels that it was given, uint8 (H, W)."""

    def __init__(self, labels: np.ndarray) -> None:
        super().__init__()
        known = torch.nn.functional.one_hot(torch.from_numpy(np.array(labels)).long(), len(ATR_LABELS))
        self.logits = torch.nn.Parameter(known.permute(2, 0, 1)[None].float(), requires_grad=False)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def automatic_mask(pair: Pair, mask_grow: int) -> Image.Image:
    """Returns the mask (L) that the demo's workflow would find if its parser made no mistakes."""
    labels = np.asarray(pair.labels)
    masker = SegformerMasker(Knowing(labels), [(label, None) for label in ATR_LABELS], labels.shape)
    return Image.fromarray(masker.mask(np.asarray(pair.person), pair.cloth_type, mask_grow=mask_grow))


def draw_shards(folder: Path, numbers: range, first_seed: int) -> None:
    """Write each of these shards that is missing; `load_shard` and `load_sources` say what is in one.

    Every other pair has an automatic mask, and half are as a camera would show them.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in numbers:
        path = folder / f"{shard:03}.npy"
        if path.exists():
            continue
        rows = np.empty((SHARD_PAIRS, HEIGHT, WIDTH, 11), np.uint8)
        sources = []
        for row in range(SHARD_PAIRS):
            seed = first_seed + shard * SHARD_PAIRS + row
            pair = draw_pair(seed, WIDTH, HEIGHT)
            mask = pair.mask
            if row % 2:
                mask = automatic_mask(pair, int(np.random.default_rng(seed).integers(*MASK_GROW)))
            images = [pair.person, pair.garment, Image.composite(pair.beyond, pair.person, mask)]
            if row % 4 < 2:
                images = photographed(np.random.default_rng((seed, 1)), *images)
            rows[row] = np.dstack([np.asarray(p) for p in (*images, mask, pair.labels)])
            sources.append(pair.sources)
        np.save(sources_path(folder, shard), np.stack(sources))
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.save(file, rows)
        partial.rename(path)


def start_drawing(
    folder: Path, shards: int, workers: int, first_seed: int
) -> Sequence[multiprocessing.process.BaseProcess]:
    """Draws the missing shards, of `shards` in all, in processes that end with this one."""
    spawn = multiprocessing.get_context("spawn")
    numbers = [range(worker, shards, workers) for worker in range(workers)]
    processes = [spawn.Process(target=draw_shards, args=(folder, some, first_seed), daemon=True) for some in numbers]
    for process in processes:
        process.start()
    return processes


def drawn(folder: Path) -> int:
    """Returns how many shards from the first on are there, so that training can begin while they are drawn."""
    return next(shard for shard in count() if not (folder / f"{shard:03}.npy").exists())


def load_shard(folder: Path, shard: int) -> np.ndarray:
    """(pairs, height, width, 11) uint8: person, garment and worn RGB, mask, ATR labels. Waits until it is drawn."""
    path = folder / f"{shard:03}.npy"
    while not path.exists():
        time.sleep(1)
    return np.load(path, mmap_mode="r")


def some_rows(folder: Path, rng: np.random.Generator, number: int, crop: int | None = None) -> np.ndarray:
    """Returns rows of the shards that are there, as of `load_shard`; those of one shard have the same square crop."""
    parts, shards = [], max(1, drawn(folder))
    for first in range(0, number, SAME_SHARD):
        shard = load_shard(folder, int(rng.integers(shards)))
        rows = np.sort(rng.choice(SHARD_PAIRS, min(SAME_SHARD, number - first), replace=False))
        top, left = (rng.integers(side - crop + 1) if crop else 0 for side in (HEIGHT, WIDTH))
        parts.append(shard[rows, top : top + (crop or HEIGHT), left : left + (crop or WIDTH)])
    return np.concatenate(parts)


def load_sources(folder: Path, shard: int) -> np.ndarray:
    """(pairs, height / 8, width / 8) int16, see `drawing.Pair.sources`; of a shard that is there."""
    return np.load(sources_path(folder, shard))


def ahead(make: Callable[[int], T], steps: range, workers: int = 1) -> Iterator[T]:
    """Yields what `make` returns for each of the steps, and makes the next ones meanwhile, one for each worker."""
    with ThreadPoolExecutor(workers) as pool:
        following = deque(pool.submit(make, step) for step in steps[:workers])
        for step in steps:
            made = following.popleft().result()
            if step + workers in steps:
                following.append(pool.submit(make, step + workers))
            yield made


def pixels(rows: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns a shard's rows (n, H, W, 11) into images (n, 3, 3, H, W) in [-1, 1] and masks (n, 1, H, W) of 0 and 1."""
    planes = torch.from_numpy(np.array(rows)).to(device).permute(0, 3, 1, 2)
    masks = planes[:, MASK : MASK + 1] > 127
    return planes[:, :9].unflatten(1, (3, 3)).float() / 127.5 - 1, masks.float()


def picture(tensor: torch.Tensor) -> Image.Image:
    """Turns (3, H, W) in [-1, 1] into an image."""
    return Image.fromarray(((tensor.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())


def sources_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:03}-sources.npy"
