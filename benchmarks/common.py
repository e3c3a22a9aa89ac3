"""What the server's benchmarks share: servers to measure, images to send, figures to write down."""

import base64
import contextlib
import http.client
import io
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("custom_nodes", "training", "tests")]

from drawing import draw_pair  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
START_TIMEOUT_S = 120
WIDTH, HEIGHT = 768, 1024
NOISE = 2.0


def comfyui() -> Path:
    """The ComfyUI to measure: COMFYUI_DIR, or where start.sh looks."""
    folders = [Path(os.environ["COMFYUI_DIR"])] if os.environ.get("COMFYUI_DIR") else []
    for folder in [*folders, Path("/comfyui"), Path.home() / "comfy/ComfyUI", ROOT / ".comfyui"]:
        if (folder / "main.py").is_file():
            return folder
    sys.exit("There is no ComfyUI here: set COMFYUI_DIR.")


def machine(folder: Path) -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.is_file() else []
    version = re.search(r'__version__ = "(.+)"', (folder / "comfyui_version.py").read_text())
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "comfyui": version[1] if version else "unknown",
    }


def gpu_name() -> str | None:
    """Asked of a process of its own: torch would take half a gigabyte of the GPU for this one."""
    if not torch.cuda.is_available():
        return None
    if not shutil.which("nvidia-smi"):
        return torch.cuda.get_device_name()
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command: Sequence[str], log: Path, environment: Mapping[str, str] = {}, cwd: Path = ROOT) -> Iterator[int]:
    """Runs a command while the block lasts; gives its process id."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("TRYON_")}
    with open(log, "wb") as file:
        running = subprocess.Popen(
            command, env=variables | environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield running.pid
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextlib.contextmanager
def comfyui_alone(folder: Path, scratch: Path, port: int) -> Iterator[int]:
    """ComfyUI without this pack, with the flags that start.sh gives it."""
    with started(folder, scratch, port, {}, "--whitelist-custom-nodes", "none") as pid:
        yield pid


@contextlib.contextmanager
def ours(
    folder: Path, scratch: Path, port: int, environment: Mapping[str, str] = {}, packs: Path | None = None
) -> Iterator[int]:
    """ComfyUI with this pack and the demo's weights; and with those in `packs`, a folder of packs."""
    options: list[str] = []
    if packs is not None:
        paths = scratch / "paths.yaml"
        paths.write_text(f"benchmark:\n  custom_nodes: {packs}\n")
        names = [path.name for path in packs.iterdir()]
        options = ["--extra-model-paths-config", str(paths), "--whitelist-custom-nodes", "comfyui_tryon", *names]
    with started(folder, scratch, port, environment, *options) as pid:
        yield pid


@contextlib.contextmanager
def started(folder: Path, scratch: Path, port: int, environment: Mapping[str, str], *options: str) -> Iterator[int]:
    variables = {"COMFYUI_DIR": str(folder), "PORT": str(port), "LISTEN": "127.0.0.1", **environment}
    with process([str(ROOT / "start.sh"), "--demo", "--", *options], scratch / f"{port}.log", variables) as pid:
        yield pid


def wait_for(port: int, path: str, pid: int | None = None) -> None:
    """Waits until a server answers 200, as long as its process `pid`, if that is given, lives."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and not (pid and has_ended(pid)):
        with contextlib.suppress(OSError, http.client.HTTPException):
            status = Connection(port).get(path)
            if status == 200:
                return
            if status == 503:
                break
        time.sleep(0.02)
    sys.exit(f"{path} on port {port} does not come to answer 200")


def has_ended(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Connection:
    """One client's connection, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> int:
        self._connection.request("GET", path)
        reply = self._connection.getresponse()
        reply.read()
        return reply.status

    def post(self, path: str, body: bytes) -> bytes:
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        reply = self._connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            sys.exit(f"{path} answered {reply.status}: {content[:500]!r}")
        return content


def bodies(count: int, **fields: Any) -> list[bytes]:
    """Requests, each with its own drawn person and garment, 768 x 1024, grainy like a photograph, as PNG."""
    made = []
    for seed in range(count):
        pair, rng = draw_pair(seed, WIDTH, HEIGHT), np.random.default_rng(seed)
        pictures = {}
        for name, picture in (("person_image", pair.person), ("garment_image", pair.garment)):
            grain = rng.normal(0, NOISE, (HEIGHT, WIDTH, 1))
            pixels = (np.asarray(picture.convert("RGB")) + grain).clip(0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            pictures[name] = base64.b64encode(buffer.getvalue()).decode()
        made.append(json.dumps({**pictures, **fields}).encode())
    return made


class Memory:
    """The highest use of memory since `start`, in GB: the GPU's, or this process's."""

    def start(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 1e9
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share))


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Prints `rows` as a table for docs/benchmarks.md and writes them, with `facts`, to results/NAME.json."""
    print(f"\n{table(rows)}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**facts, "rows": list(rows)}, indent=1) + "\n")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` in Markdown, under the keys of all of them."""
    heads = list({head: None for row in rows for head in row})
    lines = [heads, ["---"] * len(heads), *([str(row.get(head, "")) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---").replace("--- |", "---|")
