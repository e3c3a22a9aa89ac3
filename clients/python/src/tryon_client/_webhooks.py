"""Verifies what a server sends to `webhook_url`, by the Standard Webhooks scheme."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence

from . import _errors
from ._errors import TryOnError, WebhookInvalid
from ._reading import read
from ._results import Result

TOLERANCE_S = 5 * 60
LONGEST_TIMESTAMP = 15  # digits
PREFIX = "whsec_"
VERSION = "v1"


def verify_webhook(body: bytes | str, headers: Mapping[str, str], secret: str | Sequence[str]) -> Result | TryOnError:
    """Returns the result that a webhook brings, or the error, after verifying who sent it and when.

    The same webhook may come more than once; `id` of the result and `request_id` of the error tell.

    Args:
        body: the request's body as it came, before any parsing.
        headers: the request's headers, in upper or lower case.
        secret: the server's TRYON_WEBHOOK_SECRET, "whsec_…"; several while it is being replaced.

    Raises:
        WebhookInvalid: a header is missing, the signature is not of this secret and body, or it is older than five
            minutes. Answer with 400 or 401, and do not use the body.
        ValueError: `secret` is not base64.
    """
    content = body.encode() if isinstance(body, str) else bytes(body)
    webhook_id = verify_signature(content, headers, [secret] if isinstance(secret, str) else secret)
    try:
        data = json.loads(content)
        if isinstance(data, dict) and "error" in data:
            return _errors.of_content(data, data.get("id") or webhook_id)
        return read(Result, data)
    except ValueError as error:
        raise WebhookInvalid(f"The signature is right, but the body is not a result of this API: {error}") from error


def verify_signature(body: bytes, headers: Mapping[str, str], secrets: Sequence[str]) -> str:
    """Returns the webhook's id; raises WebhookInvalid as `verify_webhook` does."""
    keys = [_key(secret) for secret in secrets]
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, timestamp, signatures = (lower[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise WebhookInvalid(f"The header {error.args[0]} is missing.") from None
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= LONGEST_TIMESTAMP):
        raise WebhookInvalid("The header webhook-timestamp is not a number of seconds.")
    if abs(time.time() - int(timestamp)) > TOLERANCE_S:
        raise WebhookInvalid("The webhook is older than five minutes, or this machine's clock is wrong.")
    # receivers that decode headers themselves make half characters of bytes that are no text
    signed = b".".join([webhook_id.encode(errors="surrogateescape"), timestamp.encode(), body])
    given = [text.removeprefix(f"{VERSION},") for text in signatures.split() if text.startswith(f"{VERSION},")]
    expected = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    # every pair is compared, each in constant time
    if not any([hmac.compare_digest(one, other.encode(errors="replace")) for one in expected for other in given]):
        raise WebhookInvalid("The signature is not one of this secret and body. Pass the body exactly as it came.")
    return webhook_id


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError('The secret must be base64, after "whsec_".')
    return key
