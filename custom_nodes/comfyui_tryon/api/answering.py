"""What all answers have in common: a request id, the key check, the error envelope and a log line."""

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from .. import metrics
from ..errors import ApiError, internal_error
from ..keys import ANYBODY, Keys
from ..log import RequestLog
from ..origins import Origins
from .cors import Cors
from .routes import ACCOUNTS, ARRIVED, CALLER, HEADERS, OUTCOME, REQUEST_ID, Handler

logger = logging.getLogger(__name__)

ACCEPTED = 202

GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Answering:
    """Wraps handlers; callers must send one of `keys`, if there are any. Pages of `origins` may call from a browser."""

    def __init__(self, keys: Keys, origins: Origins) -> None:
        self._keys = keys
        self._cors = Cors(origins)
        self._under_way: dict[asyncio.Task, web.Request] = {}
        self._aborted: dict[asyncio.Task, ApiError] = {}

    def abort(self, reason: Callable[[], ApiError]) -> None:
        """Answers with `reason` every request of whose answer nothing has been sent, since the process ends."""
        for task, request in self._under_way.items():
            if not request.writer.output_size:
                self._aborted[task] = reason()
                task.cancel()

    def wrap(self, handler: Handler, public: bool = False, methods: list[str] = [], counted: bool = False) -> Handler:
        """Makes a handler that answers whatever `handler` does, and sets ARRIVED, REQUEST_ID, CALLER and HEADERS.

        A `public` one needs no key and leaves no log line; a `counted` one is a try-on request. `methods` are those of
        its path.
        """

        async def answer(request: web.Request) -> web.StreamResponse:
            request[ARRIVED] = time.perf_counter()
            given = request.headers.get("X-Request-Id", "")
            request[REQUEST_ID] = given if GOOD_ID.fullmatch(given) else str(uuid.uuid4())
            request[CALLER] = ANYBODY
            request[ACCOUNTS] = []
            request[HEADERS] = {"X-Request-Id": request[REQUEST_ID]} | self._cors.headers(request)
            preflight = self._cors.preflight(request, methods)
            if preflight is not None:
                preflight.headers.update(request[HEADERS])
                return preflight
            log = RequestLog(logger, request[REQUEST_ID])
            task = cast(asyncio.Task, asyncio.current_task())
            self._under_way[task] = request
            outcome = "internal_error"
            try:
                if not public:
                    log.caller = request[CALLER] = self._caller(request)
                response = await handler(request)
                outcome = request.get(OUTCOME, "ok")
            except ApiError as error:
                outcome = error.code
                response = error_response(error, request[REQUEST_ID])
                error.let_go()
            except asyncio.CancelledError:
                reason = self._aborted.get(task)
                outcome = reason.code if reason else "canceled"
                if reason is None:
                    raise
                response = error_response(reason, request[REQUEST_ID])
            except web.HTTPException:
                raise
            except Exception:
                log.exception("%s %s failed", request.method, request.path)
                response = error_response(internal_error(), request[REQUEST_ID])
            finally:
                del self._under_way[task]
                self._aborted.pop(task, None)
                seconds = time.perf_counter() - request[ARRIVED]
                # one that a webhook will answer is counted when it has ended
                if counted and not (outcome == "ok" and response.status == ACCEPTED):
                    metrics.count(outcome, request[CALLER], seconds)
            if not response.prepared:
                response.headers.update(request[HEADERS])
            if not public:
                code = "" if outcome == "ok" else f" {outcome}"
                fields = _fields(request, response, outcome, seconds)
                log.info(
                    "%s %s -> %d%s in %.3f s",
                    request.method, request.path, response.status, code, seconds, fields=fields,
                )  # fmt: skip
            return response

        return answer

    def _caller(self, request: web.Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        bearer = token if scheme.lower() == "bearer" else ""
        caller = self._keys.caller([request.headers.get("X-API-Key", ""), bearer])
        if caller is None:
            raise ApiError("unauthorized", "Send this server's key in X-API-Key or as Authorization: Bearer.")
        return caller


def _fields(request: web.Request, response: web.StreamResponse, outcome: str, seconds: float) -> dict[str, Any]:
    """Returns what a JSON log has of a request beside its id and its caller."""
    fields = {
        "method": request.method,
        "path": request.path,
        "status": response.status,
        "outcome": outcome,
        "duration_s": round(seconds, 4),
        "received_bytes": request.content.total_bytes,
        "sent_bytes": response.content_length,
    }
    accounts = request[ACCOUNTS]
    return fields | (accounts[0] if len(accounts) == 1 else {"instances": accounts} if accounts else {})


def error_response(error: ApiError, request_id: str) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.code == "method_not_allowed":
        headers["Allow"] = ", ".join(error.details["allow"])
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(error.body(request_id), status=error.status, reason=error.reason, headers=headers)


def refusal(message: str) -> web.Response:
    """Returns the last answer on a connection, to a request that no handler sees."""
    request_id = str(uuid.uuid4())
    response = error_response(ApiError("invalid_request", message), request_id)
    response.headers["X-Request-Id"] = request_id
    response.force_close()
    return response
