"""Whether a request may come from another site's web page, which a browser sends without its user's knowledge."""

import ipaddress
import socket

from aiohttp import web

from ..errors import ApiError


def check_own_page(request: web.Request, own_names: str) -> None:
    """Lets requests of this server's own pages and of programs pass; `own_names` are more host names, with commas.

    Raises:
        ApiError: unauthorized. The origin is foreign, or the host is a name that a foreign site may have pointed here.
    """
    host = request.headers.get("Host", "").lower()
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.lower().partition("://")[2] != host
    if foreign or request.headers.get("Sec-Fetch-Site", "none").lower() not in ("same-origin", "none"):
        raise ApiError("unauthorized", "Pages of other sites may not change workflows. Use this server's own page.")
    if not _is_own(host, own_names):
        raise ApiError(
            "unauthorized",
            "Without TRYON_API_KEY, workflows are changed at localhost or an IP address only. Open this server there, "
            "or have its operator set a key.",
        )


def _is_own(host: str, own_names: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        return True
    except ValueError:
        own = {"", "localhost", socket.gethostname().lower(), *own_names.lower().split(",")}
        return name in own or name.endswith(".localhost")
