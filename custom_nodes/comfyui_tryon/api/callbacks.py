"""Requests that are answered twice: with 202 when they are queued, and by a webhook when they have ended."""

import asyncio
import json
import time

from aiohttp import web
from yarl import URL

from .. import metrics
from ..errors import ApiError, canceled, internal_error
from ..outbound.webhooks import Webhooks
from ..pending import PendingRequest, Result
from ..reply_models import Accepted
from ..schema import TryonRequest
from .answering import ACCEPTED
from .events import Start
from .replies import check_connected, json_reply
from .routes import ARRIVED, CALLER, REQUEST_ID

CONNECTED_POLL_S = 0.2


def check_callback(wanted: str | None, webhooks: Webhooks) -> None:
    """Raises ApiError if no webhook can answer a request whose Accept header has the `wanted` type."""
    if wanted:
        message = f"A webhook gets JSON. Leave webhook_url out, or take {wanted} out of the Accept header."
    elif not webhooks.can_sign:
        message = "This server sends no webhooks, as the operator has not set TRYON_WEBHOOK_SECRET, which signs them."
    else:
        return webhooks.check_room()
    raise ApiError("invalid_parameter", f"{message} Without webhook_url the reply has the images.", field="webhook_url")


async def accept(
    request: web.Request, start: Start, fields: TryonRequest, webhooks: Webhooks, url: URL
) -> "tuple[web.Response, asyncio.Task[Result]]":
    """Returns the 202 of a request, which `start` starts, and the task that goes on with it.

    Raises:
        ApiError: an error was found before the request was queued, or the client went away.
    """
    queued = asyncio.Event()
    pending = PendingRequest(request[REQUEST_ID], lambda event: queued.set(), caller=request[CALLER])
    task = start(request, pending, fields)
    task.add_done_callback(lambda done: queued.set())
    try:
        while not queued.is_set():
            waiting = asyncio.ensure_future(queued.wait())
            await asyncio.wait({waiting}, timeout=CONNECTED_POLL_S)
            waiting.cancel()
            check_connected(request)
        if not pending.queued:
            if task.cancelled():
                raise canceled()
            task.result()
    except BaseException:
        task.cancel()
        raise
    pending.is_detached = True
    webhooks.promise(url, pending.id, _message(pending, task, request[ARRIVED]), pending.log)
    accepted = Accepted(id=pending.id).model_dump_json()
    return web.Response(status=ACCEPTED, text=accepted, content_type="application/json"), task


async def _message(pending: PendingRequest, task: "asyncio.Task[Result]", arrived: float) -> bytes:
    """Returns what the webhook is told of a request once it has ended: its reply, or its id and an error.

    `arrived`: when its head had come.
    """
    try:
        await asyncio.wait({task})
        error = canceled() if task.cancelled() else task.exception()
        if error is not None:
            raise error
        result = task.result()
        message = await json_reply(pending.id, result)
        metrics.observe(result.stages, len(result.images))
        outcome = "ok"
    except ApiError as known:
        known.let_go()
        message, outcome = _failure(pending.id, known), known.code
    except Exception:
        pending.log.exception("the request failed")
        failed = internal_error()
        message, outcome = _failure(pending.id, failed), failed.code
    seconds = time.perf_counter() - arrived
    metrics.count(outcome, pending.caller, seconds)
    fields = {"outcome": outcome, "duration_s": round(seconds, 4), **pending.account()}
    pending.log.info("ended: %s", outcome, fields=fields)
    return message


def _failure(request_id: str, error: ApiError) -> bytes:
    return json.dumps({"id": request_id, **error.body(request_id)}).encode()
