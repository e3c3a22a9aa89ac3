"""The Python client: against the API in this process, and against replies that a test writes itself."""

import asyncio
import base64
import contextlib
import copy
import email.utils
import hmac
import io
import json
import os
import pickle
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from comfyui_tryon import exchange
from comfyui_tryon.engine.interface import Interrupted, Progress
from PIL import Image
from support.images import to_bytes
from tryon_client import (
    AsyncTryOn,
    Health,
    OutputEvent,
    PreviewEvent,
    ProgressEvent,
    Result,
    ResultImage,
    StatusEvent,
    TryOn,
    TryOnError,
    WebhookInvalid,
    _asynchronous,
    _synchronous,
    verify_webhook,
)
from tryon_client.__main__ import main as command
from tryon_client._form import Form
from tryon_client._webhooks import verify_signature

GREY = to_bytes(Image.new("RGB", (16, 16), "grey"))
REPLY = {
    "id": "mine",
    "seed": 2**64 - 1,
    "output": {
        "images": [
            {
                "image": base64.b64encode(GREY).decode(),
                "format": "png",
                "width": 16,
                "height": 16,
                "seed": 2**64 - 1,
                "report": {"window": [0, 0, 16, 16], "changed": 0.5, "colour_difference": None, "later": 1},
            }
        ],
        "mask": base64.b64encode(b"mask").decode(),
    },
    "workflow": {"name": "demo", "version": "1"},
    "timings": {"queue_s": 0, "execute_s": 1.5, "total_s": 1.6},
    "warnings": [{"code": "person_cut", "message": "At the edge."}],
    "later": "a field of a later server",
}


@pytest.fixture
def url(api) -> Callable[..., Any]:
    async def start(**settings: Any) -> tuple[Any, str]:
        client = await api(**settings)
        return client, str(client.make_url("")).rstrip("/")

    return start


async def test_every_kind_of_image_arrives_as_the_same_image(url, tmp_path):
    _, address = await url()
    path = tmp_path / "person.png"
    path.write_bytes(GREY)
    uri = "data:image/png;base64," + base64.b64encode(GREY).decode()
    kinds = [GREY, path, str(path), uri, io.BytesIO(GREY), Image.open(path), bytearray(GREY)]
    async with AsyncTryOn(address) as client:
        results = [await client.try_on(kind, [path, GREY], seed=7, num_images=2) for kind in kinds]
    assert {image.bytes for result in results for image in result.images} == {results[0].images[0].bytes}
    assert [image.seed for image in results[0].images] == [7, 8]
    assert Image.open(io.BytesIO(results[0].images[0].bytes)).size == (16, 16)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "LAB", "F", "P", "RGBA"])
def test_a_pillow_image_is_sent_as_it_is_shown(mode):
    image = Image.new("RGB", (4, 2), "red").convert("RGBA" if mode == "RGBA" else mode if mode != "LAB" else "RGB")
    if mode in ("RGB", "CMYK"):
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        image = Image.open(io.BytesIO(to_bytes(image, "JPEG", exif=exif)))
    with Form({"person_image": image}, {}).opened() as [(_, (_, content))]:
        sent = Image.open(io.BytesIO(content))
    assert sent.size == ((2, 4) if mode in ("RGB", "CMYK") else (4, 2)) and sent.format == "PNG"
    if mode in ("RGB", "CMYK", "P", "RGBA"):
        assert np.abs(np.asarray(sent.convert("RGB"), int)[0, 0] - (255, 0, 0)).max() < 40


def png_of(image: Image.Image) -> Image.Image:
    """Returns what is sent of a Pillow image."""
    with Form({"person_image": image}, {}).opened() as [(_, (_, content))]:
        return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("mode, given, sent_mode", [("La", "LA", "LA"), ("RGBa", "RGBA", "RGBA"), ("PA", "PA", "RGBA")])
