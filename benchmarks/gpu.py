"""Measures on a GPU what a server owes its users: time, memory, cancels, faults, and the samplers beside their floors.

    python benchmarks/gpu.py [--part NAME]... [--models FOLDER] [-- ARGUMENTS OF COMFYUI]
    python benchmarks/gpu.py --rehearse [--part NAME]...

Parts: serve, faults, batch and serve_fashn, which share a server until a fault ends it; sampler, fashn, steps, kernels
and compile, which need none. Each takes less than four minutes on one H100, prints its tables as soon as it has them,
and does not need the others. Needs a ComfyUI (see COMFYUI_DIR) and no network: weights of the published sizes are made
from random numbers, once, in --models. --rehearse runs every part with small weights, small images and few steps, with
or without a GPU: it says that the script runs, and nothing about speed.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
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
from models import DEVICE
from PIL import Image
from support import tiny_fashn

CUDA = torch.cuda.is_available()
PARTS = ("serve", "faults", "batch", "serve_fashn", "sampler", "fashn", "steps", "kernels", "compile")
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
    canvas: tuple[int, int] = (864, 576)  # of FASHN VTON, height and width
    fashn_steps: int = 30
    repeat: int = 5
    sizes: tuple[str, ...] = ("384x512", "768x1024", "1024x1360")
    dtypes: tuple[str, ...] = ("float16", "bfloat16")
    scratch: Path = field(default_factory=Path)
    is_rehearsal: bool = False
    used_before_gb: float = 0.0  # of the GPU, by others

    @property
    def fashn(self) -> Path:
        return self.models / "fashn"

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

    @property
    def catvton_request(self) -> dict[str, Any]:
        return json.loads(bodies(1)[0]) | self.fields

    @property
    def fashn_request(self) -> dict[str, Any]:
        fields = {"seed": SEED, "num_inference_steps": self.fashn_steps, "workflow": "fashn"}
        return json.loads(bodies(1)[0]) | fields


def rehearsal(plan: Plan) -> Plan:
    return Plan(
        models=plan.models, arguments=plan.arguments, width=192, height=256, steps=4, repeat=2,
        canvas=tiny_fashn.CANVAS, fashn_steps=2, sizes=("64x64",), dtypes=("float16",) if CUDA else ("float32",),
        is_rehearsal=True,
    )  # fmt: skip


def _mask(width: int, height: int) -> bytes:
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


# -- The server ------------------------------------------------------------------------------------------------------


class Servers:
    """The server that parts share, started when one needs it."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._open, self._running = plan, contextlib.ExitStack(), None

    def get(self) -> "Server":
        if self._running is None:
            self._running = self._open.enter_context(server(self._plan))
        return self._running

    def end(self) -> None:
        self._running = None
        self._open.close()


@contextlib.contextmanager
def server(plan: Plan) -> Iterator["Server"]:
    """A locked server, ready, with the faults' pack; and with CatVTON's masked workflow, which is its default, the same
    in bfloat16, FASHN VTON's, and two that fail."""
    folder = plan.scratch / "workflows"
    write_workflows(folder, plan)
    paths = plan.scratch / "paths.yaml"
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
    }
    command = [str(ROOT / "start.sh"), "--", *options, *plan.arguments]
    log = plan.scratch / f"server-{port}.log"
    started = time.perf_counter()
    with process(command, log, variables) as pid:
        try:
            wait_for(port, "/ping", pid)
            yield Server(port, pid, log, time.perf_counter() - started, plan.used_before_gb)
        finally:
            print(f"the end of {log.name}:\n{log.read_text()[-4000:]}", flush=True)


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
    loader["inputs"]["mixed_precision"] = "bf16" if CUDA else "fp32"  # in bfloat16 a CPU takes minutes
    other = json.loads(json.dumps(graph))
    loader["inputs"]["mixed_precision"] = "auto"
    written["other"] = other
    height, width = plan.canvas
    graph = json.loads((ROOT / "workflows/fashn.json").read_text())
    for node in graph.values():
        if "fashn_path" in node["inputs"]:
            node["inputs"]["fashn_path"] = str(plan.fashn)
        if "canvas_width" in node["inputs"]:
            node["inputs"].update(canvas_width=width, canvas_height=height, steps=plan.fashn_steps)
        elif "width" in node["inputs"]:
            node["inputs"].update(width=width, height=height)
    written["fashn"] = graph
    for name, document in written.items():
        (folder / f"{name}.json").write_text(json.dumps(document))


