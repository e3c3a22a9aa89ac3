"""POST /api/v1/tryon, its cancellation, and the wrapping that Vertex AI sends it in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from .. import metrics
from ..errors import ApiError
from ..pending import PendingRequest, Result
from ..schema import TryonRequest
from ..settings import Settings
from ..tryon import TryOn
from . import body
from .events import stream
from .health import Health
from .replies import EVENT_STREAM, MEDIA_TYPES, check_connected, json_reply, wanted_type
from .routes import CALLER, ID, OUTCOME, REQUEST_ID, Handler, Route

Fields = TypeVar("Fields")

# Bodies that may be on their way in at once; with TRYON_MAX_BODY_MB it bounds the memory they take.
MAX_RECEIVING = 32
RECEIVE_TIMEOUT_S = 60
DISCONNECT_POLL_S = 0.2


class TryonApi:
    def __init__(self, settings: Settings, tryon: TryOn, health: Health) -> None:
        self._settings = settings
        self._tryon = tryon
        self._health = health
        self._receiving = 0

    def routes(self) -> list[Route]:
        post = _counted(self.post)
        routes = [Route("POST", "/api/v1/tryon", post), Route("DELETE", f"/api/v1/tryon/{ID}", self.cancel)]
        if self._settings.sagemaker:
            routes.append(Route("POST", "/invocations", post))
        if self._settings.predict_route:
            routes.append(Route("POST", self._settings.predict_route, _counted(self.predict)))
        return routes

    async def post(self, request: web.Request) -> web.StreamResponse:
        self._check_accepting()
        fields = await self._receive(request, body.read)
        wanted = wanted_type(request)
        if wanted == EVENT_STREAM:
            return await stream(request, self._tryon, fields)
        if wanted:
            fields.output_format = next(name for name, media_type in MEDIA_TYPES.items() if media_type == wanted)
        pending = PendingRequest(request[REQUEST_ID], caller=request[CALLER])
        result = await self._result(request, pending, fields)
        seed = {"X-Seed": str(result.seed)}
        if wanted:
            return web.Response(body=result.images[0], content_type=wanted, headers=seed)
        content = await json_reply(request[REQUEST_ID], result)
        return web.Response(body=content, content_type="application/json", headers=seed)

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Answers {"instances": [fields]} with {"predictions": [reply]}."""
        self._check_accepting()
        replies = []
        for number, fields in enumerate(await self._receive(request, body.read_instances)):
            pending = PendingRequest(f"{request[REQUEST_ID]}-{number}", caller=request[CALLER])
            replies.append(await json_reply(pending.id, await self._result(request, pending, fields)))
        return web.Response(body=b'{"predictions":[' + b",".join(replies) + b"]}", content_type="application/json")

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        if not self._tryon.cancel(request[CALLER], request.match_info["id"]):
            raise ApiError("not_found", "No request with that id is waiting or running.")
        return web.Response(status=204)

    def _check_accepting(self) -> None:
        """Refuses a request that would not be answered before its body is read."""
        self._health.check_accepting()
        self._tryon.check_room()

    async def _receive(self, request: web.Request, read: Callable[[web.Request, int], Awaitable[Fields]]) -> Fields:
        if self._receiving >= MAX_RECEIVING:
            raise ApiError("queue_full", "Too many requests are arriving at once. Retry shortly.", retry_after=1)
        self._receiving += 1
        try:
            with metrics.stages.labels("receive").time():
                limit = int(self._settings.max_body_mb * 1e6)
                return await asyncio.wait_for(read(request, limit), RECEIVE_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise ApiError("invalid_request", f"The body did not arrive within {RECEIVE_TIMEOUT_S} s.") from None
        finally:
            self._receiving -= 1

    async def _result(self, request: web.Request, pending: PendingRequest, fields: TryonRequest) -> Result:
        """Makes the images, unless the client goes away."""
        task = asyncio.ensure_future(self._tryon.answer(pending, fields))
        try:
            while not (await asyncio.wait({task}, timeout=DISCONNECT_POLL_S))[0]:
                check_connected(request)
            result = task.result()
        finally:
            task.cancel()
        metrics.observe(result.stages, len(result.images))
        return result


def _counted(handler: Handler) -> Handler:
    """Counts each request by its outcome; an event stream, whose status is 200 whatever happens, sets it itself."""

    async def counted(request: web.Request) -> web.StreamResponse:
        outcome = "internal_error"
        try:
            response = await handler(request)
            outcome = request.get(OUTCOME, "ok")
            return response
        except ApiError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = request.get(OUTCOME, "canceled")
            raise
        finally:
            metrics.count(outcome, request[CALLER])

    return counted
