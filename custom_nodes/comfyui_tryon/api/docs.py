"""What describes and measures the API: the OpenAPI document, the page that shows it without internet, the metrics."""

import asyncio
import importlib.util
import json
from pathlib import Path

from aiohttp import web

from .. import metrics
from ..settings import Settings
from . import openapi
from .routes import Route

PATH = "/api/v1/docs"
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Virtual try-on API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#page", validatorUrl: null})</script>
</html>
"""


class DocsApi:
    def __init__(self, settings: Settings) -> None:
        self._document = json.dumps(openapi.document(publishing=not settings.locked))

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/api/v1/openapi.json", self.openapi),
            Route("GET", PATH, self.page),
            *(Route("GET", f"{PATH}/{name}", self.file) for name in FILES),
            Route("GET", "/metrics", self.metrics),
        ]

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(text=self._document)

    async def page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=PAGE, content_type="text/html")

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rsplit("/", 1)[1]
        content = await asyncio.to_thread(_swagger_file, name)
        return web.Response(body=content, content_type=FILES[name], charset="utf-8")

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _swagger_file(name: str) -> bytes:
    package = importlib.util.find_spec("swagger_ui")  # importing it would load its server glue
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("swagger-ui-py is not installed")
    return (Path(package.submodule_search_locations[0]) / "static" / name).read_bytes()