@dataclass
class Server:
    port: int
    pid: int
    log: Path
    ready_s: float
    used_before_gb: float

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
            raise Refused(f"answered {status}: {content[:500]!r}")
        return content, seconds

    def events(self, body: dict, request_id: str) -> Iterator[tuple[float, str, dict]]:
        """Time, name and data of the events of a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "X-Request-Id": request_id}
        connection.request("POST", PATH, json.dumps(body), headers)
        reply, name = connection.getresponse(), ""
        if reply.status != 200:
            raise Refused(f"answered {reply.status}: {reply.read()[:500]!r}")
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

    def reserved(self) -> float:
        """Bytes of the GPU that torch holds in the server."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("tryon_gpu_memory_bytes ")))

    def delete(self, request_id: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("DELETE", f"{PATH}/{request_id}")
        connection.getresponse().read()


class Refused(Exception):
    """A request that was to succeed did not."""


def nvidia_smi(*options: str) -> list[str]:
    return ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", *options]


def used_gb() -> float:
    """Memory of the first GPU in use by everybody."""
    if not CUDA or not shutil.which("nvidia-smi"):
        return 0.0
    found = subprocess.run(nvidia_smi(), capture_output=True, text=True, check=True).stdout
    return float(found.splitlines()[0].split(",")[1]) * 2**20 / 1e9


class Watch:
    """Asks /ping and the GPU all the time while the block lasts."""

    def __init__(self, server: Server) -> None:
        self.server, self.pings, self.busy, self.used_gb = server, [], [], []

    def __enter__(self) -> "Watch":
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ping)]
        self._smi = None
        if shutil.which("nvidia-smi"):
            self._smi = subprocess.Popen(nvidia_smi("-lms", "100", "-i", "0"), stdout=subprocess.PIPE, text=True)
            self._threads.append(threading.Thread(target=self._read))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        if self._smi:
            self._smi.terminate()
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
                self.used_gb.append(memory * 2**20 / 1e9 - self.server.used_before_gb)

    @property
    def figures(self) -> dict[str, str]:
        return {
            "/ping p99 ms": f"{1000 * quantile(self.pings, 0.99):.1f}" if self.pings else "",
            "GPU busy %": f"{sum(self.busy) / len(self.busy):.0f}" if self.busy else "",
            "peak GB": f"{max(self.used_gb):.2f}" if self.used_gb else "",
            "reserved GB": f"{self.server.reserved() / 1e9:.2f}" if CUDA else "",
        }


# -- Parts -----------------------------------------------------------------------------------------------------------


def serve(plan: Plan, servers: Servers) -> None:
    running, sent = servers.get(), plan.catvton_request
    row, seconds, same = served(running, sent, plan, f"CatVTON {plan.width} x {plan.height}, {plan.steps} steps")
    row["start to ready s"] = f"{running.ready_s:.1f}"
    report("gpu_serve", [row], machine=machine(comfyui()), seconds=seconds)
    row["after a cancel s"] = f"{cancel(running, sent):.3f}"
    row["s an image of 20 steps"] = f"{running.image({**sent, 'num_inference_steps': 20})[1]:.2f}"
    first, _ = running.image(sent)
    swap = [running.image({**sent, "workflow": name})[1] for name in ("other", "other")]
    after, back = running.image(sent)
    row["other model, first and next s"] = " ".join(f"{value:.2f}" for value in swap)
    row["and back s"] = f"{back:.2f}"
    row["same bytes after the other"] = after == first
    report("gpu_serve", [row], machine=machine(comfyui()), seconds=seconds)
    assert same, "the same seed gave other bytes"
    assert after == first, "the same seed gave other bytes after another model had run"


