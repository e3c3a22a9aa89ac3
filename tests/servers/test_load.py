"""Many clients at once, clients that are gone, and workers that can do no more."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from support.images import picture, to_base64
from support.replies import error
from support.servers import EMBEDDED, ROOT, Server, probe_server
from support.waiting import until

CLIENTS = 200
MAX_QUEUE = 8
FAULTS = ("none", "cuda", "memory", "pause", "sleep", "hang")
GREY = to_base64(Image.new("RGB", (32, 32), "grey"))


def add_faults(workflows: Path) -> None:
    """A workflow for each fault of the probe's node, which else hands back the person: fast, and everybody's own."""
    demo = json.loads((ROOT / "workflows/demo.json").read_text())
    for fault in FAULTS:
        probe = {"class_type": "ProbeFault", "inputs": {"image": ["1", 0], "fault": fault}}
        output = {"class_type": "TryOnOutput", "inputs": {"images": ["20", 0]}}
        graph = {"1": demo["1"], "2": demo["2"], "20": probe, "9": output}
        (workflows / f"fault_{fault}.json").write_text(json.dumps(graph))


@pytest.fixture(scope="module")
def worker(server) -> Server:
    add_faults(server.workflows)
    return server


@contextlib.contextmanager
def fresh(engine: str, folder: Path, **environment: str):
    """A server for a test that leaves none."""
    (folder / "workflows").mkdir()
    add_faults(folder / "workflows")
    environment |= {
        "TRYON_WORKFLOWS_DIR": str(folder / "workflows"),
        "TRYON_WORKFLOW": "fault_none",
        "TRYON_WARMUP": "0",
    }
    with probe_server(engine, folder, environment) as server:
        yield server


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
    for family in text_string_to_metric_families(httpx.get(server.url + "/metrics", timeout=30).text):
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
    with contextlib.suppress(httpx.TimeoutException):
        return httpx.post(server.url + "/api/v1/tryon", json=body("none"), timeout=15).status_code == 200
    return False


def test_two_hundred_at_once_are_answered_or_told_to_come_back(worker):
    before = metrics(worker)
    people = np.random.default_rng(5).integers(0, 255, (CLIENTS, 32, 32, 3), np.uint8)

    async def send(client: httpx.AsyncClient, person: np.ndarray) -> httpx.Response:
        return await client.post("/api/v1/tryon", json=body("none", to_base64(Image.fromarray(person))))

    async def send_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=worker.url, timeout=120, limits=limits) as client:
            tasks = [asyncio.create_task(send(client, person)) for person in people]
            await asyncio.wait(tasks, timeout=2)
            await client.delete("/api/v1/tryon/blocker")
            return await asyncio.gather(*tasks)

    blocker = started(worker, "sleep", "blocker")
    replies = asyncio.run(send_all())
    blocker.result()
    statuses = Counter(reply.status_code for reply in replies)
    assert set(statuses) == {200, 429} and statuses[200] >= MAX_QUEUE, statuses
    for reply, person in zip(replies, people):
        if reply.status_code == 200:
            assert np.array_equal(picture(reply), person)
        else:
            error(reply, 429, "queue_full")
            assert int(reply.headers["Retry-After"]) >= 1
    until(lambda: depth(worker) == 0)
    counted = metrics(worker) - before
    assert counted["ok"] == counted["tryon_pictures_total"] == statuses[200]
    assert counted["queue_full"] == statuses[429] and counted["canceled"] == 1
    assert works(worker)


CLIENT = """
import http.client, sys
host, content = sys.argv[1:]
connection = http.client.HTTPConnection(host)
connection.request("POST", "/api/v1/tryon", content, {"Content-Type": "application/json"})
connection.getresponse()
"""


def test_killed_clients_free_the_executor_and_their_places(worker):
    command = [sys.executable, "-c", CLIENT, worker.url.removeprefix("http://"), json.dumps(body("sleep"))]
    before = metrics(worker)
    clients = [subprocess.Popen(command) for _ in range(4)]
    until(lambda: depth(worker) == 4)
    for client in clients:
        client.send_signal(signal.SIGKILL)
    until(lambda: depth(worker) == 0)
    assert works(worker)
    assert (metrics(worker) - before)["canceled"] == 4
    for client in clients:
        client.wait()


def test_delete_hits_its_own_request_waiting_or_running(worker):
    with worker.client() as client:
        running = started(worker, "sleep", "running")
        waiting = Sent(worker, "sleep", "waiting")
        until(lambda: depth(worker) == 2)
        last = Sent(worker, "none", "last", events=True)
        until(lambda: {"status": "queued", "position": 2} in last.statuses)
        error(client.post("/api/v1/tryon", json=body("none"), headers={"X-Request-Id": "waiting"}), 409, "conflict")
        assert client.delete("/api/v1/tryon/waiting").status_code == 204
        error(waiting.result(), 499, "canceled")
        until(lambda: {"status": "queued", "position": 1} in last.statuses)
        assert running.waits() and last.waits() and depth(worker) == 2
        error(client.delete("/api/v1/tryon/waiting"), 404, "not_found")
        assert client.delete("/api/v1/tryon/running").status_code == 204
        running.result()
        assert last.result().status_code == 200 and last.statuses[-1] == {"status": "running"}
        error(client.delete("/api/v1/tryon/last"), 404, "not_found")


def test_cancelling_everything_in_every_order_leaves_a_worker_that_works(worker):
    rng = np.random.default_rng(1)
    with worker.client() as client:
        for round_number in range(6):
            names = [f"r{round_number}-{index}" for index in range(4)]
            sent = [Sent(worker, "pause" if index % 2 else "sleep", name) for index, name in enumerate(names)]
            until(lambda: depth(worker) == 4)
            for index in rng.permutation(4):
                if client.delete(f"/api/v1/tryon/{names[index]}").status_code == 404:  # it has ended by itself
                    assert sent[index].result().status_code == 200
            for request in sent:
                assert request.result().status_code in (200, 499)
            assert depth(worker) == 0
    assert works(worker)


def test_out_of_memory_is_told_and_does_not_last(worker):
    with worker.client() as client:
        reply = client.post("/api/v1/tryon", json=body("memory"))
        error(reply, 503, "out_of_memory")
        assert int(reply.headers["Retry-After"]) >= 1
        assert client.get("/ping").json() == {"status": "healthy"}
    assert works(worker)


def test_a_deadline_frees_the_executor_and_one_that_hangs_counts_as_dead(engine, tmp_path):
    with fresh(engine, tmp_path, TRYON_TIMEOUT_S="4") as server, server.client() as client:
        late = started(server, "sleep", "late")
        until(lambda: time.monotonic() > late.sent + 2)  # else the deadline of the one behind passes with this one's
        behind = Sent(server, "none")
        assert behind.result().status_code == 200, "the deadline of the one before freed the executor"
        late.result()
        error(client.post("/api/v1/tryon", json=body("sleep")), 504, "timeout")
        assert works(server) and client.get("/ping").status_code == 200

        error(Sent(server, "hang").result(), 504, "timeout")
        check_failed(server, "progress")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_idle_worker_ends_at_once(tmp_path, name):
    with fresh(EMBEDDED, tmp_path) as server:
        server.process.send_signal(getattr(signal, name))
        assert server.process.wait(15) == 0


def test_what_does_not_finish_in_time_is_told_to_go_elsewhere(tmp_path):
    with fresh(EMBEDDED, tmp_path, TRYON_DRAIN_S="1") as server:
        running, waiting = started(server, "sleep", "a"), Sent(server, "none")
        until(lambda: depth(server) == 2)
        server.process.send_signal(signal.SIGTERM)
        error(waiting.result(), 503, "draining")
        running.result()
        assert server.process.wait(15) == 0


def test_whoever_was_accepted_is_served_to_the_end_though_the_worker_drains(engine, tmp_path):
    """Three that wait, one that still sends its request, one that still reads its reply, larger than sockets hold."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (2400, 2400, 3), np.uint8))
    data = io.BytesIO()
    noise.save(data, "JPEG", quality=95)
    large = body("none", base64.b64encode(data.getvalue()).decode())
    with fresh(engine, tmp_path) as server, server.client() as client:
        host = server.url.removeprefix("http://")
        reader, sender = (http.client.HTTPConnection(host, timeout=60) for _ in range(2))
        headers = {"Content-Type": "application/json"}
        reader.request("POST", "/api/v1/tryon", json.dumps(large), headers | {"Accept": "image/png"})
        reply = reader.getresponse()
        content = json.dumps(body("none")).encode()
        sender.putrequest("POST", "/api/v1/tryon")
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            sender.putheader(name, value)
        sender.endheaders(content[:50])
        until(lambda: metrics(server)["tryon_pictures_total"] == 1)  # the reply is on its way, the other body too
        accepted = [Sent(server, "pause") for _ in range(3)]
        until(lambda: depth(server) == 3)

        server.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/ping").status_code == 503)
        assert client.get("/ping").json() == {"status": "draining"}
        assert client.get("/readyz").status_code == 503 and client.get("/healthz").status_code == 200
        refused = client.post("/api/v1/tryon", json=body("none"))
        error(refused, 503, "draining")
        assert refused.headers["Retry-After"]
        assert Image.open(io.BytesIO(reply.read())).convert("RGB").size == (2400, 2400)
        sender.send(content[50:])
        assert [request.result().status_code for request in accepted] == [200] * 3
        assert sender.getresponse().status == 200
        assert server.process.wait(25) == 0
        assert "Traceback" not in server.log()


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


@pytest.mark.last_on_its_server
def test_a_gpu_fault_is_latched(worker):
    assert works(worker)
    reply = Sent(worker, "cuda").result()
    error(reply, 503, "not_ready")
    check_failed(worker, "GPU")
    assert "start a new one" in worker.log() and "CUDA error" in worker.log()
