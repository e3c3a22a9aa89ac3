"""The clients with what a server sends elsewhere: webhooks that they verify, and uploads."""

import asyncio
import json
import shutil

import pytest
from comfyui_tryon.engine.interface import NodeFailed
from comfyui_tryon.outbound import uploads, webhooks
from PIL import Image
from support.images import to_bytes
from support.outside import answer
from support.servers import ROOT
from tryon_client import AsyncTryOn, TryOnError, verify_webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GREY = to_bytes(Image.new("RGB", (16, 16), "grey"))
IN_NODE = """
const {{verifyWebhook}} = await import("{client}");
const outcome = await verifyWebhook({body}, {headers}, "{secret}");
console.log(outcome.id);
"""


@pytest.fixture
async def server(api, outside, monkeypatch):
    for module in (webhooks, uploads):
        monkeypatch.setattr(module.random, "uniform", lambda low, high: 0.001)
    outside.answers |= dict.fromkeys(["/hook", "/1"], answer())
    return await api(network=outside.network, url_hosts=outside.hosts, webhook_secret=SECRET)


async def test_a_submitted_request_ends_at_the_webhook(server, outside):
    async with AsyncTryOn(str(server.make_url(""))) as client:
        hook = outside.url("/hook")
        assert await client.submit(GREY, GREY, webhook_url=hook, request_id="mine", seed=7) == "mine"
        await server.until(lambda: not server.parts._outbound.webhooks.pending)
        server.engine.outcome = NodeFailed("7", "CatVTON", "ValueError", "")
        assert await client.submit(GREY, GREY, webhook_url=hook, request_id="fails") == "fails"
        await server.until(lambda: not server.parts._outbound.webhooks.pending)
    result, error = (verify_webhook(asked.body, asked.headers, SECRET) for asked in outside.to("/hook"))
    assert (result.id, result.seed) == ("mine", 7) and result.images[0].bytes
    assert isinstance(error, TryOnError) and (error.code, error.request_id) == ("node_execution_error", "fails")
    if not shutil.which("node"):
        pytest.skip("node is not installed: the TypeScript client does not verify the webhook")
    asked = outside.to("/hook")[0]
    script = IN_NODE.format(
        client=ROOT / "clients/typescript/src/index.js",
        body=json.dumps(asked.body.decode()),
        headers=json.dumps(dict(asked.headers)),
        secret=SECRET,
    )
    command = ["node", "--input-type=module", "--eval", script]
    node = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await node.communicate()
    assert output.decode().strip() == "mine"


async def test_an_uploaded_image_has_a_url_and_a_size(server, outside):
    async with AsyncTryOn(str(server.make_url(""))) as client:
        result = await client.try_on(GREY, GREY, upload_urls=[outside.url("/1?signature=1")])
    [image] = result.images
    assert image.url == outside.url("/1") and image.size == len(outside.to("/1")[0].body)
    with pytest.raises(ValueError, match="uploaded"):
        image.bytes  # noqa: B018


async def test_an_image_by_url_is_fetched_by_the_server(server, outside):
    outside.answers["/me.png"] = answer(body=GREY)
    async with AsyncTryOn(str(server.make_url(""))) as client:
        result = await client.try_on(outside.url("/me.png"), GREY)
    assert result.images[0].width == 16