def served(running: "Server", sent: dict, plan: Plan, title: str) -> tuple[dict[str, Any], list[float], bool]:
    """Figures of one workflow, seconds of its requests, and whether all had the same bytes."""
    first, first_s = running.image(sent)
    with Watch(running) as watch:
        made = [running.image(sent) for _ in range(plan.repeat)]
    seconds = [one for _, one in made]
    total = median(seconds)
    started = time.perf_counter()
    events = [*running.events(sent, "sampler")]
    whole = events[-1][0] - started
    marks = [when for when, name, _ in events if name == "progress"]
    same = all(content == first for content, _ in made)
    return {
        "image": title,
        "s an image": f"{total:.2f}",
        "outside the sampler": f"{1 - (marks[-1] - marks[0]) / whole:.0%}" if len(marks) > 1 else "",
        **watch.figures,
        "first image s": f"{first_s:.2f}",
        "same bytes": same,
    }, seconds, same  # fmt: skip


def serve_fashn(plan: Plan, servers: Servers) -> None:
    height, width = plan.canvas
    row, seconds, same = served(
        servers.get(), plan.fashn_request, plan, f"FASHN VTON {width} x {height}, {plan.fashn_steps} steps"
    )
    report("gpu_serve_fashn", [row], machine=machine(comfyui()), seconds=seconds)
    assert same, "the same seed gave other bytes"


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


def batch(plan: Plan, servers: Servers) -> None:
    running, sent = servers.get(), plan.catvton_request
    rows = []
    for count in (1, 2, 4):
        several = {**sent, "num_images": count}
        running.post({**several, "num_inference_steps": 2}, "application/json")  # chooses kernels
        with Watch(running) as watch:
            status, content, seconds = running.post(several, "application/json")
        if status != 200:
            raise Refused(f"answered {status}: {content[:500]!r}")
        rows.append({"what": f"{count} at once", "s an image": f"{seconds / count:.2f}", **watch.figures})
    running.image({**sent, "workflow": "other", "num_inference_steps": 2})
    with Watch(running) as watch:
        turns = [running.image({**sent, "workflow": name})[1] for name in ("catvton_mask", "other") * 2]
    rows.append({"what": "two models in turns", "s an image": f"{median(turns):.2f}", **watch.figures})
    report("gpu_batch", rows, machine=machine(comfyui()))


def faults(plan: Plan, servers: Servers) -> None:
    running, sent = servers.get(), plan.catvton_request
    plain = {key: sent[key] for key in ("person_image", "garment_image")}
    before, _ = running.image(sent)
    status, content, seconds = running.post({**plain, "workflow": "fills"})
    rows = [fault_row("GPU memory full", status, content, seconds, running)]
    status, after, after_s = running.post(sent)
    same = f"{'same bytes' if after == before else 'OTHER BYTES'}, {after_s:.2f} s"
    rows[0]["next image"] = same if status == 200 else f"{status} {code_of(after)}"
    report("gpu_faults", rows, machine=machine(comfyui()))
    status, content, seconds = running.post({**plain, "workflow": "breaks"})
    rows.append(fault_row("device-side assert", status, content, seconds, running))
    status, content, _ = running.post(sent)
    rows[1]["next image"] = f"{status} {code_of(content)}" if status != 200 else "200"
    report("gpu_faults", rows, machine=machine(comfyui()))
    servers.end()
    again, _ = servers.get().image(sent)
    rows.append({"fault": "none: the next worker", "next image": "same bytes" if again == before else "OTHER"})
    rows[2]["after s"] = f"{servers.get().ready_s:.2f}"
    report("gpu_faults", rows, machine=machine(comfyui()))
    assert rows[0]["answer"] == "503 out_of_memory" and rows[0]["/ping"] == 200 and after == before, rows[0]
    assert rows[1]["/ping"] == 503 and again == before, rows[1]


