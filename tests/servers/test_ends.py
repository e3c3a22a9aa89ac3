"""Servers that are at their end: by their deadline, by a signal, after a drain."""

import base64
import contextlib
import http.client
import io
import json
import signal
import time
from pathlib import Path

import numpy as np
from PIL import Image
from support.faults import Sent, add_faults, body, check_failed, depth, metrics, started, works
from support.replies import error
from support.servers import EMBEDDED, probe_server
from support.waiting import until


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


def test_an_idle_worker_ends_at_once(tmp_path):
    with fresh(EMBEDDED, tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
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
