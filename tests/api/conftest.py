"""The API in this process, over an engine that executes nothing: `api()` starts one and returns a client for it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from comfyui_tryon.outbound.network import Network
from comfyui_tryon.server import Server
from comfyui_tryon.settings import Settings
from PIL import Image
from support.fake_engine import FakeEngine
from support.images import to_base64
from support.outside import Outside
from support.servers import ROOT

DEMO = json.loads((ROOT / "workflows/demo.json").read_text())


class ApiClient(TestClient):
    """A client of one application; `engine` and `parts` are what it talks to in the end."""

    engine: FakeEngine
    parts: Server

    async def tryon(self, fields: dict[str, Any], **options: Any) -> tuple[int, dict[str, Any]]:
        async with self.post("/api/v1/tryon", json=fields, **options) as reply:
            return reply.status, await reply.json()

    async def error(self, fields: dict[str, Any], **options: Any) -> tuple[int, str]:
        status, content = await self.tryon(fields, **options)
        return status, content["error"]["code"]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Lets the application work until `condition` holds."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            await asyncio.sleep(0.001)


@pytest.fixture
async def api(tmp_path) -> AsyncIterator[Callable[..., Awaitable[ApiClient]]]:
    started: list[ApiClient] = []
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows/demo.json").write_text(json.dumps(DEMO))

    async def start(app: web.Application | None = None, network: Network | None = None, **settings: Any) -> ApiClient:
        defaults = {"workflow": "demo", "workflows_dir": tmp_path / "workflows", "locked": False, "warmup": False}
        engine = FakeEngine()
        parts = Server(Settings(**defaults | settings), engine, network)
        app = app or web.Application()
        parts.attach(app)
        client = ApiClient(TestServer(app))
        client.engine, client.parts = engine, parts
        await client.start_server()
        started.append(client)
        return client

    yield start
    for client in started:
        await client.close()


@pytest.fixture
def grey() -> dict[str, str]:
    """The smallest request that is answered."""
    image = to_base64(Image.new("RGB", (16, 16), "grey"))
    return {"person_image": image, "garment_image": image}


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    hosts = Outside()
    await hosts.start()
    yield hosts
    await hosts.stop()
