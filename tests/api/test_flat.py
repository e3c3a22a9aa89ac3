"""Hundreds of requests, half of them faulty, hold no more than the first hundred; tests/chaos.py sends thousands."""

import asyncio
import gc
import os
import threading
import uuid
from pathlib import Path

from comfyui_tryon.engine.interface import NodeFailed
from support.invalid import invalid_requests
from support.watching import resources

REQUESTS = 300
SETTLED = 100
GROWN_BYTES = 20e6


class Mixture:
    """Sends request after request of a fixed order; most are answered with their image."""

    def __init__(self, client, grey) -> None:
        self._client, self._grey = client, grey
        # Those that take long to read are few here: it is their number that counts.
        invalid = invalid_requests("demo").values()
        self._invalid = [request for request in invalid if len(request.body) < 50_000]

    async def send(self, number: int) -> None:
        client = self._client
        client.engine.outcome = None
        if number % 6 == 1:
            given = self._invalid[number // 6 % len(self._invalid)]
            headers = {"Content-Type": given.content_type} | given.headers
            async with client.post("/api/v1/tryon", data=given.body, headers=headers) as reply:
                assert reply.status == given.status and (await reply.json())["error"]["code"] == given.code
        elif number % 6 == 3:
            client.engine.outcome = NodeFailed("7", "CatVTON", "ValueError", "it broke")
            assert await client.error(self._grey) == (500, "node_execution_error")
        elif number % 12 == 5:
            await self._cancel()
        elif number % 120 == 11:
            await self._hang_up()
        else:
            assert (await client.tryon(self._grey))[0] == 200

    async def _cancel(self) -> None:
        self._client.engine.holds, request_id = True, str(uuid.uuid4())
        request = asyncio.ensure_future(self._client.error(self._grey, headers={"X-Request-Id": request_id}))
        await self._queued()
        assert (await self._client.delete(f"/api/v1/tryon/{request_id}")).status == 204
        assert await request == (499, "canceled")
        self._client.engine.holds = False

    async def _hang_up(self) -> None:
        self._client.engine.holds = True
        request = asyncio.ensure_future(self._client.tryon(self._grey))
        await self._queued()
        request.cancel()
        await self._client.until(lambda: self._client.parts._tryon.depth == 0)
        self._client.engine.holds = False

    async def _queued(self) -> None:
        queued = len(self._client.engine.runs)
        await self._client.until(lambda: len(self._client.engine.runs) > queued)


def memory() -> int:
    """Resident bytes of this process, without what could be collected."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def test_requests_with_errors_among_them_leave_what_the_first_hundred_did(api, grey):
    client = await api(locked=True)
    mixture = Mixture(client, grey)

    def held() -> tuple[int, int, int, int]:
        client.engine.runs.clear()
        own = resources(os.getpid())
        return own.descriptors - 2 * own.children, threading.active_count(), len(asyncio.all_tasks()), own.children

    for number in range(SETTLED):
        await mixture.send(number)
    before, memory_before = held(), memory()
    for number in range(SETTLED, REQUESTS):
        await mixture.send(number)
    await client.until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
    assert memory() - memory_before < GROWN_BYTES