def test_a_transparent_pillow_image_stays_transparent(mode, given, sent_mode):
    image = Image.new(given, (2, 1), 0)
    image.putalpha(Image.frombytes("L", (2, 1), b"\0\xff"))
    sent = png_of(image.convert(mode) if mode != given else image)
    assert sent.mode == sent_mode and list(sent.getchannel("A").tobytes()) == [0, 255]


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
def test_a_pillow_image_of_16_bits_keeps_them(mode):
    kind = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
    image = Image.frombytes(mode, (2, 1), np.array([300, 65535], kind).tobytes())
    assert list(np.asarray(png_of(image)).ravel()) == [300, 65535]


def green_profile() -> bytes:
    """Returns a profile of CMYK in which every colour is the same green."""
    lab = bytes([round(70 * 2.55), 128 - 60, 128 + 60])
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (place % 4 == 0) for place in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + lab * 2**4 + identity * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    white = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    start = struct.pack(">I4xI4s4s4s12x4s28x", 144 + len(table), 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    return (start + white).ljust(128, b"\0") + tags + table


@pytest.mark.parametrize("profile, colour", [(green_profile(), (0, 190, 50)), (green_profile()[:140], (255, 0, 0))])
def test_a_pillow_image_of_cmyk_has_the_colours_of_its_profile_unless_that_is_damaged(profile, colour):
    image = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    image.info["icc_profile"] = profile
    sent = png_of(image)
    assert sent.mode == "RGB" and sent.info.get("icc_profile", b"")[16:20] in (b"", b"RGB ")
    assert np.abs(np.asarray(sent, int)[0, 0] - colour).max() < 60


def test_a_file_that_a_web_framework_received_is_read():
    class Upload(io.BytesIO):
        def save(self, target: str, buffer_size: int = 16384) -> None:
            raise AssertionError("it is no image of Pillow")

    class AsynchronousUpload:
        """Is as Starlette's UploadFile."""

        def __init__(self) -> None:
            self.file = io.BytesIO(GREY)

        async def read(self, size: int = -1) -> bytes:
            return self.file.read(size)

    for upload in (Upload(GREY), AsynchronousUpload()):
        with Form({"person_image": upload}, {}).opened() as [(_, (_, content))]:
            assert content == GREY
    opened = AsynchronousUpload()
    del opened.file
    with pytest.raises(TypeError, match="await"):
        Form({"person_image": opened}, {})


def test_a_pipe_is_read_once_for_all_attempts(send):
    reading, writing = os.pipe()
    os.write(writing, GREY)
    os.close(writing)
    scripted = Scripted([httpx.ReadError("reset"), ok()])
    try:
        send(scripted, "try_on", f"/dev/fd/{reading}", b"garment")
    finally:
        os.close(reading)
    assert [request.content.count(GREY) for request in scripted.requests] == [1, 1]


async def test_a_url_is_left_to_the_server(url):
    _, address = await url()
    async with AsyncTryOn(address) as client:
        with pytest.raises(TryOnError) as caught:
            await client.try_on("https://shop.example/me.jpg", GREY)
    assert caught.value.code == "invalid_image" and caught.value.details == {"field": "person_image"}


async def test_fields_arrive_as_what_they_are(url):
    server, address = await url()
    async with AsyncTryOn(address) as client:
        result = await client.try_on(
            GREY, [GREY, GREY], cloth_type=["upper", "lower"], return_mask=False, guidance_scale=2.5,
            seed=2**64 - 1, framing=None, output_format="webp",
        )  # fmt: skip
    assert result.seed == 2**64 - 1 and result.images[0].format == "webp"
    assert result.mask is None and result.workflow.name == "demo" and result.timings.total_s > 0
    sampler = [run.prompt["7"]["inputs"] for run in server.engine.runs]
    assert [inputs["cfg"] for inputs in sampler] == [2.5, 2.5]


async def test_the_synchronous_client_does_the_same(url, tmp_path):
    _, address = await url(api_key="secret")

    def use() -> tuple[Result, list[type], list[str], Health]:
        with TryOn(address, api_key="secret") as client:
            result = client.try_on(GREY, GREY, seed=3)
            result.images[0].save(tmp_path / "result.png")
            with client.stream(GREY, GREY, seed=3) as events:
                kinds = [type(event) for event in events]
            names = [workflow.name for workflow in client.workflows() if workflow.default]
            assert client.cancel("nobody-s") is False
            return result, kinds, names, client.health()

    result, kinds, names, health = await asyncio.to_thread(use)
    assert (tmp_path / "result.png").read_bytes() == result.images[0].bytes
    assert kinds[0] is StatusEvent and kinds[-1] is OutputEvent
    assert names == ["demo"] and health == Health("healthy")


async def test_the_command_asks_for_nothing_that_it_could_not_write(url, tmp_path, capsys):
    server, address = await url()
    (tmp_path / "image.png").write_bytes(GREY)
    image = str(tmp_path / "image.png")

    def run(output: str) -> int:
        return command([image, image, "--url", address, "-o", str(tmp_path / output), "--quiet"])

    assert await asyncio.to_thread(run, "missing/result.png") == 1
    assert "missing" in capsys.readouterr().err and not server.engine.runs
    assert await asyncio.to_thread(run, "result.png") == 0
    assert Image.open(tmp_path / "result.png").size == (16, 16)


async def test_the_command_takes_what_is_repeated_and_writes_the_mask(url, tmp_path, capsys, monkeypatch):
    server, address = await url()
    queue = server.engine.queue

    def queue_with_mask(run: Any) -> None:
        exchange.find(run.prompt[run.outputs[0]]["inputs"]["token"]).mask = np.ones((16, 16), bool)
        queue(run)

    monkeypatch.setattr(server.engine, "queue", queue_with_mask)
    (tmp_path / "image.png").write_bytes(GREY)
    image, output = str(tmp_path / "image.png"), str(tmp_path / "result.jpg")

    def run(person: str, *options: str) -> int:
        return command([person, image, image, "--url", address, "-o", output, *options])

    worn = ("--cloth-type", "upper", "--cloth-type", "lower")
    assert await asyncio.to_thread(run, image, *worn, "--return-mask", "true") == 0
    masked = [
        node["inputs"] for run in server.engine.runs for node in run.prompt.values() if "cloth_type" in node["inputs"]
    ]
    assert [inputs["cloth_type"] for inputs in masked] == ["upper", "lower"]
    mask = Image.open(tmp_path / "result-mask.png")
    assert mask.size == (16, 16) and "result-mask.png: the mask" in capsys.readouterr().out
    assert await asyncio.to_thread(run, "https://shop.example/me.jpg") == 1
    assert "invalid_image" in capsys.readouterr().err, "a URL is left to the server"


async def test_events_have_types(url):
    server, address = await url()
    server.engine.holds = True
    events = []
    async with AsyncTryOn(address) as client, client.stream(GREY, GREY, seed=3) as stream:
        async for event in stream:
            events.append(event)
            if event == StatusEvent(status="queued", position=0):
                [run] = server.engine.runs
                server.engine.start(run, Progress(1, 2, "7", Image.new("RGB", (8, 8))))
            if isinstance(event, PreviewEvent):
                server.engine.finish(run)
    assert [type(event) for event in events[:4]] == [StatusEvent, StatusEvent, ProgressEvent, PreviewEvent]
    assert events[1] == StatusEvent(status="running") and events[2] == ProgressEvent(value=1, max=2, node="7")
    assert Image.open(io.BytesIO(events[3].image)).size == (8, 8) and events[3].format == "jpeg"
    assert events[-1].result.seed == 3 and events[-1].result.images[0].bytes


async def test_events_that_are_closed_early_cancel_the_request(url):
    server, address = await url()
    server.engine.holds = True
    async with AsyncTryOn(address) as client:
        async with client.stream(GREY, GREY, request_id="mine") as events:
            async for _ in events:
                break
        [run] = server.engine.runs
        await server.until(lambda: run.finished.done())
        assert await client.cancel("mine") is False


async def test_a_request_is_canceled_by_its_id(url):
    server, address = await url()
    server.engine.holds = True
    async with AsyncTryOn(address) as client:
        request = asyncio.create_task(client.try_on(GREY, GREY, request_id="mine"))
        await server.until(lambda: server.engine.runs)
        assert await client.cancel("mine") is True
        with pytest.raises(TryOnError) as caught:
            await request
    assert (caught.value.code, caught.value.status, caught.value.request_id) == ("canceled", 499, "mine")


class Breaking(httpx.AsyncHTTPTransport):
    """Loses the connection of the first request once the server executes it."""

    def __init__(self, server: Any) -> None:
        super().__init__()
        self._server = server
        self._broken = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._broken:
            return await super().handle_async_request(request)
        self._broken = True
        sending = asyncio.create_task(super().handle_async_request(request))
        await self._server.until(lambda: self._server.engine.runs)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await sending).aclose()  # the head of an event stream has come already
        raise httpx.ReadError("the connection is lost")


