"""The one way out: an HTTP client whose sockets go to public addresses only."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from .addresses import is_public
from .dns import Lookup, SystemLookup

USER_AGENT = "comfyui-tryon"
CONNECT_S = 10.0
SILENCE_S = 10.0
MAX_INTERIM = 10  # responses (1xx) before the one that counts


class InnerAddress(OSError):
    """A host's name stands for an address that is not public."""


@dataclass(frozen=True)
class Network:
    """How to get out; the defaults are what every server has, tests have others.

    Attributes:
        look_up: returns the addresses of a host, or raises OSError.
        allows: says whether an address may be connected to.
        tls: what the certificates of hosts are checked by.
    """

    look_up: Lookup = field(default_factory=SystemLookup)
    allows: Callable[[str], bool] = is_public
    tls: ssl.SSLContext | bool = True

    def session(self, connections: int, per_host: int = 0) -> aiohttp.ClientSession:
        """Returns a client of so many connections, which sends no cookies, knows no proxies and unpacks nothing.

        Its callers follow no redirects without looking at each (`allow_redirects=False`).
        """
        connector = aiohttp.TCPConnector(
            resolver=_Resolver(self),
            socket_factory=self._socket,
            limit=connections,
            limit_per_host=per_host,
            ssl=self.tls,
        )
        loop = asyncio.get_running_loop()
        connector._factory = partial(_HostConnection, loop=loop)  # type: ignore[assignment]
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S),
        )

    def _socket(self, info: tuple[Any, Any, int, str, tuple]) -> socket.socket:
        """Makes a socket for an address, the very one that it is connected to."""
        family, kind, protocol, _, address = info
        if not self.allows(str(address[0])):
            raise InnerAddress
        return socket.socket(family, kind, protocol)


class _HostConnection(ResponseHandler):
    """Ends with a host that sends one interim response after the other, 15,000 of which take 26 ms to read."""

    _interim = 0

    def feed_data(self, answer: Any, *size: int) -> None:
        self._interim = self._interim + 1 if answer[0].code < 200 else 0
        if self._interim <= MAX_INTERIM:
            super().feed_data(answer, *size)
        elif self.transport:
            self.transport.close()


class _Resolver(AbstractResolver):
    """Gives a name's addresses if all of them are allowed, so that the answers which are checked are connected to."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = list(dict.fromkeys(await self._network.look_up(host)))
        if not all(map(self._network.allows, addresses)):
            raise InnerAddress
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": socket.IPPROTO_TCP,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
        ]

    async def close(self) -> None:
        pass


def reason(error: BaseException) -> str:
    """Returns why a host was not reached, to follow its name; it shows no address and nothing of the reply."""
    inner = getattr(error, "os_error", error)
    if isinstance(inner, InnerAddress):
        return "has an address that is not public"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "is not known to the DNS"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "has no certificate that is valid for it"
    if isinstance(error, aiohttp.ClientSSLError):
        return "does not speak TLS as this server does"
    if isinstance(error, asyncio.TimeoutError):
        return "did not answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "refused the connection"
    return "broke off the connection or did not speak HTTP"
