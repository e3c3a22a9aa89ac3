"""A request's images, from their bytes to pixels."""

import asyncio
import os
from collections.abc import Awaitable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np

from .. import images
from ..errors import ApiError
from .budget import Budget, Share
from .mask import COPY_BYTES, MASK_FIELD, decode_field
from .pool import Pool
from .worker import Job

T = TypeVar("T")
MASK_ASPECT_TOLERANCE = 0.01


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

    async def decode(self, uploads: dict[str, bytes], share: Share) -> dict[str, np.ndarray]:
        """Decodes one request's images.

        Returns:
            uint8 (H, W, 3) RGB by field, the mask in the person's size.

        Raises:
            ApiError
        """
        headers = dict(zip(uploads, await all_of(self._header(*upload) for upload in uploads.items())))
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
        if "mask_image" in decoded:
            decoded["mask_image"] = await asyncio.to_thread(_fit_mask, decoded["mask_image"], decoded["person_image"])
        share.shrink(kept)
        return decoded

    async def _header(self, field: str, data: bytes) -> images.Header:
        if self._pool:
            header = cast(images.Header, await self._pool.run(Job(data, field, self._max_pixels)))
        else:
            header = await asyncio.to_thread(images.read_header, data, field, self._max_pixels)
        if field != MASK_FIELD:
            return header
        copy = header.width * header.height * COPY_BYTES
        return replace(header, decoder_bytes=header.decoder_bytes + copy)

    async def _pixels(self, field: str, data: bytes, header: images.Header) -> np.ndarray:
        if self._pool:
            return cast(np.ndarray, await self._pool.run(Job(data, field, self._max_pixels, header)))
        return await asyncio.to_thread(decode_field, data, field, self._max_pixels)


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
    if mask := headers.get("mask_image"):
        person = headers["person_image"]
        if {mask.width, mask.height} != {person.width, person.height}:
            kept += person.pixel_bytes
            fit = 2 * images.CHANNELS * person.pixel_bytes + 2 * mask.pixel_bytes
    # The pixels are copied once from the memory that is shared with the process, and so is the file.
    decoding = [header.decoder_bytes + header.pixel_bytes + 2 * len(uploads[name]) for name, header in headers.items()]
    return kept, kept + max(fit, *decoding), kept + max(fit, sum(decoding))


def _fit_mask(mask: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Resizes the mask to the person image, uint8 (H, W, 3); raises ApiError if its aspect ratio differs."""
    (mask_h, mask_w), (h, w) = mask.shape[:2], person.shape[:2]
    if abs(mask_w * h / (mask_h * w) - 1) > MASK_ASPECT_TOLERANCE:
        raise ApiError(
            "invalid_image",
            f"mask_image is {mask_w} x {mask_h}, person_image {w} x {h}. Send a mask of the person image's size.",
            field="mask_image",
        )
    return mask if (mask_h, mask_w) == (h, w) else images.resize(mask, (w, h))
