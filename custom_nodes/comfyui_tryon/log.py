"""Log lines that carry their request's id, as text or JSON."""

import json
import logging
from typing import Any


class RequestLog(logging.LoggerAdapter):
    """Logs for one request: its id leads each line, and is a field of its own in JSON."""

    def __init__(self, logger: logging.Logger, request_id: str) -> None:
        super().__init__(logger, {})
        self._request_id = request_id

    def process(self, message: str, options: Any) -> tuple[str, Any]:
        return f"{self._request_id}: {message}", {**options, "extra": {"request_id": self._request_id}}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, "request_id", None)
        message = record.getMessage()
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname,
            "message": message.removeprefix(f"{request_id}: ") if request_id else message,
        }
        if request_id:
            entry["request_id"] = request_id
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def use_json() -> None:
    """Turns every line of this process's log, ComfyUI's too, into a JSON object."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())
