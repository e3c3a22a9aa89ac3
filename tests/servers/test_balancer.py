"""Three workers behind HAProxy with deploy/haproxy.cfg; docs/deployment.md has `python tests/balancer.py`'s figures."""

import contextlib
import io
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from support.balancer import HAPROXY, Fleet, balance, fleet, load, name_server
from support.faults import add_faults, body
from support.images import to_base64
from support.servers import NO_CERTIFICATES, ROOT, free_port
from support.waiting import until

pytestmark = pytest.mark.skipif(
    not HAPROXY, reason="NO HAPROXY HERE: the load balancer is not tested. Install it, or say with HAPROXY where it is."
)


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> Iterator[Fleet]:
    workflows = tmp_path_factory.mktemp("workflows")
    add_faults(workflows)
    environment = {
        "TRYON_WORKFLOWS_DIR": str(workflows),
        "TRYON_WORKFLOW": "fault_none",
        "TRYON_WARMUP": "0",
        "TRYON_MAX_QUEUE": "1",
        "PYTHONPATH": f"{ROOT / 'custom_nodes'}:{ROOT / 'tests'}",
    }
    with fleet(["127.0.0.2", "127.0.0.3", "127.0.0.4"], environment, "probe") as running:
        yield running


def queue_depth(workers: Fleet) -> int:
    """Requests waiting or running on all workers."""
    with httpx.Client(timeout=60, verify=NO_CERTIFICATES) as client:
        pages = [client.get(f"http://{address}:{workers.port}/metrics").text for address in workers.workers]
    return sum(int(float(page.split("\ntryon_queue_depth ")[1].split()[0])) for page in pages)


def test_ping_answers_for_the_fleet_and_metrics_stay_inside(workers):
    for path, status in (("/ping", 200), ("/api/v1/workflows", 200), ("/metrics", 404)):
        assert httpx.get(workers.url + path, timeout=60).status_code == status


def test_delete_finds_the_worker(workers):
    statuses: dict[int, int] = {}

    def send(number: int) -> None:
        headers = {"X-Request-Id": f"cancel-{number}"}
        reply = httpx.post(f"{workers.url}/api/v1/tryon", json=body("sleep"), headers=headers, timeout=120)
        statuses[number] = reply.status_code

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: queue_depth(workers) == 3, "the requests did not reach the workers")
    with httpx.Client(base_url=workers.url, timeout=60) as client:
        replies = [client.delete(f"/api/v1/tryon/cancel-{number}").status_code for number in range(3)]
    for thread in threads:
        thread.join()
    assert replies == [204, 204, 204]
    assert statuses == {0: 499, 1: 499, 2: 499}
    assert httpx.delete(f"{workers.url}/api/v1/tryon/nobody", timeout=60).status_code == 404


def test_a_client_that_goes_away_cancels_its_picture(workers):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{workers.url}/api/v1/tryon", json=body("sleep"), timeout=1)
    until(lambda: queue_depth(workers) == 0, "a worker went on with a picture that nobody waits for")


def test_drained_and_killed_workers_are_not_seen_by_clients(workers):
    people = [Image.new("RGB", (32, 32), (50 * seed, 0, 0)) for seed in range(5)]
    fields = [body("pause", to_base64(person)) for person in people]
    first, second, _ = workers.workers.values()
    served = sum(workers.served().values())

    def disturb() -> None:
        for count, worker, number in ((6, first, signal.SIGTERM), (12, second, signal.SIGKILL)):
            until(lambda count=count: sum(workers.served().values()) - served >= count, "too few pictures")
            worker.send_signal(number)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    outcome = load(workers.url, fields.__getitem__, clients=16, requests=24, seeds=5)
    disturber.join()
    assert outcome.statuses == {200: 24}, "each worker takes 2 at once, so a balancer that sends more shows a 429 here"
    assert first.wait(120) == 0 and second.wait(120) == -signal.SIGKILL
    assert workers.retries() > 0, "no request was under way when the worker was killed"
    for seed, person in enumerate(people):
        (content,) = outcome.pictures[seed]
        assert Image.open(io.BytesIO(content)).convert("RGB").tobytes() == person.tobytes()


class Mortal:
    """A worker that is ready, and ends with the first request that it gets."""

    def __init__(self, address: str, port: int) -> None:
        self.deaths = 0
        self._listener = socket.create_server((address, port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                with connection:
                    head = connection.recv(65_536)
                    if head.startswith(b"POST"):
                        self.deaths += 1
                        self.end()
                    else:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def end(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def mortals(
    folder: Path, addresses: list[str], configuration: str | None = None
) -> Iterator[tuple[Fleet, list[Mortal]]]:
    running = Fleet(free_port(), folder)
    workers = [Mortal(address, running.port) for address in addresses]
    with name_server(addresses) as resolver, balance(running, resolver, configuration):
        # Ready from the first check on, they never change from DOWN to UP.
        until(
            lambda: len(set(re.findall(r"tryon/(worker\d+) changed its IP", running.log("haproxy")))) == len(addresses)
        )
        yield running, workers
    for worker in workers:
        worker.end()


def test_a_request_that_workers_die_of_ends_two_of_them(tmp_path):
    addresses = [f"127.0.0.{number}" for number in range(11, 17)]
    with mortals(tmp_path, addresses) as (running, workers):
        reply = httpx.post(f"{running.url}/api/v1/tryon", json={}, timeout=60)
        assert sum(worker.deaths for worker in workers) == 2
        assert reply.status_code == 502 and reply.json()["error"]["code"] == "internal_error"


def stall(running: Fleet, length: int, sent: int) -> socket.socket:
    port = int(running.url.rpartition(":")[2])
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = (
        f"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    client.sendall(head.encode() + bytes(sent))
    return client


def test_clients_that_stall_in_their_body_are_bounded_and_dropped(tmp_path):
    whole = (ROOT / "deploy/haproxy.cfg").read_text()
    short = re.sub(r"(?m)^  timeout http-request .*$", "  timeout http-request 15s", whole)
    assert short.count("timeout http-request 15s") == 2
    with mortals(tmp_path, ["127.0.0.21"], short) as (running, _):
        stalled = [stall(running, 29_000_000, 1000) for _ in range(40)]
        assert httpx.get(f"{running.url}/ping", timeout=60).status_code == 200
        answers = [client.recv(100) for client in stalled]
    dropped = answers.count(b"")
    # HAProxy's threads count beside each other: one that comes at the same moment may be let in too.
    assert 24 <= dropped <= 26
    assert sum(b" 429 " in answer for answer in answers) == len(answers) - dropped
