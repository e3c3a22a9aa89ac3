"""Reads a request's body, JSON or form, within its limit and off the event loop where it takes long."""

import asyncio
import json
from typing import Any

from aiohttp import BodyPartReader, web

from .errors import ApiError
from .schema import TryonRequest, parse

PICTURE_FIELDS = ("person_image", "garment_image", "mask_image")
TEXT_FIELD_LIMIT = 4096
MAX_INSTANCES = 4


async def read(request: web.Request, max_bytes: int) -> TryonRequest:
    """The validated fields of a request.

    Raises:
        ApiError
    """
    if request.content_length is not None and request.content_length > max_bytes:
        raise _too_large(max_bytes)
    if request.content_type == "application/json":
        data = await _read_all(request, max_bytes)
        return await asyncio.to_thread(_parse_json, data)
    if request.content_type == "multipart/form-data":
        return await asyncio.to_thread(parse, await _read_form(request, max_bytes))
    raise ApiError("unsupported_media_type", "Send application/json or multipart/form-data.")


async def read_instances(request: web.Request, max_bytes: int) -> list[TryonRequest]:
    """The validated fields of each request in Vertex AI's wrapping, {"instances": [fields], "parameters": fields}.

    Raises:
        ApiError
    """
    return await asyncio.to_thread(_parse_instances, await _read_all(request, max_bytes))


async def _read_all(request: web.Request, max_bytes: int) -> bytes:
    data = bytearray()
    try:
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > max_bytes:
                raise _too_large(max_bytes)
    except (web.RequestPayloadError, ValueError, EOFError) as error:
        raise ApiError("invalid_request", "The body ended early or its encoding is damaged.") from error
    return bytes(data)


def _parse_json(data: bytes) -> TryonRequest:
    return parse(_loads(data))


def _parse_instances(data: bytes) -> list[TryonRequest]:
    document = _loads(data)
    instances = document.get("instances") if isinstance(document, dict) else None
    common = document.get("parameters") or {} if isinstance(document, dict) else {}
    if not isinstance(common, dict) or not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        raise ApiError("invalid_request", f"Send 1 to {MAX_INSTANCES} objects under instances, and parameters for all.")
    return [parse({**common, **fields} if isinstance(fields, dict) else fields) for fields in instances]


def _loads(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError("invalid_request", "The body is not JSON.") from None


async def _read_form(request: web.Request, max_bytes: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    size = 0
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            name = part.name if isinstance(part, BodyPartReader) else None
            if not name:
                raise ApiError("invalid_request", "Every part of the form needs a field name.")
            if name in fields:
                raise ApiError("invalid_request", f"The form has {name[:64]!r} twice.")
            data = bytearray()
            while chunk := await part.read_chunk(65_536):
                data += part.decode(chunk)
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                if part.filename is None and name not in PICTURE_FIELDS and len(data) > TEXT_FIELD_LIMIT:
                    raise ApiError(
                        "invalid_parameter", f"{name[:64]!r} is longer than a value can be.", field=name[:64]
                    )
            fields[name] = bytes(data) if part.filename is not None else data.decode("utf-8")
    except ApiError:
        raise
    except (web.RequestPayloadError, ValueError, AssertionError, LookupError, EOFError, RuntimeError) as error:
        raise ApiError("invalid_request", "The form is damaged: check its boundary and parts.") from error
    return fields


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        "payload_too_large", f"The body is larger than {max_bytes / 1e6:g} MB. Send smaller or compressed pictures."
    )
