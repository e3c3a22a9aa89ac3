"""Hosts outside of the server, over TLS and on loopback: a server takes them for public ones, as it is told to."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

import trustme
from comfyui_tryon.outbound.network import Network

DOMAIN = "outside.example"
LOOPBACK = "127.0.0.1"


@dataclass
class Asked:
    """One request that a host was sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Answer = bytes | Callable[[asyncio.StreamWriter, Asked], Awaitable[None]]


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """A whole response; the names of `headers` have underscores for hyphens."""
    given = {"Content_Length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Outside:
    """All hosts below `DOMAIN`, which are one server.

    Attributes:
        answers: what is answered by path; one of a list for each request of it, the last one for all later ones.
        asked: the requests that have come.
        connections: how many connections were made.
        names: the addresses of hosts where they are not this server's own; of several lists the next one each time.
        looked_up: the hosts whose addresses were asked for.
        allowed: the addresses that may be connected to.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self.names: dict[str, list[list[str]]] = {}
        self.looked_up: list[str] = []
        self.allowed = {LOOPBACK}
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        server, client = contexts()
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0, ssl=server)
        self.port = self._server.sockets[0].getsockname()[1]
        self.network = Network(self._look_up, lambda address: address in self.allowed, client)

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def hosts(self) -> str:
        """The setting that allows all of them."""
        return f"*.{DOMAIN}:{self.port}"

    def url(self, target: str, host: str = "cdn") -> str:
        return f"https://{host}.{DOMAIN}:{self.port}{target}"

    def to(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.target.partition("?")[0] == path]

    async def _look_up(self, host: str) -> list[str]:
        self.looked_up.append(host)
        given = self.names.get(host)
        if given is None:
            return [LOOPBACK]
        return given.pop(0) if len(given) > 1 else given[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                method, target, _ = first.split(" ")
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                asked = Asked(method, target, headers, body)
                self.asked.append(asked)
                given = self.answers.get(target.partition("?")[0], answer(404))
                if isinstance(given, list):
                    given = given.pop(0) if len(given) > 1 else given[0]
                if isinstance(given, bytes):
                    writer.write(given)
                else:
                    await given(writer, asked)
                await writer.drain()
                if isinstance(given, bytes) and b"Connection: close" in given:
                    break
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)


@lru_cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(f"*.{DOMAIN}").configure_cert(server)
    authority.configure_trust(client)
    return server, client
