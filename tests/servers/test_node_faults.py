"""Whatever a node raises or returns fails its own request only, and what waits behind it is answered."""

import concurrent.futures

import httpx
import pytest
from PIL import Image
from probe import RAISED, RETURNED, SHOWN
from prometheus_client.parser import text_string_to_metric_families
from support.faults import write_workflows
from support.images import from_base64, to_base64
from support.replies import error
from support.servers import EMBEDDED, Server

CODES = dict.fromkeys([*RAISED, *RETURNED], (500, "node_execution_error"))
CODES |= {name: (503, "out_of_memory") for name in CODES if name.startswith("memory")}
CODES["nobody"] = 422, "no_person_found"
del CODES["cuda"]  # a GPU that has failed is the one fault that ends a worker
LOG_LIMIT = 20_000  # characters a fault
GREY = to_base64(Image.new("RGB", (64, 64), "grey"))


# A workflow for each fault, and for each of the probe's other nodes.
NODES = {name: ("ProbeFault", name) for name in ("none", "pause", "sleep", *CODES, *SHOWN)}
NODES |= {"constructor": ("ProbeConstructor", "none"), "invalid": ("ProbeValidation", "error")}
NODES |= {"slow_validation": ("ProbeValidation", "pause")}


@pytest.fixture(scope="module")
def worker(server):
    """The server with those workflows."""
    written = write_workflows(server.workflows, NODES)
    yield server
    for path in written:  # of which some take long to check whenever the workflows are listed
        path.unlink()


def send(worker: Server, name: str) -> httpx.Response:
    with worker.client() as client:
        return client.post("/api/v1/tryon", json={"person_image": GREY, "garment_image": GREY, "workflow": name})


def is_healthy(worker: Server) -> bool:
    with worker.client() as client:
        return client.get("/ping").json() == {"status": "healthy"}


def restarts(worker: Server) -> float:
    with worker.client() as client:
        text = client.get("/metrics").text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next(sample.value for sample in samples if sample.name == "tryon_executor_restarts_total")


def test_every_fault_of_a_node_fails_its_own_request_only(worker):
    restarted = restarts(worker)
    for name, (status, code) in CODES.items():
        before = len(worker.log())
        reply = send(worker, name)
        found = error(reply, status, code)
        if status == 500:
            assert found["details"] == {"node": "20", "node_type": "ProbeFault", "title": "Made to fail"}, name
        assert len(reply.content) < 1000 and "secret" not in reply.text
        assert send(worker, "none").status_code == 200, f"after {name}"
        logged = worker.log()[before:]
        assert len(logged) < LOG_LIMIT, f"{name} fills the log"
        if status == 422:
            assert not any(word in logged for word in ("ERROR", "!!!", "Traceback", "raised")), logged
            assert logged.count(code) == 1
        assert is_healthy(worker)
    assert restarts(worker) == restarted


LOOKS = {"grey": 128, "grey_alpha": 255, "alpha": 255, "unbatched": 0, "half": 0, "bytes": 9, "sizes": 0}


def test_what_looks_like_an_image_is_one(worker):
    assert LOOKS.keys() == SHOWN.keys()
    for name, level in LOOKS.items():
        reply = send(worker, name)
        assert reply.status_code == 200, (name, reply.text)
        images = [from_base64(image["image"]) for image in reply.json()["output"]["images"]]
        assert images[0].shape == (64, 64, 3) and (images[0] == level).all(), name
        assert [image.shape for image in images[1:]] == ([(32, 48, 3)] if name == "sizes" else [])


def test_an_executor_thread_that_a_node_ends_is_replaced_and_the_queue_kept(worker, engine):
    before = restarts(worker)
    names = ["constructor", "none", "constructor", "none", "none"]
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        replies = list(pool.map(lambda name: send(worker, name), names))
    for name, reply in zip(names, replies):
        if name == "none":
            assert reply.status_code == 200
        else:
            found = error(reply, 500, "node_execution_error")
            assert found["details"] == {"node": "20", "node_type": "ProbeConstructor", "title": "Made to fail"}
    assert restarts(worker) - before == (0 if engine == EMBEDDED else 2)
    assert is_healthy(worker)


def test_what_a_nodes_validation_raises_is_not_told(worker, engine):
    if engine == EMBEDDED:
        pytest.skip("the embedded engine calls no VALIDATE_INPUTS")
    reply = send(worker, "invalid")
    found = error(reply, 500, "workflow_invalid")
    assert "ValueError" in found["message"] and "secret" not in reply.text
    assert "secret" in worker.log()


def test_a_slow_validation_holds_nobody_up(worker, engine):
    if engine == EMBEDDED:
        pytest.skip("the embedded engine calls no VALIDATE_INPUTS")
    with concurrent.futures.ThreadPoolExecutor(1) as pool, worker.client() as client:
        slow = pool.submit(send, worker, "slow_validation")
        answered = 0
        while not slow.done():
            assert client.get("/ping").status_code == 200
            answered += 1
        assert slow.result().status_code == 200
    assert answered > 10, "/ping waited for the validation"
