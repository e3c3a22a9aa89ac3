"""A locked worker's life: its warm-up is its own, nothing that it accepted is lost when it ends."""

import asyncio
import signal
import socket
import threading
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from comfyui_tryon import images, lifecycle
from comfyui_tryon.engine.interface import NodeFailed
from comfyui_tryon.server import Server
from comfyui_tryon.settings import Settings
from support.fake_engine import FakeEngine

OUT_OF_MEMORY = NodeFailed("7", "CatVTON", "OutOfMemoryError", "")


async def ping(client) -> int:
    async with client.get("/ping") as reply:
        return reply.status


async def until_started(client) -> int:
    while (status := await ping(client)) == 204:
        pass
    return status


async def warming_up(api, **settings):
    client = await api(locked=True, warmup=True, **settings)
    client.engine.holds = True
    await client.until(lambda: client.engine.runs)
    return client


async def go_on(client) -> int:
    """Lets the warm-up's runs end; returns what /ping says then."""
    client.engine.holds = False
    client.engine.finish(client.engine.runs[-1])
    return await until_started(client)


async def test_requests_before_it_is_ready_are_sent_away_and_do_not_disturb(api, grey):
    client = await warming_up(api, max_queue=2)
    for number in range(12):
        headers = {"X-Request-Id": f"warm-up-{number % 3}"}
        async with client.post("/api/v1/tryon", json=grey, headers=headers) as reply:
            assert reply.status == 503 and int(reply.headers["Retry-After"]) >= 1
            assert (await reply.json())["error"]["code"] == "not_ready"
    assert await go_on(client) == 200
    assert len(client.engine.runs) == 2, "the warm-up's own"
    assert (await client.tryon(grey))[0] == 200


@pytest.mark.parametrize("settings", [{}, {"api_key": "secret"}, {"api_key": "warm-up:secret"}])
async def test_nobody_cancels_the_warm_up(api, settings):
    client = await warming_up(api, **settings)
    for name in ("warm-up-1", "warm-up-2", "-", client.engine.runs[0].id):
        async with client.delete(f"/api/v1/tryon/{name}", headers={"X-API-Key": "secret"}) as reply:
            assert reply.status == 404
    assert not client.engine.runs[0].finished.done()
    assert await go_on(client) == 200


async def test_the_deadline_of_requests_is_not_the_warm_ups(api, monkeypatch):
    monkeypatch.setattr("comfyui_tryon.tryon.STUCK_GRACE_S", 0)
    client = await warming_up(api, timeout_s=0.001)
    client.engine.start(client.engine.runs[0])
    began = time.monotonic()
    await client.until(lambda: time.monotonic() > began + 0.02)
    client.parts._tryon.check_engine()
    assert await ping(client) == 204 and client.parts._tryon.fault is None
    assert await go_on(client) == 200


@pytest.mark.parametrize("passing", [OUT_OF_MEMORY, "interrupted"])
async def test_a_warm_up_is_tried_again_if_its_cause_may_pass(api, monkeypatch, caplog, passing):
    monkeypatch.setattr(lifecycle, "LONGEST_PAUSE_S", 0)
    client = await warming_up(api)
    client.engine.outcome = passing
    for _ in range(3):
        run = client.engine.runs[-1]
        if passing == "interrupted":
            client.engine.cancel(run)
        else:
            client.engine.finish(run)
        await client.until(lambda run=run: client.engine.runs[-1] is not run)
        assert await ping(client) == 204
    client.engine.outcome = None
    assert await go_on(client) == 200
    assert "It is tried again" in caplog.text


async def test_a_warm_up_that_cannot_succeed_is_not_tried_again(api):
    client = await warming_up(api)
    client.engine.outcome = NodeFailed("7", "CatVTON", "WeightsMissing", "")
    assert await go_on(client) == 503 and len(client.engine.runs) == 1


class Stages:
    """Holds up what codec threads do, one request in each of a request's stages."""

    def __init__(self, monkeypatch) -> None:
        self.go_on = threading.Event()
        self._decode, self._encode = images.decode, images.encode
        monkeypatch.setattr(images, "decode", self.decode)
        monkeypatch.setattr(images, "encode", self.encode)
        self.decoding, self.encoding = threading.Event(), threading.Event()
        self.hold_decode = self.hold_encode = False

    def decode(self, *args):
        if self.hold_decode:
            self.decoding.set()
            self.go_on.wait(30)
        return self._decode(*args)

    def encode(self, *args):
        if self.hold_encode:
            self.encoding.set()
            self.go_on.wait(30)
        return self._encode(*args)


@pytest.fixture
def stages(monkeypatch):
    stages = Stages(monkeypatch)
    yield stages
    stages.go_on.set()


