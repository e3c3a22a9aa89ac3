"""Static files of this pack's own pages: what they may load, and how long a browser may keep them."""

import hashlib
from dataclasses import dataclass, field

from aiohttp import web

NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Everything comes from this server; `blob:` and `data:` are images that the page has made or received.
POLICY = f"{NOTHING_ELSE}; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
HEADERS = {
    "Cache-Control": "no-cache",  # kept, but asked for again: after an update all files must be of one version
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class WebFile:
    """One file that browsers load."""

    content: bytes
    media_type: str
    tag: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tag", f'"{hashlib.sha256(self.content).hexdigest()[:20]}"')

    def response(self, request: web.Request) -> web.Response:
        """Returns the file, or 304 if the browser has it."""
        headers = {**HEADERS, "ETag": self.tag}
        if self.tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self.content, headers={**headers, "Content-Type": self.media_type})
