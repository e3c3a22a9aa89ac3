"""The published workflows: listed, and, where the host's own pages are open, published and withdrawn."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from ..errors import ApiError
from ..settings import Settings
from ..workflows.format import WorkflowInvalid
from ..workflows.store import MAX_BYTES, Workflows
from .arrivals import Arrivals
from .body import read_all
from .origin import check_own_page
from .routes import ID, Route


class WorkflowsApi:
    def __init__(self, settings: Settings, workflows: Workflows) -> None:
        self._settings = settings
        self._workflows = workflows
        self._arrivals = Arrivals(2 * MAX_BYTES)

    def routes(self) -> list[Route]:
        routes = [Route("GET", "/api/v1/workflows", self.list)]
        if not self._settings.locked:
            path = f"/api/v1/workflows/{ID}"
            routes += [
                Route("GET", f"{path}/graph", self.read),
                Route("PUT", path, self.publish),
                Route("DELETE", path, self.withdraw),
            ]
        return routes

    async def list(self, request: web.Request) -> web.StreamResponse:
        listed = await asyncio.to_thread(self._workflows.describe, self._settings.workflow)
        return web.json_response(text=listed.model_dump_json(exclude_none=True))

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Returns a workflow's file for the web page to open: `workflow`, the page's graph, or `prompt`."""
        self._check_caller(request)
        try:
            document = await asyncio.to_thread(self._workflows.document, request.match_info["id"])
        except KeyError:
            raise ApiError("not_found", "There is no workflow of that name.") from None
        except WorkflowInvalid as error:
            raise ApiError("workflow_invalid", f"The workflow cannot be opened: {error}.") from None
        return web.json_response(document)

    async def publish(self, request: web.Request) -> web.StreamResponse:
        """Makes the web page's open graph a workflow; the reply describes it."""
        self._check_caller(request)
        name = request.match_info["id"]
        data = await self._arrivals.receive(request, _read)
        try:
            workflow = await asyncio.to_thread(self._workflows.publish, name, bytes(data))
        except WorkflowInvalid as error:
            raise ApiError("invalid_parameter", f"Not published: {error}.", field="workflow") from None
        return web.json_response(text=workflow.description(name == self._settings.workflow).model_dump_json())

    async def withdraw(self, request: web.Request) -> web.StreamResponse:
        self._check_caller(request)
        try:
            await asyncio.to_thread(self._workflows.withdraw, request.match_info["id"])
        except KeyError:
            message = "No workflow of that name was published here. One that comes with the pack cannot be withdrawn."
            raise ApiError("not_found", message) from None
        return web.Response(status=204)

    def _check_caller(self, request: web.Request) -> None:
        if not self._settings.api_key:  # which a foreign page does not have
            check_own_page(request, self._settings.listen)


async def _read(request: web.Request, max_bytes: int, on_bytes: Callable[[int], None]) -> bytearray:
    return await read_all(request, max_bytes, f"A workflow is at most {MAX_BYTES / 1e6:g} MB.", on_bytes)
