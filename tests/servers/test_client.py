"""The client and the backend of examples/, against the real server and against one that answers by script."""

import asyncio
import base64
import email.utils
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from support.images import to_bytes
from support.servers import ROOT, free_port

sys.path.insert(0, str(ROOT / "examples"))

from tryon_client import AsyncTryOnClient, TryOnClient, TryOnError, TryOnImage

SMALL = {"num_inference_steps": 2, "width": 128, "height": 192, "seed": 7}


@pytest.fixture
def files(pair, tmp_path):
    """The paths of a person, a garment and a mask."""
    mask = np.zeros((256, 192), np.uint8)
    mask[100:180, 60:130] = 255
    images = {"person": pair.person, "garment": pair.garment, "mask": Image.fromarray(mask)}
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    return [tmp_path / f"{name}.png" for name in images]


def run(script: str, *arguments, **environment) -> subprocess.CompletedProcess:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("TRYON_", "RUNPOD_"))}
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)],
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def opened(image: TryOnImage) -> Image.Image:
    opened = Image.open(io.BytesIO(image.data))
    assert opened.size == (image.width, image.height) and opened.format.lower() == image.format
    return opened


def read(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_paths_bytes_and_events_give_the_same_images(server, files):
    events: list[tuple[str, dict]] = []
    person, garment, mask = files
    with TryOnClient(server.url) as client:
        images = client.tryon(person, garment, mask, num_images=2, **SMALL)
        again = client.tryon(
            person.read_bytes(),
            str(garment),
            mask,
            num_images=2,
            on_event=lambda name, data: events.append((name, data)),
            **SMALL,
        )
    assert [image.seed for image in images] == [7, 8]
    assert opened(images[0]).size == (192, 256)
    assert images == again
    names = [name for name, data in events]
    assert set(names) <= {"status", "progress", "preview"}
    statuses = [data["status"] for name, data in events if name == "status"]
    assert statuses[0] == "queued" and statuses[-1] == "running"
    progress = [data for name, data in events if name == "progress"]
    assert progress[-1]["value"] == progress[-1]["max"] > 1


def test_async_client(server, files):
    async def both() -> list[list[TryOnImage]]:
        async with AsyncTryOnClient(server.url) as client:
            return await asyncio.gather(
                client.tryon(*files, **SMALL), client.tryon(*files, on_event=lambda name, data: None, **SMALL)
            )

    plain, streamed = asyncio.run(both())
    assert plain == streamed and plain[0].seed == 7


def test_errors_carry_code_details_and_request_id(server, files):
    for on_event in (None, lambda name, data: None):
        with TryOnClient(server.url) as client, pytest.raises(TryOnError) as caught:
            client.tryon(*files, request_id="wide", on_event=on_event, width=770)
        error = caught.value
        assert (error.code, error.status, error.request_id) == ("invalid_parameter", 422, "wide")
        assert error.details == {"field": "width"} and "768" in error.message == str(error)


def test_cancel(server, files):
    started = threading.Event()
    caught: list[TryOnError] = []

    def send(client: TryOnClient) -> None:
        try:
            client.tryon(
                *files[:2],
                request_id="to-cancel",
                on_event=lambda name, data: started.set() if name == "progress" else None,
                num_inference_steps=100,
                width=512,
                height=512,
            )
        except TryOnError as error:
            caught.append(error)

    with TryOnClient(server.url) as client:
        assert client.cancel("to-cancel") is False
        thread = threading.Thread(target=send, args=[client])
        thread.start()
        assert started.wait(60)
        assert client.cancel("to-cancel") is True
        thread.join(60)
    assert [error.code for error in caught] == ["canceled"]


@dataclass
class Script:
    """A server that gives these replies, (status, headers, body), one after the other."""

    replies: list[tuple[int, dict[str, str], bytes]]
    url: str = ""
    requests: list[tuple[float, dict[str, str]]] = field(default_factory=list)


PIXEL = to_bytes(Image.new("RGB", (16, 16)))
OK = (200, {"Content-Type": "application/json"}, json.dumps({
    "id": "1", "seed": 3, "output": {"images": [
        {"image": base64.b64encode(PIXEL).decode(), "format": "png", "width": 16, "height": 16, "seed": 3}
    ]},
}).encode())  # fmt: skip


def failure(status: int, code: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = {"error": {"code": code, "message": "Wait.", "details": {}}}
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()


@pytest.fixture
def script():
    servers = []

    def start(*replies) -> Script:
        scripted = Script(list(replies))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                scripted.requests.append((time.monotonic(), dict(self.headers)))
                status, headers, body = scripted.replies.pop(0)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        scripted.url = f"http://127.0.0.1:{server.server_port}"
        return scripted

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(params=["sync", "async", "cli"])
def send(request, files, tmp_path):
    """Sends one request with the client in each of its forms; returns the seed or raises TryOnError."""

    def with_client(url: str, **options) -> int:
        with TryOnClient(url, **options) as client:
            return client.tryon(PIXEL, PIXEL)[0].seed

    def with_async_client(url: str, **options) -> int:
        async def main() -> int:
            async with AsyncTryOnClient(url, **options) as client:
                return (await client.tryon(PIXEL, PIXEL))[0].seed

        return asyncio.run(main())

    def with_command(url: str, **options) -> int:
        arguments = [value for name, value in options.items() for value in (f"--{name}", value)]
        done = run("tryon_client.py", *files[:2], "-o", tmp_path / "o.png", "--quiet", "--url", url, *arguments)
        if done.returncode:
            code, _, rest = done.stderr.strip().partition(": ")
            raise TryOnError(code, rest)
        return int(done.stdout.rsplit(" ", 1)[1])

    return {"sync": with_client, "async": with_async_client, "cli": with_command}[request.param]


def test_it_waits_as_long_as_retry_after_says(script, send):
    scripted = script(
        failure(429, "queue_full", Retry_After="1"),
        failure(503, "draining", Retry_After=email.utils.formatdate(time.time() - 60, usegmt=True)),
        (503, {"Retry-After": "0"}, b"<html>a load balancer's page</html>"),
        OK,
    )
    assert send(scripted.url) == 3
    times = [at for at, headers in scripted.requests]
    assert len(times) == 4 and times[1] - times[0] >= 1
    ids = {headers["X-Request-Id"] for at, headers in scripted.requests}
    assert len(ids) == 1, "the retries are one request"


def test_it_gives_up_after_so_many_retries(script, send):
    scripted = script(*[failure(429, "queue_full", Retry_After="0")] * 4)
    with pytest.raises(TryOnError) as caught:
        send(scripted.url, retries=2)
    assert caught.value.code == "queue_full" and len(scripted.requests) == 3


def test_what_a_retry_does_not_mend_is_not_retried(script, send):
    for reply, code in (
        (failure(422, "invalid_image", Retry_After="0"), "invalid_image"),
        (failure(500, "node_execution_error"), "node_execution_error"),
        ((502, {}, b"<html>bad gateway</html>"), "http_502"),
        ((200 + 224, {}, b"[]"), "http_424"),
    ):
        scripted = script(reply)
        with pytest.raises(TryOnError) as caught:
            send(scripted.url)
        assert caught.value.code == code and len(scripted.requests) == 1


@pytest.mark.parametrize("options", [{"max_wait_s": 30}, {"retries": 0}])
def test_too_long_a_wait_is_the_callers_to_decide(script, options):
    scripted = script(failure(503, "not_ready", Retry_After="31"))
    with TryOnClient(scripted.url, **options) as client, pytest.raises(TryOnError) as caught:
        client.tryon(PIXEL, PIXEL)
    assert caught.value.retry_after == 31 and caught.value.worth_retrying


def test_keys_go_into_their_headers(script, send):
    scripted = script(OK)
    assert send(scripted.url, key="own", bearer="the platform's") == 3
    headers = scripted.requests[0][1]
    assert headers["X-API-Key"] == "own" and headers["Authorization"] == "Bearer the platform's"


EVENT_STREAM = {"Content-Type": "text/event-stream"}


def stream(*events: str) -> tuple[int, dict[str, str], bytes]:
    return 200, EVENT_STREAM, "".join(events).encode()


def test_events_over_several_lines_and_comments(script):
    output = "\n".join(f"data: {line}" for line in json.dumps(json.loads(OK[2]), indent=1).splitlines())
    scripted = script(
        stream(
            ": keep-alive\n\n",
            'event: status\r\ndata: {"status": "queued", "position": 1}\r\n\r\n',
            ": keep-alive\n\n",
            'event:progress\ndata:{"value": 1, "max": 2, "node": "7"}\n\n',
            f"event: output\n{output}\n\n",
        )
    )
    seen = []
    with TryOnClient(scripted.url) as client:
        images = client.tryon(PIXEL, PIXEL, on_event=lambda *event: seen.append(event))
    assert images[0].data == PIXEL
    assert seen == [
        ("status", {"status": "queued", "position": 1}),
        ("progress", {"value": 1, "max": 2, "node": "7"}),
    ]


def test_an_error_event_is_an_error_and_worth_a_retry_where_its_code_is(script):
    error = 'event: error\ndata: {"error": {"code": "%s", "message": "No.", "details": {}}}\n\n'
    scripted = script(stream(error % "out_of_memory"), stream(error % "timeout"))
    with TryOnClient(scripted.url) as client, pytest.raises(TryOnError) as caught:
        client.tryon(PIXEL, PIXEL, request_id="mine", on_event=lambda *event: None)
    assert (caught.value.code, caught.value.request_id) == ("timeout", "mine")
    assert len(scripted.requests) == 2


def test_a_stream_that_ends_early_is_an_error(script):
    scripted = script(stream('event: status\ndata: {"status": "running"}\n\n'))
    with TryOnClient(scripted.url) as client, pytest.raises(TryOnError) as caught:
        client.tryon(PIXEL, PIXEL, on_event=lambda *event: None)
    assert caught.value.code == "stream_ended"


def test_a_server_that_is_not_there_is_tried_again_and_then_reported():
    url = f"http://127.0.0.1:{free_port()}"
    with TryOnClient(url, retries=1) as client, pytest.raises(httpx.ConnectError):
        client.tryon(PIXEL, PIXEL)


def test_command(server, files, tmp_path):
    person, garment, mask = files
    small = ["--steps", 2, "--width", 128, "--height", 192, "--seed", 7]
    output = tmp_path / "result.jpg"
    done = run("tryon_client.py", person, garment, "--mask", mask, "-o", output, *small, TRYON_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert "seed 7" in done.stdout and "2/2" in done.stderr
    assert read(output).format == "JPEG"
    done = run("tryon_client.py", person, garment, "-o", output, "--url", server.url, *small, "--num-images", 2)
    assert done.returncode == 0, done.stderr
    first, second = (read(tmp_path / f"result-{number}.jpg") for number in (1, 2))
    assert not np.array_equal(np.array(first), np.array(second))


def test_command_says_what_is_wrong(server, files, tmp_path):
    done = run("tryon_client.py", *files[:2], "-o", tmp_path / "o.png", "--url", server.url, "--width", 770)
    assert done.returncode == 1 and "invalid_parameter" in done.stderr and "768" in done.stderr
    done = run("tryon_client.py", tmp_path / "nobody.png", files[1], "--url", server.url)
    assert done.returncode == 1 and "nobody.png" in done.stderr and "Traceback" not in done.stderr
    done = run("tryon_client.py", *files[:2], "-o", tmp_path / "o.bmp", "--url", server.url)
    assert done.returncode == 1 and "output_format" in done.stderr


@pytest.fixture
def quick_demo(server):
    """The default workflow with fewer steps and pixels, for callers that ask for nothing."""
    path = server.workflows / "demo.json"
    graph = path.read_text()
    quick = json.loads(graph)
    quick["10"]["inputs"] |= {"width": 128, "height": 192}
    quick["7"]["inputs"] |= {"steps": 2, "width": 128, "height": 192}
    path.write_text(json.dumps(quick))
    yield
    path.write_text(graph)


def test_backend(server, quick_demo, files, tmp_path):
    """The application's side: files in, one call, a file out."""
    result = tmp_path / "result.png"
    done = run("backend.py", *files[:2], result, TRYON_ENDPOINT=server.url, RUNPOD_API_KEY="anything")
    assert done.returncode == 0, done.stderr
    assert read(result).size == (192, 256)
    done = run("backend.py", files[0], ROOT / "README.md", result, TRYON_ENDPOINT=server.url)
    assert done.returncode == 1 and "invalid_image" in done.stderr


def test_backend_sends_its_bearer_in_one_call(script, files, tmp_path):
    scripted = script(OK)
    done = run("backend.py", *files[:2], tmp_path / "o.png", TRYON_ENDPOINT=scripted.url, RUNPOD_API_KEY="secret")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.png").read_bytes() == PIXEL
    assert [headers["Authorization"] for at, headers in scripted.requests] == ["Bearer secret"]
