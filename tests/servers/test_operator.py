"""What somebody does to the queue in ComfyUI's own page reaches the API's requests, and their replies say so."""

from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from support.faults import write_workflows
from support.images import to_base64
from support.replies import error
from support.waiting import until

GREY = to_base64(Image.new("RGB", (32, 32), "grey"))


@pytest.fixture
def faults(dev):
    """The ComfyUI with workflows whose node does nothing, takes half a minute, or ends the executor."""
    nodes = {"none": ("ProbeFault", "none"), "sleep": ("ProbeFault", "sleep"), "deadly": ("ProbeConstructor", "none")}
    written = write_workflows(dev.workflows, nodes)
    yield dev
    for path in written:
        path.unlink()


def test_what_the_operator_does_to_a_request_ends_it_and_is_told(faults):
    with ThreadPoolExecutor(4) as pool, faults.client() as client:

        def send(workflow: str, request_id: str) -> "Future[httpx.Response]":
            fields = {"person_image": GREY, "garment_image": GREY, "workflow": workflow}
            return pool.submit(client.post, "/api/v1/tryon", json=fields, headers={"X-Request-Id": request_id})

        def queue(part: str) -> list:
            return client.get("/queue").json()[f"queue_{part}"]

        running = send("sleep", "running")
        until(lambda: queue("running"))
        waiting = [send("none", f"waiting-{number}") for number in range(2)]
        until(lambda: len(queue("pending")) == 2)
        client.post("/queue", json={"delete": [queue("pending")[0][1]]})
        until(lambda: any(request.done() for request in waiting))
        client.post("/queue", json={"clear": True})
        for request in waiting:
            assert "removed this request" in error(request.result(60), 499, "canceled")["message"]
        assert not running.done()

        client.post("/interrupt")
        assert "interrupted this request" in error(running.result(60), 499, "canceled")["message"]
        assert send("none", "next").result(60).status_code == 200

        own = send("sleep", "own")
        until(lambda: queue("running"))
        assert client.delete("/api/v1/tryon/own").status_code == 204
        assert error(own.result(60), 499, "canceled")["message"] == "The request was canceled."


@pytest.mark.last_on_its_server
def test_an_executor_that_ended_is_left_as_it_is_and_requests_are_told(faults):
    with faults.client() as client:
        fields = {"person_image": GREY, "garment_image": GREY}
        error(client.post("/api/v1/tryon", json=fields | {"workflow": "deadly"}), 503, "not_ready")
        error(client.post("/api/v1/tryon", json=fields | {"workflow": "none"}), 503, "not_ready")
        reply = client.get("/ping")
        assert reply.status_code == 503 and "executor" in reply.json()["reason"]
        assert client.get("/queue").status_code == 200
