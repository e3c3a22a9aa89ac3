"""Validates the fields of a request, and says what is wrong with them."""

import itertools
from typing import Any

from pydantic import ValidationError

from .errors import ApiError
from .hints import meant_field
from .schema import TryonRequest

JSON_TYPES: dict[type, str] = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
MAX_NAMED = 8  # unknown fields in an error


def unknown_field(name: str) -> ApiError:
    """Returns the error for a field that requests do not have."""
    known = ", ".join(TryonRequest.model_fields)
    return ApiError("invalid_parameter", f"{_named([name])} Known: {known}.", field=name[:64])


def parse(fields: Any) -> TryonRequest:
    """Validates the fields of a request: decoded JSON, or a form's strings and bytes. A null stands for no value.

    Raises:
        ApiError: invalid_request, missing_field, invalid_image or invalid_parameter, naming the field.
    """
    if not isinstance(fields, dict):
        came = JSON_TYPES.get(type(fields), "a number")
        advice = "not JSON in a string" if isinstance(fields, str) else "with person_image and garment_image"
        raise ApiError("invalid_request", f"The body is {came}. Send a JSON object, {advice}.")
    known = TryonRequest.model_fields
    given = {name: value for name, value in fields.items() if value is not None or name not in known}
    missing = [name for name, field in known.items() if field.is_required() and name not in given]
    if missing:
        raise _missing(missing, {name: value for name, value in given.items() if name not in known})
    try:
        return TryonRequest.model_validate(given)
    except ValidationError as error:
        raise _api_error(error, given) from None


def _missing(missing: list[str], unknown: dict[str, Any]) -> ApiError:
    """Names the unknown fields first: whoever misspells a field's name has one missing and one too many."""
    message = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
    details: dict[str, Any] = {"field": missing[0]}
    # Each takes some time, and a body may have any number of fields.
    looked_at = itertools.islice(unknown.items(), MAX_NAMED)
    wrapper = next((name for name, value in looked_at if _is_wrapper(value)), None)
    if wrapper is not None:
        message = (
            f"The fields are inside {wrapper[:64]!r}. Send them at the top of the body: {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing there."
        )
    elif unknown:
        message = f"{_named(list(unknown)[:MAX_NAMED])} {message}"
    else:
        message += " Send images in base64, as data URIs or, in a form, as files."
    if unknown:
        details["unknown"] = [name[:64] for name in list(unknown)[:MAX_NAMED]]
    return ApiError("missing_field", message, **details)


def _is_wrapper(value: Any) -> bool:
    """Whether `value` holds a request's fields, by their own names or by others."""
    inner = value[0] if isinstance(value, list) and value else value
    known = TryonRequest.model_fields
    names = list(inner)[:MAX_NAMED] if isinstance(inner, dict) else []
    return any(name in known or meant_field(name, known) for name in names)


def _named(unknown: list[str]) -> str:
    """Says of each unknown field which one was probably meant."""
    sentences = []
    for name in unknown:
        meant = meant_field(name, TryonRequest.model_fields)
        sentences.append(f"{name[:64]!r} is not a field" + (f": did you mean {meant}?" if meant else "."))
    return " ".join(sentences)


def _api_error(error: ValidationError, given: dict[str, Any]) -> ApiError:
    # an unknown field first: it may be the misspelt name of one whose value seems wrong
    problems = error.errors(include_url=False, include_context=False)
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return unknown_field(field)
    named, sent = field, given.get(field)
    if len(first["loc"]) > 1 and isinstance(sent, list) and len(sent) > 1:
        named = f"{field}[{first['loc'][1]}]"
    if first["type"] == "image":
        return ApiError("invalid_image", f"{named} {first['msg'].rstrip('.')}.", field=field)
    message = first["msg"]
    message = message.removeprefix("Input ").removeprefix("Value ")
    return ApiError("invalid_parameter", f"{named}: {message[:1].lower()}{message[1:]}.", field=field)
