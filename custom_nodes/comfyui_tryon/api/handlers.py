"""The HTTP handlers, one per path."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pybase64
from aiohttp import web

from .. import images, metrics, tryon
from ..engine.interface import Progress
from ..errors import ApiError
from ..schema import TryonRequest
from ..settings import Settings
from ..tryon import MEDIA_TYPES, Request, Result, Status, TryOn
from ..workflows.store import MAX_BYTES, WorkflowInvalid, Workflows
from . import body, openapi
from .health import Health

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fields = TypeVar("Fields")

TRYON = "/api/v1/tryon"
WORKFLOW = "/api/v1/workflows/{id}"
DOCS = "/api/v1/docs"
HEALTH_PATHS = frozenset({"/ping", "/healthz", "/readyz", "/health"})
EVENT_STREAM = "text/event-stream"

# Bodies that may be on their way in at once; with TRYON_MAX_BODY_MB it bounds the memory they take.
MAX_RECEIVING = 32
RECEIVE_TIMEOUT_S = 60
DISCONNECT_POLL_S = 0.2
KEEP_ALIVE_S = 10
PREVIEW_QUALITY = 70


class Api:
    def __init__(self, settings: Settings, tryon: TryOn, workflows: Workflows, health: Health) -> None:
        self._settings = settings
        self._tryon = tryon
        self._workflows = workflows
        self._health = health
        self._receiving = 0

    def routes(self) -> dict[str, dict[str, Handler]]:
        """Handlers by path and method; a path ending in `/{id}` takes one more segment."""
        return {
            **self.health_routes(),
            TRYON: {"POST": self.tryon},
            TRYON + "/{id}": {"DELETE": self.cancel},
            "/api/v1/workflows": {"GET": self.workflows},
            **({WORKFLOW: {"PUT": self.publish, "DELETE": self.withdraw}} if self._settings.dev else {}),
            "/api/v1/openapi.json": {"GET": self.openapi},
            DOCS: {"GET": self.docs},
            **{f"{DOCS}/{name}": {"GET": self.docs_file} for name in openapi.DOCS_FILES},
            "/metrics": {"GET": self.metrics},
            **({self._settings.predict_route: {"POST": self.predict}} if self._settings.predict_route else {}),
        }

    def aliases(self) -> dict[str, str]:
        """The paths by which other hosts ask for ours; none unless their environment names them."""
        sagemaker = {"/invocations": TRYON} if self._settings.sagemaker else {}
        vertex = {self._settings.health_route: "/health"} if self._settings.health_route else {}
        return sagemaker | vertex

    def health_routes(self) -> dict[str, dict[str, Handler]]:
        return {
            "/ping": {"GET": self.ping},
            "/healthz": {"GET": self.live},
            "/readyz": {"GET": self.ready},
            "/health": {"GET": self.ready},
        }

    async def ping(self, request: web.Request) -> web.Response:
        """200 ready, 204 starting, 503 never again or draining."""
        status, content = self._health.ping()
        return web.Response(status=204) if content is None else web.json_response(content, status=status)

    async def live(self, request: web.Request) -> web.Response:
        status, content = self._health.live()
        return web.json_response(content, status=status)

    async def ready(self, request: web.Request) -> web.Response:
        status, content = self._health.ready()
        return web.json_response(content, status=status)

    async def tryon(self, request: web.Request) -> web.StreamResponse:
        return await self._counted(request, self._answer(request))

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """The try-on in Vertex AI's wrapping: {"instances": [fields]} is answered with {"predictions": [reply]}."""
        return await self._counted(request, self._predict(request))

    async def _counted(self, request: web.Request, answer: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        outcome = "internal_error"
        try:
            response = await answer
            outcome = request.get("outcome", "ok")
            return response
        except ApiError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = "canceled"
            raise
        finally:
            metrics.count(outcome)

    async def cancel(self, request: web.Request) -> web.Response:
        if not self._tryon.cancel(request["segment"]):
            raise ApiError("not_found", "No request with that id is waiting or running.")
        return web.Response(status=204)

    async def workflows(self, request: web.Request) -> web.Response:
        listed = await asyncio.to_thread(self._workflows.describe, self._settings.workflow)
        return web.json_response(text=listed.model_dump_json(exclude_none=True))

    async def publish(self, request: web.Request) -> web.Response:
        """Makes the web page's open graph a workflow; the reply describes it."""
        data = bytearray()
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > 2 * MAX_BYTES:
                raise ApiError("payload_too_large", f"A workflow is at most {MAX_BYTES / 1e6:g} MB.")
        name = request["segment"]
        try:
            workflow = await asyncio.to_thread(self._workflows.publish, name, bytes(data))
        except WorkflowInvalid as error:
            raise ApiError("invalid_parameter", f"It is not published: {error}.", field="workflow") from None
        return web.json_response(text=workflow.description(name == self._settings.workflow).model_dump_json())

    async def withdraw(self, request: web.Request) -> web.Response:
        try:
            await asyncio.to_thread(self._workflows.withdraw, request["segment"])
        except KeyError:
            raise ApiError("not_found", "There is no workflow of that name.") from None
        return web.Response(status=204)

    async def openapi(self, request: web.Request) -> web.Response:
        return web.json_response(openapi.document(self._settings.dev))

    async def docs(self, request: web.Request) -> web.Response:
        return web.Response(text=openapi.DOCS_PAGE, content_type="text/html")

    async def docs_file(self, request: web.Request) -> web.Response:
        name = request.path.rsplit("/", 1)[1]
        content = await asyncio.to_thread(openapi.docs_file, name)
        return web.Response(body=content, content_type=openapi.DOCS_FILES[name], charset="utf-8")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._health.check_accepting()
        self._tryon.check_room()
        fields = await self._receive(request, body.read)
        wanted = wanted_type(request.headers.get("Accept", ""))
        if wanted == EVENT_STREAM:
            return await self._stream(request, fields)
        if wanted:
            fields.output_format = next(name for name, media_type in MEDIA_TYPES.items() if media_type == wanted)
        result = await self._result(request, Request(request["id"]), fields)
        seed = {"X-Seed": str(result.seed)}
        if wanted:
            return web.Response(body=result.images[0], content_type=wanted, headers=seed)
        content = await _reply(request["id"], result)
        return web.Response(body=content, content_type="application/json", headers=seed)

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        self._health.check_accepting()
        self._tryon.check_room()
        replies = []
        for number, fields in enumerate(await self._receive(request, body.read_instances)):
            job = Request(f"{request['id']}-{number}")
            replies.append(await _reply(job.id, await self._result(request, job, fields)))
        return web.Response(body=b'{"predictions":[' + b",".join(replies) + b"]}", content_type="application/json")

    async def _result(self, request: web.Request, job: Request, fields: TryonRequest) -> Result:
        """Makes the pictures, unless the client goes away."""
        task = asyncio.ensure_future(self._tryon.answer(job, fields))
        try:
            while not (await asyncio.wait({task}, timeout=DISCONNECT_POLL_S))[0]:
                check_connected(request)
            result = task.result()
        finally:
            task.cancel()
        metrics.observe(result.stages, len(result.images))
        return result

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

    async def _stream(self, request: web.Request, fields: TryonRequest) -> web.StreamResponse:
        """Answers with server-sent events; what is wrong before the request is queued is still a plain error reply."""
        events: asyncio.Queue[Status | Progress] = asyncio.Queue()
        task = asyncio.ensure_future(
            self._tryon.answer(Request(request["id"], events.put_nowait, previews=True), fields)
        )
        task.add_done_callback(lambda done: events.put_nowait(None))
        response = web.StreamResponse(
            headers={
                "Content-Type": EVENT_STREAM,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "X-Request-Id": request["id"],
            }
        )
        silence = 0.0
        try:
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), DISCONNECT_POLL_S)
                except asyncio.TimeoutError:
                    check_connected(request)
                    silence += DISCONNECT_POLL_S
                    if silence >= KEEP_ALIVE_S and response.prepared:
                        await response.write(b": keep-alive\n\n")
                        silence = 0.0
                    continue
                if event is None and not response.prepared:
                    task.result()
                if not response.prepared:
                    await response.prepare(request)
                silence = 0.0
                if event is None:
                    await response.write(await self._last_event(request, task))
                    return response
                for name, data in await _event_data(event):
                    await response.write(_sse(name, data))
        except ConnectionResetError:
            raise ApiError("canceled", "The client went away.") from None
        finally:
            task.cancel()

    async def _last_event(self, request: web.Request, task: asyncio.Future) -> bytes:
        try:
            result = task.result()
            metrics.observe(result.stages, len(result.images))
            content = await _reply(request["id"], result)
            return b"event: output\ndata: " + content + b"\n\n"
        except ApiError as error:
            request["outcome"] = error.code
            return _sse("error", error.body())


def wanted_type(accept: str) -> str | None:
    """The picture or stream type that an Accept header asks for before anything else, or None for JSON."""
    first = accept.split(",")[0].split(";")[0].strip().lower()
    return first if first in (EVENT_STREAM, *MEDIA_TYPES.values()) else None


def check_connected(request: web.Request) -> None:
    """Raises ApiError canceled when the client has gone away, of which a ComfyUI server does not tell its handlers."""
    if request.transport is None or request.transport.is_closing():
        raise ApiError("canceled", "The client went away.")


async def _reply(request_id: str, result: Result) -> bytes:
    return await body.off_loop_if_large(sum(map(len, result.images)), tryon.reply, request_id, result)


async def _event_data(event: Status | Progress) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(event, Status):
        position = {} if event.position is None else {"position": event.position}
        return [("status", {"status": event.status, **position})]
    events = [("progress", {"value": event.value, "max": event.max, "node": event.node})]
    if event.preview is not None:
        data = await asyncio.to_thread(images.encode_preview, event.preview, PREVIEW_QUALITY)
        events.append(("preview", {"format": "jpeg", "image": pybase64.b64encode_as_string(data)}))
    return events


def _sse(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
