"""The errors a client can meet: one code each, with its HTTP status."""

from http import HTTPStatus
from typing import Any

STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "not_found": 404,
    "workflow_not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_image": 422,
    "image_too_large": 422,
    "invalid_parameter": 422,
    "missing_field": 422,
    "no_person_found": 422,
    "queue_full": 429,
    "canceled": 499,
    "node_execution_error": 500,
    "internal_error": 500,
    "workflow_invalid": 500,
    "not_ready": 503,
    "draining": 503,
    "out_of_memory": 503,
    "timeout": 504,
}
REASONS = {499: "Client Closed Request"}


class ApiError(Exception):
    """What a client is told when its request cannot be answered with a picture.

    Args:
        code: one of `STATUS`.
        message: what is wrong and what to do about it; shown to the client, so free of paths and internals.
        retry_after: seconds until a retry is worth while, sent as Retry-After.
        details: machine-readable particulars, such as `field`.
    """

    def __init__(self, code: str, message: str, *, retry_after: float | None = None, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.details = details

    @property
    def status(self) -> int:
        return STATUS[self.code]

    @property
    def reason(self) -> str:
        return REASONS.get(self.status) or HTTPStatus(self.status).phrase

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}
