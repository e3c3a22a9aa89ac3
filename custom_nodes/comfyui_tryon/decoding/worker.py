"""One decoding process, as this process sees it."""

import asyncio
import contextlib
import json
import logging
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .. import images
from ..errors import ApiError
from . import MESSAGE_BYTES

logger = logging.getLogger(__name__)

T = TypeVar("T")
PACKAGE = Path(__file__).resolve().parents[1]
# The pack's __init__ would look for ComfyUI, so an empty package takes its place.
BOOT = """
import json, sys, types
sys.path[:] = json.loads(sys.argv[1])
package = types.ModuleType("comfyui_tryon")
package.__path__ = [sys.argv[2]]
sys.modules["comfyui_tryon"] = package
from comfyui_tryon.decoding.process import main
main()
"""
# The rest of the environment, keys among it, is nothing to a process that reads files of strangers.
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
# The memory of an image of 12 megapixels is used again (a quarter of its time), that of larger ones goes back at once.
TUNING = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "OPENBLAS_NUM_THREADS": "1",
}
LOW_PRIORITY = 5  # below the server, and not below all that a busy machine does
START_LIMIT_S = 60.0  # a third of a second where the machine is idle
ARENA_KEPT_BYTES = 48 << 20
LOOP_BYTES = 4 << 20
# Signals of a decoder that has crashed on its input; what kills it otherwise is a machine without memory.
CRASHED = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL, -signal.SIGXCPU}


@dataclass(frozen=True)
class Job:
    """What a process is asked to do with an image.

    Attributes:
        data: the file.
        field, max_pixels, max_side: as for `images.decode`.
        header: what decoding it takes; without it, it is read.
        at_once: without a header, the image is decoded too if that takes no more bytes than these.
    """

    data: bytes
    field: str
    max_pixels: int
    header: images.Header | None = None
    max_side: int | None = None
    at_once: int = 0


class Arena:
    """Memory that this process shares with one worker: a job's file, and behind it its pixels.

    It is kept from job to job, because the first touch of a page costs more than copying
    it: for 768 x 1024 pixels 4 ms.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("tryon-images")
        self._bytes = np.empty(0, np.uint8)

    @property
    def size(self) -> int:
        return self._bytes.size

    def resize(self, size: int) -> None:
        """Makes it at least `size` bytes, and not much more if it is large."""
        if size > self.size or self.size > ARENA_KEPT_BYTES:
            os.ftruncate(self.fd, size)
            self._bytes = np.frombuffer(mmap.mmap(self.fd, size), np.uint8)

    def put(self, data: bytes) -> None:
        self._bytes[: len(data)] = np.frombuffer(data, np.uint8)

    def copy(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        return self._bytes[offset : offset + math.prod(shape)].reshape(shape).copy()

    def shrink(self) -> None:
        if self.size > ARENA_KEPT_BYTES:
            self.resize(1)

    def close(self) -> None:
        os.close(self.fd)


class Worker:
    def __init__(self) -> None:
        with contextlib.ExitStack() as opened:  # closed if anything fails, as where there are too many processes
            self._arena = Arena()
            opened.callback(self._arena.close)
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            opened.callback(self._socket.close)
            self._socket.setblocking(False)
            arguments = [json.dumps([path for path in sys.path if path]), str(PACKAGE), str(self._arena.fd)]
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-ISc", BOOT, *arguments],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # libtiff writes there what a file makes it say
                    pass_fds=[self._arena.fd],
                    env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | TUNING,
                )
            opened.pop_all()

    async def started(self) -> None:
        """Waits until the process takes jobs.

        Raises:
            ApiError: it cannot start.
        """
        try:
            if await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 1), START_LIMIT_S):
                return
            reason = f"has ended with status {await asyncio.to_thread(self._process.wait)}"
        except asyncio.TimeoutError:
            reason = f"has not started within {START_LIMIT_S:g} s"
        logger.error("A decoding process %s.", reason)
        raise images.out_of_memory()

    async def do(self, job: Job) -> tuple[images.Header, np.ndarray | None]:
        """Returns the header of the job's image, and its pixels if they were decoded.

        Raises:
            ApiError: the process says so, or has crashed.
            OSError: there is no memory for the image.
        """
        size = len(job.data)
        room = job.header.pixel_bytes if job.header else job.at_once
        await _beside_the_loop(size, self._arena.resize, size + room)
        await _beside_the_loop(size, self._arena.put, job.data)
        task = {
            "field": job.field,
            "max_pixels": job.max_pixels,
            "max_side": job.max_side,
            "size": size,
            "arena": self._arena.size,
            "at_once": job.at_once,
        }
        if job.header:
            task["memory"] = size + job.header.decoder_bytes
        reply = await self._ask(task)
        header = job.header or images.Header(**reply["header"])
        if "shape" not in reply:
            return header, None
        pixels = await _beside_the_loop(header.pixel_bytes, self._arena.copy, size, reply["shape"])
        await _beside_the_loop(header.pixel_bytes, self._arena.shrink)
        return header, pixels

    async def _ask(self, task: dict[str, Any]) -> dict[str, Any]:
        try:
            self._socket.send(json.dumps(task).encode())
            message = await asyncio.get_running_loop().sock_recv(self._socket, MESSAGE_BYTES)
        except ConnectionError:
            message = b""
        if not message:
            status = await asyncio.to_thread(self._process.wait)
            raise images.damaged(task["field"]) if status in CRASHED else images.out_of_memory()
        reply = json.loads(message)
        if "code" in reply:
            retry_after = images.out_of_memory().retry_after if reply["code"] == "out_of_memory" else None
            raise ApiError(reply["code"], reply["message"], retry_after=retry_after, **reply["details"])
        return reply

    def give_way(self) -> None:
        """Lets quick images and the server run first."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, LOW_PRIORITY)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        with contextlib.suppress(RuntimeError):  # the interpreter may be ending
            loop = asyncio.get_running_loop()
            # else the loop goes on to watch the descriptor, which the next worker's socket may have
            loop.remove_reader(self._socket)
            loop.run_in_executor(None, self._process.wait)
        self._arena.close()
        self._socket.close()


async def _beside_the_loop(size: int, function: Callable[..., T], *arguments: Any) -> T:
    """Calls `function`, in a thread if `size` bytes would hold the event loop up."""
    return await asyncio.to_thread(function, *arguments) if size > LOOP_BYTES else function(*arguments)