def code_of(content: bytes) -> str:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return json.loads(content)["error"]["code"]
    return repr(content[:80])


def fault_row(name: str, status: int, content: bytes, seconds: float, running: Server) -> dict[str, Any]:
    return {
        "fault": name,
        "answer": f"{status} {code_of(content)}" if status != 200 else "200",
        "after s": f"{seconds:.2f}",
        "/ping": running.get("/ping")[0],
        "/readyz": running.get("/readyz")[0],
    }


def sampler(plan: Plan, servers: Servers) -> None:
    models = [] if plan.is_rehearsal else ["--models", str(plan.models)]
    options = ["--exact", "--dtype", *plan.dtypes, "--steps", str(plan.steps), "--repeat", "1", *models]
    script("sampler.py", "--sizes", *plan.sizes, *options)


def compile(plan: Plan, servers: Servers) -> None:
    """CatVTON's UNet and FASHN VTON's blocks with torch.compile, at the size that users ask for."""
    if plan.is_rehearsal:
        return print("not rehearsed: it takes minutes", flush=True)
    size, models = f"{plan.width}x{plan.height}", ["--models", str(plan.models)]
    script("sampler.py", "--sizes", size, "--steps", str(plan.steps), "--repeat", "1", "--compile", *models)
    script("fashn.py", "--compile", "--repeat", "1", "--models", str(plan.fashn))


def kernels(plan: Plan, servers: Servers) -> None:
    script("kernels.py", *([] if plan.is_rehearsal else ["--models", str(plan.models)]))


def steps(plan: Plan, servers: Servers) -> None:
    models = ["--models", str(plan.models), "--fashn", str(plan.fashn)]
    script("steps.py", *(["--tiny", "--size", *plan.sizes] if plan.is_rehearsal else models))


def fashn(plan: Plan, servers: Servers) -> None:
    script("fashn.py", *(["--tiny"] if plan.is_rehearsal else ["--models", str(plan.fashn)]), "--exact")


def script(name: str, *options: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / name), *options], check=True)


def write_models(plan: Plan) -> None:
    if plan.is_rehearsal:
        plan.models = ROOT / ".run/rehearsal"
        checkpoint.write(plan.models)
        if not plan.fashn.exists():
            tiny_fashn.write_all(plan.fashn)
        return
    if not (plan.models / checkpoint.BASE).exists():  # in processes of their own, which give their memory back
        script("sampler.py", "--write", str(plan.models))
    if not plan.fashn.exists():
        script("fashn.py", "--write", str(plan.fashn))


def stop(*signal: Any) -> None:
    raise KeyboardInterrupt  # so that servers are stopped


def main() -> None:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="all if not given; may be given again")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--models", type=Path, default=ROOT / ".run/published", help="where the weights are, or go")
    parser.add_argument("--repeat", type=int, default=5, help="requests that a time is the median of")
    given = parser.parse_args(sys.argv[1:split])
    if not given.rehearse and not CUDA:
        sys.exit("There is no GPU here. --rehearse shows that the script runs.")
    plan = Plan(models=given.models.resolve(), arguments=sys.argv[split + 1 :], repeat=given.repeat)
    plan = rehearsal(plan) if given.rehearse else plan
    signal.signal(signal.SIGTERM, stop)
    write_models(plan)
    plan.used_before_gb = used_gb()
    print(f"{DEVICE}, {plan.used_before_gb:.2f} GB in use by others", flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        plan.scratch = Path(scratch)
        servers = Servers(plan)
        try:
            for part in given.part or PARTS:
                if part not in ("serve", "faults", "batch", "serve_fashn"):
                    servers.end()  # its memory and its threads would be measured too
                started = time.perf_counter()
                try:
                    globals()[part](plan, servers)
                except (Exception, SystemExit) as error:
                    failed.append(part)
                    traceback.print_exc()
                    servers.end()  # the next part begins with another
                    print(f"{part} FAILED: {error}", flush=True)
                print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
        finally:
            servers.end()
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
