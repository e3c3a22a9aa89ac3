"""POST /api/v1/tryon, its cancellation, and the wrapping that Vertex AI sends it in."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping

from aiohttp import web

from .. import metrics
from ..errors import ApiError, canceled
from ..outbound import Outbound
from ..pending import PendingRequest, Result
from ..schema import TryonRequest
from ..settings import Settings
from ..tryon import TryOn
from . import body
from .arrivals import Arrivals, Fields, Reader
from .callbacks import accept, check_callback
from .events import stream
from .health import Health
from .replies import (
    EVENT_STREAM,
    MEDIA_TYPES,
    InPieces,
    check_connected,
    has_gone,
    has_hung_up,
    json_reply,
    off_loop_if_large,
    wanted_type,
)
from .routes import ACCOUNTS, CALLER, ID, REQUEST_ID, Route
from .shares import Shares, caller_of
from .transfers import RequestTransfers, check_urls, image_urls

DISCONNECT_POLL_S = 0.2
# What the system of a client that has gone away has to say so, once something was sent there.
PROBE_S = 1.0
PROBE_POLL_S = 0.02


class TryonApi:
    def __init__(self, settings: Settings, tryon: TryOn, health: Health, outbound: Outbound) -> None:
        self._settings = settings
        self._tryon = tryon
        self._health = health
        self._outbound = outbound
        self._arrivals = Arrivals(int(settings.max_body_mb * 1e6))
        self._shares = Shares(settings.max_queue + 1)
        self._answering: dict[asyncio.Task[Result], web.Request] = {}

    def routes(self) -> list[Route]:
        routes = [
            Route("POST", "/api/v1/tryon", self.post, counted=True),
            Route("DELETE", f"/api/v1/tryon/{ID}", self.cancel),
        ]
        if self._settings.sagemaker:
            routes.append(Route("POST", "/invocations", self.post, counted=True))
        if self._settings.predict_route:
            routes.append(Route("POST", self._settings.predict_route, self.predict, counted=True))
        return routes

    async def post(self, request: web.Request) -> web.StreamResponse:
        await self._end_abandoned(request)
        with contextlib.ExitStack() as place:
            place.enter_context(self._admitted(request))
            return await self._post(request, place)

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Answers {"instances": [fields]} with {"predictions": [reply]}."""
        await self._end_abandoned(request)
        with self._admitted(request):
            instances = await self._receive(request, body.read_instances)
            for fields in instances:
                check_urls(fields, self._outbound.hosts)
                if fields.webhook_url is not None:
                    message = "There are no webhooks here. Leave webhook_url out, or use POST /api/v1/tryon."
                    raise ApiError("invalid_parameter", message, field="webhook_url")
            replies = []
            for number, fields in enumerate(instances):
                pending = PendingRequest(f"{request[REQUEST_ID]}-{number}", caller=request[CALLER])
                replies.append(await json_reply(pending.id, await self._result(request, pending, fields)))
        content = await off_loop_if_large(sum(map(len, replies)), _predictions, replies)
        return _response(content, "application/json")

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        if not self._tryon.cancel(request[CALLER], request.match_info["id"]):
            raise ApiError("not_found", "No request with that id is waiting or running.")
        return web.Response(status=204)

    async def _post(self, request: web.Request, place: contextlib.ExitStack) -> web.StreamResponse:
        fields = await self._receive(request, body.read)
        check_urls(fields, self._outbound.hosts)
        await self._end_abandoned(request)  # again: it may have been received at the same time as this one
        wanted = wanted_type(request, fields.output_format)
        if fields.webhook_url is not None:
            check_callback(wanted, self._outbound.webhooks)
            return await self._accepted(request, fields, place)
        if wanted == EVENT_STREAM:
            return await stream(request, self._start, fields)
        if wanted:
            if field := "return_mask" if fields.return_mask else "upload_urls" if fields.upload_urls else None:
                message = f"{field} needs a JSON reply. Leave it out, or ask for JSON in the Accept header."
                raise ApiError("invalid_parameter", message, field=field)
            fields.output_format = next(name for name, media_type in MEDIA_TYPES.items() if media_type == wanted)
        pending = PendingRequest(request[REQUEST_ID], caller=request[CALLER])
        result = await self._result(request, pending, fields, returned=1 if wanted else None)
        seed = {} if result.first_seed is None else {"X-Seed": str(result.first_seed)}
        if wanted:
            return _response(result.images[0], wanted, seed)
        content = await json_reply(request[REQUEST_ID], result)
        return _response(content, "application/json", seed)

    @contextlib.contextmanager
    def _admitted(self, request: web.Request) -> Iterator[None]:
        """Refuses a request that would not be answered before its body is read."""
        _check_query(request)
        self._health.check_accepting()
        # before the room: who retries is told that the first request is still in progress, however full the worker is
        self._tryon.check_id(request[CALLER], request[REQUEST_ID])
        with self._shares.place(caller_of(request)):
            self._tryon.check_room()
            yield

    async def _receive(self, request: web.Request, read: Reader[Fields]) -> Fields:
        with metrics.stages.labels("receive").time():
            return await self._arrivals.receive(request, read)

    def _start(self, request: web.Request, pending: PendingRequest, fields: TryonRequest) -> "asyncio.Task[Result]":
        if fields.upload_urls or any(image_urls(fields)):
            max_bytes = int(self._settings.max_body_mb * 1e6)
            pending.transfers = RequestTransfers(fields, self._outbound, self._arrivals, max_bytes)
            pending.is_elsewhere = True
        task = asyncio.create_task(self._tryon.answer(pending, fields))
        self._answering[task] = request
        task.add_done_callback(lambda done: self._answering.pop(done, None))
        return task

    async def _accepted(
        self, request: web.Request, fields: TryonRequest, place: contextlib.ExitStack
    ) -> web.StreamResponse:
        """Answers once the request is queued; it keeps its place when this returns, but no longer its client."""
        url = self._outbound.hosts.url(str(fields.webhook_url))
        response, task = await accept(request, self._start, fields, self._outbound.webhooks, url)
        self._answering.pop(task, None)
        kept = place.pop_all()
        task.add_done_callback(lambda done: kept.close())
        return response

    async def _end_abandoned(self, again: web.Request) -> None:
        """Ends an earlier request of the same id, if its client has gone away and that was not noticed yet."""
        name = again[CALLER], again[REQUEST_ID]
        for task, request in [*self._answering.items()]:
            if (request[CALLER], request[REQUEST_ID]) == name and await _is_abandoned(request, task):
                task.cancel()
                await asyncio.wait({task})

    async def _result(
        self, request: web.Request, pending: PendingRequest, fields: TryonRequest, returned: int | None = None
    ) -> Result:
        """Makes the images, of which `returned` or all are returned, unless the client goes away."""
        task = self._start(request, pending, fields)
        try:
            while not (await asyncio.wait({task}, timeout=DISCONNECT_POLL_S))[0]:
                check_connected(request)
            if task.cancelled():
                raise canceled()
            result = task.result()
        finally:
            task.cancel()
            request[ACCOUNTS].append(pending.account())
        metrics.observe(result.stages, returned or len(result.images))
        return result


def _response(content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> web.Response:
    # of a body in pieces aiohttp itself tells the length only when it is sent, and the log has it too
    length = {"Content-Length": str(len(content))}
    return web.Response(body=InPieces(content), content_type=media_type, headers={**(headers or {}), **length})


def _predictions(replies: list[bytes]) -> bytes:
    return b'{"predictions":[%b]}' % b",".join(replies)


async def _is_abandoned(request: web.Request, task: "asyncio.Task[Result]") -> bool:
    """Says whether the client has gone away; who has only ended its sending side, and still reads, has not."""
    deadline = time.monotonic() + PROBE_S
    while not has_gone(request):
        if task.done() or not has_hung_up(request) or time.monotonic() > deadline:
            return False
        await asyncio.sleep(PROBE_POLL_S)
    return True


def _check_query(request: web.Request) -> None:
    """Raises ApiError if fields are in the query, where they would be passed over."""
    if request.query_string:
        name = next(iter(request.query), request.query_string)[:64]
        raise ApiError("invalid_parameter", f"The query has {name!r}. Send all fields in the body.", field=name)
