"""What both clients have in common: where requests go, and what is in them."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from ._form import Form, ImageSource
from ._types import VERSION

PATH = "/api/v1/tryon"
URL = "http://127.0.0.1:8000"
# The server's own deadline is 300 s by default; it answers a little later.
TIMEOUT = httpx.Timeout(330, connect=10)
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t -~]*")


@dataclass(frozen=True)
class Call:
    """A request to the API that can be sent several times."""

    method: str
    url: str
    headers: dict[str, str]
    timeout: httpx.Timeout
    form: Form

    @property
    def request_id(self) -> str | None:
        return self.headers.get("X-Request-Id")


class Target:
    """Builds requests to one server.

    Args:
        url: of the server; None for the environment's TRYON_URL, or this machine's port 8000.
        api_key: sent as X-API-Key; None for the environment's TRYON_API_KEY, if it is set.
        headers: sent with every request.
        timeout: seconds to wait for a reply.

    Raises:
        TypeError, ValueError: one of them cannot be used.
    """

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        headers: Mapping[str, str] | None,
        timeout: float | httpx.Timeout | None,
    ) -> None:
        self.url = _address(url or os.environ.get("TRYON_URL") or URL)
        self._headers = {"User-Agent": f"virtual-tryon-client/{VERSION}", "Accept": "application/json"}
        key = os.environ.get("TRYON_API_KEY", "") if api_key is None else api_key
        if key := _header("X-API-Key", key):
            self._headers["X-API-Key"] = key
        self._headers |= {name: _header(name, value) for name, value in (headers or {}).items()}
        if isinstance(timeout, int | float):
            timeout = httpx.Timeout(timeout, connect=min(timeout, 10))
        self._timeout = TIMEOUT if timeout is None else timeout

    def try_on(
        self,
        person: ImageSource,
        garment: ImageSource | Sequence[ImageSource],
        mask: ImageSource | None,
        request_id: str | None,
        fields: Mapping[str, Any],
        **headers: str,
    ) -> Call:
        images = {"person_image": person, "garment_image": garment, "mask_image": mask}
        if request_id is None:  # an id of its own, so that the server knows the same request when it comes again
            request_id = str(uuid.uuid4())
        elif not REQUEST_ID.fullmatch(request_id):
            raise ValueError("request_id must be 1 to 64 of A-Za-z0-9._-.")
        headers = {"X-Request-Id": request_id} | headers
        return self.call("POST", PATH, Form(images, fields), headers)

    def cancel(self, request_id: str) -> Call:
        return self.call("DELETE", f"{PATH}/{quote(request_id, safe='')}")

    def call(self, method: str, path: str, form: Form | None = None, headers: Mapping[str, str] = {}) -> Call:
        return Call(method, self.url + path, {**self._headers, **headers}, self._timeout, form or Form({}, {}))


def _address(url: str) -> str:
    """Returns a server's URL without a slash at its end."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"The server's URL cannot be used: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"The server's URL must begin with http:// or https:// and a host, not {url!r}.")
    return url.rstrip("/")


def _header(name: str, value: str) -> str:
    """Returns a header's value without white space around it; its errors do not quote it, as it may be a key."""
    if not isinstance(value, str):
        raise TypeError(f"The header {name} must be a str, not {type(value).__name__}.")
    value = value.strip()
    if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
        raise ValueError(f"The header {name!r} cannot be sent: it has characters that headers must not have.")
    return value


def without_webhook(fields: Mapping[str, Any]) -> None:
    """Raises TypeError if the result of a call that waits for it is to go elsewhere."""
    if fields.get("webhook_url") is not None:
        raise TypeError("With webhook_url the result does not come as the reply: call submit() instead.")
