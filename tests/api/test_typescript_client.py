"""The TypeScript client, in Node with its own tests and in a browser, against the API in this process."""

import asyncio
import os
import re
import shutil
import subprocess

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from support.browser import CHROMIUM, opened
from support.servers import ROOT

PACKAGE = ROOT / "clients/typescript"
OLDEST_NODE = 18


def node_version() -> int:
    """Returns the major version of Node, or 0 if there is none."""
    if not shutil.which("node"):
        return 0
    return int(subprocess.check_output(["node", "--version"], text=True).lstrip("v").partition(".")[0])


async def test_the_typescript_client_passes_its_tests(api):
    if node_version() < OLDEST_NODE:
        pytest.skip(f"Node {OLDEST_NODE} or newer is not installed: the TypeScript client is not tested")
    answering, holding = await api(api_key="secret"), await api()
    holding.engine.holds = True
    variables = {"TRYON_TEST_URL": str(answering.make_url("")), "TRYON_TEST_HOLDING_URL": str(holding.make_url(""))}
    node = await asyncio.create_subprocess_exec(
        "node",
        "--test",
        "--test-reporter=tap",
        *sorted(str(path) for path in (PACKAGE / "test").glob("*.test.js")),
        env=os.environ | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await node.communicate()
    text = output.decode(errors="replace")
    counts = {name: int(count) for name, count in re.findall(r"^# (tests|skipped) (\d+)$", text, re.MULTILINE)}
    assert node.returncode == 0, text
    assert counts["tests"] > 20 and counts["skipped"] == 0, text


IN_A_PAGE = """
(async () => {
  const {TryOn} = await import("/client/index.js");
  const canvas = Object.assign(document.createElement("canvas"), {width: 16, height: 16});
  canvas.getContext("2d").fillRect(0, 0, 16, 16);
  const person = await new Promise((resolve) => canvas.toBlob(resolve));
  const client = new TryOn({url: URL_, apiKey: "secret"});
  const types = [];
  let image;
  for await (const event of client.stream({person, garment: person, seed: 7})) {
    types.push(event.type);
    image = event.result?.images[0];
  }
  const {width} = await createImageBitmap(image.blob);
  const [refused, unknown] = await Promise.all(["secret", "another"].map((apiKey) =>
    new TryOn({url: URL_, apiKey})
      .tryOn({person, garment: person, width: 1}, {requestId: "mine"})
      .catch((error) => error)));
  const behind = new TryOn({url: location.origin + "/moved"});
  const redirected = await behind.tryOn({person, garment: person}).catch((error) => error);
  const codes = [refused.code, unknown.code, redirected.code];
  return [types[0], types.at(-1), image.seed, width, refused.requestId, codes];
})()
"""


async def to_the_login(request: web.Request) -> web.Response:
    raise web.HTTPFound("https://login.example/")


@pytest.mark.skipif(CHROMIUM is None, reason="NO CHROMIUM HERE: the TypeScript client is not tested in a browser")
async def test_the_typescript_client_in_a_page_of_another_site(api):
    app = web.Application()
    app.router.add_static("/client", PACKAGE / "src")
    app.router.add_post("/moved/api/v1/tryon", to_the_login)
    async with TestServer(app) as site:
        answering = await api(api_key="secret", cors_origins=str(site.make_url("")).rstrip("/"))
        script = IN_A_PAGE.replace("URL_", f'"{answering.make_url("")}"')
        async with opened(str(site.make_url("/client/index.js"))) as page:
            await page.wait_for("document.readyState == 'complete' && location.protocol == 'http:'")
            found = await page.evaluate(script)
    assert found == ["status", "output", 7, 16, "mine", ["invalid_parameter", "unauthorized", "http_redirect"]]
