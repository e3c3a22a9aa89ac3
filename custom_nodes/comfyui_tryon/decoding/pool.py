"""The decoding processes: a few for quick images, others for slow ones, and a time limit for all."""

import asyncio

import numpy as np

from .. import cpus, images
from ..errors import ApiError
from .worker import Job, Worker

QUICK_PROCESSES = min(4, max(2, cpus.available()))
SLOW_PROCESSES = 2  # with more of them on two cores, honest images of 50 megapixels run into the limit
# An image of 12 megapixels takes a third of a second. One that takes longer than QUICK_S leaves its place to others.
QUICK_S = 1.5
LIMIT_S = 9.0

# So many pixels take a process for seconds if others do the same at the same time, so few begin at once.
LARGE_BYTES = 16_000_000 * images.CHANNELS
LARGE_AT_ONCE = max(1, cpus.available() // 2)

_idle: list[Worker] = []  # they know nothing of servers and event loops, and end with this process


class Pool:
    def __init__(self) -> None:
        self._quick = asyncio.Semaphore(QUICK_PROCESSES)
        self._slow = asyncio.Semaphore(SLOW_PROCESSES)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def run(self, job: Job) -> tuple[images.Header, np.ndarray | None]:
        """Has a process do `job`; kills the process if it takes too long or if nobody waits any more.

        Raises:
            ApiError: what the process says of the image, or invalid_image for one that takes too long.
        """
        if job.header and job.header.pixel_bytes > LARGE_BYTES:
            async with self._large:
                return await self._run(job)
        return await self._run(job)

    async def _run(self, job: Job) -> tuple[images.Header, np.ndarray | None]:
        await self._quick.acquire()
        place: asyncio.Semaphore | None = self._quick
        worker, reply, slow = None, None, False
        try:
            worker = _idle_worker()
            if worker is None:
                worker = Worker()
                await worker.started()
            reply = asyncio.ensure_future(worker.do(job))
            await asyncio.wait({reply}, timeout=QUICK_S)
            slow = not reply.done()
            if slow:
                worker.give_way()
                if self._slow.locked():
                    worker.pause()
                self._quick.release()
                place = None
                await self._slow.acquire()
                place = self._slow
                worker.resume()
            return await asyncio.wait_for(reply, LIMIT_S - QUICK_S)
        except asyncio.TimeoutError:
            raise ApiError(
                "invalid_image",
                f"{job.field} takes too long to decode. Save it in a simpler form, such as a baseline JPEG.",
                field=job.field,
            ) from None
        except OSError:
            raise images.out_of_memory() from None
        finally:
            if worker and not slow and reply and reply.done() and not reply.cancelled():
                _idle.append(worker)
            elif worker:
                worker.kill()
            if reply:
                reply.cancel()
            if place:
                place.release()


def _idle_worker() -> Worker | None:
    while _idle:
        worker = _idle.pop()
        if not worker.ended:
            return worker
        worker.kill()
    return None
