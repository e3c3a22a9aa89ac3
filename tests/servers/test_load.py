"""Many clients at once, clients that are gone, and a GPU that has failed."""

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter

import httpx
import numpy as np
import pytest
from PIL import Image
from support.faults import Sent, body, check_failed, depth, metrics, started, works
from support.images import picture, to_base64
from support.replies import error
from support.waiting import until

CLIENTS = 200
MAX_QUEUE = 8


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


@pytest.mark.last_on_its_server
def test_a_gpu_fault_is_latched(worker):
    assert works(worker)
    reply = Sent(worker, "cuda").result()
    error(reply, 503, "not_ready")
    check_failed(worker, "GPU")
    assert "start a new one" in worker.log() and "CUDA error" in worker.log()
