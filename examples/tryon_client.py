#!/usr/bin/env python3
"""A client of the try-on API in one file, to use as a command or to copy into a project. Needs httpx.

    python tryon_client.py person.jpg garment.jpg -o result.png

    with TryOnClient("http://127.0.0.1:8000", key="…") as client:
        [image] = client.tryon("person.jpg", "garment.jpg", seed=42)
        image.save("result.png")

`AsyncTryOnClient` is the same with `await`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import email.utils
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PATH = "/api/v1/tryon"
Source = bytes | str | os.PathLike
OnEvent = Callable[[str, dict], None]

# Worth another try: this worker, or another behind the same address, may have room in a moment.
RETRY_STATUS = {429, 503}
RETRY_CODES = {"queue_full", "not_ready", "draining", "out_of_memory"}


class TryOnError(Exception):
    """What the server said instead of a image.

    Attributes:
        code: such as "invalid_image"; "http_502" and the like where something else than the server answered.
        details: machine-readable particulars, such as `field`.
        request_id: to give to the operator, who finds it in the log.
        status: of HTTP; None where the error came as an event, after the reply had begun.
        retry_after: seconds after which a retry is worth while, or None.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: Mapping[str, Any] = {},
        request_id: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = dict(details)
        self.request_id = request_id
        self.status = status
        self.retry_after = retry_after

    @property
    def worth_retrying(self) -> bool:
        return self.status in RETRY_STATUS if self.status else self.code in RETRY_CODES


@dataclass(frozen=True)
class TryOnImage:
    """One image; `data` is a file of `format`, png, jpeg or webp."""

    data: bytes
    format: str
    width: int
    height: int
    seed: int | None

    def save(self, path: str | os.PathLike) -> None:
        Path(path).write_bytes(self.data)


class TryOnClient:
    """
    Args:
        url: of the server.
        key: the server's own key, sent as X-API-Key.
        bearer: sent as Authorization: Bearer, such as the key of a platform in front of the server.
        retries: how often a request is sent again while the server has no room for it or cannot be reached.
        max_wait_s: how long the waits before those retries may be altogether.
        timeout_s: how long one attempt may take.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        bearer: str | None = None,
        retries: int = 5,
        max_wait_s: float = 120,
        timeout_s: float = 330,
    ) -> None:
        self._patience = retries, max_wait_s
        self._http = httpx.Client(base_url=url, headers=_headers(key, bearer), timeout=timeout_s)

    def tryon(
        self,
        person: Source,
        garment: Source,
        mask: Source | None = None,
        *,
        request_id: str | None = None,
        on_event: OnEvent | None = None,
        **parameters: Any,
    ) -> list[TryOnImage]:
        """Dresses `person` in `garment`.

        Args:
            person, garment, mask: the bytes of a image, or the path of its file.
            request_id: 1 to 64 of A-Za-z0-9._-; choose one to be able to `cancel`.
            on_event: called with "status", "progress" or "preview" and the event's data while the image is made.
            parameters: the API's other fields, such as seed, num_inference_steps or workflow.

        Raises:
            TryOnError
            httpx.TransportError: the server cannot be reached or the connection broke.
        """
        form = _form(person, garment, mask, parameters)
        headers = {"X-Request-Id": request_id or str(uuid.uuid4())}
        patience = _Patience(*self._patience)
        while True:
            try:
                return self._send(form, headers, on_event)
            except (TryOnError, httpx.ConnectError) as error:
                time.sleep(patience.wait_after(error))

    def cancel(self, request_id: str) -> bool:
        """Cancels a request that waits or runs; False if there is none with that id."""
        return _canceled(self._http.delete(f"{PATH}/{request_id}"))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> TryOnClient:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _send(self, form: dict, headers: dict[str, str], on_event: OnEvent | None) -> list[TryOnImage]:
        if on_event is None:
            return _images(self._http.post(PATH, **form, headers=headers))
        with self._http.stream("POST", PATH, **form, headers=headers | {"Accept": "text/event-stream"}) as response:
            if not response.is_success:
                response.read()
                raise _error(response)
            events = _Events(headers["X-Request-Id"], on_event)
            for line in response.iter_lines():
                events.feed(line)
            return events.images()


class AsyncTryOnClient:
    """`TryOnClient` for asyncio."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        bearer: str | None = None,
        retries: int = 5,
        max_wait_s: float = 120,
        timeout_s: float = 330,
    ) -> None:
        self._patience = retries, max_wait_s
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key, bearer), timeout=timeout_s)

    async def tryon(
        self,
        person: Source,
        garment: Source,
        mask: Source | None = None,
        *,
        request_id: str | None = None,
        on_event: OnEvent | None = None,
        **parameters: Any,
    ) -> list[TryOnImage]:
        """As TryOnClient.tryon. Where the task is cancelled, the connection closes and the server stops the work."""
        form = await asyncio.to_thread(_form, person, garment, mask, parameters)
        headers = {"X-Request-Id": request_id or str(uuid.uuid4())}
        patience = _Patience(*self._patience)
        while True:
            try:
                return await self._send(form, headers, on_event)
            except (TryOnError, httpx.ConnectError) as error:
                await asyncio.sleep(patience.wait_after(error))

    async def cancel(self, request_id: str) -> bool:
        """As TryOnClient.cancel."""
        return _canceled(await self._http.delete(f"{PATH}/{request_id}"))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncTryOnClient:
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.aclose()

    async def _send(self, form: dict, headers: dict[str, str], on_event: OnEvent | None) -> list[TryOnImage]:
        if on_event is None:
            return _images(await self._http.post(PATH, **form, headers=headers))
        headers = headers | {"Accept": "text/event-stream"}
        async with self._http.stream("POST", PATH, **form, headers=headers) as response:
            if not response.is_success:
                await response.aread()
                raise _error(response)
            events = _Events(headers["X-Request-Id"], on_event)
            async for line in response.aiter_lines():
                events.feed(line)
            return events.images()


