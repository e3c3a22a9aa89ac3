"""What a request gives: the API's reply with the images at hand, and the events on the way to it."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar

import httpx

from . import _errors
from ._errors import CONNECTION_LOST, INVALID_REPLY, TryOnError
from ._reading import read
from ._types import Image, PreviewEvent, ProgressEvent, Report, StatusEvent, TryonReply

Kind = TypeVar("Kind")


class ResultImage(Image):
    """One image of a result, with its `format`, `width`, `height`, `seed` and `report`."""

    @property
    def bytes(self) -> builtins.bytes:
        """The image's file, in `format`.

        Raises:
            ValueError: the image was uploaded instead.
        """
        content: builtins.bytes | None = self.image
        if content is None:
            raise ValueError("The image was uploaded to one of `upload_urls`; download it from there.")
        return content

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the image's file, in `format` whatever the path's suffix."""
        Path(path).write_bytes(self.bytes)


class Result(TryonReply):
    """The images, with `id`, `seed`, `workflow`, `timings` and `warnings`, which is empty if there are none."""

    @cached_property
    def images(self) -> list[ResultImage]:
        """The images, at least one."""
        return [ResultImage(**vars(image)) for image in self.output.images]

    @property
    def mask(self) -> bytes | None:
        """A PNG, white where the images may differ from the person; None unless `return_mask` asked for it."""
        return self.output.mask

    @property
    def report(self) -> Report | None:
        """The first image's report."""
        return self.images[0].report


@dataclass(frozen=True)
class OutputEvent:
    """Brings the result; the last event."""

    result: Result


@dataclass(frozen=True)
class Health:
    """Says whether a server answers requests, and why not."""

    status: Literal["healthy", "starting", "draining", "unhealthy"]
    reason: str | None = None


@dataclass(frozen=True)
class Accepted:
    id: str


Event: TypeAlias = "StatusEvent | ProgressEvent | PreviewEvent | OutputEvent"
EVENTS: dict[str, type[StatusEvent | ProgressEvent | PreviewEvent]] = {
    "status": StatusEvent,
    "progress": ProgressEvent,
    "preview": PreviewEvent,
}


def checked(response: httpx.Response) -> httpx.Response:
    """Raises a TryOnError unless `response` reports success."""
    if response.is_success:
        return response
    raise _errors.of_response(response)


def content_of(response: httpx.Response, kind: type[Kind]) -> Kind:
    """Returns what a reply in JSON holds; raises TryOnError "invalid_reply" if that is not a `kind`."""
    try:
        return read(kind, json.loads(response.content))
    except ValueError as error:
        raise _invalid(str(error), response.headers.get("X-Request-Id")) from error


def accepted(response: httpx.Response) -> str:
    """Returns the id of a request whose result a webhook will bring."""
    if response.status_code != 202:
        raise _invalid("it does not say that the request was accepted", response.headers.get("X-Request-Id"))
    return content_of(response, Accepted).id


def health_of(response: httpx.Response) -> Health:
    """Returns what a server says of itself; raises TryOnError if something other than the API answered."""
    if response.status_code == 204:
        return Health("starting")
    try:
        content = json.loads(response.content)
        return Health(content["status"], content.get("reason"))
    except (ValueError, TypeError, KeyError):
        raise _errors.of_response(response) from None


class EventReader:
    """Puts the lines of an event stream together.

    Attributes:
        ended: whether the last event has come.

    Raises:
        TryOnError: "invalid_reply" if `response` is no event stream.
    """

    def __init__(self, response: httpx.Response, request_id: str | None) -> None:
        self._request_id = response.headers.get("X-Request-Id", request_id)
        self._name = ""
        self._data: list[str] = []
        self.ended = False
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise _invalid("it is no event stream", self._request_id)

    def feed(self, line: str) -> Iterator[Event]:
        """Yields the event that `line` completes, if there is one; raises TryOnError if it is an error."""
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif not line:
            name, data = self._name, "\n".join(self._data)
            self._name = ""
            self._data.clear()
            if data:
                yield from self._event(name, data)

    def fail(self) -> NoReturn:
        """Raises the TryOnError of a stream that stopped before its last event."""
        message = "The connection broke before the reply was complete: the events stopped."
        raise TryOnError(CONNECTION_LOST, message, request_id=self._request_id)

    def _event(self, name: str, data: str) -> Iterator[Event]:
        try:
            content: Any = json.loads(data)
            if name == "error":
                raise _errors.of_content(content, self._request_id)
            if name == "output":
                self.ended = True
                yield OutputEvent(read(Result, content))
            elif name in EVENTS:  # a later server may send others
                yield read(EVENTS[name], content)
        except ValueError as error:
            raise _invalid(str(error), self._request_id) from error


def _invalid(problem: str, request_id: str | None) -> TryOnError:
    message = f"The reply is not the API's, {problem}. Check the address."
    return TryOnError(INVALID_REPLY, message, request_id=request_id)
