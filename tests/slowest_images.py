"""Decodes the slowest images of up to 30 MB that are known: python tests/slowest_images.py [NAME…].

Prints for each what became of it, how long that took, and the memory of the decoding process beside what its header had
promised. It shows whether the limits hold on a machine, and is the place to add what somebody finds.
"""

import asyncio
import contextlib
import io
import os
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "custom_nodes"))

import pillow_heif
import pillow_jxl  # noqa: F401  # so that Pillow writes it
from comfyui_tryon.decoding import pool
from comfyui_tryon.decoding.decoder import Decoder
from comfyui_tryon.errors import ApiError
from PIL import Image

SIZE = (7071, 7071)
BODY = 30_000_000


def saved(
    format: str, mode: str = "RGB", size: tuple[int, int] = SIZE, noise: bool = False, **options: object
) -> bytes:
    if noise:
        image = (
            Image.effect_noise((size[0] // 8, size[1] // 8), 90).resize(size, Image.Resampling.BICUBIC).convert(mode)
        )
    else:
        image = Image.new(mode, size)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, colour: int, channels: int, middle: bytes = b"", interlaced: bool = False) -> bytes:
    width, height = SIZE
    rows = zlib.compress(bytes((1 + width * channels * bits // 8 + 16) * (height + 16) * (2 if interlaced else 1)), 9)
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, bits, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", rows) + chunk(b"IEND")


def jpeg_of_scans(count: int) -> bytes:
    data = saved("JPEG", "L", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def after(data: bytes, position: int, part: bytes) -> bytes:
    """`part` repeated in `data` until it is as large as a body may be."""
    return data[:position] + part * ((BODY - len(data)) // len(part)) + data[position:]


def gif_of_extensions(part: bytes) -> bytes:
    data = saved("GIF", "P", (64, 64))
    return after(data, data.index(b"\x2c\0\0\0\0", 13), part)


def bmp_of_runs() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, *SIZE, 1, 8, 1, 0, 0, 0, 256, 0)
    palette = bytes(1024)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + palette + b"\1\0" * (BODY // 2 - 1000)


def heic(mode: str) -> bytes:
    image = Image.effect_noise((250, 188), 90).resize((2000, 1500), Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=60)
    return buffer.getvalue()


CASES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved("JPEG", noise=True, quality=90),
    "jpeg progressive": lambda: saved("JPEG", noise=True, quality=90, progressive=True, subsampling=0),
    "jpeg cmyk progressive": lambda: saved("JPEG", "CMYK", progressive=True),
    "jpeg of 49 scans": lambda: jpeg_of_scans(40),
    "jpeg of 20,000 scans": lambda: jpeg_of_scans(20_000),
    "jpeg of comments": lambda: after(saved("JPEG", "L", (64, 64)), 2, b"\xff\xfe\0\2"),
    "jpeg of restarts": lambda: after(saved("JPEG", "L", (64, 64)), 2, b"\xff\xd0"),
    "png 16 grey": lambda: png(16, 0, 1),
    "png 16 rgba": lambda: png(16, 6, 4),
    "png 16 rgba interlaced": lambda: png(16, 6, 4, interlaced=True),
    "png rgb": lambda: png(8, 2, 3),
    "png of chunks": lambda: png(8, 0, 1, chunk(b"tEXt", b"a\0b") * 1_900_000),
    "png of data chunks": lambda: png(8, 0, 1, chunk(b"IDAT") * 2_400_000),
    "gif": lambda: saved("GIF", "P", interlace=1),
    "gif of comments": lambda: gif_of_extensions(b"\x21\xfe\1A\0"),
    "gif of one comment": lambda: gif_of_extensions(b"\x21\xfe" + (b"\xff" + b"A" * 255) * 100_000 + b"\0"),
    "bmp of runs": bmp_of_runs,
    "bmp": lambda: saved("BMP", "RGB", (3000, 3300)),
    "tiff lzw": lambda: saved("TIFF", "RGBA", compression="tiff_lzw"),
    "tiff deflate in one strip": lambda: saved("TIFF", "RGB", compression="tiff_adobe_deflate", strip_size=2**31 - 1),
    "tiff jpeg": lambda: saved("TIFF", "RGB", compression="jpeg"),
    "tiff lzma": lambda: saved("TIFF", "RGB", compression="lzma"),
    "tiff float": lambda: saved("TIFF", "F", compression="tiff_lzw"),
    "webp": lambda: saved("WEBP", "RGB", (4000, 3000), noise=True, method=0),
    "webp alpha lossless": lambda: saved("WEBP", "RGBA", (4000, 3000), lossless=True, method=0, quality=0),
    "webp lossless": lambda: saved("WEBP", "RGB", (4000, 3000), noise=True, lossless=True, method=0, quality=0),
    "avif": lambda: saved("AVIF", "RGB", (4000, 3000), noise=True, speed=10),
    "heic": lambda: heic("RGB"),
    "heic alpha": lambda: heic("RGBA"),
    "jxl": lambda: saved("JXL", "RGB", noise=True, effort=3),
    "jxl alpha": lambda: saved("JXL", "RGBA", (4000, 3000), noise=True, effort=7, num_threads=1),
    "jxl lossless": lambda: saved("JXL", "RGB", (4000, 3000), noise=True, lossless=True, effort=3),
    "jxl alpha lossless": lambda: saved("JXL", "RGBA", (4000, 3000), noise=True, lossless=True, effort=4),
    "jxl float": lambda: saved("JXL", "F", (4000, 3000), noise=True, lossless=True, effort=1),
    "jxl of one colour": lambda: saved("JXL", "RGBA", lossless=True, effort=1),
    "jpeg without end": lambda: saved("JPEG", noise=True, quality=90)[:-2],
    "avif alpha": lambda: saved("AVIF", "RGBA", (4000, 3000), speed=10),
}


class MemoryWatch:
    """Watches the private memory of this process's children."""

    def __init__(self) -> None:
        self.peak = 0

    async def watch(self) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while True:
            for child in children.read_text().split():
                with contextlib.suppress(OSError):
                    text = Path(f"/proc/{child}/status").read_text()
                    if found := re.search(r"RssAnon:\s+(\d+)", text):
                        self.peak = max(self.peak, int(found[1]) * 1024)
            await asyncio.sleep(0.02)


async def attempt(name: str) -> str:
    data = CASES[name]()
    decoder, memory, result, promised = Decoder(8_000_000_000, 64_000_000), MemoryWatch(), "decoded", 0
    watching = asyncio.ensure_future(memory.watch())
    start = time.perf_counter()
    with decoder.share() as share:
        decoding = asyncio.ensure_future(decoder.decode({"person_image": data}, share))
        while not decoding.done():
            promised = max(promised, decoder._budget.taken)
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - start
        try:
            pixels = (await decoding)["person_image"]
            promised -= 2 * pixels.nbytes + len(data)
        except ApiError as error:
            result = error.code
    watching.cancel()
    while pool._idle:
        pool._idle.pop().kill()
    used = f"{memory.peak / 1e6:.0f} MB of {promised / 1e6:.0f} MB"
    return f"{name:26} {len(data) / 1e6:5.1f} MB {result:14} {seconds:5.2f} s {used}"


async def main() -> None:
    for name in sys.argv[1:] or CASES:
        print(await attempt(name), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