@pytest.mark.parametrize("method", ["try_on", "stream"])
async def test_a_request_whose_connection_was_lost_is_executed_once_more_and_the_first_canceled(
    url, monkeypatch, method
):
    server, address = await url()
    server.engine.holds = True

    async def pause(seconds: float) -> None:
        server.engine.holds = False
        await asyncio.sleep(0)

    monkeypatch.setattr(_asynchronous, "sleep", pause)
    async with httpx.AsyncClient(transport=Breaking(server)) as http:
        client = AsyncTryOn(address, http_client=http, max_retries=1000)  # no pause here takes time
        called = getattr(client, method)(GREY, GREY, request_id="mine")
        result = await called if method == "try_on" else [event async for event in called][-1].result
    assert result.id == "mine"
    first, second = server.engine.runs
    assert isinstance(first.finished.exception(), Interrupted) and second.finished.exception() is None


async def test_errors_say_everything(url):
    _, address = await url()
    async with AsyncTryOn(address) as client:
        for send in (client.try_on, lambda *args, **fields: anext(client.stream(*args, **fields))):
            with pytest.raises(TryOnError) as caught:
                await send(GREY, GREY, width=770, request_id="wide")
            error = caught.value
            assert (error.code, error.status, error.request_id) == ("invalid_parameter", 422, "wide")
            assert error.details == {"field": "width"} and "768" in error.message
            assert str(error) == f"invalid_parameter: {error.message} (request wide)"


