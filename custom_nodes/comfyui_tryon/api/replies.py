"""The replies of a try-on request: JSON with the images in base64, or the first image's bytes."""

import asyncio
import json
import select
from collections.abc import Callable
from typing import Any, TypeVar

import pybase64
from aiohttp import web

from ..errors import ApiError
from ..pending import Result
from ..schema import Image, ImageFormat, Output, TryonReply, WorkflowVersion
from ..weights.search import demo_notice

Value = TypeVar("Value")

MEDIA_TYPES: dict[ImageFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
EVENT_STREAM = "text/event-stream"
# Up to here the event loop is held for a millisecond at most, and a thread's two changes take longer than the work.
AT_ONCE_BYTES = 4_000_000


def wanted_type(request: web.Request) -> str | None:
    """Returns the image or stream type that the Accept header asks for first, or None for JSON."""
    first = request.headers.get("Accept", "").split(",")[0].split(";")[0].strip().lower()
    return first if first in (EVENT_STREAM, *MEDIA_TYPES.values()) else None


def check_connected(request: web.Request) -> None:
    """Raises ApiError canceled if the client has gone away; a ComfyUI server does not cancel its handlers then."""
    if has_gone(request):
        raise ApiError("canceled", "The client went away.")


def has_gone(request: web.Request) -> bool:
    """Says whether the client has hung up, as far as the system knows.

    The transport alone may not know it yet. It never does while aiohttp has stopped reading, because the client has
    sent something behind its request.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return True
    socket = transport.get_extra_info("socket")
    if socket is None or not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(socket, select.POLLRDHUP)  # a reset is reported unasked
    return bool(poll.poll(0))


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
        notice=demo_notice(result.workflow.graph),
    )
    envelope = content.model_dump_json(exclude={"output"}, exclude_none=True).encode()
    # The images are added by hand: as part of the model, a megabyte of base64 is copied and searched several times.
    shown = []
    for data, (width, height), seed in zip(result.images, result.sizes, result.seeds(), strict=True):
        image = Image(image="", format=result.output_format, width=width, height=height, seed=seed)
        fields = image.model_dump_json(exclude={"image"}).encode()
        shown.append(b"".join((b'{"image":"', pybase64.b64encode(data), b'",', fields[1:])))
    return b"".join((envelope[:-1], b',"output":{"images":[', b",".join(shown), b"]}}"))


def event(name: str, data: Any) -> bytes:
    """Returns one server-sent event; `data` is JSON already, or a value for it."""
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return b"event: %b\ndata: %b\n\n" % (name.encode(), text)
