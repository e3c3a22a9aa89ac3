"""What a request has to do with others' servers: its images that are fetched, and its results that are uploaded."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from aiohttp import ClientError, ClientResponse
from yarl import URL

from .. import metrics
from ..errors import ApiError
from ..hosts import UrlHosts, UrlRefused
from ..outbound import Outbound
from ..outbound.fetching import NotFetched
from ..outbound.uploads import NotUploaded
from ..pending import Result
from ..schema import IMAGE_FIELDS, SEVERAL_FIELDS, ImageUrl, TryonRequest
from .arrivals import Arrivals, Stalled
from .replies import MEDIA_TYPES

INSTEAD = "Send the image's bytes instead."


class RequestTransfers:
    """Fetches and uploads for one request of at most `max_bytes`; see `pending.Transfers`."""

    def __init__(self, fields: TryonRequest, outbound: Outbound, arrivals: Arrivals, max_bytes: int) -> None:
        self._fields = fields
        self._outbound = outbound
        self._arrivals = arrivals
        self._max_bytes = max_bytes
        self._left = max_bytes

    async def fetch(self) -> None:
        found = list(image_urls(self._fields))
        if not found:
            return
        with contextlib.ExitStack() as held:
            tasks = [asyncio.ensure_future(self._fetched(name, url.decode(), held)) for name, url, _ in found]
            try:
                for (_, _, put), data in zip(found, await asyncio.gather(*tasks), strict=True):
                    put(data)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def upload(self, result: Result) -> None:
        urls = [self._outbound.hosts.url(text) for text in self._fields.upload_urls]
        if not urls:
            return
        if len(urls) != len(result.images):
            message = f"The workflow made {len(result.images)} images for {len(urls)} upload_urls. Tell the operator."
            raise ApiError("workflow_invalid", message)
        media_type = MEDIA_TYPES[result.output_format]
        tasks = [
            asyncio.ensure_future(self._outbound.uploader.put(url, data, media_type))
            for url, data in zip(urls, result.images, strict=True)
        ]
        try:
            with metrics.stages.labels("upload").time():
                await asyncio.gather(*tasks)
        except NotUploaded as error:
            message = f"The images were made, but could not be uploaded: {error}. Send the request with new URLs."
            raise ApiError("upload_failed", message, field="upload_urls") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        result.urls = [str(url.with_query(None)) for url in urls]

    async def _fetched(self, name: str, url: str, held: contextlib.ExitStack) -> bytes:
        try:
            async with self._outbound.fetcher.opened(url) as response:
                return await self._received(name, response, held)
        except (UrlRefused, NotFetched) as error:
            message = f"{name} was not fetched: {error}. {INSTEAD}"
            raise ApiError("invalid_image", message, field=name.partition("[")[0]) from None

    async def _received(self, name: str, response: ClientResponse, held: contextlib.ExitStack) -> bytes:
        if (response.content_length or 0) > self._left:
            raise self._too_large(name, response)
        try:
            return await self._arrivals.follow(
                response.content.is_eof, lambda on_bytes: self._read(name, response, on_bytes), held
            )
        except Stalled:
            raise NotFetched(f"{response.url.host} stopped sending, or sent too slowly") from None
        except (ClientError, asyncio.TimeoutError, OSError, ValueError):
            raise NotFetched(f"{response.url.host} did not send all of it") from None

    async def _read(self, name: str, response: ClientResponse, on_bytes: Callable[[int], None]) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            self._left -= len(chunk)
            if self._left < 0:
                raise self._too_large(name, response)
            on_bytes(len(chunk))
        return bytes(data)

    def _too_large(self, name: str, response: ClientResponse) -> ApiError:
        message = (
            f"{name} at {response.url.host} is too large: the images of a request are at most "
            f"{self._max_bytes / 1e6:g} MB together. Send smaller ones."
        )
        return ApiError("image_too_large", message, field=name.partition("[")[0])


def check_urls(fields: TryonRequest, hosts: UrlHosts) -> None:
    """Raises ApiError if one of the URLs in `fields` may not be used; nothing has been asked for until then."""
    for name, url, _ in image_urls(fields):
        try:
            hosts.url(url.decode())
        except UrlRefused as error:
            raise ApiError("invalid_image", f"{name} {error}. {INSTEAD}", field=name.partition("[")[0]) from None
    if fields.webhook_url is not None:
        _url("webhook_url", fields.webhook_url, hosts)
    urls = [_url("upload_urls", text, hosts) for text in fields.upload_urls]
    if len(set(urls)) < len(urls):
        message = "upload_urls has one URL twice. Send another one for each image."
        raise ApiError("invalid_parameter", message, field="upload_urls")


def image_urls(fields: TryonRequest) -> Iterator[tuple[str, ImageUrl, Callable[[bytes], None]]]:
    """Gives each image that is named by URL: its name, the URL, and what puts the image into its place."""
    for name in IMAGE_FIELDS:
        sent = getattr(fields, name)
        if name not in SEVERAL_FIELDS:
            if isinstance(sent, ImageUrl):
                yield name, sent, lambda data, name=name: setattr(fields, name, data)  # type: ignore[misc]
            continue
        for number, item in enumerate(sent):
            if isinstance(item, ImageUrl):
                shown = f"{name}[{number}]" if len(sent) > 1 else name
                yield shown, item, lambda data, sent=sent, number=number: sent.__setitem__(number, data)  # type: ignore[misc]


def _url(field: str, text: str, hosts: UrlHosts) -> URL:
    try:
        return hosts.url(text)
    except UrlRefused as error:
        raise ApiError("invalid_parameter", f"{field} {error}.", field=field) from None