class _Patience:
    """How long to wait before each retry, until there have been enough."""

    def __init__(self, retries: int, max_wait_s: float) -> None:
        self._pauses = iter([min(2.0**attempt, 30.0) for attempt in range(retries)])
        self._left_s = max_wait_s

    def wait_after(self, error: Exception) -> float:
        """Seconds to wait, as asked for or ever longer. Raises `error` where another try is not worth while."""
        pause = next(self._pauses, None)
        if pause is None or (isinstance(error, TryOnError) and not error.worth_retrying):
            raise error
        asked = getattr(error, "retry_after", None)
        pause = pause if asked is None else asked
        if pause > self._left_s:
            raise error
        self._left_s -= pause
        return pause


class _Events:
    """Puts the lines of a text/event-stream reply together; keeps what it ends with."""

    def __init__(self, request_id: str, on_event: OnEvent) -> None:
        self._request_id = request_id
        self._on_event = on_event
        self._name, self._data = "message", []
        self._output: dict | None = None

    def feed(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif not line and self._data:
            name, data = self._name, json.loads("\n".join(self._data))
            self._name, self._data = "message", []
            if name == "error":
                raise _error_from(data, self._request_id)
            if name == "output":
                self._output = data
            else:
                self._on_event(name, data)

    def images(self) -> list[TryOnImage]:
        if self._output is None:
            raise TryOnError("stream_ended", "The server's reply ended before an image.", {}, self._request_id)
        return _images_from(self._output)


def _headers(key: str | None, bearer: str | None) -> dict[str, str]:
    headers = {"User-Agent": "comfyui-tryon-client"}
    if key:
        headers["X-API-Key"] = key
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    return headers


def _form(person: Source, garment: Source, mask: Source | None, parameters: Mapping[str, Any]) -> dict:
    """httpx's arguments for a form: images as files, a third smaller than in base64."""
    sources = {"person_image": person, "garment_image": garment, "mask_image": mask}
    files = {
        name: (name, source if isinstance(source, bytes) else Path(source).read_bytes())
        for name, source in sources.items()
        if source is not None
    }
    return {"files": files, "data": {name: str(value) for name, value in parameters.items() if value is not None}}


def _images(response: httpx.Response) -> list[TryOnImage]:
    if not response.is_success:
        raise _error(response)
    return _images_from(response.json())


def _images_from(reply: dict) -> list[TryOnImage]:
    return [
        TryOnImage(base64.b64decode(image["image"]), image["format"], image["width"], image["height"], image["seed"])
        for image in reply["output"]["images"]
    ]


def _canceled(response: httpx.Response) -> bool:
    if response.status_code in (204, 404):
        return response.status_code == 204
    raise _error(response)


def _error(response: httpx.Response) -> TryOnError:
    request_id = response.headers.get("X-Request-Id")
    retry_after = _seconds(response.headers.get("Retry-After"))
    try:
        return _error_from(response.json(), request_id, response.status_code, retry_after)
    except (ValueError, KeyError, TypeError):  # a load balancer's own page
        message = f"{response.status_code} {response.reason_phrase}: {response.text[:200]}"
        return TryOnError(f"http_{response.status_code}", message, {}, request_id, response.status_code, retry_after)


def _error_from(
    content: dict, request_id: str | None, status: int | None = None, retry_after: float | None = None
) -> TryOnError:
    error = content["error"]
    return TryOnError(error["code"], error["message"], error.get("details") or {}, request_id, status, retry_after)


def _seconds(retry_after: str | None) -> float | None:
    """The Retry-After header: seconds or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _show(name: str, data: dict) -> None:
    """A progress bar on the terminal."""
    if name == "progress":
        done = round(30 * data["value"] / max(data["max"], 1))
        line = f"[{'#' * done}{'.' * (30 - done)}] {data['value']}/{data['max']}"
    elif name == "status":
        line = " ".join(str(value) for value in data.values())
    else:
        return
    print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Dresses a person in a garment on a try-on server.")
    parser.add_argument("person", type=Path)
    parser.add_argument("garment", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("result.png"), help="a .png, .jpg or .webp file")
    parser.add_argument("--mask", type=Path, help="white where the garment goes; else the server finds that itself")
    parser.add_argument("--url", default=os.environ.get("TRYON_URL", "http://127.0.0.1:8000"), help="or TRYON_URL")
    parser.add_argument("--key", default=os.environ.get("TRYON_API_KEY"), help="or TRYON_API_KEY; as X-API-Key")
    parser.add_argument("--bearer", default=os.environ.get("TRYON_BEARER"), help="or TRYON_BEARER")
    parser.add_argument("--retries", type=int, default=5, help="while the server is busy (default 5)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    api = parser.add_argument_group("the image")
    api.add_argument("--seed", type=int)
    api.add_argument("--cloth-type", help="upper, lower, overall, inner or outer")
    api.add_argument("--steps", type=int, dest="num_inference_steps")
    api.add_argument("--guidance", type=float, dest="guidance_scale")
    api.add_argument("--width", type=int)
    api.add_argument("--height", type=int)
    api.add_argument("--num-images", type=int)
    api.add_argument("--quality", type=int, dest="output_quality")
    api.add_argument("--workflow")
    options = parser.parse_args(arguments)
    parameters = {action.dest: getattr(options, action.dest) for action in api._group_actions}
    suffix = options.output.suffix.lower().lstrip(".")
    parameters["output_format"] = {"jpg": "jpeg", "": "png"}.get(suffix, suffix)
    try:
        with TryOnClient(options.url, key=options.key, bearer=options.bearer, retries=options.retries) as client:
            images = client.tryon(
                options.person, options.garment, options.mask, on_event=None if options.quiet else _show, **parameters
            )
    except TryOnError as error:
        print(f"\n{error.code}: {error.message} (request {error.request_id})", file=sys.stderr)
        return 1
    except (OSError, httpx.TransportError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    for index, image in enumerate(images):
        path = options.output
        if len(images) > 1:
            path = path.with_stem(f"{path.stem}-{index + 1}")
        image.save(path)
        print(f"{'' if options.quiet else chr(13)}{path}: {image.width} x {image.height}, seed {image.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
