"""The errors that the client raises."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from ._types import STATUS

CONNECTION_FAILED = "connection_failed"
CONNECTION_LOST = "connection_lost"
NO_REPLY = "no_reply"
INVALID_REPLY = "invalid_reply"


class TryOnError(Exception):
    """Says why there is no image.

    Attributes:
        code: one of the API's codes, `ErrorCode`. Or one of the client's: "connection_failed" if the server could not
            be reached, "connection_lost" if the connection broke before the reply was complete, "no_reply" if the
            timeout passed, "invalid_reply", and "http_502" and the like if something other than the API answered.
        message: what to do about it, for people.
        details: machine-readable particulars, such as `field`.
        status: the HTTP status, or None if there was no reply.
        request_id: the id under which the server's operator finds the request in the log.
        retry_after: seconds after which a retry is worthwhile, or None.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, message)  # what a copy of it is made with
        self.code = code
        self.message = message
        self.details = dict(details or {})
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" (request {self.request_id})" if self.request_id else "")


class WebhookInvalid(ValueError):
    """Says why a webhook must not be believed."""


def of_response(response: httpx.Response) -> TryOnError:
    """Returns the error that a reply stands for, whoever sent it; its content must have been read."""
    request_id = response.headers.get("X-Request-Id")
    retry_after = _seconds(response.headers.get("Retry-After"))
    try:
        error = of_content(json.loads(response.content), request_id)
    except ValueError:  # such as a load balancer's own page
        message = f"{response.status_code} {response.reason_phrase}: {response.text[:200]}"
        error = TryOnError(f"http_{response.status_code}", message, request_id=request_id)
    error.status = response.status_code
    error.retry_after = retry_after
    return error


def of_content(content: Any, request_id: str | None) -> TryOnError:
    """Returns the error that an error reply, an event or a webhook describes.

    Raises:
        ValueError: it describes none.
    """
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        raise ValueError("the reply describes no error")
    code = error["code"]
    return TryOnError(
        code,
        str(error.get("message", "")),
        error.get("details"),
        status=STATUS.get(code),
        request_id=error.get("request_id") or request_id,
    )


@contextmanager
def of_transport(request_id: str | None, timeout: httpx.Timeout) -> Iterator[None]:
    """Raises a TryOnError for what httpx raises when there is no complete reply."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        message = f"The server cannot be reached: {error or type(error).__name__}"
        raise TryOnError(CONNECTION_FAILED, message, request_id=request_id) from error
    except httpx.TimeoutException as error:
        message = f"The server sent nothing for {timeout.read} s. Allow more by `timeout`."
        raise TryOnError(NO_REPLY, message, request_id=request_id) from error
    except httpx.TransportError as error:
        message = f"The connection broke before the reply was complete: {error or type(error).__name__}"
        raise TryOnError(CONNECTION_LOST, message, request_id=request_id) from error
    except httpx.RequestError as error:  # of what did arrive
        message = f"The reply cannot be read: {error or type(error).__name__}. Check the address."
        raise TryOnError(INVALID_REPLY, message, request_id=request_id) from error


def _seconds(retry_after: str | None) -> float | None:
    """Returns the seconds that a Retry-After header asks for, which has a number or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
