"""A request's images, from their bytes to pixels."""

import asyncio
import os
from collections.abc import Awaitable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np

from .. import images
from ..errors import ApiError
from ..imagefiles.reducing import reduced
from .budget import Budget, Share
from .mask import COPY_BYTES, MASK_FIELD, decode_field
from .pool import Pool
from .worker import Job

T = TypeVar("T")
MASK_ASPECT_TOLERANCE = 0.01
PERSON_FIELD = "person_image"
REDUCED_FIELDS = (PERSON_FIELD, MASK_FIELD)


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
        headers = dict(zip(uploads, await all_of(self._header(*upload, max_side) for upload in uploads.items())))
        kept, apart, together = _costs(uploads, headers)
        total = self._budget.total
        if apart > total:
            raise ApiError(
                "image_too_large",
                f"The images take {apart / 1e6:.0f} MB to decode, and this worker has {total / 1e6:.0f} MB. "
                "Send smaller ones.",
                field=max(headers, key=lambda name: headers[name].pixel_bytes),
            )
        await share.take(together if together <= total else apart)
        decodings = [self._pixels(name, data, headers[name]) for name, data in uploads.items()]
        arrays = await (all_of(decodings) if together <= total else one_by_one(decodings))
        decoded = dict(zip(uploads, arrays))
        if MASK_FIELD in decoded:
            sizes = (_upright_size(headers[name], decoded[name]) for name in (MASK_FIELD, PERSON_FIELD))
            _check_aspect_ratio(*sizes)
            decoded[MASK_FIELD] = await asyncio.to_thread(_fit_mask, decoded[MASK_FIELD], decoded[PERSON_FIELD])
        share.shrink(kept)
        return decoded

    async def _header(self, field: str, data: bytes, max_side: int | None) -> images.Header:
        if field not in REDUCED_FIELDS:
            max_side = None
        if self._pool:
            header = cast(images.Header, await self._pool.run(Job(data, field, self._max_pixels, max_side=max_side)))
        else:
            header = await asyncio.to_thread(images.read_header, data, field, self._max_pixels, max_side)
        if field != MASK_FIELD:
            return header
        copy = header.width * header.height * COPY_BYTES
        return replace(header, decoder_bytes=header.decoder_bytes + copy)

    async def _pixels(self, field: str, data: bytes, header: images.Header) -> np.ndarray:
        if self._pool:
            return cast(np.ndarray, await self._pool.run(Job(data, field, self._max_pixels, header, header.max_side)))
        return await asyncio.to_thread(decode_field, data, field, self._max_pixels, None, header.max_side)


async def all_of(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Waits for all of them, and raises the first exception: what is left of a request would hold its memory."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


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
    # The pixels are copied once from the memory that is shared with the process, and so is the file.
    decoding = [header.decoder_bytes + header.pixel_bytes + 2 * len(uploads[name]) for name, header in headers.items()]
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