async def half_sent(client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = "POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    writer.write(head.encode())
    return reader, writer


async def streamed(client, fields) -> str:
    async with client.post("/api/v1/tryon", json=fields, headers={"Accept": "text/event-stream"}) as reply:
        return await reply.text()


@pytest.mark.parametrize("how", ["deadline", "second signal"])
async def test_whatever_stage_a_request_is_in_it_is_told_that_the_worker_ends(api, grey, stages, monkeypatch, how):
    stopped = asyncio.Event()
    monkeypatch.setattr(lifecycle, "_stop", stopped.set)
    monkeypatch.setattr(lifecycle, "LAST_ANSWERS_S", 0.2)
    client = await api(locked=True, drain_s=0 if how == "deadline" else 3600)
    tryon, engine = client.parts._tryon, client.engine
    tryon._decoder._pool = None  # so that images are decoded in this process, where `stages` can hold them up

    stages.hold_encode = True
    sent = {"encoding": asyncio.ensure_future(client.error(grey))}
    await client.until(stages.encoding.is_set)
    engine.holds = True
    sent["running"] = asyncio.ensure_future(client.error(grey))
    sent["waiting"] = asyncio.ensure_future(client.error(grey))
    stream = asyncio.ensure_future(streamed(client, grey))
    await client.until(lambda: len(engine.runs) == 4)
    engine.start(engine.runs[1])
    stages.hold_decode = True
    sent["decoding"] = asyncio.ensure_future(client.error(grey))
    await client.until(stages.decoding.is_set)
    assert tryon.depth == 5
    reader, writer = await half_sent(client)
    await client.until(lambda: client.app.middlewares[0].__self__.in_flight == 6)

    signal.raise_signal(signal.SIGTERM)
    if how == "second signal":
        while await ping(client) != 503:
            pass
        signal.raise_signal(signal.SIGTERM)
    assert {stage: await reply for stage, reply in sent.items()} == dict.fromkeys(sent, (503, "draining"))
    assert (await stream).rstrip().split("\n\n")[-1].startswith('event: error\ndata: {"error": {"code": "draining"')
    reply = await reader.readuntil(b"}}}")
    assert b" 503 " in reply and b"draining" in reply, "while it was being received"
    await asyncio.wait_for(stopped.wait(), 10)
    writer.close()


async def test_a_draining_worker_finishes_what_it_accepted(api, grey, monkeypatch):
    stopped = asyncio.Event()
    monkeypatch.setattr(lifecycle, "_stop", stopped.set)
    client = await api(locked=True)
    client.engine.holds = True
    sent = asyncio.ensure_future(client.tryon(grey))
    await client.until(lambda: client.engine.runs)
    signal.raise_signal(signal.SIGTERM)
    while await ping(client) != 503:
        pass
    assert await client.error(grey) == (503, "draining")
    client.engine.finish(client.engine.runs[0])
    assert (await sent)[0] == 200
    await asyncio.wait_for(stopped.wait(), 10)


async def test_who_was_told_of_a_cancellation_gets_no_image(api, grey, stages):
    client = await api()
    stages.hold_encode = True
    sent = asyncio.ensure_future(client.error(grey, headers={"X-Request-Id": "mine"}))
    await client.until(stages.encoding.is_set)
    async with client.delete("/api/v1/tryon/mine") as reply:
        assert reply.status == 204
    stages.go_on.set()
    assert await sent == (499, "canceled")
    async with client.delete("/api/v1/tryon/mine") as reply:
        assert reply.status == 404


async def test_after_the_last_moment_to_cancel_there_is_nothing_to_cancel(api, grey, monkeypatch):
    """However late it comes: either DELETE is 404, or the request is canceled."""
    client = await api()
    found = set()
    original = client.parts._tryon.answer

    async def cancel_at(moment: int, request, fields):
        task = asyncio.ensure_future(original(request, fields))
        told = None
        while not task.done():
            if client.engine.runs and client.engine.runs[-1].released.done():
                moment -= 1
                if moment == 0:
                    told = client.parts._tryon.cancel("", request.id)
            await asyncio.sleep(0)
        if told is None:
            told = client.parts._tryon.cancel("", request.id)
        found.add((told, task.exception() is None))
        return await task

    for moment in (2**power for power in range(15)):
        monkeypatch.setattr(client.parts._tryon, "answer", lambda *args, moment=moment: cancel_at(moment, *args))
        await client.tryon(grey)
        client.engine.runs.clear()
    assert found == {(True, False), (False, True)}


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_failed_worker_exits_if_it_should(api, monkeypatch, wanted):
    ended: list[int] = []
    monkeypatch.setattr(lifecycle, "end", ended.append)
    monkeypatch.setattr(lifecycle, "FAILURE_CHECK_S", 0)
    monkeypatch.setattr(lifecycle, "EXIT_DELAY_S", 0)
    client = await api(locked=True, exit_when_failed=wanted)
    assert await until_started(client) == 200 and not ended
    client.engine.dead = "it has ended"
    client.parts._tryon.check_engine()
    assert await ping(client) == 503
    if wanted:
        await client.until(lambda: ended)
    assert ended == ([1] if wanted else [])


async def test_a_health_port_that_is_taken_ends_the_start_and_is_named(api, monkeypatch, caplog):
    ended: list[int] = []
    monkeypatch.setattr(lifecycle, "end", ended.append)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        await api(locked=True, listen="127.0.0.1", port_health=taken.getsockname()[1])
    assert ended == [1] and "PORT_HEALTH and LISTEN say where to listen" in caplog.text


async def test_the_lock_must_be_the_outermost_middleware():
    @web.middleware
    async def other(request, handler):
        return await handler(request)

    app = web.Application()
    Server(Settings(locked=True, warmup=False), FakeEngine()).attach(app)
    app.middlewares.insert(0, other)
    with pytest.raises(RuntimeError, match="around the lock"):
        await TestClient(TestServer(app)).start_server()