async def test_the_key_comes_from_the_environment_unless_it_is_given(url, monkeypatch):
    _, address = await url(api_key="secret")
    monkeypatch.setenv("TRYON_API_KEY", "secret")
    monkeypatch.setenv("TRYON_URL", address)
    async with AsyncTryOn() as client:
        assert [workflow.name for workflow in await client.workflows()] == ["demo"]
    for options in ({"api_key": "another"}, {"api_key": ""}):
        async with AsyncTryOn(**options) as client:
            with pytest.raises(TryOnError) as caught:
                await client.workflows()
            assert caught.value.code == "unauthorized"
    headers = {"Authorization": "Bearer secret"}
    async with AsyncTryOn(api_key="", headers=headers) as client:
        assert await client.workflows()


def test_addresses_and_sources_that_cannot_be_used_are_refused(tmp_path):
    for address in ("127.0.0.1:8000", "http://", "ftp://server", "http://server/\n"):
        with pytest.raises(ValueError, match="server's URL"):
            TryOn(address)
    TryOn("HTTPS://SERVER/").close()
    with TryOn("http://127.0.0.1:9") as client:
        with pytest.raises(FileNotFoundError, match="nobody.png"):
            client.try_on(tmp_path / "nobody.png", GREY)
        with pytest.raises(TypeError, match="not int"):
            client.try_on(7, GREY)
        with pytest.raises(TypeError, match="binary"):
            client.try_on(io.StringIO("text"), GREY)
        with pytest.raises(TypeError, match="submit"):
            client.try_on(GREY, GREY, webhook_url="https://shop.example/hook")


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "sec\nret"},
        {"api_key": "sécret"},
        {"api_key": b"secret"},
        {"headers": {"Authorization": "sec\r\nret"}},
        {"headers": {"X-Shop": 7}},
        {"headers": {"X Shop": "secret"}},
    ],
)
def test_headers_that_cannot_be_sent_are_refused_unquoted(options):
    for kind in (TryOn, AsyncTryOn):
        with pytest.raises((TypeError, ValueError), match=r"header .?X|header .?Auth") as caught:
            kind("http://server", **options)
        assert "ret" not in str(caught.value) and not isinstance(caught.value, UnicodeError)


