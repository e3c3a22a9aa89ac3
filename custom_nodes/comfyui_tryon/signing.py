"""Signs webhooks as https://www.standardwebhooks.com says, so that receivers know who sent them."""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime, timezone

from standardwebhooks.webhooks import Webhook

PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)


def check_secret(secret: str) -> None:
    """Raises ValueError if `secret` is not one of Standard Webhooks; the message shows none of it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in SECRET_BYTES:
        raise ValueError(f"write {PREFIX} and 24 to 64 random bytes in base64, such as of: openssl rand -base64 32")


def signed(secret: str, message_id: str, body: bytes, now: datetime | None = None) -> Mapping[str, str]:
    """Returns the headers by which a receiver verifies `body`, text in UTF-8; `now` is in UTC."""
    now = now or datetime.now(timezone.utc)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, body.decode()),
    }
