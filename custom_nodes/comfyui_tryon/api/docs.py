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
from .webfiles import WebFile

PATH_OF_DOCS = "/api/v1/docs"
PAGE_OF_DOCS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Virtual try-on API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/docs.js"></script>
</html>
"""
# The page has the document in it, since the document's own path wants the key, for which the page asks.
SCRIPT = """SwaggerUIBundle({
  spec: %s,
  dom_id: "#page",
  validatorUrl: null,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
});
"""


class DocsApi:
    def __init__(self, settings: Settings) -> None:
        self._document = json.dumps(openapi.document(publishing=not settings.locked))
        self._page = WebFile(PAGE_OF_DOCS.encode(), "text/html; charset=utf-8")
        self._files = {"docs.js": WebFile((SCRIPT % self._document).encode(), "text/javascript; charset=utf-8")}

    def routes(self) -> list[Route]:
        names = r"docs\.js|swagger-ui-bundle\.js|swagger-ui\.css"
        return [
            Route("GET", "/api/v1/openapi.json", self.openapi),
            Route("GET", PATH_OF_DOCS, self.page, public=True),
            Route("GET", f"{PATH_OF_DOCS}/{{file:{names}}}", self.file, public=True),
            Route("GET", "/metrics", self.metrics),
        ]

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(text=self._document)

    async def page(self, request: web.Request) -> web.StreamResponse:
        return self._page.response(request)

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        if name not in self._files:
            self._files[name] = await asyncio.to_thread(_swagger_file, name)
        return self._files[name].response(request)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _swagger_file(name: str) -> WebFile:
    package = importlib.util.find_spec("swagger_ui")  # importing it would load its server glue
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("swagger-ui-py is not installed")
    media_type = "text/css" if name.endswith(".css") else "text/javascript"
    content = (Path(package.submodule_search_locations[0]) / "static" / name).read_bytes()
    return WebFile(content, f"{media_type}; charset=utf-8")