def test_a_key_may_come_with_the_line_break_of_its_file(send):
    scripted = Scripted([ok(), ok()])
    with httpx.Client(transport=httpx.MockTransport(scripted)) as http:
        for key in ("secret\n", " \n"):
            TryOn("http://server", api_key=key, http_client=http).try_on(GREY, GREY)
    assert [request.headers.get("X-API-Key") for request in scripted.requests] == ["secret", None]


@pytest.mark.parametrize("request_id", ["a\nb", "", "a/b", "ä", "x" * 65, "mine\n"])
@pytest.mark.parametrize("method", ["try_on", "stream"])
def test_ids_that_the_api_does_not_take_are_refused(send, method, request_id):
    scripted = Scripted([ok()])
    with pytest.raises(ValueError, match="request_id must be"):
        send(scripted, method, request_id=request_id)
    assert not scripted.requests


@dataclass
class Scripted:
    """Gives these replies, one after the other; an exception is raised instead."""

    replies: list[httpx.Response | Exception]
    requests: list[httpx.Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)  # one that is unread

    @property
    def ids(self) -> set[str]:
        return {request.headers["X-Request-Id"] for request in self.requests}


@pytest.fixture(params=["sync", "async"])
def send(request, monkeypatch):
    """Calls a method of either client over replies of the test's own; for `stream` returns the list of events."""

    def call(scripted: Scripted, method: str = "try_on", *args: Any, max_retries: int = 5, **fields: Any) -> Any:
        if method != "health":
            args = args or (GREY, GREY)
        transport = httpx.MockTransport(scripted)
        options: dict = {"max_retries": max_retries}

        async def pause(seconds: float) -> None:
            scripted.pauses.append(seconds)

        async def main() -> Any:
            async with httpx.AsyncClient(transport=async_transport) as http:
                client = AsyncTryOn("http://server", http_client=http, **options)
                called = getattr(client, method)(*args, **fields)
                return [event async for event in called] if method == "stream" else await called

        if request.param == "async":

            async def handle(request: httpx.Request) -> httpx.Response:
                await request.aread()
                return scripted(request)

            async_transport = httpx.MockTransport(handle)
            monkeypatch.setattr(_asynchronous, "sleep", pause)
            return asyncio.run(main())
        monkeypatch.setattr(_synchronous, "sleep", scripted.pauses.append)
        with httpx.Client(transport=transport) as http:
            called = getattr(TryOn("http://server", http_client=http, **options), method)(*args, **fields)
            return list(called) if method == "stream" else called

    return call


