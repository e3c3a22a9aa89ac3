"""What all answers have in common: a request id, the key check, the error envelope and a log line."""

import asyncio
import hmac
import logging
import math
import re
import time
import uuid

from aiohttp import web
from pydantic import SecretStr

from ..errors import ApiError
from ..log import RequestLog
from .routes import REQUEST_ID, Handler

logger = logging.getLogger(__name__)

GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Answering:
    """Wraps handlers; `key` is the key that callers must send, or None."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = key.get_secret_value().encode() if key else None

    def wrap(self, handler: Handler, health: bool = False) -> Handler:
        """Makes a handler that answers whatever `handler` does, and sets `request[REQUEST_ID]` for it."""

        async def answer(request: web.Request) -> web.StreamResponse:
            arrived = time.perf_counter()
            given = request.headers.get("X-Request-Id", "")
            request[REQUEST_ID] = given if GOOD_ID.fullmatch(given) else str(uuid.uuid4())
            log = RequestLog(logger, request[REQUEST_ID])
            try:
                if not health:
                    self._check_key(request)
                response = await handler(request)
            except ApiError as error:
                response = error_response(error)
            except (web.HTTPException, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("%s %s failed", request.method, request.path)
                message = "The server failed. Retry; if it persists, send the operator the request id."
                response = error_response(ApiError("internal_error", message))
            if not response.prepared:
                response.headers["X-Request-Id"] = request[REQUEST_ID]
            if not health:
                spent = time.perf_counter() - arrived
                log.info("%s %s -> %d in %.3f s", request.method, request.path, response.status, spent)
            return response

        return answer

    def _check_key(self, request: web.Request) -> None:
        if self._key is None:
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = [request.headers.get("X-API-Key", ""), token.strip() if scheme.lower() == "bearer" else ""]
        # A list, not a generator: both are compared, so that the time does not tell which one fits.
        if not any([hmac.compare_digest(value.encode("utf-8", "surrogateescape"), self._key) for value in given]):
            raise ApiError("unauthorized", "Send this server's key in X-API-Key or as Authorization: Bearer.")


def error_response(error: ApiError) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.code == "method_not_allowed":
        headers["Allow"] = ", ".join(error.details["allow"])
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(error.body(), status=error.status, reason=error.reason, headers=headers)
