"""A try-on request answered with server-sent events: status, progress, preview, then output or error."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pybase64
from aiohttp import web

from .. import images, metrics
from ..engine.interface import Progress
from ..errors import ApiError, canceled, internal_error
from ..pending import PendingRequest, Result, Status
from ..schema import TryonRequest
from .replies import (
    EVENT_STREAM,
    check_connected,
    event,
    has_hung_up,
    json_reply,
    off_loop_if_large,
    write_in_pieces,
)
from .routes import ACCOUNTS, CALLER, HEADERS, OUTCOME, REQUEST_ID

POLL_S = 0.2
KEEP_ALIVE_S = 10
PREVIEW_QUALITY = 70


Start = Callable[[web.Request, PendingRequest, TryonRequest], "asyncio.Task[Result]"]


async def stream(request: web.Request, start: Start, fields: TryonRequest) -> web.StreamResponse:
    """Answers `request`, which `start` starts, with events; errors found before it is queued are still ordinary JSON
    errors.

    Raises:
        ApiError: nothing has been sent yet, or the client went away.
    """
    events: asyncio.Queue[Status | Progress | None] = asyncio.Queue()  # None when the request has ended
    pending = PendingRequest(request[REQUEST_ID], events.put_nowait, previews=True, caller=request[CALLER])
    task = start(request, pending, fields)
    task.add_done_callback(lambda done: events.put_nowait(None))
    headers = {
        "Content-Type": EVENT_STREAM,
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # nginx would hold the events back
        **request[HEADERS],
    }
    response = web.StreamResponse(headers=headers)
    try:
        while True:
            happened = await _next_event(request, response, events)
            if task.cancelled():
                raise canceled()
            if happened is None and not response.prepared:
                task.result()
            if not response.prepared:
                await response.prepare(request)
            if happened is None:
                await write_in_pieces(await _last_event(request, task), response.write, request.transport)
                return response
            for name, data in await _event_data(happened):
                await response.write(event(name, data))
    except ConnectionResetError:
        raise ApiError("canceled", "The client went away.") from None
    except Exception as error:
        if not response.prepared:
            raise
        if not isinstance(error, ApiError):
            pending.log.exception("the request failed")
            error = internal_error()
        with contextlib.suppress(ConnectionError):
            await response.write(_failure(request, error))
        return response
    finally:
        task.cancel()
        request[ACCOUNTS].append(pending.account())


async def _next_event(
    request: web.Request, response: web.StreamResponse, events: asyncio.Queue[Status | Progress | None]
) -> Status | Progress | None:
    silence = 0.0
    while True:
        try:
            return await asyncio.wait_for(events.get(), POLL_S)
        except asyncio.TimeoutError:
            check_connected(request)
        silence += POLL_S
        # also to who has ended its sending side: whether it still reads is seen by sending only
        if response.prepared and (silence >= KEEP_ALIVE_S or has_hung_up(request)):
            await response.write(b": keep-alive\n\n")
            silence = 0.0


async def _event_data(happened: Status | Progress) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(happened, Status):
        position = {} if happened.position is None else {"position": happened.position}
        return [("status", {"status": happened.status, **position})]
    events = [("progress", {"value": happened.value, "max": happened.max, "node": happened.node})]
    if happened.preview is not None:
        data = await asyncio.to_thread(images.encode_preview, happened.preview, PREVIEW_QUALITY)
        events.append(("preview", {"format": "jpeg", "image": pybase64.b64encode_as_string(data)}))
    return events


async def _last_event(request: web.Request, task: "asyncio.Future[Result]") -> bytes:
    try:
        result = task.result()
    except ApiError as error:
        error.let_go()
        return _failure(request, error)
    reply = await json_reply(request[REQUEST_ID], result)
    output = await off_loop_if_large(len(reply), event, "output", reply)
    metrics.observe(result.stages, len(result.images))
    return output


def _failure(request: web.Request, error: ApiError) -> bytes:
    request[OUTCOME] = error.code
    return event("error", error.body(request[REQUEST_ID]))
