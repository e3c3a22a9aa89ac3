"""Starts the servers that the tests talk to, the way a user does: through start.sh."""

import contextlib
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 240
EMBEDDED = "embedded"
DEMO_MODELS = ROOT / ".demo/models"
SHARED = ROOT.parent / "shared"
NONE_FOUND = (
    "NO COMFYUI HERE: every test of it is skipped, the embedded engine alone is tested. "
    "Set COMFYUI_DIR or put one into ~/comfy/ComfyUI."
)
# For clients of servers without TLS: by default each client reads the web's certificates, 40 ms of processor time.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Server:
    """A running server.

    Attributes:
        engine: "embedded" or the folder of a ComfyUI.
    """

    engine: str
    url: str
    process: subprocess.Popen
    log_path: Path

    def client(self, **options) -> httpx.Client:
        return httpx.Client(**{"base_url": self.url, "timeout": 120, "verify": NO_CERTIFICATES, **options})

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.is_file() else ""  # not /dev/full

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def comfyui_folders() -> list[Path]:
    """The ComfyUIs to test on: COMFYUI_DIR if set, else where start.sh looks, and siblings of ~/comfy/ComfyUI."""
    if "COMFYUI_DIR" in os.environ:
        given = os.environ["COMFYUI_DIR"]
        return [Path(given)] if given else []
    folders = [Path("/comfyui"), *sorted(Path.home().glob("comfy/ComfyUI*")), ROOT / ".comfyui"]
    return [folder for folder in folders if (folder / "main.py").is_file()]


def comfyui_version(folder: Path) -> str:
    match = re.search(r'__version__ = "(.+)"', (folder / "comfyui_version.py").read_text())
    return match[1] if match else "unknown"


def free_port() -> int:
    """A port that is free, and stays so until a server has started: the system gives none of these to clients."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def without_settings(*prefixes: str) -> dict[str, str]:
    """This process's environment without the server's settings, and without what begins with one of `prefixes`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TRYON_", *prefixes))}


@contextlib.contextmanager
def running(
    engine: str,
    log_path: Path,
    environment: Mapping[str, str] = {},
    mode: str = "--demo",
    arguments: tuple[str, ...] = (),
    wait: bool = True,
    command: Sequence[str] = (),
) -> Iterator[Server]:
    """A server on `engine`, ready unless `wait` is False; ended with the block. `command` takes start.sh's place."""
    port = free_port()
    variables = without_settings()
    variables |= {"PORT": str(port), "LISTEN": "127.0.0.1", "COMFYUI_DIR": "" if engine == EMBEDDED else engine}
    variables["OMP_NUM_THREADS"] = "1"  # the test models are too small for more, and the clients need a core too
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [*(command or (str(ROOT / "start.sh"), mode)), *arguments],
            env=variables | environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(engine, f"http://127.0.0.1:{port}", process, log_path)
    try:
        if wait:
            wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with server.client(timeout=5) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                reply = client.get("/ping")
                if reply.status_code == 200:
                    return
                assert reply.status_code == 204, f"/ping says {reply.status_code} {reply.text}\n{server.log()[-4000:]}"
            assert server.process.poll() is None, f"the server ended:\n{server.log()[-4000:]}"
            assert time.monotonic() < deadline, f"the server did not start:\n{server.log()[-4000:]}"
            time.sleep(0.2)


FOLDERS = comfyui_folders()


def engines() -> list:
    """The embedded engine and every ComfyUI at hand, as parameters."""
    found = [pytest.param(sys.intern(str(folder)), id=f"comfyui-{comfyui_version(folder)}") for folder in FOLDERS]
    none = pytest.param("", id="comfyui", marks=pytest.mark.skip(reason=NONE_FOUND))
    return [pytest.param(EMBEDDED, id=EMBEDDED), *(found or [none])]


def probe_server(
    engine: str,
    folder: Path,
    environment: dict[str, str] = {},
    mode: str = "--demo",
    arguments: Sequence[str] = (),
    paths: Sequence[Path] = (),
):
    """A server that also has the nodes and the route of tests/probe. `arguments` and `paths`, which are files that say
    where models are, go to ComfyUI."""
    environment = {"TRYON_MODELS_DIR": str(DEMO_MODELS), "TRYON_WORKFLOW": "demo", **environment}
    if engine == EMBEDDED:
        environment |= {"PYTHONPATH": f"{ROOT / 'custom_nodes'}:{ROOT / 'tests'}"}
        return running(engine, folder / "log.txt", environment, command=(sys.executable, "-u", "-m", "probe"))
    packs = folder / "packs"
    packs.mkdir()
    (packs / "probe").symlink_to(ROOT / "tests/probe")
    packs_path = folder / "paths.yaml"
    packs_path.write_text(f"probe:\n  custom_nodes: {packs}\n")
    extra = ("--", "--extra-model-paths-config", *map(str, (packs_path, *paths)), *arguments)
    environment |= {"TRYON_PACKS": "probe"}  # without effect in --dev, which loads every pack
    return running(engine, folder / "log.txt", environment, mode, extra)