def failure(status: int, code: str, **headers: str) -> httpx.Response:
    error = {"code": code, "message": "Wait.", "details": {}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": error}, headers=named)


def stream(*events: str) -> httpx.Response:
    return httpx.Response(200, content="".join(events), headers={"Content-Type": "text/event-stream"})


def ok() -> httpx.Response:
    return httpx.Response(200, json=REPLY)


def test_a_result_has_everything(send):
    result = send(Scripted([ok()]))
    [image] = result.images
    assert (result.id, result.seed, image.seed, image.bytes) == ("mine", 2**64 - 1, 2**64 - 1, GREY)
    assert result.report.window == (0, 0, 16, 16) and result.report.colour_difference is None
    assert result.mask == b"mask" and result.timings.execute_s == 1.5 and result.workflow.version == "1"
    assert [warning.code for warning in result.warnings] == ["person_cut"]
    shorter = {key: value for key, value in REPLY.items() if key != "warnings"} | {"output": {"images": []}}
    result = send(Scripted([httpx.Response(200, json=shorter)]))
    assert result.warnings == [] and result.mask is None


def test_an_image_that_was_uploaded_has_no_bytes():
    image = ResultImage(image=None, format="png", width=16, height=16, seed=None)
    with pytest.raises(ValueError, match="uploaded"):
        image.bytes  # noqa: B018


def test_fields_are_parts_of_a_form_and_each_of_several_values_is_one(send):
    scripted = Scripted([ok()])
    uploads = ["https://bucket.example/1.png?signature=1", "https://bucket.example/2.png?signature=2"]
    send(scripted, upload_urls=uploads, return_mask=True)
    sent = scripted.requests[0].content.decode(errors="replace")
    assert sent.count('name="upload_urls"') == 2 and all(text in sent for text in uploads)
    assert 'name="return_mask"\r\n\r\ntrue\r\n' in sent


def test_it_waits_as_long_as_retry_after_says_and_sends_the_same_id(send):
    date = email.utils.formatdate(time.time() - 60, usegmt=True)
    scripted = Scripted(
        [
            failure(429, "queue_full", Retry_After="7"),
            failure(503, "draining", Retry_After=date),
            httpx.Response(503, text="<html>a load balancer's page</html>", headers={"Retry-After": "0"}),
            ok(),
        ]
    )
    assert send(scripted).id == "mine"
    first, *others = scripted.pauses
    assert 7 <= first <= 7 * 1.25 and others == [0, 0]
    assert len(scripted.ids) == 1


def test_pauses_grow_up_to_a_limit_if_the_server_asks_for_none(send):
    scripted = Scripted([failure(503, "not_ready")] * 7 + [ok()])
    assert send(scripted, max_retries=7).id == "mine"
    for pause, longest in zip(scripted.pauses, [1, 2, 4, 8, 10, 10, 10], strict=True):
        assert 0.75 * longest <= pause <= longest


@pytest.mark.parametrize("method", ["try_on", "stream"])
def test_a_lost_connection_is_tried_again_until_the_server_has_let_go_of_the_first(send, method):
    last = ok() if method == "try_on" else stream(f"event: output\ndata: {json.dumps(REPLY)}\n\n")
    scripted = Scripted([httpx.ReadError("reset"), failure(409, "conflict"), failure(409, "conflict"), last])
    result = send(scripted, method)
    assert (result if method == "try_on" else result[-1].result).id == "mine"
    assert len(scripted.requests) == 4 and len(scripted.ids) == 1


def test_files_are_read_again_for_every_attempt(send, tmp_path):
    path = tmp_path / "person.png"
    path.write_bytes(GREY)
    scripted = Scripted([httpx.ReadError("reset"), ok()])
    send(scripted, "try_on", path, io.BytesIO(GREY))
    assert [request.content.count(GREY) for request in scripted.requests] == [2, 2]
    assert str(path).encode() not in scripted.requests[0].content


@pytest.mark.parametrize(
    "reply, code",
    [
        (failure(409, "conflict"), "conflict"),
        (failure(422, "invalid_image", Retry_After="0"), "invalid_image"),
        (failure(500, "node_execution_error"), "node_execution_error"),
        (failure(504, "timeout"), "timeout"),
        (failure(503, "not_ready", Retry_After="61"), "not_ready"),
        (httpx.Response(502, text="<html>bad gateway</html>"), "http_502"),
        (httpx.Response(424, json=[]), "http_424"),
        (httpx.Response(302, headers={"Location": "https://login.example/"}), "http_302"),
        (httpx.Response(200, text="<html>log in</html>"), "invalid_reply"),
        (httpx.Response(200, json={"output": {"images": []}}), "invalid_reply"),
        (httpx.ReadTimeout("time is up"), "no_reply"),
        (httpx.DecodingError("incorrect header check"), "invalid_reply"),
        (httpx.TooManyRedirects("more than 20"), "invalid_reply"),
    ],
)
@pytest.mark.parametrize("method", ["try_on", "stream"])
def test_errors_that_a_retry_does_not_change_are_raised_at_once(send, reply, code, method):
    scripted = Scripted([reply])
    with pytest.raises(TryOnError) as caught:
        send(scripted, method)
    assert caught.value.code == code and not scripted.pauses


@pytest.mark.parametrize(
    "reply, code",
    [
        (lambda: failure(429, "queue_full", Retry_After="0"), "queue_full"),
        (lambda: httpx.ConnectError("refused"), "connection_failed"),
        (lambda: httpx.RemoteProtocolError("no reply"), "connection_lost"),
    ],
)
def test_it_gives_up_after_so_many_retries(send, reply, code):
    scripted = Scripted([reply() for _ in range(4)])
    with pytest.raises(TryOnError) as caught:
        send(scripted, max_retries=2)
    assert caught.value.code == code and len(scripted.requests) == 3


def test_errors_can_be_copied_and_cross_processes():
    particulars = {"status": 429, "request_id": "mine", "retry_after": 7.0}
    error = TryOnError("queue_full", "Wait.", {"field": "seed"}, **particulars)
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert isinstance(copied, TryOnError) and vars(copied) == vars(error) and str(copied) == str(error)


def test_events_over_several_lines_and_comments(send):
    output = "\n".join(f"data: {line}" for line in json.dumps(REPLY, indent=1).splitlines())
    events = send(
        Scripted(
            [
                stream(
                    ": keep-alive\n\n",
                    'event: status\r\ndata: {"status": "queued", "position": 1}\r\n\r\n',
                    'event: later\ndata: {"kind": "of a later server"}\n\n',
                    'event:progress\ndata:{"value": 1, "max": 2, "node": "7"}\n\n',
                    f"event: output\n{output}\n\n",
                )
            ]
        ),
        "stream",
    )
    assert events[:2] == [StatusEvent(status="queued", position=1), ProgressEvent(value=1, max=2, node="7")]
    assert len(events) == 3 and events[2].result.images[0].bytes == GREY


def test_an_error_event_is_retried_if_it_may_pass(send):
    error = 'event: error\ndata: {"error": {"code": "%s", "message": "No.", "details": {}}}\n\n'
    scripted = Scripted([stream(error % "out_of_memory"), stream(error % "timeout")])
    with pytest.raises(TryOnError) as caught:
        send(scripted, "stream", request_id="mine")
    assert (caught.value.code, caught.value.status, caught.value.request_id) == ("timeout", 504, "mine")
    assert len(scripted.requests) == 2


def test_a_stream_that_stops_early_begins_again(send):
    running = 'event: status\ndata: {"status": "running"}\n\n'
    whole = f"{running}event: output\ndata: {json.dumps(REPLY)}\n\n"
    events = send(Scripted([stream(running), stream(whole)]), "stream")
    assert [type(event) for event in events] == [StatusEvent, StatusEvent, OutputEvent]
    scripted = Scripted([stream(running)] * 2)
    with pytest.raises(TryOnError) as caught:
        send(scripted, "stream", max_retries=1)
    assert caught.value.code == "connection_lost"


def test_submitting_returns_the_id(send):
    accepted = httpx.Response(202, json={"id": "mine"})
    scripted = Scripted([failure(429, "queue_full", Retry_After="0"), accepted])
    hook = "https://shop.example/hook"
    assert send(scripted, "submit", webhook_url=hook, request_id="mine") == "mine"
    assert b'name="webhook_url"\r\n\r\n' + hook.encode() in scripted.requests[0].content
    with pytest.raises(TryOnError) as caught:
        send(Scripted([ok()]), "submit", webhook_url=hook)
    assert caught.value.code == "invalid_reply"


def test_a_submitted_request_whose_reply_was_lost_is_not_sent_twice(send):
    scripted = Scripted([httpx.ReadError("reset"), failure(409, "conflict")])
    assert send(scripted, "submit", webhook_url="https://shop.example/hook", request_id="mine") == "mine"
    with pytest.raises(TryOnError) as caught:
        send(Scripted([failure(409, "conflict")]), "submit", webhook_url="https://shop.example/hook")
    assert caught.value.code == "conflict"


@pytest.mark.parametrize(
    "reply, health",
    [
        (httpx.Response(200, json={"status": "healthy"}), Health("healthy")),
        (httpx.Response(204), Health("starting")),
        (httpx.Response(503, json={"status": "draining"}), Health("draining")),
        (httpx.Response(503, json={"status": "unhealthy", "reason": "GPU"}), Health("unhealthy", "GPU")),
    ],
)
def test_health(send, reply, health):
    assert send(Scripted([reply]), "health") == health


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# The vector that the Standard Webhooks specification publishes.
VECTOR = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
VECTOR_BODY = b'{"test": 2432232314}'


def signed(body: bytes, age_s: int = 0, secret: str = SECRET) -> dict[str, str]:
    """Returns headers as a server sends them while its secret is being replaced."""
    sent = str(int(time.time()) - age_s)
    digest = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), f"mine.{sent}.".encode() + body, "sha256")
    return {
        "Webhook-Id": "mine",
        "Webhook-Timestamp": sent,
        "Webhook-Signature": "v1a,other v1,bm9uZQ== v1," + base64.b64encode(digest).decode(),
    }


