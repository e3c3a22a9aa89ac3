"""The client for asyncio."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx

from . import _errors
from ._calls import Call, Target, without_webhook
from ._errors import TryOnError
from ._form import ImageSource
from ._results import Event, EventReader, Health, Result, accepted, checked, content_of, health_of
from ._retries import Attempts
from ._types import BoundWorkflow, Fields, WorkflowList

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncTryOn:
    """`TryOn` for asyncio: a client of one server.

    Args:
        url: of the server; None for the environment's TRYON_URL, or else http://127.0.0.1:8000.
        api_key: the server's key, sent as X-API-Key; None for the environment's TRYON_API_KEY, if it is set.
        headers: sent with every request, such as {"Authorization": "Bearer …"} for a platform in front of the server.
        timeout: seconds to wait for a reply, 330 by default, or an httpx.Timeout.
        max_retries: how often a request is sent again if the server has no room (429, 503), cannot be reached or
            loses the connection. `Retry-After` is honoured up to a minute.
        http_client: an httpx.AsyncClient to use, such as one with a proxy; the caller closes it.

    Raises:
        ValueError: `url` is not one of http or https, or the key or a header has characters that none can have.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | httpx.Timeout | None = None,
        max_retries: int = 5,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._target = Target(url, api_key, headers, timeout)
        self._max_retries = max_retries
        self._owns_http = http_client is None
        self._http = http_client or httpx.AsyncClient()

    async def try_on(
        self,
        person: ImageSource,
        garment: ImageSource | Sequence[ImageSource],
        *,
        mask: ImageSource | None = None,
        request_id: str | None = None,
        **fields: Unpack[Fields],
    ) -> Result:
        """Dresses the person in the garment, or in up to four of them, one after the other.

        Args:
            person, garment, mask: bytes, a path, an https:// URL if the server allows its host, a data URI, an open
                file or a Pillow image.
            request_id: 1 to 64 of A-Za-z0-9._-, unique among your current requests; choose one to `cancel` it.
            fields: the API's other fields, such as cloth_type, framing, seed or num_images.

        Cancelling the task closes the connection, and the server stops the work.

        Raises:
            TryOnError
            OSError: a file cannot be read.
        """
        without_webhook(fields)
        return content_of(await self._send(self._target.try_on(person, garment, mask, request_id, fields)), Result)

    def stream(
        self,
        person: ImageSource,
        garment: ImageSource | Sequence[ImageSource],
        *,
        mask: ImageSource | None = None,
        request_id: str | None = None,
        **fields: Unpack[Fields],
    ) -> AsyncEvents:
        """Does as `try_on`, and yields StatusEvent, ProgressEvent and PreviewEvent on the way to one OutputEvent.

        The request is sent when the first event is asked for, and canceled if the events are closed before the last.
        Events begin again with a StatusEvent if it is sent again.
        """
        without_webhook(fields)
        call = self._target.try_on(person, garment, mask, request_id, fields, Accept="text/event-stream")
        return AsyncEvents(self._events(call))

    async def submit(
        self,
        person: ImageSource,
        garment: ImageSource | Sequence[ImageSource],
        *,
        webhook_url: str,
        mask: ImageSource | None = None,
        request_id: str | None = None,
        **fields: Unpack[Fields],
    ) -> str:
        """Does as `try_on`, but returns the request's id as soon as it is queued.

        The result goes to `webhook_url`, an https:// URL whose host the server allows; see `verify_webhook`.
        """
        call = self._target.try_on(person, garment, mask, request_id, {"webhook_url": webhook_url, **fields})
        attempts = Attempts(self._max_retries, awaits_conflict=False)
        try:
            return accepted(await self._send(call, attempts))
        except TryOnError as error:
            if error.code == "conflict" and attempts.lost:
                return str(call.request_id)  # the reply that was lost had accepted it
            raise

    async def cancel(self, request_id: str) -> bool:
        """Cancels a request that waits or runs; returns False if the server has none with this id."""
        try:
            await self._send(self._target.cancel(request_id))
        except TryOnError as error:
            if error.code == "not_found":
                return False
            raise
        return True

    async def workflows(self) -> list[BoundWorkflow]:
        """Returns the server's workflows with the parameters that each takes."""
        return content_of(await self._send(self._target.call("GET", "/api/v1/workflows")), WorkflowList).workflows

    async def health(self) -> Health:
        """Returns whether the server answers requests, without retries."""
        return health_of(await self._once(self._target.call("GET", "/ping")))

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> AsyncTryOn:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _send(self, call: Call, attempts: Attempts | None = None) -> httpx.Response:
        attempts = attempts or Attempts(self._max_retries)
        while True:
            try:
                return checked(await self._once(call))
            except TryOnError as error:
                pause = attempts.pause_after(error)
            await sleep(pause)

    async def _once(self, call: Call) -> httpx.Response:
        with call.form.opened() as parts, _errors.of_transport(call.request_id, call.timeout):
            return await self._http.request(
                call.method, call.url, headers=call.headers, files=parts or None, timeout=call.timeout
            )

    async def _events(self, call: Call) -> AsyncGenerator[Event, None]:
        attempts = Attempts(self._max_retries)
        while True:
            try:
                async with aclosing(self._events_once(call)) as events:
                    async for event in events:
                        yield event
                return
            except TryOnError as error:
                pause = attempts.pause_after(error)
            await sleep(pause)

    async def _events_once(self, call: Call) -> AsyncGenerator[Event, None]:
        with call.form.opened() as parts, _errors.of_transport(call.request_id, call.timeout):
            async with self._http.stream(
                call.method, call.url, headers=call.headers, files=parts, timeout=call.timeout
            ) as response:
                if not response.is_success:
                    await response.aread()
                reader = EventReader(checked(response), call.request_id)
                async for line in response.aiter_lines():
                    for event in reader.feed(line):
                        yield event
                    if reader.ended:
                        return
                reader.fail()


class AsyncEvents:
    """The events of one request; leaving its `async with` statement early cancels the request."""

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncEvents:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Closes the connection; the server then cancels the request."""
        await self._events.aclose()

    async def __aenter__(self) -> AsyncEvents:
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self.aclose()
