"""Measures on a GPU what a server owes its users: time, memory, cancels, faults, and the sampler beside its floor.

    python benchmarks/gpu.py [--part serve|sampler|kernels|batch|faults|fashn] [-- ARGUMENTS OF COMFYUI]
    python benchmarks/gpu.py --rehearse

Each part takes less than four minutes on one H100, and prints its table as soon as it has it. Needs a ComfyUI (see
COMFYUI_DIR) and no network: weights of the published sizes are made from random numbers, once, in --models.
--rehearse runs every part with small weights, small images and few steps, with or without a GPU: it says that the
script runs, and nothing about speed.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import (  # puts this project on the path
    ROOT,
    bodies,
    comfyui,
    free_port,
    machine,
    median,
    process,
    quantile,
    report,
    wait_for,
)

# isort: split

import torch
from comfyui_tryon.demo import checkpoint
from models import write_published
from PIL import Image

CUDA = torch.cuda.is_available()
PARTS = ("serve", "sampler", "kernels", "batch", "faults", "fashn")
PATH = "/api/v1/tryon"
SEED = 42
PING_EVERY_S = 0.02


@dataclass
class Plan:
    """What is measured: the task, or its rehearsal."""

    models: Path
    arguments: list[str]  # for ComfyUI
    width: int = 768
    height: int = 1024
    steps: int = 50
    repeat: int = 5
    sizes: tuple[str, ...] = ("384x512", "768x1024", "1024x1360")
    dtypes: tuple[str, ...] = ("float16", "bfloat16")
    scratch: Path = field(default_factory=Path)
    is_rehearsal: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """Those of every request; the mask is not the subject, so the middle is repainted."""
        return {
            "seed": SEED,
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.steps,
            "mask_image": base64.b64encode(_mask(self.width, self.height)).decode(),
        }


def rehearsal(plan: Plan) -> Plan:
    return Plan(
        models=plan.models, arguments=plan.arguments, width=192, height=256, steps=4, repeat=2,
        sizes=("64x64",), dtypes=("float16",) if CUDA else ("float32",), is_rehearsal=True,
    )  # fmt: skip


def _mask(width: int, height: int) -> bytes:
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


# -- The server ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(plan: Plan, environment: dict[str, str] = {}) -> Iterator["Server"]:
    """A locked server with the faults' pack, ready; CatVTON's masked workflow and two that fail, and one in float32."""
    folder = Path(plan.scratch) / "workflows"
    write_workflows(folder, plan)
    paths = Path(plan.scratch) / "paths.yaml"
    paths.write_text(f"benchmark:\n  custom_nodes: {ROOT / 'benchmarks/faults'}\n")
    options = ["--extra-model-paths-config", str(paths), "--whitelist-custom-nodes", "comfyui_tryon", "gpu_faults"]
    port = free_port()
    variables = {
        "COMFYUI_DIR": str(comfyui()),
        "PORT": str(port),
        "LISTEN": "127.0.0.1",
        "TRYON_MODELS_DIR": str(plan.models),
        "TRYON_WORKFLOWS_DIR": str(folder),
        "TRYON_WORKFLOW": "catvton_mask",
        "TRYON_TIMEOUT_S": "600",
        **environment,
    }
    command = [str(ROOT / "start.sh"), "--", *options, *plan.arguments]
    log = Path(plan.scratch) / f"server-{port}.log"
    started = time.perf_counter()
    with process(command, log, variables) as pid:
        try:
            wait_for(port, "/ping")
        except SystemExit:
            sys.exit(f"the server did not start:\n{log.read_text()[-4000:]}")
        yield Server(port, pid, log, time.perf_counter() - started)


def write_workflows(folder: Path, plan: Plan) -> None:
    folder.mkdir(exist_ok=True)
    graph = json.loads((ROOT / "workflows/catvton_mask.json").read_text())
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"].update(width=plan.width, height=plan.height, steps=plan.steps)
    [loader] = [node for node in graph.values() if "mixed_precision" in node["inputs"]]
    [output] = [node for node in graph.values() if node["class_type"] == "TryOnOutput"]
    written = {"catvton_mask": graph}
    for name, class_type in (("breaks", "BreakGpu"), ("fills", "FillGpu")):
        person, garment = ({"class_type": f"TryOn{one}Image", "inputs": {"image": ""}} for one in ("Person", "Garment"))
        fault = {"class_type": class_type, "inputs": {"image": ["1", 0]}}
        blend = {
            "class_type": "ImageBlend",
            "inputs": {"image1": ["3", 0], "image2": ["2", 0], "blend_factor": 0.5, "blend_mode": "normal"},
        }
        written[name] = {
            "1": person, "2": garment, "3": fault, "4": blend,
            "5": {**output, "inputs": {"images": ["4", 0]}},
        }  # fmt: skip
    loader["inputs"]["mixed_precision"] = "bf16"
    other = json.loads(json.dumps(graph))
    loader["inputs"]["mixed_precision"] = "auto"
    written["other"] = other
    for name, document in written.items():
        (folder / f"{name}.json").write_text(json.dumps(document))


@dataclass
class Server:
    port: int
    pid: int
    log: Path
    ready_s: float

    def post(self, body: dict, accept: str = "image/png", request_id: str | None = None) -> tuple[int, bytes, float]:
        """Status, content and seconds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        headers = {"Content-Type": "application/json", "Accept": accept}
        headers |= {"X-Request-Id": request_id} if request_id else {}
        started = time.perf_counter()
        connection.request("POST", PATH, json.dumps(body), headers)
        reply = connection.getresponse()
        content = reply.read()
        return reply.status, content, time.perf_counter() - started

    def image(self, body: dict) -> tuple[bytes, float]:
        status, content, seconds = self.post(body)
        if status != 200:
            sys.exit(f"answered {status}: {content[:500]!r}\n{self.log.read_text()[-3000:]}")
        return content, seconds

    def events(self, body: dict, request_id: str) -> Iterator[tuple[float, str, dict]]:
        """Time, name and data of the events of a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "X-Request-Id": request_id}
        connection.request("POST", PATH, json.dumps(body), headers)
        reply, name = connection.getresponse(), ""
        for line in reply:
            if line.startswith(b"event:"):
                name = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                yield time.perf_counter(), name, json.loads(line[5:])

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()

    def delete(self, request_id: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("DELETE", f"{PATH}/{request_id}")
        connection.getresponse().read()


class Watch:
    """Asks /ping and the GPU all the time while the block lasts."""

    def __init__(self, server: Server) -> None:
        self.server, self.pings, self.busy, self.memory_mb = server, [], [], []

    def __enter__(self) -> "Watch":
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ping)]
        self._smi = None
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
            self._smi = subprocess.Popen([*query, "-lms", "100"], stdout=subprocess.PIPE, text=True)
            self._threads.append(threading.Thread(target=self._read))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        if self._smi:
            self._smi.kill()
        for thread in self._threads:
            thread.join()

    def _ping(self) -> None:
        while not self._end.wait(PING_EVERY_S):
            started = time.perf_counter()
            self.server.get("/ping")
            self.pings.append(time.perf_counter() - started)

    def _read(self) -> None:
        for line in self._smi.stdout:
            with contextlib.suppress(ValueError):
                busy, memory = (float(value) for value in line.split(","))
                self.busy.append(busy)
                self.memory_mb.append(memory)

    @property
    def figures(self) -> dict[str, str]:
        return {
            "/ping p99 ms": f"{1000 * quantile(self.pings, 0.99):.1f}" if self.pings else "",
            "GPU busy %": f"{sum(self.busy) / len(self.busy):.0f}" if self.busy else "",
            "peak GB": f"{max(self.memory_mb) * 2**20 / 1e9:.2f}" if self.memory_mb else "",
        }


# -- Parts -----------------------------------------------------------------------------------------------------------


def serve(plan: Plan) -> None:
    [sent] = (json.loads(body) | plan.fields for body in bodies(1))
    with server(plan) as running:
        first, first_s = running.image(sent)
        with Watch(running) as watch:
            made = [running.image(sent) for _ in range(plan.repeat)]
        marks = [time_ for time_, name, _ in running.events(sent, "sampler") if name == "progress"]
        total = median([seconds for _, seconds in made])
        canceled = cancel(running, sent)
        _, swap_s = running.image({**sent, "workflow": "other"})
        after_swap, back_s = running.image(sent)
        memory = [line for line in running.get("/metrics")[1].decode().splitlines() if "gpu_memory" in line]
    assert all(content == first for content, _ in made), "the same seed gave other bytes"
    assert after_swap == first, "the same seed gave other bytes after another model had run"
    row = {
        "image": f"{plan.width} x {plan.height}, {plan.steps} steps",
        "s an image": f"{total:.2f}",
        "outside the sampler": f"{1 - (marks[-1] - marks[0]) / total:.0%}" if len(marks) > 1 else "",
        **watch.figures,
        "start to ready s": f"{running.ready_s:.1f}",
        "first image s": f"{first_s:.2f}",
        "after a cancel s": f"{canceled:.2f}",
        "other model s": f"{swap_s:.2f}",
        "and back s": f"{back_s:.2f}",
    }
    report("gpu_serve", [row], machine=machine(comfyui()), metrics=memory, seconds=[seconds for _, seconds in made])


def cancel(running: Server, sent: dict) -> float:
    """Seconds from DELETE, in the middle of the steps, until the stream has ended and the executor is free."""
    started = 0.0
    for _, name, data in running.events({**sent, "num_inference_steps": 100}, "canceled"):
        if name == "progress" and data["value"] >= 3 and not started:
            started = time.perf_counter()
            running.delete("canceled")
    while "tryon_queue_depth 0.0" not in running.get("/metrics")[1].decode():
        time.sleep(0.002)
    return time.perf_counter() - started


def batch(plan: Plan) -> None:
    [sent] = (json.loads(body) | plan.fields for body in bodies(1))
    rows = []
    with server(plan) as running:
        running.image(sent)
        for count in (1, 2, 4):
            running.image({**sent, "num_images": count})
            with Watch(running) as watch:
                seconds = [
                    running.post({**sent, "num_images": count}, "application/json")[2]
                    for _ in range(max(2, plan.repeat // 2))
                ]
            each = median(seconds) / count
            rows.append({"what": f"{count} at once", "s an image": f"{each:.2f}", **watch.figures})
        running.image({**sent, "workflow": "other"})
        with Watch(running) as watch:
            turns = [running.image({**sent, "workflow": name})[1] for name in ("catvton_mask", "other") * 2]
        rows.append({"what": "two models in turns", "s an image": f"{median(turns):.2f}", **watch.figures})
    report("gpu_batch", rows, machine=machine(comfyui()))


def faults(plan: Plan) -> None:
    [sent] = (json.loads(body) | plan.fields for body in bodies(1))
    plain = {key: sent[key] for key in ("person_image", "garment_image")}
    rows = []
    with server(plan) as running:
        before, _ = running.image(sent)
        status, content, seconds = running.post({**plain, "workflow": "fills"})
        rows.append(fault_row("GPU memory full", status, content, seconds, running))
        after, after_s = running.image(sent)
        rows[-1]["next image"] = f"{'same bytes' if after == before else 'OTHER BYTES'}, {after_s:.2f} s"
        status, content, seconds = running.post({**plain, "workflow": "breaks"})
        rows.append(fault_row("device-side assert", status, content, seconds, running))
        status, content, _ = running.post(sent)
        rows[-1]["next image"] = f"{status} {json.loads(content)['error']['code']}" if status != 200 else "200"
    with server(plan) as running:
        again, _ = running.image(sent)
        rows.append({"fault": "none: the next worker", "next image": "same bytes" if again == before else "OTHER"})
    report("gpu_faults", rows, machine=machine(comfyui()))
    codes = [row.get("answer") for row in rows]
    assert codes[0] == "503 out_of_memory" and rows[0]["/ping"] == 200 and after == before, rows[0]
    assert rows[1]["/ping"] == 503 and again == before, rows[1]


def fault_row(name: str, status: int, content: bytes, seconds: float, running: Server) -> dict[str, Any]:
    code = json.loads(content)["error"]["code"] if status != 200 else ""
    return {
        "fault": name,
        "answer": f"{status} {code}",
        "after s": f"{seconds:.2f}",
        "/ping": running.get("/ping")[0],
        "/readyz": running.get("/readyz")[0],
    }


def sampler(plan: Plan) -> None:
    for dtype in plan.dtypes:
        script(plan, "sampler.py", "--dtype", dtype, "--steps", str(plan.steps), "--repeat", "1")


def kernels(plan: Plan) -> None:
    script(plan, "kernels.py")


def fashn(plan: Plan) -> None:
    options = ["--tiny"] if plan.is_rehearsal else []
    subprocess.run([sys.executable, str(ROOT / "benchmarks/fashn.py"), *options], check=True)


def script(plan: Plan, name: str, *options: str) -> None:
    models = [] if plan.is_rehearsal else ["--models", str(plan.models)]
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--sizes", *plan.sizes, *models, *options]
    subprocess.run(command, check=True)


def main() -> None:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="all if not given; may be given again")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--models", type=Path, default=ROOT / ".run/published", help="where the weights are, or go")
    given = parser.parse_args(sys.argv[1:split])
    plan = Plan(models=given.models.resolve(), arguments=sys.argv[split + 1 :])
    if given.rehearse:
        plan = rehearsal(plan)
        plan.models = ROOT / ".demo/models"
        checkpoint.write(plan.models)
    elif not CUDA:
        sys.exit("There is no GPU here. --rehearse shows that the script runs.")
    elif not plan.models.exists():
        write_published(plan.models)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        plan.scratch = Path(scratch)
        for part in given.part or PARTS:
            started = time.perf_counter()
            try:
                globals()[part](plan)
            except (AssertionError, SystemExit, subprocess.CalledProcessError, OSError) as error:
                failed.append(part)
                print(f"{part} FAILED: {error}", flush=True)
            print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
