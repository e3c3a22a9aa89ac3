"""The page to try the API with. Its files are public; what they show comes from the API, with its key."""

import re

from aiohttp import web

from ..demo import SAMPLES
from ..settings import PACK
from .routes import Route
from .webfiles import WebFile

PATH = "/playground"
FOLDER = PACK / "playground"
PAGE = "index.html"
MEDIA_TYPES_BY_ENDING = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
SAMPLE_NAMES = ("person.png", "garment.png")


class PlaygroundApi:
    def __init__(self) -> None:
        paths = [*FOLDER.iterdir(), *(SAMPLES / name for name in SAMPLE_NAMES)]
        self._files = {
            path.name: WebFile(path.read_bytes(), MEDIA_TYPES_BY_ENDING[path.suffix])
            for path in paths
            if path.suffix in MEDIA_TYPES_BY_ENDING
        }

    def routes(self) -> list[Route]:
        names = "|".join(re.escape(name) for name in sorted(self._files) if name != PAGE)
        return [
            Route("GET", PATH, self.page, public=True),
            Route("GET", f"{PATH}/{{file:{names}}}", self.file, public=True),
        ]

    async def page(self, request: web.Request) -> web.StreamResponse:
        return self._files[PAGE].response(request)

    async def file(self, request: web.Request) -> web.StreamResponse:
        return self._files[request.match_info["file"]].response(request)


async def to_playground(request: web.Request) -> web.StreamResponse:
    # Relative, for a server that a proxy has under a path of its own.
    return web.Response(status=302, headers={"Location": PATH.removeprefix("/"), "Cache-Control": "no-store"})
