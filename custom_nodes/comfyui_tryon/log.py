"""Log lines that carry their request's id, as text or JSON, and that no client can forge."""

import copy
import json
import logging
import re
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError

# Characters that end a line somewhere, control a terminal or cannot be encoded.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class RequestLog(logging.LoggerAdapter):
    """Logs for one request: its id and its caller lead each line, and are fields of their own in JSON."""

    def __init__(self, logger: logging.Logger, request_id: str, caller: str = "") -> None:
        super().__init__(logger, {})
        self._request_id = request_id
        self.caller = caller

    def process(self, message: str, options: Any) -> tuple[str, Any]:
        lead = f"{self._request_id} ({self.caller}): " if self.caller else f"{self._request_id}: "
        extra = {"request_id": self._request_id, "caller": self.caller, "lead": lead}
        return lead + message, {**options, "extra": extra}


class SafeFormatter(logging.Formatter):
    """Wraps the formatter that a handler has: text of a client neither begins a line nor controls a terminal."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, "request_id"):
            record = copy.copy(record)
            record.msg, record.args = record.getMessage().replace("\n", "\\n"), None
        # Other lines than a record's first, such as those of a traceback, are indented.
        return _escaped(self._inner.format(record)).replace("\n", "\n  ")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname,
            "message": record.getMessage().removeprefix(getattr(record, "lead", "")),
        }
        for name in ("request_id", "caller"):
            if value := getattr(record, name, None):
                entry[name] = value
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _escaped(json.dumps(entry, ensure_ascii=False))


def take_over(as_json: bool) -> None:
    """Formats every line of this process's log, ComfyUI's too: as JSON objects, or as before but safely."""
    logging.getLogger("aiohttp.server").addFilter(_shorten)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter() if as_json else SafeFormatter(handler.formatter or logging.Formatter()))


def _shorten(record: logging.LogRecord) -> bool:
    """Takes what a client sent out of aiohttp's words on a malformed head: it may hold a key."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args = f"Malformed request: {type(record.exc_info[1]).__name__}", None
        record.exc_info = None
    return True


def _escaped(text: str) -> str:
    """Writes unsafe characters as JSON does."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
