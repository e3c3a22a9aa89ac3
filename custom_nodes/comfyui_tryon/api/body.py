"""Reads a request's body, JSON or form, within its limit, and off the event loop if that takes long."""

import asyncio
import codecs
from collections.abc import Callable
from typing import Any

from aiohttp import web
from pydantic_core import from_json

from ..errors import ApiError
from ..parsing import parse
from ..schema import TryonRequest
from .form import read_form
from .intake import DAMAGE, check_head, media_type, too_large
from .replies import off_loop_if_large

MAX_INSTANCES = 4
# A request has a few dozen of each. Millions would take seconds to parse, with the event loop waiting.
JSON_MARKS_LIMIT = 1000
# The parser holds all other threads up, the event loop's too: 10 ms for 30 MB of base64, ten times that for escapes.
LOOKED_AT_BYTES = 1_000_000  # in one piece
BYTES_PER_ESCAPE = 20  # at least; base64 in lines of 76 letters has two escapes for each
ONE_BYTE = bytes(range(128))


def _uncounted(count: int) -> None:
    pass


async def read(request: web.Request, max_bytes: int, on_bytes: Callable[[int], None] = _uncounted) -> TryonRequest:
    """Reads and validates the fields of a request; calls `on_bytes` with the length of each piece as it comes.

    Raises:
        ApiError
    """
    if media_type(request) == "application/json":
        data = await read_all(request, max_bytes, on_bytes=on_bytes)
        return await off_loop_if_large(len(data), _parse_json, data)
    if media_type(request) == "multipart/form-data":
        return await asyncio.to_thread(parse, await read_form(request, max_bytes, on_bytes))
    raise _wrong_type(request)


async def read_instances(
    request: web.Request, max_bytes: int, on_bytes: Callable[[int], None] = _uncounted
) -> list[TryonRequest]:
    """Reads and validates the requests in Vertex AI's wrapping, {"instances": [fields], "parameters": fields}.

    Raises:
        ApiError
    """
    data = await read_all(request, max_bytes, on_bytes=on_bytes)
    return await off_loop_if_large(len(data), _parse_instances, data)


async def read_all(
    request: web.Request, max_bytes: int, advice: str = "", on_bytes: Callable[[int], None] = _uncounted
) -> bytearray:
    """Reads the body; `advice` takes the place of the usual message if it is larger than `max_bytes`.

    Raises:
        ApiError
    """
    check_head(request, max_bytes, advice)
    data = bytearray()
    try:
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > max_bytes:
                raise too_large(max_bytes, advice)
            on_bytes(len(chunk))
    except ConnectionError:
        raise ApiError("canceled", "The client went away.") from None
    except DAMAGE as error:
        raise ApiError("invalid_request", "The body ended early or its encoding is damaged.") from error
    return data


def _parse_json(data: bytearray) -> TryonRequest:
    return parse(_loads(data))


def _parse_instances(data: bytearray) -> list[TryonRequest]:
    document = _loads(data)
    instances = document.get("instances") if isinstance(document, dict) else None
    common = document.get("parameters") or {} if isinstance(document, dict) else {}
    if not isinstance(common, dict) or not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        raise ApiError("invalid_request", f"Send 1 to {MAX_INSTANCES} objects under instances, and parameters for all.")
    return [parse({**common, **fields} if isinstance(fields, dict) else fields) for fields in instances]


def _loads(data: bytearray) -> Any:
    for mark in b",[{":
        at = -1  # `find`, as most bodies have few marks: 5 ms for 18 MB, where `count` takes 44
        for _ in range(JSON_MARKS_LIMIT):
            at = data.find(mark, at + 1)
            if at < 0:
                break
        else:
            raise ApiError("invalid_request", "The body has far more values than a request.")
    if data.startswith(codecs.BOM_UTF8):
        del data[: len(codecs.BOM_UTF8)]
    try:
        return from_json(_without_escapes(data) if len(data) > LOOKED_AT_BYTES else data)
    except ValueError as error:
        raise ApiError("invalid_request", _not_json(data, error)) from None


def _without_escapes(data: bytearray) -> bytearray:
    r"""Returns a large body with / for the \/ of PHP, and refuses it for more of other escapes than a request has.

    In pieces, between which other threads run.
    """
    pieces, escapes, start = [], 0, 0
    while start < len(data):
        end = start + LOOKED_AT_BYTES
        while data[end - 1 : end] == b"\\" and end - start < 2 * LOOKED_AT_BYTES:  # what follows belongs to it
            end += 1
        piece = data[start:end]
        if piece.isspace():
            raise ApiError("invalid_request", "The body has far more white space than a request.")
        if b"\\\\" not in piece:
            piece = piece.replace(b"\\/", b"/")
        escapes += piece.count(b"\\") + (0 if piece.isascii() else len(piece.translate(None, ONE_BYTE)))
        if escapes > len(data) // BYTES_PER_ESCAPE:
            raise ApiError("invalid_request", "The body has far more escapes, or letters beyond ASCII, than a request.")
        pieces.append(piece)
        start = end
    return bytearray().join(pieces)


def _not_json(data: bytearray, error: ValueError) -> str:
    """Says why a body cannot be read; what the parser says has only its own words and a position."""
    if not data.strip():
        return "The body is empty. Send a JSON object with person_image and garment_image."
    if b"\0" in data[:4] or data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "The body is JSON in UTF-16 or UTF-32, or no text at all. Send JSON in UTF-8."
    try:
        data.decode()
    except UnicodeDecodeError:
        return "The body is not text in UTF-8. Send JSON in UTF-8."
    return f"The body is not JSON: {str(error)[:200]}."


def _wrong_type(request: web.Request) -> ApiError:
    came = request.headers.get("Content-Type", "")[:64]
    if media_type(request) == "application/x-www-form-urlencoded":
        advice = (
            "A URL-encoded form holds no images. Send application/json (in curl by -H) or multipart/form-data (by -F)."
        )
    elif came:
        advice = f"The Content-Type is {came!r}. Send application/json or multipart/form-data."
    else:
        advice = "The Content-Type is missing. Send application/json or multipart/form-data."
    return ApiError("unsupported_media_type", advice)
