"""What both clients have in common: where requests go, and what is in them."""

from __future__ import annotations

import os
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
    """

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        headers: Mapping[str, str] | None,
        timeout: float | httpx.Timeout | None,
    ) -> None:
        self.url = (url or os.environ.get("TRYON_URL") or URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"The server's URL must begin with http:// or https://, not {self.url!r}.")
        self._headers = {"User-Agent": f"virtual-tryon-client/{VERSION}", "Accept": "application/json"}
        if key := os.environ.get("TRYON_API_KEY") if api_key is None else api_key:
            self._headers["X-API-Key"] = key
        self._headers |= headers or {}
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
        # An id of its own, so that the server knows the same request when it comes again.
        headers = {"X-Request-Id": request_id or str(uuid.uuid4())} | headers
        return self.call("POST", PATH, Form(images, fields), headers)

    def cancel(self, request_id: str) -> Call:
        return self.call("DELETE", f"{PATH}/{quote(request_id, safe='')}")

    def call(self, method: str, path: str, form: Form | None = None, headers: Mapping[str, str] = {}) -> Call:
        return Call(method, self.url + path, {**self._headers, **headers}, self._timeout, form or Form({}, {}))


def without_webhook(fields: Mapping[str, Any]) -> None:
    """Raises TypeError if the result of a call that waits for it is to go elsewhere."""
    if fields.get("webhook_url") is not None:
        raise TypeError("With webhook_url the result does not come as the reply: call submit() instead.")
