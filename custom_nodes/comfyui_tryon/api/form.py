"""Reads forms as browsers and HTTP libraries write them."""

import contextlib
import re
from collections.abc import Callable
from typing import Any, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from multidict import CIMultiDict, CIMultiDictProxy

from ..datauri import DATA
from ..errors import ApiError
from ..parsing import unknown_field
from ..schema import IMAGE_FIELDS, SEVERAL_FIELDS, URL_HEAD, URL_TEXT, TryonRequest
from .intake import DAMAGE, check_head, too_large

TEXT_FIELD_LIMIT = 4096
# A request has a few dozen. Millions would take seconds to parse, with the event loop waiting.
FORM_LINES_LIMIT = 1000
# A hidden control by which a browser says how the texts of a form are encoded, as each part does anyway.
CHARSET_FIELD = "_charset_"
# A parameter of a Content-Disposition, with its value in quotes or without.
PARAMETER = re.compile(r'\s*;\s*([\w*]{1,32})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))')
# Others, such as punycode, take milliseconds for a few kilobytes.
CHARSETS = re.compile(
    r"utf[-_]?(8|16)([-_]?[lb]e)?|(us[-_])?ascii|(iso[-_]?8859|windows|cp|koi8)[-_]?\w{1,4}|latin[-_]?\d{1,2}"
    r"|shift[-_]?jis|euc[-_]?(jp|kr)|gbk|gb18030|gb2312|big5"
)


async def read_form(request: web.Request, max_bytes: int, on_bytes: Callable[[int], None]) -> dict[str, Any]:
    """Reads the fields of a form: images as bytes or text, everything else as text.

    A part without content and file name is a control that was left blank, and no field.

    Raises:
        ApiError
    """
    check_head(request, max_bytes)
    if "boundary=" not in request.headers["Content-Type"].lower():
        raise ApiError(
            "invalid_request", "The Content-Type has no boundary. Have your HTTP library write the header of the form."
        )
    fields: dict[str, Any] = {}
    size = 0
    try:
        reader = _Parts(request.headers, cast(StreamReader, _FewLines(request.content)))
        while (part := await reader.next()) is not None:
            if not isinstance(part, _Part):
                raise ApiError("invalid_request", "The form has a form as one of its parts.")
            name = _field_name(part)
            data = bytearray()
            while chunk := await part.read_chunk(65_536):
                data += part.decode(chunk)
                size += len(chunk)
                if size > max_bytes:
                    raise too_large(max_bytes)
                on_bytes(len(chunk))
                if name not in IMAGE_FIELDS and len(data) > TEXT_FIELD_LIMIT:
                    raise ApiError(
                        "invalid_parameter", f"{name[:64]!r} is longer than a value can be.", field=name[:64]
                    )
            if name != CHARSET_FIELD and (data or part.file):
                value = _image(part, data) if name in IMAGE_FIELDS else _text(part, name, data)
                if name in SEVERAL_FIELDS:
                    fields.setdefault(name, []).append(value)
                elif name in fields:
                    raise ApiError("invalid_request", f"The form has {name[:64]!r} twice.")
                else:
                    fields[name] = value
    except ApiError:
        raise
    except ConnectionError:
        raise ApiError("canceled", "The client went away.") from None
    except DAMAGE as error:
        raise ApiError("invalid_request", "The form is damaged: check its boundary and parts.") from error
    return fields


def _field_name(part: "_Part") -> str:
    """Returns the field that a part is for; raises ApiError if there is none."""
    name = part.field.removesuffix("[]")  # which PHP and its clients add to what may be repeated
    if not name:
        raise ApiError("invalid_request", "Every part of the form needs a field name.")
    if name not in TryonRequest.model_fields and name != CHARSET_FIELD:
        raise unknown_field(name)
    if "Content-Encoding" in part.headers:
        raise ApiError("invalid_request", f"Send {name} as it is, without Content-Encoding.")
    return name


def _image(part: "_Part", data: bytearray) -> bytes | str:
    """Returns a file's bytes, or text that holds an image. Without a file name it may be either."""
    head = data[:URL_HEAD].decode("latin-1")
    if part.file is None and (data.isascii() or DATA.match(head) or URL_TEXT.match(head)):  # no file begins like these
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode()
    return bytes(data)


def _text(part: "_Part", name: str, data: bytearray) -> str:
    charset = part.get_charset("utf-8").strip().lower()
    try:
        return data.decode(charset if CHARSETS.fullmatch(charset) else "not read here")
    except (LookupError, ValueError):
        raise ApiError(
            "invalid_parameter", f"{name} is not text in {charset[:32]!r}. Send it in UTF-8.", field=name
        ) from None


def _names(disposition: str) -> dict[str, str]:
    """Returns the parameters of a Content-Disposition up to the first that is damaged."""
    found: dict[str, str] = {}
    position = max(0, disposition.find(";"))
    while match := PARAMETER.match(disposition, position):
        found.setdefault(match[1].lower(), match[3] if match[2] is None else match[2])
        position = match.end()
    return found


class _Part(BodyPartReader):
    field = ""
    file: str | None = None


class _Parts(MultipartReader):
    """Reads the names of parts here: aiohttp takes 40 ms for 8 KB of hostile parameters and keeps what is in them.

    It also reads a part of the name _charset_ by itself, and then mistakes its end for the head of the next one.
    """

    part_reader_cls = _Part

    async def fetch_next_part(self) -> MultipartReader | BodyPartReader:
        part = await super().fetch_next_part()
        if isinstance(part, _Part):
            headers = CIMultiDict(part.headers)
            names = _names(headers.pop("Content-Disposition", ""))
            part.field, part.file = names.get("name", ""), names.get("filename", names.get("filename*"))
            part.headers = CIMultiDictProxy(headers)
        return part


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
