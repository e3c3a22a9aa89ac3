"""Provokes the faults that wake somebody, and prints what alerts, log, health and clients say of each.

    python tests/drill.py [COMFYUI]

Needs Debian's prometheus. Each worker is a real one, on the ComfyUI in the folder COMFYUI or else the embedded engine.
A real Prometheus scrapes it, with the rules of deploy/monitoring/, whose waiting times are cut to a second. Exits with
status 1 if a fault raises no alert.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom_nodes")]

from comfyui_tryon.demo import checkpoint  # noqa: E402
from PIL import Image  # noqa: E402
from support import prometheus  # noqa: E402
from support.faults import fault_graph  # noqa: E402
from support.images import to_base64  # noqa: E402
from support.servers import DEMO_MODELS, EMBEDDED, Server, probe_server, running  # noqa: E402

PERSON = (ROOT / "custom_nodes/comfyui_tryon/demo/samples/person.png").read_bytes()
GREY = to_base64(Image.new("RGB", (64, 64), "grey"))
FIELDS = {"person_image": GREY, "garment_image": GREY}
TOLD_S = 60


def graph(fault: str) -> str:
    """A workflow whose only node does what `fault` says."""
    return json.dumps(fault_graph("ProbeFault", fault))


@contextlib.contextmanager
def quick_rules(folder: Path):
    """Has alerts fire after a second instead of minutes."""
    rules = re.sub(r"for: \d+m", "for: 1s", (prometheus.MONITORING / "alerts.yaml").read_text())
    before, prometheus.MONITORING = prometheus.MONITORING, folder
    (folder / "alerts.yaml").write_text(rules)
    try:
        yield
    finally:
        prometheus.MONITORING = before


class Drill:
    def __init__(self, folder: Path, engine: str) -> None:
        self._folder = folder
        self._engine = engine
        self.missed = 0

    async def tell(self, fault: str, server: Server, told: prometheus.Prometheus, *expected: str) -> None:
        """Waits for the expected alerts, and prints them with the worker's words."""
        firing: set[str] = set()
        for _ in range(TOLD_S * 5):
            with contextlib.suppress(Exception):
                found = (await told.get("alerts"))["alerts"]
                firing = {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}
            if set(expected) <= firing:
                break
            await asyncio.sleep(0.2)
        self.missed += not set(expected) <= firing
        print(f"\n## {fault}\nalerts: {', '.join(sorted(firing)) or 'NONE'} (expected {', '.join(expected)})")
        try:
            ping = httpx.get(f"{server.url}/ping", timeout=5)
            print(f"/ping: {ping.status_code} {ping.text}")
        except httpx.TransportError:
            print(f"/ping: no answer; exit status {server.process.poll()}")
        lines = []
        for line in server.log().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry["level"] != "INFO" or entry.get("status", 0) >= 429:
                    lines.append(f"{entry['level']} {entry['message'].splitlines()[0][:150]}")
                continue
            if "issing" in line or "Fetch" in line or "Error" in line:
                lines.append(line[:150])
        print("log:", *lines[-6:], sep="\n  ")

    @contextlib.asynccontextmanager
    async def worker(self, name: str, **settings: str) -> AsyncIterator[tuple[Server, prometheus.Prometheus]]:
        folder = self._folder / name
        (folder / "workflows").mkdir(parents=True)
        for fault in ("none", "sleep", "cuda"):
            (folder / f"workflows/{fault}.json").write_text(graph(fault))
        settings = {
            "TRYON_WORKFLOWS_DIR": str(folder / "workflows"),
            "TRYON_WORKFLOW": "none",
            "TRYON_LOG_FORMAT": "json",
            "TRYON_WARMUP": "0",
        } | settings
        with probe_server(self._engine, folder, settings) as server:
            async with prometheus.running(server.url.removeprefix("http://"), folder, "") as told:
                while not await self._knows(told):
                    await asyncio.sleep(0.2)
                yield server, told

    async def _knows(self, told: prometheus.Prometheus) -> bool:
        """Whether there is a sample that later ones can be compared with."""
        with contextlib.suppress(aiohttp.ClientError):
            return await told.value("count_over_time(tryon_ready[1m]) > 1") is not None
        return False

    async def queue_full(self) -> None:
        async with self.worker("queue", TRYON_MAX_QUEUE="1") as (server, told):
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                sent = [client.post("/api/v1/tryon", json=FIELDS | {"workflow": "sleep"}) for _ in range(12)]
                tasks = [asyncio.create_task(one) for one in sent]
                await self.tell("The queue is full", server, told, "TryonQueueFull")
                refused = [task.result() for task in tasks if task.done()]
                print("clients:", {(reply.status_code, reply.headers.get("Retry-After")) for reply in refused})
                for task in tasks:
                    task.cancel()

    async def broken_workflow(self) -> None:
        async with self.worker("workflow") as (server, told):
            file = self._folder / "workflow/workflows/none.json"
            good = file.read_text()
            httpx.post(f"{server.url}/api/v1/tryon", json=FIELDS, timeout=60)
            file.write_text(good.replace("ProbeFault", "NotInstalled"))
            reply = httpx.post(f"{server.url}/api/v1/tryon", json=FIELDS, timeout=60)
            await self.tell("A broken workflow is swapped in", server, told, "TryonWorkflowRefused")
            print("clients:", reply.status_code, "with the last good version")
            listed = httpx.get(f"{server.url}/api/v1/workflows").json()["workflows"]
            print("GET /api/v1/workflows:", next(one["problem"] for one in listed if one["name"] == "none"))
            file.write_text(good)
            httpx.get(f"{server.url}/api/v1/workflows")
            while await told.value("tryon_workflows_refused"):
                await asyncio.sleep(0.2)
            print("restored and listed: the alert ends")

    async def gpu_fault(self) -> None:
        async with self.worker("gpu") as (server, told):
            reply = httpx.post(f"{server.url}/api/v1/tryon", json=FIELDS | {"workflow": "cuda"}, timeout=60)
            await self.tell("The GPU fails", server, told, "TryonWorkerFailed", "TryonNoWorkerReady")
            print("clients:", reply.status_code, reply.json()["error"]["code"])

    async def weights_gone(self) -> None:
        folder = self._folder / "weights"
        (folder / "models").mkdir(parents=True)
        settings = {"TRYON_MODELS_DIR": str(folder / "models"), "HF_HOME": str(folder), "TRYON_LOG_FORMAT": "json"}
        with running(self._engine, folder / "log.txt", settings, mode="--serve", wait=False) as server:
            async with prometheus.running(server.url.removeprefix("http://"), folder, "") as told:
                await asyncio.to_thread(server.process.wait)
                await self.tell("The weights are gone", server, told, "TryonWorkerDown", "TryonNoWorkerReady")

    async def disk_full(self) -> None:
        """Nothing that the worker prints can be written, and there is no temporary folder."""
        for log_format in ("json", "text"):
            folder = self._folder / f"disk-{log_format}"
            (folder / "workflows").mkdir(parents=True)
            shutil.copy(ROOT / "workflows/demo.json", folder / "workflows")
            (folder / "log.txt").symlink_to("/dev/full")
            settings = {
                "TRYON_WORKFLOWS_DIR": str(folder / "workflows"),
                "TRYON_LOG_FORMAT": log_format,
                "TMPDIR": "/nonexistent",
            }
            with probe_server(self._engine, folder, settings) as server:
                files = {name: ("image.png", PERSON) for name in ("person_image", "garment_image")}
                reply = httpx.post(f"{server.url}/api/v1/tryon", files=files, timeout=60)
                ended = server.stop()
            print(f"\n## The disk is full, {log_format} log\nno alert: requests go on. client:", reply.status_code)
            print("exit status after SIGTERM:", ended)
            self.missed += reply.is_error or ended != 0


async def main(engine: str) -> int:
    checkpoint.write(DEMO_MODELS)
    for name in [name for name in os.environ if name.startswith("TRYON_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as scratch, quick_rules(Path(scratch)):
        drill = Drill(Path(scratch), engine)
        for fault in (drill.weights_gone, drill.gpu_fault, drill.queue_full, drill.disk_full, drill.broken_workflow):
            await fault()
    return 1 if drill.missed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:2] or [EMBEDDED])))
