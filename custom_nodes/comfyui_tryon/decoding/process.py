"""What a decoding process does: it reads one task after the other from its standard input, a socket.

It starts without this pack's own __init__, without torch and without ComfyUI, in 0.15 s and 35 MB.
"""

import contextlib
import ctypes
import json
import mmap
import resource
import signal
import socket
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ApiError
from . import MESSAGE_BYTES
from .budget import cost
from .mask import decode_field, read_field_header

# A process whose parent is gone and whose decoder does not end is ended by the kernel.
CPU_S = 30
PR_SET_PDEATHSIG = 1
SLACK_BYTES = 256 << 20


def main() -> None:
    for name in (signal.SIGINT, signal.SIGTERM):  # a whole group or container gets them; the parent says when to end
        signal.signal(name, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # a paused process would not notice that its parent has gone
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):  # where memory runs out the server is not the first to go
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # `images` has the limit that the operator sets
    parent = socket.socket(fileno=0)
    parent.send(b"1")
    arena = memoryview(b"")
    while message := parent.recv(MESSAGE_BYTES):
        task = json.loads(message)
        if len(arena) != task["arena"]:
            arena = memoryview(mmap.mmap(int(sys.argv[3]), task["arena"]))
        try:
            reply = _work(task, arena)
        except ApiError as error:
            reply = {"code": error.code, "message": error.message, "details": error.details}
        parent.send(json.dumps(reply).encode())


def _work(task: dict[str, Any], arena: memoryview) -> dict[str, Any]:
    size, field, max_pixels, max_side = task["size"], task["field"], task["max_pixels"], task["max_side"]
    _limit(size + task.get("memory", task["at_once"]))
    data = bytes(arena[:size])
    reply: dict[str, Any] = {}
    if "memory" not in task:
        header = read_field_header(data, field, max_pixels, max_side)
        reply["header"] = asdict(header)
        if cost(header, size) > task["at_once"]:
            return reply
    pixels = decode_field(data, field, max_pixels, lambda shape: np.ndarray(shape, np.uint8, arena, size), max_side)
    return reply | {"shape": pixels.shape}


def _limit(memory: int) -> None:
    """Lets the decoder have twice the memory that the header says it needs, and no more."""
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + 2 * memory + SLACK_BYTES, hard))
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_S, hard))
