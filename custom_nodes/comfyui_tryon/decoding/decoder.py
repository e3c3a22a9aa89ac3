"""A request's images, from their bytes to pixels."""

import asyncio
import os
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from .. import images
from ..errors import ApiError
from ..imagefiles.reducing import reduced
from .budget import Budget, Share, cost
from .mask import MASK_FIELD, decode_field, read_field_header
from .pool import Pool
from .worker import Job

T = TypeVar("T")
MASK_ASPECT_TOLERANCE = 0.01
PERSON_FIELD = "person_image"
REDUCED_FIELDS = (PERSON_FIELD, MASK_FIELD)
FINISH_S = 1.0  # a canceled job ends its process, and a new one has to start
SMALL_BYTES = 24_000_000  # a JPEG of 1.8 megapixels, a PNG of 2.5


class Decoder:
    """Decodes within a budget of memory and of time.

    Args:
        budget_bytes: what all requests together may hold.
        max_pixels: the limit of one image.
    """

    def __init__(self, budget_bytes: int, max_pixels: int) -> None:
        self._budget = Budget(budget_bytes)
        self._max_pixels = max_pixels
        # Elsewhere than on Linux images are decoded in threads, which the limits on their structure alone keep short.
        self._pool = Pool() if hasattr(os, "memfd_create") else None

    def share(self) -> Share:
        """Returns what `decode` needs; the request keeps it as long as it keeps the pixels."""
        return self._budget.share()

    async def decode(
        self, uploads: dict[str, bytes], share: Share, max_side: int | None = None
    ) -> dict[str, np.ndarray]:
        """Decodes one request's images.

        Args:
            uploads: the files by field.
            share: what the request may hold.
            max_side: reduces person and mask to it, if a side is longer.

        Returns:
            uint8 (H, W, 3) RGB by field, the mask in the person's size.

        Raises:
            ApiError
        """
        looked, lent = await self._look(uploads, share, max_side)
        headers = {name: header for name, (header, _) in looked.items()}
        decoded = {name: pixels for name, (_, pixels) in looked.items() if pixels is not None}
        kept, apart, together = _costs(uploads, headers)
        if len(decoded) < len(uploads) or together > lent:
            decoded.clear()
            looked.clear()
            share.shrink(0)
            await self._take(share, headers, apart, together)
            decodings = [self._pixels(name, data, headers[name]) for name, data in uploads.items()]
            decoded = dict(zip(uploads, await (all_of if together <= self._budget.total else one_by_one)(decodings)))
        if MASK_FIELD in decoded:
            sizes = (_upright_size(headers[name], decoded[name]) for name in (MASK_FIELD, PERSON_FIELD))
            _check_aspect_ratio(*sizes)
            decoded[MASK_FIELD] = await asyncio.to_thread(_fit_mask, decoded[MASK_FIELD], decoded[PERSON_FIELD])
        share.shrink(kept)
        return decoded

    async def _look(
        self, uploads: dict[str, bytes], share: Share, max_side: int | None
    ) -> tuple[dict[str, tuple[images.Header, np.ndarray | None]], int]:
        """Reads the headers, and decodes small images at once: for those two ways to a process take longer than one.

        Returns:
            Header and pixels by field, and the bytes of the budget that the request has been lent for them.
        """
        fits = self._pool and SMALL_BYTES * len(uploads) <= self._budget.total
        at_once = SMALL_BYTES if fits else 0
        lent = at_once * len(uploads)
        if lent:
            await share.take(lent)
        sides = (max_side if field in REDUCED_FIELDS else None for field in uploads)
        looks = [self._header(field, data, side, at_once) for (field, data), side in zip(uploads.items(), sides)]
        return dict(zip(uploads, await all_of(looks))), lent

    async def _take(self, share: Share, headers: dict[str, images.Header], apart: int, together: int) -> None:
        """Waits until the images can be decoded side by side or, if they never can, one by one."""
        total = self._budget.total
        if apart > total:
            raise ApiError(
                "image_too_large",
                f"The images take {apart / 1e6:.0f} MB to decode, and this worker has {total / 1e6:.0f} MB. "
                "Send smaller ones.",
                field=max(headers, key=lambda name: headers[name].pixel_bytes),
            )
        await share.take(together if together <= total else apart)

    async def _header(
        self, field: str, data: bytes, max_side: int | None, at_once: int
    ) -> tuple[images.Header, np.ndarray | None]:
        if not self._pool:
            return await asyncio.to_thread(read_field_header, data, field, self._max_pixels, max_side), None
        return await self._pool.run(Job(data, field, self._max_pixels, max_side=max_side, at_once=at_once))

    async def _pixels(self, field: str, data: bytes, header: images.Header) -> np.ndarray:
        if not self._pool:
            return await asyncio.to_thread(decode_field, data, field, self._max_pixels, None, header.max_side)
        job = Job(data, field, self._max_pixels, header, header.max_side)
        return cast(np.ndarray, (await self._pool.run(job))[1])


async def all_of(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Waits for all of them; if one raises, the others are canceled and waited for, as they hold memory."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except ApiError:
        await asyncio.wait(tasks, timeout=FINISH_S)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def one_by_one(awaitables: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    results, left = [], list(awaitables)
    try:
        while left:
            results.append(await left.pop(0))
        return results
    finally:
        for awaitable in left:
            awaitable.close()


def _costs(uploads: dict[str, bytes], headers: dict[str, images.Header]) -> tuple[int, int, int]:
    """Returns the bytes that the pixels take, and what decoding takes one by one and side by side."""
    kept = sum(header.pixel_bytes for header in headers.values())
    fit = 0
    if mask := headers.get(MASK_FIELD):
        person = headers[PERSON_FIELD]
        if {mask.width, mask.height} != {person.width, person.height}:
            kept += person.pixel_bytes
            fit = 2 * images.CHANNELS * person.pixel_bytes + 2 * mask.pixel_bytes
    decoding = [cost(header, len(uploads[name])) for name, header in headers.items()]
    return kept, kept + max(fit, *decoding), kept + max(fit, sum(decoding))


def _upright_size(header: images.Header, pixels: np.ndarray) -> tuple[int, int]:
    """Returns the (width, height) that an image was sent in, turned as its pixels are."""
    height, width = pixels.shape[:2]
    sent = header.width, header.height
    if reduced(sent, header.max_side) == sent:
        return width, height
    return sent[::-1] if (sent[0] - sent[1]) * (width - height) < 0 else sent


def _check_aspect_ratio(mask: tuple[int, int], person: tuple[int, int]) -> None:
    """Raises ApiError unless both sizes, (width, height), have one aspect ratio."""
    if abs(mask[0] * person[1] / (mask[1] * person[0]) - 1) > MASK_ASPECT_TOLERANCE:
        raise ApiError(
            "invalid_image",
            f"{MASK_FIELD} is {mask[0]} x {mask[1]}, {PERSON_FIELD} {person[0]} x {person[1]}. Send a mask of the "
            "person image's size.",
            field=MASK_FIELD,
        )


def _fit_mask(mask: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Resizes the mask to the person image, uint8 (H, W, 3)."""
    height, width = person.shape[:2]
    return mask if mask.shape == person.shape else images.resize(mask, (width, height))