def test_the_published_vector_of_standard_webhooks(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1614265330 + 299)
    assert verify_signature(VECTOR_BODY, VECTOR, [SECRET]) == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    with pytest.raises(WebhookInvalid, match="body is not a result"):
        verify_webhook(VECTOR_BODY, VECTOR, SECRET)
    for now in (1614265330 + 301, 1614265330 - 301):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with pytest.raises(WebhookInvalid, match="five minutes"):
            verify_signature(VECTOR_BODY, VECTOR, [SECRET])


def test_a_webhook_brings_the_result_or_the_error():
    body = json.dumps(REPLY).encode()
    other = "whsec_" + base64.b64encode(b"another secret").decode()
    for given in (body, body.decode()):
        for secret in (SECRET, SECRET.removeprefix("whsec_"), [other, SECRET]):
            assert verify_webhook(given, signed(body), secret).images[0].bytes == GREY
    body = b'{"error": {"code": "timeout", "message": "Too long.", "details": {}}}'
    error = verify_webhook(body, signed(body), SECRET)
    assert isinstance(error, TryOnError) and (error.code, error.status, error.request_id) == ("timeout", 504, "mine")


def test_webhooks_that_must_not_be_believed():
    body = json.dumps(REPLY).encode()
    headers = signed(body)
    for name in headers:
        with pytest.raises(WebhookInvalid, match=name.lower()):
            verify_webhook(body, {key: value for key, value in headers.items() if key != name}, SECRET)
    changed = [
        (body + b" ", headers),
        (body, headers | {"Webhook-Id": "another"}),
        (body, headers | {"Webhook-Timestamp": str(int(headers["Webhook-Timestamp"]) - 1)}),
        (body, headers | {"Webhook-Timestamp": "soon"}),
        (body, headers | {"Webhook-Timestamp": "\u0661"}),
        (body, headers | {"Webhook-Signature": headers["Webhook-Signature"].replace("v1,", "v2,")}),
        (body, headers | {"Webhook-Timestamp": "9" * 400}),
        (body, headers | {"Webhook-Timestamp": "9" * 5000}),
        (body, headers | {"Webhook-Id": "\udcff"}),
        (body, headers | {"Webhook-Signature": "v1,\udcff"}),
        (body, headers | {"Webhook-Signature": ""}),
        (body, headers | {"Webhook-Signature": "v1,\u00e9"}),
        (body, signed(body, age_s=301)),
        (body, signed(body, age_s=-302)),
        (body, signed(body, secret="whsec_" + base64.b64encode(b"another secret").decode())),
    ]
    for content, given in changed:
        with pytest.raises(WebhookInvalid):
            verify_webhook(content, given, SECRET)
    for secret in ("", "whsec_", "whsec_not base64!"):
        with pytest.raises(ValueError, match="base64"):
            verify_webhook(body, headers, secret)
