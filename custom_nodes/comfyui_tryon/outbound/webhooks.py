"""Calls webhooks until their receivers have the message, for five minutes at most."""

import asyncio
import io
import random
import time
import uuid
from collections.abc import Awaitable

import aiohttp
from yarl import URL

from .. import metrics
from ..errors import ApiError
from ..log import RequestLog
from ..signing import signed
from .network import CONNECT_S, Network, reason

# Requests that were accepted and whose webhooks have not been delivered, and the bytes of those that wait for it.
MAX_PENDING = 64
MAX_HELD_BYTES = 256_000_000
RETRY_S = 300.0
LONGEST_WAIT_S = 60.0
# For a receiver to take a message of a few kilobytes; one of more megabytes gets as many seconds more.
ATTEMPT_S = 20.0
SUCCESS = range(200, 300)
GONE = 410


class Webhooks:
    """Delivers messages, each in a task of its own, signed by `secret`."""

    def __init__(self, network: Network, secret: str | None) -> None:
        self._network = network
        self._secret = secret
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = 0
        self._hurried = asyncio.Event()

    @property
    def pending(self) -> int:
        """How many messages have been promised and not delivered."""
        return len(self._tasks)

    @property
    def can_sign(self) -> bool:
        return self._secret is not None

    def check_room(self) -> None:
        """Raises ApiError queue_full if as many messages wait as may."""
        if self.pending >= MAX_PENDING or self._held >= MAX_HELD_BYTES:
            message = f"{self.pending} webhooks are still to be delivered, as many as this worker takes. Retry later."
            raise ApiError("queue_full", message, retry_after=10)

    def promise(self, url: URL, request_id: str, message: Awaitable[bytes], log: RequestLog) -> None:
        """Delivers `message`, JSON, to `url` once it is made.

        It is sent until the receiver has it, or says that it is gone (410), or five minutes have passed.
        """
        task = asyncio.create_task(self._send(url, request_id, message, log))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hurry(self) -> None:
        """Has every message that waits for a further attempt get it now, as its last one: the process ends."""
        self._hurried.set()

    async def close(self) -> None:
        """Ends what is left; each message that is lost by that is logged."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session:
            await self._session.close()

    async def _send(self, url: URL, request_id: str, message: Awaitable[bytes], log: RequestLog) -> None:
        outcome, held = "lost", 0
        try:
            body = await message
            held = len(body)
            self._held += held
            outcome = await self._attempts(url, request_id, body, log)
        finally:
            self._held -= held
            metrics.webhooks.labels(outcome).inc()
            if outcome == "lost":
                log.error("its webhook to %s is lost with this worker", url.host)

    async def _attempts(self, url: URL, request_id: str, body: bytes, log: RequestLog) -> str:
        message_id = f"msg_{uuid.uuid4().hex}"
        began = time.monotonic()
        number = 0
        while True:
            number += 1
            is_last = self._hurried.is_set()
            answer = await self._attempt(url, message_id, request_id, body)
            if answer in SUCCESS:
                log.info("its webhook was delivered to %s at attempt %d", url.host, number)
                return "ok"
            problem = f"answered {answer}" if isinstance(answer, int) else answer
            pause_s = min(2.0 ** (number - 1), LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
            if answer == GONE or is_last or time.monotonic() + pause_s > began + RETRY_S:
                log.error("its webhook is given up after attempt %d: %s %s", number, url.host, problem)
                return "gone" if answer == GONE else "failed"
            log.warning("its webhook is tried again in %.1f s: %s %s", pause_s, url.host, problem)
            await _wait(self._hurried, pause_s)

    async def _attempt(self, url: URL, message_id: str, request_id: str, body: bytes) -> int | str:
        """Returns the receiver's status, or why there is none, to follow its name."""
        if self._session is None:
            self._session = self._network.session(MAX_PENDING)
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        headers |= await asyncio.to_thread(signed, str(self._secret), message_id, body)
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_S + len(body) / 1e6, sock_connect=CONNECT_S)
        try:
            # The reply's body is not read, however long it is.
            async with self._session.post(
                url, data=io.BytesIO(body), headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                return response.status
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            return reason(error)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        pass
