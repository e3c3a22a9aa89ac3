"""Opens what clients name by URL, at hosts that are allowed, redirects included."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from yarl import URL

from ..hosts import UrlHosts, UrlRefused
from .network import Network, reason

MAX_REDIRECTS = 3
REDIRECTS = {301, 302, 303, 307, 308}
# From the request for a file to the head of the response.
ANSWER_S = 30.0
FETCHES = 64
FETCHES_PER_HOST = 32


class NotFetched(Exception):
    """A file could not be fetched; the message names the host and continues a sentence."""


class Fetcher:
    """Fetches from `hosts` by way of `network`."""

    def __init__(self, hosts: UrlHosts, network: Network) -> None:
        self._hosts = hosts
        self._network = network
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def opened(self, text: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Gives the response of a URL, 200 and not compressed, of which only the head has been read.

        Raises:
            UrlRefused: a client may not ask for that URL.
            NotFetched: its host does not answer with a file, or sends to another one that may not be asked.
        """
        if self._session is None:
            self._session = self._network.session(FETCHES, FETCHES_PER_HOST)
        url = self._hosts.url(text)
        for _ in range(MAX_REDIRECTS + 1):
            try:
                # aiohttp's own limits end with an interim response (103), after which a host could be silent for ever.
                response = await asyncio.wait_for(self._session.get(url, allow_redirects=False), ANSWER_S)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
                raise NotFetched(f"{url.host} {reason(error)}") from None
            async with response:
                if response.status not in REDIRECTS:
                    _check(response, url)
                    yield response
                    return
                try:
                    url = self._hosts.redirected(url, response.headers.get("Location", ""))
                except UrlRefused as error:
                    raise NotFetched(f"{url.host} redirects to what {error}") from None
        raise NotFetched(f"{url.host} was reached after more than {MAX_REDIRECTS} redirects")

    async def close(self) -> None:
        if self._session:
            await self._session.close()


def _check(response: aiohttp.ClientResponse, url: URL) -> None:
    if response.status != 200:
        raise NotFetched(f"{url.host} answered {response.status}")
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise NotFetched(f"{url.host} sends it compressed, with a Content-Encoding")
