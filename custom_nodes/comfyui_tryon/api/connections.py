"""Bounds what connections cost a locked worker: how many there are, how long a head takes, what lies unread."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from aiohttp import StreamReader, web

from . import system
from .answering import refusal
from .malformed import RequestHandler
from .pace import Pace

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# Besides those whose requests wait. One costs about 50 kB while it is idle.
MAX_CONNECTIONS = 1000
# Descriptors for files, pipes, ComfyUI's own sockets, and what is accepted in one turn of the event loop (a backlog).
SPARE_FILES = 300
HEAD_S = 10.0
HEAD_BYTES = 65_536
# What may come behind a request that is being answered. Real clients and proxies send nothing there.
PIPELINED_BYTES = 65_536
PIPELINED_REQUESTS = 32
# For each 64 KiB of a reply: 17 kbit/s.
REPLY_STEP_S = 30.0
UNREAD_BYTES = 256_000_000
SWEEP_S = 1.0
PIECE_BYTES = 65_536
CONTINUE = "100-continue"
# So long after the last request with a body of some size, what such requests have freed goes back to the system.
IDLE_S = 10.0
SOME_BYTES = 65_536


class _Connection(asyncio.Protocol):
    """Stands between the transport and aiohttp's protocol, and sees all bytes.

    Attributes:
        busy: whether a request is being answered.
        since: when the first byte of a head came, or else when the connection became idle.
        held: bytes of a reply that stay in memory until the client has read all of it.
    """

    transport: asyncio.Transport

    def __init__(self, inner: web.RequestHandler, connections: "Connections") -> None:
        self._inner = inner
        self._connections = connections
        self._content: StreamReader | None = None  # the body of the request that is being answered
        self._latest: StreamReader | None = None  # that of the last head, which may have no handler yet
        self.busy = False
        self.held = 0
        self._ended = False  # the client sends nothing any more
        self.since = time.monotonic()
        self._heading = False
        self._head_end = b""
        self._count = 0
        self._unread = 0
        self._reply = Pace()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer = (transport.get_extra_info("peername") or ("",))[0]
        self._connections.add(self)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            piece = data if len(data) <= PIECE_BYTES else data[start : start + PIECE_BYTES]
            if self._is_flood(piece):
                self._connections.drop(self)
                return
            self._inner.data_received(piece)
            if not (parsed := self._parsed):
                continue
            self._latest = parsed[-1][1]
            # aiohttp bounds it since 3.14; before, 60 MB of small requests became 1.4 GB of objects.
            if len(parsed) > PIPELINED_REQUESTS:
                self._connections.drop(self)
                return

    def eof_received(self) -> bool:
        """Keeps the connection of a client that has ended its side behind a request, until that is answered."""
        # Between the end of a head and the start of its handler, aiohttp takes a turn of the event loop or two.
        self._ended = self.busy or (self._heading and self._head_end == b"\r\n\r\n")
        if self.busy:
            self._end_behind_reply()
        return self._ended

    def pause_writing(self) -> None:
        self._inner.pause_writing()
        self._connections.check_unread()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._inner.connection_lost(exc)

    # What the handler and the sweep ask and tell.

    def begin(self, content: StreamReader) -> None:
        self.busy, self._heading = True, False
        self._content = content
        self._latest = content if not self._parsed else self._latest
        self._count = 0
        if self._ended:
            self._end_behind_reply()

    def end(self) -> None:
        if self._content and self._content.total_bytes > SOME_BYTES:
            self._connections.worked()
        self.busy = False
        self.since = time.monotonic()
        # of the next request, which has come before this one ended
        self._heading = self._count > 0 or bool(self._parsed)
        self._count, self._head_end = 0, b"\r\n\r\n" if self._parsed else b""

    @property
    def cost(self) -> int | None:
        """How readily this connection is given up: first those without a request, never one that waits for an image."""
        if not self.busy:
            return 0
        if self._receives_body():
            return 1
        return 2 if self.unread else None

    @property
    def unread(self) -> int:
        return self.transport.get_write_buffer_size()

    @property
    def reply_waited_s(self) -> float:
        """How long the client has not read its reply, measured by a sweep's calls."""
        unread = self.unread
        if not unread or not self._unread:
            self._reply.restart()
        elif unread < self._unread:
            self._reply.moved(self._unread - unread)
        self._unread = unread
        return self._reply.waited_s

    @property
    def head_waited_s(self) -> float:
        return time.monotonic() - self.since if self._heading and not self.busy else 0.0

    def _end_behind_reply(self) -> None:
        if self._receives_body():
            self.transport.close()  # the rest of the body will not come
        elif not self._parsed:
            self._inner.close()  # only behind the last request: it drops those that have come

    @property
    def _parsed(self) -> Sequence[tuple[Any, StreamReader]]:
        """The heads, each with its body, that have no handler yet."""
        return getattr(self._inner, "_messages", ())

    def _receives_body(self) -> bool:
        # A late body may come in one piece with the next head, which `_is_flood` then has not seen.
        content = self._content if self.busy else self._latest
        return content is not None and not content.is_eof()

    def _is_flood(self, data: bytes) -> bool:
        """Says whether more bytes come outside a body than a head, or requests behind the present one, can have."""
        if self._receives_body():
            return False
        if self.busy:
            self._count += len(data)
            return self._count > PIPELINED_BYTES
        if not self._heading:
            self._heading, self.since = True, time.monotonic()
        self._count += len(data)
        if self._head_end != b"\r\n\r\n":
            seen = self._head_end + data
            self._head_end = b"\r\n\r\n" if b"\r\n\r\n" in seen else seen[-3:]
        return self._count > HEAD_BYTES and self._head_end != b"\r\n\r\n"


