"""What every body has in common, JSON or form: its limit, and what aiohttp raises where it is damaged."""

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ..errors import ApiError

# What aiohttp raises for damaged bodies and forms, none of it documented.
DAMAGE = (
    web.RequestPayloadError,
    HttpProcessingError,
    ValueError,
    AssertionError,  # aiohttp asserts where a part's head is malformed
    LookupError,
    EOFError,
    RuntimeError,
)


def media_type(request: web.Request) -> str:
    """Returns the body's type without parameters; aiohttp's `content_type` takes a second for 8 kB of quotes."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def check_head(request: web.Request, max_bytes: int, advice: str = "") -> None:
    """Raises ApiError if the body is compressed or known to be larger than `max_bytes`."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            "unsupported_media_type",
            "Send the body uncompressed, without Content-Encoding; images are compressed already.",
        )
    if request.content_length is not None and request.content_length > max_bytes:
        raise too_large(max_bytes, advice)


def too_large(max_bytes: int, advice: str = "") -> ApiError:
    """Returns the error for a body of more than `max_bytes`; `advice` takes the place of the usual message."""
    usual = f"The body is larger than {max_bytes / 1e6:g} MB. Send smaller or compressed images."
    return ApiError("payload_too_large", advice or usual)
