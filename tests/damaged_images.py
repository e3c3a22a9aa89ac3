"""Decodes damaged images in a decoding process: python tests/damaged_images.py [COUNT [SEED]].

Prints what became of them by format, the slowest one, and the memory of the process now and then. Ends with status 1 if
one got anything but its pixels or a plain error.
"""

import asyncio
import random
import re
import sys
import time
import zlib
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "custom_nodes"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from comfyui_tryon.decoding import pool
from comfyui_tryon.decoding.worker import Job
from comfyui_tryon.errors import ApiError
from servers.test_fuzz import PICTURES

MAX_PIXELS, BUDGET = 64_000_000, 2_048_000_000
PLAIN = {"decoded", "invalid_image", "image_too_large"}
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
NAMES = sorted(PICTURES)


def damaged(name: str, drawn: random.Random) -> bytes:
    """The image's file with some bytes changed, lost, doubled or swapped with those of another."""
    data = bytearray(PICTURES[name])
    for _ in range(drawn.choice((1, 1, 2, 4))):
        # Half of the damage is where most formats have their headers.
        start = drawn.randrange(min(len(data), 80) if drawn.random() < 0.5 else len(data))
        end = min(len(data), start + drawn.randint(1, 64))
        match drawn.randrange(10):
            case 0:
                del data[start:end]
            case 1:
                del data[max(start, 20) :]
            case 2:
                data[start:start] = data[start:end]
            case 3:
                data[start:] = PICTURES[drawn.choice(NAMES)][start:]
            case 4 | 5:
                data[start : start + 4] = drawn.choice(NUMBERS).to_bytes(4, drawn.choice(("big", "little")))
            case _:
                data[start] ^= 1 << drawn.randrange(8)
        if len(data) < 20:
            break
    return with_checksums(data) if drawn.random() < 0.8 else bytes(data)


def with_checksums(data: bytearray) -> bytes:
    """A PNG whose checksums are right, so that the damage behind them is met too."""
    place = 8
    while (
        data.startswith(b"\x89PNG")
        and (size := int.from_bytes(data[place : place + 4], "big")) <= len(data) - place - 12
    ):
        content = slice(place + 4, place + 8 + size)
        data[content.stop : content.stop + 4] = zlib.crc32(data[content]).to_bytes(4, "big")
        place = content.stop + 4
    return bytes(data)


async def outcome(processes: pool.Pool, data: bytes, field: str) -> str:
    try:
        header, _ = await processes.run(Job(data, field, MAX_PIXELS))
        if header.decoder_bytes + header.pixel_bytes > BUDGET:
            return "image_too_large"
        _, pixels = await processes.run(Job(data, field, MAX_PIXELS, header))
        return "decoded" if pixels.dtype == "uint8" and pixels.shape[2:] == (3,) else f"pixels of {pixels.shape}"
    except ApiError as error:
        if not error.message.startswith(f"{field} ") or len(error.message) > 300:
            return f"{error.code}: {error.message}"
        return "too slow" if "too long" in error.message else error.code


def memory(process: int) -> int:
    """The process's private memory in MB."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) // 1024


async def main(count: int = 100_000, seed: int = 0) -> int:
    drawn, processes = random.Random(seed), pool.Pool()
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    slowest, started, numbers = (0.0, ""), time.monotonic(), set()
    for number in range(count):
        name = drawn.choice(NAMES)
        data, field = damaged(name, drawn), drawn.choice(("person_image", "garment_image", "mask_image"))
        before = time.monotonic()
        result = await outcome(processes, data, field)
        slowest = max(slowest, (time.monotonic() - before, name))
        outcomes[name.split()[0]][result] += 1
        if result not in PLAIN:
            print(f"{name}, {number} of seed {seed}, as {field}: {result}", flush=True)
        numbers |= {worker._process.pid for worker in pool._idle}
        if number % (count // 10 or 1) == 0 and pool._idle:
            here, there = memory("self"), memory(pool._idle[-1]._process.pid)
            print(f"{number} after {time.monotonic() - started:.0f} s: {there} MB there, {here} MB here", flush=True)
    for name, found in sorted(outcomes.items()):
        print(f"{name:5} {dict(found)}")
    total = sum(outcomes.values(), Counter())
    print(f"{dict(total)} in {time.monotonic() - started:.0f} s, {len(numbers)} processes, slowest {slowest}")
    return int(bool(total.keys() - PLAIN))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*map(int, sys.argv[1:]))))
