"""What log lines say, and that no text in them can pass for another line."""

import asyncio
import datetime
import io
import json
import logging
import os
import subprocess
import sys

import pytest
from comfyui_tryon import log
from comfyui_tryon.engine.interface import NodeFailed
from comfyui_tryon.log import JsonFormatter, RequestLog, SafeFormatter, formatter

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


def entries(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def has_zone(time: str) -> bool:
    return datetime.datetime.fromisoformat(time).tzinfo is not None


def test_text_lines_begin_with_time_zone_and_level():
    record = logging.makeLogRecord({"msg": "hello", "levelno": logging.WARNING, "levelname": "WARNING"})
    time, level, message = formatter(as_json=False).format(record).split(" ")
    assert has_zone(time) and (level, message) == ("WARNING", "hello")


def test_json_lines_have_a_zone_and_the_logger():
    entry = json.loads(formatter(as_json=True).format(logging.makeLogRecord({"msg": "hello", "name": "/packs/a.b"})))
    assert has_zone(entry["time"]) and (entry["logger"], entry["message"]) == ("a.b", "hello")


def test_of_a_process_that_logs_json_every_line_is_json_whoever_writes_it():
    code = """
import importlib.util, io, logging, sys, threading, warnings
spec = importlib.util.spec_from_file_location("log", sys.argv[1])
log = importlib.util.module_from_spec(spec)
spec.loader.exec_module(log)
log.begin(as_json=True)
class Kept(io.TextIOWrapper):  # as ComfyUI does
    kept = []
    def write(self, text):
        if text.startswith("\\r"):
            self.kept[-1]
        self.kept.append(text)
        return super().write(text)
sys.stdout, sys.stderr = (Kept(stream.buffer, line_buffering=True) for stream in (sys.stdout, sys.stderr))
logging.basicConfig(format="%(message)s", level=logging.INFO)
for done in range(3):
    print(f"\\rbar {done}", end="", file=sys.stderr, flush=True)
print(file=sys.stderr)
logging.info("logged")
logging.getLogger("library").error("of a library\\nin two lines")
print("printed", end=" ")
print("at once")
sys.stderr.buffer.write("größer\\n".encode())
print("{not json")
print()
warnings.warn("a warning")
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
sys.exit("the end")
"""
    result = subprocess.run(
        [sys.executable, "-c", code, log.__file__], capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 1
    found = [(entry["level"], entry["logger"], entry["message"]) for entry in entries(result.stderr)]
    assert found[0] == ("INFO", "stderr", "bar 2")
    assert found[1:3] == [("INFO", "root", "logged"), ("ERROR", "library", "of a library\nin two lines")]
    assert ("INFO", "stderr", "größer") in found
    assert any(logger == "py.warnings" and "a warning" in message for _, logger, message in found)
    assert ("ERROR", "root", "The thread worker has ended.") in found and found[-1] == ("INFO", "stderr", "the end")
    assert "ZeroDivisionError" in next(entry["exception"] for entry in entries(result.stderr) if "exception" in entry)
    assert [entry["message"] for entry in entries(result.stdout)] == ["printed at once", "{not json"]
    assert all(has_zone(entry["time"]) for entry in entries(result.stderr + result.stdout))


@pytest.fixture
def answered(caplog):
    """Returns a function that gives the JSON lines of answered requests."""
    caplog.set_level(logging.INFO)

    def read() -> list[dict]:
        lines = (json.loads(JsonFormatter().format(record)) for record in caplog.records)
        return [entry for entry in lines if "outcome" in entry]

    return read


async def test_a_request_is_one_json_line_that_says_all_about_it(api, grey, answered):
    client = await api(locked=True, api_key="shop:k3y")
    headers = {"X-API-Key": "k3y", "X-Request-Id": "mine"}
    status, content = await client.tryon({**grey, "seed": 5}, headers=headers)
    assert status == 200
    (entry,) = answered()
    assert (entry["request_id"], entry["caller"], entry["outcome"]) == ("mine", "shop", "ok")
    assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/api/v1/tryon", 200)
    assert (entry["workflow"], entry["version"]) == ("demo", content["workflow"]["version"]) and entry["seed"] == 5
    size = [16, 16]
    assert entry["sizes"] == {"person_image": size, "garment_image": size, "images": [size]}
    assert entry["sent_bytes"] > 0 and entry["received_bytes"] > len(grey["person_image"])
    assert list(entry["stages"]) == ["decode", "queue", "execute", "encode", "total"]
    assert 0 <= entry["stages"]["total"] <= entry["duration_s"]


@pytest.mark.parametrize(
    ("accept", "status"), [("application/json", 500), ("image/png", 500), ("text/event-stream", 200)]
)
async def test_of_a_request_that_fails_it_says_how_far_it_got(api, grey, answered, accept, status):
    client = await api(locked=True)
    client.engine.outcome = NodeFailed("7", "Sampler", "ValueError", "broken")
    async with client.post("/api/v1/tryon", json=grey, headers={"Accept": accept}) as reply:
        await reply.read()
    (entry,) = answered()
    assert (entry["status"], entry["outcome"]) == (status, "node_execution_error")
    assert list(entry["stages"]) == ["decode", "queue", "execute", "total"] and entry["workflow"] == "demo"


async def test_of_a_request_that_is_refused_at_once_it_says_only_that(api, grey, answered):
    client = await api(locked=True, api_key="k3y")
    assert await client.error(grey) == (401, "unauthorized")
    (entry,) = answered()
    assert entry["outcome"] == "unauthorized" and "stages" not in entry and "caller" not in entry


@pytest.mark.parametrize("as_json", [True, False])
def test_whoever_prints_goes_on_where_nothing_can_be_written(as_json):
    code = f"""
import importlib.util, logging, os, sys
spec = importlib.util.spec_from_file_location("log", sys.argv[1])
log = importlib.util.module_from_spec(spec)
spec.loader.exec_module(log)
log.begin(as_json={as_json})
logging.basicConfig(level=logging.INFO)
for number in range(5000):
    print("printed")
    print("a bar", file=sys.stderr, flush=True)
    logging.info("logged")
os.write(int(sys.argv[2]), b"went on")
logging.shutdown()
sys.stdout.flush()
os._exit(0)
"""
    read, write = os.pipe()
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", code, log.__file__, str(write)]
        result = subprocess.run(command, stdout=full, stderr=full, pass_fds=[write])
    os.close(write)
    with open(read, "rb") as told:
        assert told.read() == b"went on" and result.returncode == 0
