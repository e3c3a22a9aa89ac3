"""Tells browsers which web pages of other sites may call the API and read its replies."""

from aiohttp import web

from ..origins import ANY_ORIGIN, Origins

SENT = "Accept, Authorization, Content-Type, X-API-Key, X-Request-Id"
READ = "Retry-After, X-Request-Id, X-Seed"
PREFLIGHT_AGE_S = 600


class Cors:
    def __init__(self, origins: Origins) -> None:
        self._origins = origins

    def headers(self, request: web.Request) -> dict[str, str]:
        """Returns the headers of every reply to `request`, errors and event streams too."""
        if not self._origins.names:
            return {}
        allowed = self._origins.allowed(request.headers.get("Origin"))
        vary = {} if allowed == ANY_ORIGIN else {"Vary": "Origin"}
        if allowed is None:
            return vary
        return vary | {"Access-Control-Allow-Origin": allowed, "Access-Control-Expose-Headers": READ}

    def preflight(self, request: web.Request, methods: list[str]) -> web.Response | None:
        """Answers a browser's question whether a page may send a request; None if `request` is not one, or it may not.

        Browsers ask without the page's key.
        """
        asked = methods and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asked or self._origins.allowed(request.headers.get("Origin")) is None:
            return None
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": ", ".join(methods),
                "Access-Control-Allow-Headers": SENT,
                "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
            },
        )
