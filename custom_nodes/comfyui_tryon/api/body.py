"""Reads a request's body, JSON or form, within its limit, and off the event loop if that takes long."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic_core import from_json

from ..errors import ApiError
from ..schema import IMAGE_FIELDS, TryonRequest, parse, unknown_field
from .replies import off_loop_if_large

TEXT_FIELD_LIMIT = 4096
MAX_INSTANCES = 4
# A request has a few dozen of each. Millions would take seconds to parse, with the event loop waiting.
JSON_MARKS_LIMIT = 1000
FORM_LINES_LIMIT = 1000
# What aiohttp raises for damaged bodies and forms, none of it documented.
DAMAGE = (
    web.RequestPayloadError,
    HttpProcessingError,
    ValueError,
    AssertionError,  # aiohttp asserts where a part's head is malformed
    LookupError,
    EOFError,
    RuntimeError,
)


def _uncounted(count: int) -> None:
    pass


async def read(request: web.Request, max_bytes: int, on_bytes: Callable[[int], None] = _uncounted) -> TryonRequest:
    """Reads and validates the fields of a request; calls `on_bytes` with the length of each piece as it comes.

    Raises:
        ApiError
    """
    if request.content_type == "application/json":
        data = await read_all(request, max_bytes, on_bytes=on_bytes)
        return await off_loop_if_large(len(data), _parse_json, data)
    if request.content_type == "multipart/form-data":
        return await asyncio.to_thread(parse, await _read_form(request, max_bytes, on_bytes))
    raise ApiError("unsupported_media_type", "Send application/json or multipart/form-data.")


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
    _check_head(request, max_bytes, advice)
    data = bytearray()
    try:
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > max_bytes:
                raise _too_large(max_bytes, advice)
            on_bytes(len(chunk))
    except ConnectionError:
        raise ApiError("canceled", "The client went away.") from None
    except DAMAGE as error:
        raise ApiError("invalid_request", "The body ended early or its encoding is damaged.") from error
    return data


def _check_head(request: web.Request, max_bytes: int, advice: str = "") -> None:
    if "Content-Encoding" in request.headers:
        raise ApiError("unsupported_media_type", "Send the body as it is, without Content-Encoding.")
    if request.content_length is not None and request.content_length > max_bytes:
        raise _too_large(max_bytes, advice)


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
    try:
        return from_json(data)
    except ValueError:
        raise ApiError("invalid_request", "The body is not JSON in UTF-8.") from None


class _FewLines:
    """Wraps a form's content, and refuses more lines than the headers of its parts can have."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content
        self._left = FORM_LINES_LIMIT

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def readline(self, *args: Any, **kwargs: Any) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many lines")
        return await self._content.readline(*args, **kwargs)


async def _read_form(request: web.Request, max_bytes: int, on_bytes: Callable[[int], None]) -> dict[str, Any]:
    _check_head(request, max_bytes)
    fields: dict[str, Any] = {}
    size = 0
    try:
        reader = MultipartReader(request.headers, cast(StreamReader, _FewLines(request.content)))
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):
                raise ApiError("invalid_request", "The form has a form as one of its parts.")
            name = _field_name(part, fields)
            data = bytearray()
            while chunk := await part.read_chunk(65_536):
                data += part.decode(chunk)
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                on_bytes(len(chunk))
                if part.filename is None and name not in IMAGE_FIELDS and len(data) > TEXT_FIELD_LIMIT:
                    raise ApiError(
                        "invalid_parameter", f"{name[:64]!r} is longer than a value can be.", field=name[:64]
                    )
            fields[name] = bytes(data) if part.filename is not None else data.decode("utf-8")
    except ApiError:
        raise
    except ConnectionError:
        raise ApiError("canceled", "The client went away.") from None
    except DAMAGE as error:
        raise ApiError("invalid_request", "The form is damaged: check its boundary and parts.") from error
    return fields


def _field_name(part: BodyPartReader, fields: Mapping[str, Any]) -> str:
    """Returns the field that a part is for; raises ApiError if it is none of those still missing from `fields`."""
    name = part.name
    if not name:
        raise ApiError("invalid_request", "Every part of the form needs a field name.")
    if name not in TryonRequest.model_fields:
        raise unknown_field(name)
    if name in fields:
        raise ApiError("invalid_request", f"The form has {name[:64]!r} twice.")
    if "Content-Encoding" in part.headers:
        raise ApiError("invalid_request", f"Send {name} as it is, without Content-Encoding.")
    return name


def _too_large(max_bytes: int, advice: str = "") -> ApiError:
    usual = f"The body is larger than {max_bytes / 1e6:g} MB. Send smaller or compressed images."
    return ApiError("payload_too_large", advice or usual)
