"""The errors that a client can receive: one code each, with its HTTP status.

Inside, each layer raises errors of its own, which `tryon.py` and `api/` turn into an `ApiError`:

    settings.SettingsError             an environment variable has an unusable value
    hosts.UrlRefused                   a client's URL may not be used
    outbound.fetching.NotFetched       a host does not answer with a file
    outbound.uploads.NotUploaded       a host does not take a file
    workflows.WorkflowInvalid          a workflow file cannot serve requests
      format.WorkflowFormatError       it cannot be read as a workflow
    engine.interface.GraphError        the engine cannot execute a prompt
    engine.interface.NodeFailed        a node raised
    engine.interface.Interrupted       the run was canceled
    engine.interface.EngineDead        the executor thread has ended
    weights.search.WeightsMissing      weight files were not found
    weights.lock.DownloadError         a file cannot be downloaded
    catvton/masker.CheckpointError     a weight file is damaged or of another model
    masker.NoPersonFound               the image shows no person
    fashn.parser.ParserMissing         the request needs weights that are optional
    fashn.geometry.TooNarrow           an image cannot be scaled to the model's size
"""

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
    "upload_failed": 424,
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
    """Tells a client why its request has no image.

    Raise a new one each time: an instance that is raised again keeps every frame that it passed, with the request's
    images in them.

    Args:
        code: one of `STATUS`.
        message: what is wrong and what to do about it; shown to the client, so free of paths and internals.
        retry_after: seconds until a retry is worthwhile, sent as Retry-After.
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

    def let_go(self) -> None:
        """Drops the frames that the error has passed.

        They hold the images, and tasks that hold the error: a circle until Python's collector comes by.
        """
        self.__traceback__ = None

    def body(self, request_id: str) -> dict[str, Any]:
        """Returns the envelope; `request_id` is repeated there for those who keep bodies and not headers."""
        return {
            "error": {"code": self.code, "message": self.message, "request_id": request_id, "details": self.details}
        }


def canceled(by: str = "") -> ApiError:
    """`by`: a sentence that says who canceled the request, if it was not its caller."""
    return ApiError("canceled", f"{by} Send it again if it is still wanted." if by else "The request was canceled.")


def internal_error() -> ApiError:
    """Stands for an exception that nobody foresaw; the log has it, the client does not."""
    return ApiError("internal_error", "The server failed. Retry; if it persists, send the operator the request id.")


def draining() -> ApiError:
    return ApiError("draining", "This worker is shutting down. Retry on another.", retry_after=1)


def starting() -> ApiError:
    return ApiError("not_ready", "This worker is starting. Retry later or on another.", retry_after=5)


def failed_worker() -> ApiError:
    return ApiError("not_ready", "This worker has failed and must be replaced. Retry on another.", retry_after=5)
