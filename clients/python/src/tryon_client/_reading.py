"""Makes the API's JSON into the classes of `_types`."""

from __future__ import annotations

import base64
import dataclasses
import functools
import types
import typing
from typing import Any, TypeVar

Value = TypeVar("Value")


def read(kind: type[Value], data: Any) -> Value:
    """Returns `data` as a `kind`, a dataclass: base64 becomes bytes, and keys that the class does not have are ignored.

    Raises:
        ValueError: a key that the class requires is missing, or is something else.
    """
    try:
        converted: Value = _convert(kind, data)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"this is no {kind.__name__}: {error}") from error
    return converted


def _convert(kind: Any, data: Any) -> Any:
    if kind is bytes:
        return base64.b64decode(data)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        names = {field.metadata.get("key", field.name): field.name for field in dataclasses.fields(kind)}
        given = ((names[key], value) for key, value in data.items() if key in names)
        return kind(**{name: _convert(hints[name], value) for name, value in given})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [_convert(arguments[0], item) for item in data]
    if origin is tuple:
        return tuple(data)
    if origin in (types.UnionType, typing.Union) and data is not None:
        return _convert(next(option for option in arguments if option is not types.NoneType), data)
    return data


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)
