"""What an error reply must look like, whichever error it is."""

import httpx

from .servers import ROOT


def error(reply: httpx.Response, status: int, code: str) -> dict:
    """Returns the `error` of a reply that has this status and code, the envelope, an id and no internals."""
    assert reply.status_code == status, reply.text
    content = reply.json()
    assert set(content) == {"error"} and set(content["error"]) == {"code", "message", "details", "request_id"}
    assert content["error"]["code"] == code
    assert content["error"]["request_id"] == reply.headers["X-Request-Id"] != ""
    assert not any(secret in reply.text for secret in ("Traceback", ".py", str(ROOT), "site-packages"))
    return content["error"]
