"""What the health paths say through a worker's life."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from aiohttp import web
from comfyui_tryon import tryon
from comfyui_tryon.weights import reading


async def states(client) -> dict[str, int]:
    found = {}
    for path in ("/ping", "/healthz", "/readyz", "/health"):
        async with client.get(path) as reply:
            found[path] = reply.status
    return found


STARTING = {"/ping": 204, "/healthz": 200, "/readyz": 503, "/health": 503}
READY = {"/ping": 200, "/healthz": 200, "/readyz": 200, "/health": 200}
DRAINING = {"/ping": 503, "/healthz": 200, "/readyz": 503, "/health": 503}
FAILED = dict.fromkeys(READY, 503)


async def test_unlocked_it_is_ready_at_once(api):
    client = await api(warmup=True)
    assert await states(client) == READY and not client.engine.runs


async def test_while_it_warms_up_it_is_alive_and_not_ready(api):
    client = await api(locked=True, warmup=True)
    client.engine.holds = True
    await client.until(lambda: client.engine.runs)
    assert await states(client) == STARTING


async def test_locked_it_is_ready_when_it_is_warm(api):
    client = await api(locked=True, warmup=True)
    while (await states(client))["/ping"] == 204:
        pass
    assert await states(client) == READY
    assert len(client.engine.runs) == 2, "with a mask and without"


async def test_a_warm_up_that_fails_is_told_and_stays(api, caplog):
    client = await api(locked=True, warmup=True, workflow="missing")
    while (await states(client))["/ping"] == 204:
        pass
    assert await states(client) == FAILED
    async with client.get("/ping") as reply:
        content = await reply.json()
    assert content["status"] == "unhealthy" and "missing" in content["reason"]
    assert "The warm-up failed" in caplog.text


async def test_draining_refuses_new_requests(api, grey):
    client = await api()
    client.parts._health.drain()
    assert await states(client) == DRAINING
    async with client.post("/api/v1/tryon", json=grey) as reply:
        assert reply.status == 503 and reply.headers["Retry-After"] == "1"
        assert (await reply.json())["error"]["code"] == "draining"


async def test_a_dead_engine_fails_what_waits_and_stays_dead(api, grey):
    client = await api()
    client.engine.holds = True
    tryon = client.parts._tryon
    waiting = asyncio.ensure_future(client.error(grey))
    await client.until(lambda: client.engine.runs)
    client.engine.dead = "it has ended"
    tryon.check_engine()
    assert await waiting == (503, "not_ready")
    assert await states(client) == FAILED
    client.engine.dead = None
    tryon.check_engine()
    assert await states(client) == FAILED
    assert await client.error(grey) == (503, "not_ready")


async def stuck(api, grey, monkeypatch, locked: bool):
    """A client, whose first request's run makes no progress, and two requests on their way."""
    monkeypatch.setattr(tryon, "STUCK_GRACE_S", -1e6)
    client = await api(locked=locked)
    while (await states(client))["/ping"] == 204:
        pass
    client.engine.holds = True
    sent = [asyncio.ensure_future(client.tryon(grey)) for _ in range(2)]
    await client.until(lambda: len(client.engine.runs) == 2)
    client.engine.start(client.engine.runs[0])
    client.parts._tryon.check_engine()
    return client, sent


async def test_locked_an_executor_without_progress_fails_what_waits_and_stays_failed(api, grey, monkeypatch):
    client, sent = await stuck(api, grey, monkeypatch, locked=True)
    for status, content in await asyncio.gather(*sent):
        assert (status, content["error"]["code"]) == (503, "not_ready")
    assert all(run.finished.done() for run in client.engine.runs)
    client.parts._tryon.check_engine()
    assert await states(client) == FAILED


async def test_a_model_that_is_read_slowly_is_no_lack_of_progress(api, grey, monkeypatch):
    client = await api(locked=True)
    while (await states(client))["/ping"] == 204:
        pass
    client.engine.holds = True
    sent = asyncio.ensure_future(client.tryon(grey))
    await client.until(lambda: client.engine.runs)
    client.engine.start(client.engine.runs[0])
    passed = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed, perf_counter=time.perf_counter)
    for module in (tryon, reading):
        monkeypatch.setattr(module, "time", clock)

    def fault() -> str | None:
        client.parts._tryon.check_engine()
        return client.parts._tryon.fault

    with reading.reading("fashn"):
        passed = 1000.0
        assert fault() is None
    assert fault() is None
    passed = 2000.0
    assert "no progress" in fault()
    assert (await sent)[0] == 503


async def test_unlocked_it_is_ready_again_with_the_next_progress(api, grey, monkeypatch):
    client, sent = await stuck(api, grey, monkeypatch, locked=False)
    assert await states(client) == FAILED and await client.error(grey) == (503, "not_ready")
    client.engine.finish(client.engine.runs[0])
    await client.until(sent[0].done)
    client.parts._tryon.check_engine()
    assert await states(client) == READY
    client.engine.finish(client.engine.runs[1])
    assert [status for status, _ in await asyncio.gather(*sent)] == [200, 200]


async def test_asking_for_a_fault_changes_nothing(api, grey):
    client = await api()
    client.engine.dead = "it has ended"
    for _ in range(3):
        assert client.parts._tryon.fault is None and client.parts._health.failure is None
    client.parts._tryon.check_engine()
    assert client.parts._tryon.fault == "it has ended"


@pytest.mark.parametrize("busy", [0, 3])
async def test_load_never_changes_ping(api, grey, busy):
    client = await api()
    client.engine.holds = True
    sent = [asyncio.ensure_future(client.tryon(grey)) for _ in range(busy)]
    await client.until(lambda: len(client.engine.runs) == busy)
    assert await states(client) == READY
    for run in client.engine.runs:
        client.engine.finish(run)
    assert [status for status, _ in await asyncio.gather(*sent)] == [200] * busy


async def test_unlocked_paths_of_other_packs_stay_theirs(api, caplog):
    async def theirs(request: web.Request) -> web.Response:
        return web.Response(text="theirs")

    async def add_theirs(app: web.Application) -> None:
        app.router.add_get("/metrics", theirs)

    app = web.Application()
    app.router.add_get("/health", theirs)
    app.on_startup.append(add_theirs)  # as late as it can be
    client = await api(app)
    for path in ("/health", "/metrics"):
        async with client.get(path) as reply:
            assert (reply.status, await reply.text()) == (200, "theirs")
    assert (await states(client)) == READY
    async with client.post("/health") as reply:
        assert reply.status == 405 and reply.headers["Allow"] == "GET,HEAD"
    assert "/health is answered by ComfyUI or another node pack" in caplog.text and "/ping is" not in caplog.text
