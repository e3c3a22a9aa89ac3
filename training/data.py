"""Training images: drawn ahead of time into shards by one worker process, read back as memory maps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 192, 256
SHARD_PAIRS = 128
FIRST_SEED = 1_000_000  # seeds below are held out
PERSON, GARMENT, WORN = range(3)


def draw_shards(folder: Path, count: int) -> None:
    """Write those of the shards 0 to count - 1 that are missing; `load_shard` says what is in one."""
    from drawing import draw_pair

    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        path = folder / f"{shard:03}.npy"
        if path.exists():
            continue
        rows = np.empty((SHARD_PAIRS, HEIGHT, WIDTH, 10), np.uint8)
        for row in range(SHARD_PAIRS):
            pair = draw_pair(FIRST_SEED + shard * SHARD_PAIRS + row, WIDTH, HEIGHT)
            rows[row] = np.dstack([np.asarray(p) for p in (pair.person, pair.garment, pair.worn, pair.mask)])
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.save(file, rows)
        partial.rename(path)


def parser_pairs(folder: Path, count: int) -> np.ndarray:
    """(count, height, width, 4) uint8: person RGB and ATR labels, drawn once. The seeds follow the shards'."""
    from drawing import draw_pair

    path = folder / "labels.npy"
    if not path.exists():
        rows = np.empty((count, HEIGHT, WIDTH, 4), np.uint8)
        for row in range(count):
            pair = draw_pair(2 * FIRST_SEED + row, WIDTH, HEIGHT)
            rows[row] = np.dstack([np.asarray(pair.person), np.asarray(pair.labels)])
        np.save(path, rows)
    return np.load(path)


def load_shard(folder: Path, shard: int) -> np.ndarray:
    """(pairs, height, width, 10) uint8: person, garment and worn RGB, then the mask. Waits until it has been drawn."""
    path = folder / f"{shard:03}.npy"
    while not path.exists():
        time.sleep(1)
    return np.load(path, mmap_mode="r")
