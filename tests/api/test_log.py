"""What a log line looks like when a client chose the text in it."""

import asyncio
import io
import json
import logging

import pytest
from comfyui_tryon.log import JsonFormatter, RequestLog, SafeFormatter

FORGED = "x\nFORGED: all is well\r\x1b[31m\x9b1m\x00\u2028FORGED\u0085FORGED\x0bFORGED\ud800"


@pytest.fixture(params=["text", "json"])
def written(request):
    """Returns a function that logs with another one, and gives what was written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    inner = logging.Formatter("%(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if request.param == "json" else SafeFormatter(inner))
    logger = logging.getLogger("test_log")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)

    def write(log) -> list[str]:
        log(logger)
        text = stream.getvalue()
        text.encode()
        return text.splitlines()

    yield write
    logger.removeHandler(handler)


def fail(logger) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("it failed")


@pytest.mark.parametrize(
    "log",
    [
        lambda logger: RequestLog(logger, "id").info("GET %s -> 200", FORGED),
        lambda logger: RequestLog(logger, "id", "shop").error(FORGED.replace("%", "%%")),
        lambda logger: logger.warning("%s", FORGED),
        lambda logger: fail(RequestLog(logger, "id")),
        fail,
    ],
)
def test_no_text_begins_a_line_or_controls_a_terminal(written, log):
    lines = written(log)
    assert "FORGED" in "".join(lines)
    assert not [line for line in lines if line.startswith("FORGED") or not line.isprintable()]
    assert [line for line in lines if not line.startswith(" ")] == lines[:1]


def test_a_request_has_one_line(written):
    lines = written(lambda logger: RequestLog(logger, "id", "shop").info("GET %s -> 200", FORGED))
    assert len(lines) == 1
    if lines[0].startswith("{"):
        entry = json.loads(lines[0])
        assert entry["message"] == f"GET {FORGED} -> 200" and (entry["request_id"], entry["caller"]) == ("id", "shop")
    else:
        assert lines[0].startswith("INFO id (shop): GET x\\nFORGED: all is well\\u000d\\u001b[31m")


def test_ordinary_text_stays_as_it_is(written):
    lines = written(lambda logger: logger.info("größer 鍵 %s", "\N{T-SHIRT}"))
    assert "größer 鍵 \N{T-SHIRT}" in lines[0]


@pytest.mark.parametrize(
    "head", ["X-API-Key: s3cret\x00", "X-API-Key s3cret", "X-API-Key: s3cret" + "y" * 9000, "Content-Length: s3cret"]
)
async def test_a_malformed_head_is_logged_without_what_was_sent(api, caplog, head):
    client = await api(locked=True)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
    assert b" 400 " in await reader.readline()
    writer.close()
    assert "s3cret" not in caplog.text
