"""Requests to the probe's node that fails, waits or hangs, and what a server says of them."""

import contextlib
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from support.images import to_base64
from support.replies import error
from support.servers import ROOT, Server
from support.waiting import until

FAULTS = ("none", "cuda", "memory", "pause", "sleep", "hang")
GREY = to_base64(Image.new("RGB", (32, 32), "grey"))


def fault_graph(class_type: str, fault: str) -> dict[str, Any]:
    """A graph whose node of the probe hands back the person, or does what `fault` says: fast, and everybody's own."""
    demo = json.loads((ROOT / "workflows/demo.json").read_text())
    inputs = {"image": ["1", 0], "fault": fault}
    probe = {"class_type": class_type, "inputs": inputs, "_meta": {"title": "Made to fail"}}
    output = {"class_type": "TryOnOutput", "inputs": {"images": ["20", 0]}}
    return {"1": demo["1"], "2": demo["2"], "20": probe, "9": output}


def write_workflows(folder: Path, nodes: Mapping[str, tuple[str, str]]) -> list[Path]:
    """Writes a workflow for each name with a class and a fault of the probe's; returns the files."""
    written = []
    for name, (class_type, fault) in nodes.items():
        written.append(folder / f"{name}.json")
        written[-1].write_text(json.dumps(fault_graph(class_type, fault)))
    return written


def add_faults(workflows: Path) -> list[Path]:
    """Writes a workflow for each fault of the probe's node; returns the files."""
    return write_workflows(workflows, {f"fault_{fault}": ("ProbeFault", fault) for fault in FAULTS})


def body(fault: str, person: str = GREY) -> dict[str, Any]:
    return {"person_image": person, "garment_image": GREY, "workflow": f"fault_{fault}"}


class Sent:
    """A request on its way, in a thread."""

    def __init__(self, server: Server, fault: str, request_id: str = "", events: bool = False) -> None:
        self.reply: httpx.Response | None = None
        self.statuses: list[dict] = []
        self.sent = time.monotonic()
        self._server, self._body = server, body(fault)
        self._headers = {"X-Request-Id": request_id} if request_id else {}
        self._thread = threading.Thread(target=self._stream if events else self._post)
        self._thread.start()

    def result(self) -> httpx.Response:
        self._thread.join(60)
        assert self.reply is not None, "no reply"
        return self.reply

    def waits(self) -> bool:
        return self._thread.is_alive()

    def _post(self) -> None:
        with self._server.client() as client:
            self.reply = client.post("/api/v1/tryon", json=self._body, headers=self._headers)

    def _stream(self) -> None:
        headers = self._headers | {"Accept": "text/event-stream"}
        with (
            self._server.client() as client,
            client.stream("POST", "/api/v1/tryon", json=self._body, headers=headers) as reply,
        ):
            name = ""
            for line in reply.iter_lines():
                field, _, value = line.partition(": ")
                name = value if field == "event" else name
                if field == "data" and name == "status":
                    self.statuses.append(json.loads(value))
            self.reply = reply


def metrics(server: Server) -> Counter:
    """Counters by name, requests by outcome."""
    found = Counter()
    with server.client() as client:
        text = client.get("/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                found[sample.labels.get("outcome", sample.name)] += sample.value
    return found


def depth(server: Server) -> int:
    return int(metrics(server)["tryon_queue_depth"])


def started(server: Server, fault: str, request_id: str) -> Sent:
    """A request that has begun to run."""
    sent = Sent(server, fault, request_id, events=True)
    until(lambda: {"status": "running"} in sent.statuses)
    return sent


def works(server: Server) -> bool:
    """Whether a request is answered long before a sleeping one would end."""
    with contextlib.suppress(httpx.TimeoutException), server.client(timeout=15) as client:
        return client.post("/api/v1/tryon", json=body("none")).status_code == 200
    return False


def check_failed(server: Server, reason: str) -> None:
    """/ping and its like say that the worker is of no use any more; it says so to requests too, and still ends well."""
    with server.client() as client:
        until(lambda: client.get("/ping").status_code == 503)
        content = client.get("/ping").json()
        assert content["status"] == "unhealthy" and reason in content["reason"]
        for path in ("/healthz", "/readyz", "/health"):
            assert client.get(path).status_code == 503
        reply = client.post("/api/v1/tryon", json=body("none"))
        error(reply, 503, "not_ready")
        assert reply.headers["Retry-After"]
        assert client.get("/ping").json() == content, "it stays so"
        assert client.get("/metrics").status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(40) == 0