class Connections:
    """Keeps the connections of all of aiohttp's servers that are started after `guard`."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._limit = 0
        self._open: set[_Connection] = set()
        self._dropped = False
        self._worked_at = 0.0

    async def guard(self, app: web.Application) -> None:
        """Sets the bounds up; an aiohttp on_startup signal."""
        files = system.raise_file_limit() - SPARE_FILES
        self._limit = max(64, min(MAX_CONNECTIONS + self._max_waiting, files))
        loop = asyncio.get_running_loop()
        create_server = loop.create_server

        def guarded(factory: Any, *args: Any, **options: Any) -> Any:
            return create_server(self._wrap(factory) if isinstance(factory, web.Server) else factory, *args, **options)

        # aiohttp makes its server after the last of its hooks, ComfyUI makes the runner: this is where both pass.
        loop.create_server = guarded  # type: ignore[method-assign, assignment]
        self._sweeping = asyncio.create_task(self._sweep())  # the event loop holds tasks weakly

    def add(self, connection: _Connection) -> None:
        if len(self._open) >= self._limit:
            self._make_room()
        self._open.add(connection)

    def discard(self, connection: _Connection) -> None:
        self._open.discard(connection)

    def drop(self, connection: _Connection) -> None:
        """Closes a connection at once, with what its client has not read."""
        self.discard(connection)
        connection.transport.abort()
        self._dropped = True

    def worked(self) -> None:
        """Notes that a request with images has ended."""
        self._worked_at = time.monotonic()

    def check_unread(self) -> None:
        """Drops the replies that have been left longest, if all together take too much memory."""
        unread = {one: max(one.held, one.unread) for one in self._open if one.unread}
        total = sum(unread.values())
        for connection in sorted(unread, key=lambda one: one.reply_waited_s, reverse=True)[:-1]:
            if total <= UNREAD_BYTES:
                return
            total -= unread[connection]
            self.drop(connection)

    def _wrap(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        server.request_handler = _marked(server.request_handler)
        server._kwargs["auto_decompress"] = False  # compressed bodies are refused unread, whatever aiohttp can inflate

        def make() -> asyncio.Protocol:
            inner = server()
            inner.__class__ = RequestHandler
            return _Connection(inner, self)

        return make

    def _make_room(self) -> None:
        """Closes the connections that matter least: of whoever has most, the oldest. Several, as sorting takes time."""
        peers = Counter(connection.peer for connection in self._open)
        ranked = sorted(
            (connection for connection in self._open if connection.cost is not None),
            key=lambda one: (one.cost, -peers[one.peer], one.since),
        )
        for connection in ranked[: max(1, self._limit // 20)]:
            self.drop(connection)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._dropped or (self._worked_at and time.monotonic() - self._worked_at > IDLE_S):
                self._dropped, self._worked_at = False, 0.0
                await asyncio.to_thread(system.return_memory)
            for connection in list(self._open):
                if connection.reply_waited_s > REPLY_STEP_S or connection.head_waited_s > HEAD_S:
                    self.drop(connection)


@contextlib.contextmanager
def held(transport: asyncio.BaseTransport | None, size: int) -> Iterator[None]:
    """Says that so many bytes are in memory for the client of a connection; for `Connections`, if it has the server."""
    connection = transport.get_protocol() if transport else None
    try:
        if isinstance(connection, _Connection):
            connection.held = size
        yield
    finally:
        if isinstance(connection, _Connection):
            connection.held = 0


def _marked(handler: Answer) -> Answer:
    """Tells a connection when its request begins and ends."""

    async def marked(request: web.BaseRequest) -> web.StreamResponse:
        connection = request.transport.get_protocol() if request.transport else None
        if not isinstance(connection, _Connection):
            return await handler(request)
        connection.begin(request.content)
        try:
            # aiohttp answers any other itself, before the middlewares
            if request.headers.get("Expect", CONTINUE).lower() != CONTINUE:
                return refusal(f"Leave the Expect header out, or make it {CONTINUE}.")
            return await handler(request)
        finally:
            connection.end()

    return marked
