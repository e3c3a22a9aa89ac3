"""Log lines that carry their time, level and request's id, as text or JSON, and that no client can forge.

guard.py loads this file by its path before ComfyUI starts, so it imports nothing but Python's own modules.
"""

import contextlib
import copy
import datetime
import io
import json
import logging
import os
import re
import sys
import threading
import time
from typing import Any, NoReturn

# Characters that end a line somewhere, control a terminal or cannot be encoded.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
LONGEST_LINE = 65_536  # of what is printed without a line end, in bytes


class RequestLog(logging.LoggerAdapter):
    """Logs for one request: its id and its caller lead each line, and are fields of their own in JSON.

    The argument `fields` of its methods has further ones, which text leaves out.
    """

    def __init__(self, logger: logging.Logger, request_id: str, caller: str = "") -> None:
        super().__init__(logger, {})
        self._request_id = request_id
        self.caller = caller

    def process(self, message: str, options: Any) -> tuple[str, Any]:
        lead = f"{self._request_id} ({self.caller}): " if self.caller else f"{self._request_id}: "
        extra = {"request_id": self._request_id, "caller": self.caller, "lead": lead}
        extra["fields"] = options.pop("fields", {})
        return lead + message, {**options, "extra": extra}


class SafeFormatter(logging.Formatter):
    """Wraps another formatter: text of a client neither begins a line nor controls a terminal."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, "request_id"):
            record = copy.copy(record)
            record.msg, record.args = record.getMessage().replace("\n", "\\n"), None
        # Other lines than a record's first, such as those of a traceback, are indented.
        return _escaped(self._inner.format(record)).replace("\n", "\n  ")


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time(record.created)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": re.split(r"[/\\]", record.name)[-1],  # ComfyUI names packs by their paths
            "message": record.getMessage().removeprefix(getattr(record, "lead", "")),
        }
        for name in ("request_id", "caller"):
            if value := getattr(record, name, None):
                entry[name] = value
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _json(entry)


class Unfailing(io.BufferedIOBase):
    """Takes the place of a text stream's buffer: where nothing can be written, as on a full disk, whoever prints goes
    on. A node that shows its progress would fail otherwise, and its request with it."""

    def __init__(self, binary: Any) -> None:
        self._binary = binary

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            self._binary.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._binary.flush()

    def close(self) -> None:
        """Stays open: ComfyUI wraps the buffer again and drops the first wrapper, which would close it."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._binary.fileno()

    def isatty(self) -> bool:
        return self._binary.isatty()


class JsonLines(Unfailing):
    """Makes of each line that is printed a JSON object.

    Of a progress bar, which writes over its line, the last state counts.
    """

    def __init__(self, binary: Any, name: str) -> None:
        super().__init__(binary)
        self._name = name
        self._rest = b""
        self._lock = threading.RLock()  # a signal handler may print while its thread does

    def write(self, data: Any) -> int:
        with self._lock:
            *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
            if len(self._rest) > LONGEST_LINE:
                self._rest = self._rest.rpartition(b"\r")[2][-LONGEST_LINE:]
            for line in lines:
                self._write_line(line)
        return memoryview(data).nbytes

    def _write_line(self, line: bytes) -> None:
        text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        if text.strip():
            entry = {"time": _time(time.time()), "level": "INFO", "logger": self._name, "message": text}
            super().write(_json(entry).encode() + b"\n")
            self.flush()


def is_json() -> bool:
    """Reads the format that was asked for, without the settings, which may be what fails."""
    return os.environ.get("TRYON_LOG_FORMAT") == "json"


def leave(message: str) -> NoReturn:
    """Ends a process that has not begun to log, with status 1 and a message for whoever started it."""
    if is_json():
        begin(as_json=True)
        logging.critical("%s", message)
    else:
        print(message, file=sys.stderr)
    sys.exit(1)


def formatter(as_json: bool) -> logging.Formatter:
    """Returns the formatter of all lines of a process that is the API's."""
    return JsonFormatter() if as_json else SafeFormatter(TextFormatter())


def begin(as_json: bool) -> None:
    """Formats all that this process logs from now on, whoever sets up the logging; as JSON, what it prints too."""
    chosen = formatter(as_json)
    root = logging.getLogger()
    add = root.addHandler

    def add_formatted(handler: logging.Handler) -> None:
        handler.setFormatter(chosen)
        if as_json and isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setStream(sys.__stderr__)  # past JsonLines
            # ComfyUI keeps what is printed, and a progress bar fails on its list while that is empty.
            print()
        add(handler)

    root.addHandler = add_formatted  # type: ignore[method-assign, assignment]
    logging.captureWarnings(True)
    sys.excepthook = lambda *error: logging.critical("The process ends.", exc_info=error)
    threading.excepthook = lambda error: logging.error(
        "The thread %s has ended.", error.thread and error.thread.name, exc_info=error.exc_value
    )
    keep_printing(as_json)


def keep_printing(as_json: bool = False) -> None:
    """Lets whoever prints in this process go on where nothing can be written; as JSON, formats it too."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        buffer: Any = JsonLines(stream.buffer, name) if as_json else Unfailing(stream.buffer)
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True))


def take_over(as_json: bool) -> None:
    """Formats every line of this process's log, ComfyUI's too: as JSON objects or safe text, with time and level."""
    logging.getLogger("aiohttp.server").addFilter(_shorten)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter(as_json))


def _shorten(record: logging.LogRecord) -> bool:
    """Takes what a client sent out of aiohttp's words on a malformed head: it may hold a key."""
    error = record.exc_info[1] if record.exc_info else None
    if any(cls.__name__ == "HttpProcessingError" for cls in type(error).__mro__):
        record.msg, record.args = f"Malformed request: {type(error).__name__}", None
        record.exc_info = None
    return True


def _time(seconds: float) -> str:
    """Returns a time as ISO 8601 has it, in this machine's time zone, which is stated."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def _json(entry: dict[str, Any]) -> str:
    return _escaped(json.dumps(entry, ensure_ascii=False))


def _escaped(text: str) -> str:
    """Writes unsafe characters as JSON does."""
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
