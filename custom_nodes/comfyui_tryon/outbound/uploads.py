"""Sends results to presigned URLs, as object stores hand them out."""

import asyncio
import io
import random

import aiohttp
from yarl import URL

from .network import CONNECT_S, Network, reason

MAX_UPLOADING = 64
ATTEMPTS = 3
FIRST_PAUSE_S = 1.0
# For a store to take a small file; a larger one gets a second more for each megabyte.
UPLOAD_S = 20.0
# By which a store says that the same request may succeed later; any other status above 299 is final.
MAY_PASS = {408, 425, 429, 500, 502, 503, 504}


class NotUploaded(Exception):
    """A file could not be uploaded; the message begins with the host and says why."""


class Uploader:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._session: aiohttp.ClientSession | None = None

    async def put(self, url: URL, data: bytes, media_type: str) -> None:
        """Sends `data` to `url`, in three attempts at most.

        Raises:
            NotUploaded
        """
        for number in range(ATTEMPTS):
            if number:
                await asyncio.sleep(FIRST_PAUSE_S * 2 ** (number - 1) * random.uniform(0.5, 1.0))
            problem, passes = await self._attempt(url, data, media_type)
            if not problem:
                return
            if not passes:
                break
        raise NotUploaded(f"{url.host} {problem}")

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def _attempt(self, url: URL, data: bytes, media_type: str) -> tuple[str, bool]:
        """Returns what went wrong, empty if nothing did, and whether it may pass."""
        if self._session is None:
            self._session = self._network.session(MAX_UPLOADING)
        timeout = aiohttp.ClientTimeout(total=UPLOAD_S + len(data) / 1e6, sock_connect=CONNECT_S)
        try:
            async with self._session.put(
                url, data=io.BytesIO(data), headers={"Content-Type": media_type}, allow_redirects=False, timeout=timeout
            ) as response:
                if 200 <= response.status < 300:
                    return "", False
                return f"answered {response.status}", response.status in MAY_PASS
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            return reason(error), True
