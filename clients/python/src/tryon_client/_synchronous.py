"""The client for ordinary programs."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from time import sleep
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


class TryOn:
    """A client of one server, for one thread or several.

    Args:
        url: of the server; None for the environment's TRYON_URL, or else http://127.0.0.1:8000.
        api_key: the server's key, sent as X-API-Key; None for the environment's TRYON_API_KEY, if it is set.
        headers: sent with every request, such as {"Authorization": "Bearer …"} for a platform in front of the server.
        timeout: seconds to wait for a reply, 330 by default, or an httpx.Timeout.
        max_retries: how often a request is sent again if the server has no room (429, 503), cannot be reached or
            loses the connection. `Retry-After` is honoured up to a minute.
        http_client: an httpx.Client to use, such as one with a proxy; the caller closes it.

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
        http_client: httpx.Client | None = None,
    ) -> None:
        self._target = Target(url, api_key, headers, timeout)
        self._max_retries = max_retries
        self._owns_http = http_client is None
        self._http = http_client or httpx.Client()

    def try_on(
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

        Raises:
            TryOnError
            OSError: a file cannot be read.
        """
        without_webhook(fields)
        return content_of(self._send(self._target.try_on(person, garment, mask, request_id, fields)), Result)

    def stream(
        self,
        person: ImageSource,
        garment: ImageSource | Sequence[ImageSource],
        *,
        mask: ImageSource | None = None,
        request_id: str | None = None,
        **fields: Unpack[Fields],
    ) -> Events:
        """Does as `try_on`, and yields StatusEvent, ProgressEvent and PreviewEvent on the way to one OutputEvent.

        The request is sent when the first event is asked for, and canceled if the events are closed before the last.
        Events begin again with a StatusEvent if it is sent again.
        """
        without_webhook(fields)
        call = self._target.try_on(person, garment, mask, request_id, fields, Accept="text/event-stream")
        return Events(self._events(call))

    def submit(
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
            return accepted(self._send(call, attempts))
        except TryOnError as error:
            if error.code == "conflict" and attempts.lost:
                return str(call.request_id)  # the reply that was lost had accepted it
            raise

    def cancel(self, request_id: str) -> bool:
        """Cancels a request that waits or runs; returns False if the server has none with this id."""
        try:
            self._send(self._target.cancel(request_id))
        except TryOnError as error:
            if error.code == "not_found":
                return False
            raise
        return True

    def workflows(self) -> list[BoundWorkflow]:
        """Returns the server's workflows with the parameters that each takes."""
        return content_of(self._send(self._target.call("GET", "/api/v1/workflows")), WorkflowList).workflows

    def health(self) -> Health:
        """Returns whether the server answers requests, without retries."""
        return health_of(self._once(self._target.call("GET", "/ping")))

    def close(self) -> None:
        """Closes the connections."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> TryOn:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _send(self, call: Call, attempts: Attempts | None = None) -> httpx.Response:
        attempts = attempts or Attempts(self._max_retries)
        while True:
            try:
                return checked(self._once(call))
            except TryOnError as error:
                pause = attempts.pause_after(error)
            sleep(pause)

    def _once(self, call: Call) -> httpx.Response:
        with call.form.opened() as parts, _errors.of_transport(call.request_id, call.timeout):
            return self._http.request(
                call.method, call.url, headers=call.headers, files=parts or None, timeout=call.timeout
            )

    def _events(self, call: Call) -> Generator[Event, None, None]:
        attempts = Attempts(self._max_retries)
        while True:
            try:
                yield from self._events_once(call)
                return
            except TryOnError as error:
                pause = attempts.pause_after(error)
            sleep(pause)

    def _events_once(self, call: Call) -> Generator[Event, None, None]:
        with (
            call.form.opened() as parts,
            _errors.of_transport(call.request_id, call.timeout),
            self._http.stream(
                call.method, call.url, headers=call.headers, files=parts, timeout=call.timeout
            ) as response,
        ):
            if not response.is_success:
                response.read()
            reader = EventReader(checked(response), call.request_id)
            for line in response.iter_lines():
                yield from reader.feed(line)
                if reader.ended:
                    return
            reader.fail()


class Events:
    """The events of one request; leaving its `with` statement early cancels the request."""

    def __init__(self, events: Generator[Event, None, None]) -> None:
        self._events = events

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Closes the connection; the server then cancels the request."""
        self._events.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
