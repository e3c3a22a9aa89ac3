"""Three workers behind HAProxy with deploy/haproxy.cfg; deploy/README.md has figures of `python tests/balancer.py`."""

import signal
import threading
from collections.abc import Iterator

import httpx
import pytest
from comfyui_tryon.demo import checkpoint
from support.balancer import HAPROXY, Fleet, fleet, load
from support.servers import DEMO_MODELS
from support.waiting import until

pytestmark = pytest.mark.skipif(
    not HAPROXY, reason="NO HAPROXY HERE: the load balancer is not tested. Install it, or say with HAPROXY where it is."
)


@pytest.fixture(scope="module")
def workers() -> Iterator[Fleet]:
    checkpoint.write(DEMO_MODELS)
    environment = {"TRYON_MODELS_DIR": str(DEMO_MODELS), "TRYON_WARMUP": "0", "TRYON_MAX_QUEUE": "1"}
    with fleet(["127.0.0.2", "127.0.0.3", "127.0.0.4"], environment) as running:
        yield running


def queue_depth(workers: Fleet) -> int:
    """Requests waiting or running on all workers."""
    pages = [httpx.get(f"http://{address}:{workers.port}/metrics").text for address in workers.workers]
    return sum(int(float(page.split("\ntryon_queue_depth ")[1].split()[0])) for page in pages)


def test_ping_answers_for_the_fleet_and_metrics_stay_inside(workers):
    assert httpx.get(f"{workers.url}/ping").status_code == 200
    assert httpx.get(f"{workers.url}/api/v1/workflows").status_code == 200
    assert httpx.get(f"{workers.url}/metrics").status_code == 404


def test_delete_finds_the_worker(workers, fields):
    statuses: dict[int, int] = {}

    def send(number: int) -> None:
        body = {**fields, "num_inference_steps": 100}
        reply = httpx.post(
            f"{workers.url}/api/v1/tryon", json=body, headers={"X-Request-Id": f"cancel-{number}"}, timeout=120
        )
        statuses[number] = reply.status_code

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: queue_depth(workers) == 3, "the requests did not reach the workers")
    replies = [httpx.delete(f"{workers.url}/api/v1/tryon/cancel-{number}").status_code for number in range(3)]
    for thread in threads:
        thread.join()
    assert replies == [204, 204, 204]
    assert statuses == {0: 499, 1: 499, 2: 499}
    assert httpx.delete(f"{workers.url}/api/v1/tryon/nobody").status_code == 404


def test_a_client_that_goes_away_cancels_its_picture(workers, fields):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{workers.url}/api/v1/tryon", json={**fields, "num_inference_steps": 100}, timeout=1)
    until(lambda: queue_depth(workers) == 0, "a worker went on with a picture that nobody waits for")


def test_drained_and_killed_workers_are_not_seen_by_clients(workers, fields):
    first, second, _ = workers.workers.values()
    served = sum(workers.served().values())

    def disturb() -> None:
        for count, worker, number in ((6, first, signal.SIGTERM), (12, second, signal.SIGKILL)):
            until(lambda count=count: sum(workers.served().values()) - served >= count, "too few pictures")
            worker.send_signal(number)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    outcome = load(workers.url, fields, clients=16, requests=40, seeds=5)
    disturber.join()
    assert outcome.statuses == {200: 40}, "each worker takes 2 at once, so a balancer that sends more shows a 429 here"
    assert first.wait(30) == 0 and second.wait(30) == -signal.SIGKILL
    assert workers.retries() > 0, "no request was under way when the worker was killed"
    assert {seed: len(pictures) for seed, pictures in outcome.pictures.items()} == dict.fromkeys(range(5), 1)
