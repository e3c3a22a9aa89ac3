"""The replies of a try-on request: JSON with the images in base64, or the first image's bytes."""

import asyncio
import json
import select
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pybase64
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from ..errors import ApiError
from ..pending import Result
from ..reply_models import Image, Output, TryonReply, WorkflowVersion
from ..schema import ImageFormat, format_name
from .connections import held

Value = TypeVar("Value")

# Set on a request whose client was sent something, to find out whether anybody is there.
PROBED: Any = web.RequestKey("tryon_probed", bool) if hasattr(web, "RequestKey") else "tryon_probed"

MEDIA_TYPES: dict[ImageFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
EVENT_STREAM = "text/event-stream"
MAX_ACCEPTED = 32  # browsers send ten
# Up to here the event loop is held for a millisecond at most, and a thread's two changes take longer than the work.
AT_ONCE_BYTES = 4_000_000
WRITTEN_BYTES = 262_144


def wanted_type(request: web.Request, output_format: ImageFormat) -> str | None:
    """Returns the image or stream type that the Accept header prefers, or None for JSON.

    Of types with the same quality the first counts. `image/*` stands for `output_format`.
    """
    known: dict[str, str | None] = {EVENT_STREAM: EVENT_STREAM, "image/*": MEDIA_TYPES[output_format]}
    known |= dict.fromkeys(("application/json", "application/*", "*/*"))
    best, wanted = 0.0, None
    for accepted in ",".join(request.headers.getall("Accept", ())).lower().split(",")[:MAX_ACCEPTED]:
        name, *parameters = (text.strip() for text in accepted.split(";"))
        if name.startswith("image/"):
            name = MEDIA_TYPES.get(format_name(name), name)
        quality = _quality(parameters)
        if quality > best and (name in known or name in MEDIA_TYPES.values()):
            best, wanted = quality, known.get(name, name)
    return wanted


def _quality(parameters: list[str]) -> float:
    given = next((text[2:] for text in parameters if text.startswith("q=")), "1")
    try:
        return float(given)
    except ValueError:
        return 1.0


def check_connected(request: web.Request) -> None:
    """Raises ApiError canceled if the client has gone away; a ComfyUI server does not cancel its handlers then."""
    if has_gone(request):
        raise ApiError("canceled", "The client went away.")


def has_gone(request: web.Request) -> bool:
    """Says whether the client has closed its connection, as far as the system knows.

    Who has only ended the sending side may still read. The same is all that is seen of somebody who has closed both,
    until something is sent there; an interim reply is what every client of HTTP/1.1 passes over.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return True
    events = _poll(transport)
    if not events:
        return False
    if events & (select.POLLERR | select.POLLHUP) or request.version < HttpVersion11:
        return True
    if PROBED not in request and not request.writer.output_size:
        request[PROBED] = True
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return False


def has_hung_up(request: web.Request) -> bool:
    """Says whether the client sends nothing any more.

    The transport alone may not know it yet. It never does while aiohttp has stopped reading, because the client has
    sent something behind its request.
    """
    transport = request.transport
    return transport is None or transport.is_closing() or bool(_poll(transport))


def _poll(transport: asyncio.Transport) -> int:
    socket = transport.get_extra_info("socket")
    if socket is None or not hasattr(select, "POLLRDHUP"):
        return 0
    poll = select.poll()
    poll.register(socket, select.POLLRDHUP)  # a reset is reported unasked
    return next((events for _, events in poll.poll(0)), 0)


async def off_loop_if_large(size: int, function: Callable[..., Value], *args: Any) -> Value:
    """Calls a function that parses or writes `size` bytes, in a thread if it would hold up the event loop."""
    if size > AT_ONCE_BYTES:
        return await asyncio.to_thread(function, *args)
    return function(*args)


async def json_reply(request_id: str, result: Result) -> bytes:
    return await off_loop_if_large(sum(map(len, result.images)), _json_reply, request_id, result)


def _json_reply(request_id: str, result: Result) -> bytes:
    content = TryonReply(
        id=request_id,
        output=Output(images=[]),
        seed=result.seed,
        workflow=WorkflowVersion(name=result.workflow.name, version=result.workflow.version),
        timings=result.timings,
        warnings=result.warnings,
    )
    left_out = {"output"} if content.warnings else {"output", "warnings"}
    envelope = content.model_dump_json(exclude=left_out).encode()
    # The images are added by hand: as part of the model, a megabyte of base64 is copied and searched several times.
    shown = []
    for number, data in enumerate(result.images):
        width, height = result.sizes[number]
        image = Image(
            format=result.output_format,
            width=width,
            height=height,
            seed=result.seeds[number],
            report=result.reports[number],
        )
        if result.urls:
            image.url, image.bytes = result.urls[number], len(data)
        absent = {name for name in ("image", "url", "bytes", "report") if getattr(image, name) is None}
        fields = image.model_dump_json(exclude=absent).encode()
        start = b"{" if result.urls else b'{"image":"%b",' % pybase64.b64encode(data)
        shown.append(start + fields[1:])
    mask = b"" if result.mask is None else b',"mask":"%b"' % pybase64.b64encode(result.mask)
    return b"".join((envelope[:-1], b',"output":{"images":[', b",".join(shown), b"]", mask, b"}}"))


class InPieces(Payload):
    """A large body, which would be copied as a whole while the event loop waits: 60 MB for a tenth of a second."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await write_in_pieces(self._value, writer.write, writer.transport)


async def write_in_pieces(
    content: bytes, write: Callable[[memoryview], Awaitable[None]], transport: asyncio.BaseTransport | None
) -> None:
    """Writes to the client of a connection, which counts as owing it all of `content` until the end."""
    view = memoryview(content)
    with held(transport, len(content)):
        for start in range(0, len(content), WRITTEN_BYTES):
            await write(view[start : start + WRITTEN_BYTES])


def event(name: str, data: Any) -> bytes:
    """Returns one server-sent event; `data` is JSON already, or a value for it."""
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text)
