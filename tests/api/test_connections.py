"""What connections may cost a locked worker, whatever their clients do; each bound is made small or short here."""

import asyncio
import json
import uuid
from typing import Any

import pytest
from comfyui_tryon.api import connections

HEAD = b"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class Raw:
    """A connection whose bytes the test writes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), 20)
        except ConnectionError:
            return b""

    def closed(self) -> bool:
        return self.reader.at_eof() or self.reader.exception() is not None


async def connect(client: Any) -> Raw:
    return Raw(*await asyncio.open_connection(client.host, client.port, limit=1000))


def post(fields: dict[str, Any], headers: str = "") -> bytes:
    body = json.dumps(fields).encode()
    return HEAD + f"{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def open_connections(client: Any) -> int:
    return len(client.server.runner.server.connections)


@pytest.fixture
async def swift(monkeypatch) -> None:
    for name in ("HEAD_S", "REPLY_STEP_S"):
        monkeypatch.setattr(connections, name, 0.05)
    monkeypatch.setattr(connections, "SWEEP_S", 0.005)


@pytest.mark.parametrize("sent", [b"G", b"GET /ping HTTP/1.1\r\nHost: x\r\n", HEAD])
async def test_a_head_that_does_not_end_is_not_waited_for(api, swift, sent):
    client = await api(locked=True)
    raw = await connect(client)
    raw.send(sent)
    assert await raw.rest() == b""


async def test_a_head_without_an_end_takes_no_memory_either(api):
    client = await api(locked=True)
    raw = await connect(client)
    raw.send(b"GET /ping HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
    assert b"HTTP/1.1 200" not in await raw.rest()


async def test_connections_without_a_request_make_room_for_others(api, monkeypatch, grey):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 10)
    client = await api(locked=True, max_queue=54)
    client.engine.holds = True
    waiting = asyncio.ensure_future(client.tryon(grey))
    await client.until(lambda: client.engine.runs)
    raws = []
    for number in range(200):
        raws.append(await connect(client))
        raws[-1].send((b"", b"GET /ping HTTP/1.1\r\n", HEAD + b"Content-Length: 9\r\n\r\n{")[number % 3])
    for path in ("/ping", "/healthz", "/metrics"):
        async with client.get(path) as reply:
            assert reply.status == 200
    await client.until(lambda: sum(raw.closed() for raw in raws) >= 200 - 64)
    client.engine.finish(client.engine.runs[0])
    assert (await waiting)[0] == 200


async def test_more_requests_behind_another_than_a_client_would_send_end_the_connection(api, grey):
    client = await api(locked=True)
    client.engine.holds = True
    raw = await connect(client)
    raw.send(post(grey))
    await client.until(lambda: client.engine.runs)
    raw.send(HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(200_000))
    assert await raw.rest() == b""
    await client.until(lambda: client.engine.runs[0].released.done())


async def test_a_request_that_comes_with_the_late_body_of_a_refused_one_is_answered(api, grey):
    client = await api(locked=True)
    raw = await connect(client)
    late = b"x" * 100
    raw.send(HEAD.replace(b"application/json", b"text/plain") + b"Content-Length: 100\r\n\r\n")
    assert b"415" in await raw.reader.readline()
    raw.send(late + post(grey | {"person_image": "A" * 200_000}, "Connection: close\r\n"))
    assert b"invalid_image" in await raw.rest()


async def test_a_flood_of_small_requests_is_not_parsed_to_its_end(api):
    client = await api(locked=True)
    raw = await connect(client)
    raw.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 100_000)
    assert (await raw.rest()).count(b"HTTP/1.1 200") < 100_000


@pytest.mark.parametrize("locked", [True, False])
async def test_a_client_that_sends_more_behind_its_request_and_vanishes_is_noticed(api, grey, locked):
    client = await api(locked=locked)
    client.engine.holds = True
    raw = await connect(client)
    raw.send(post(grey))
    await client.until(lambda: client.engine.runs)
    raw.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 32)  # as many as let aiohttp stop reading
    raw.writer.close()
    await client.until(lambda: client.engine.runs[0].released.done())


async def test_a_reply_that_nobody_reads_is_dropped(api, swift, monkeypatch):
    monkeypatch.setattr("comfyui_tryon.metrics.text", lambda: bytes(30_000_000))
    client = await api(locked=True)
    raw = await connect(client)
    raw.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.until(lambda: open_connections(client))
    await client.until(lambda: not open_connections(client))
    assert len(await raw.rest()) < 30_000_000


async def test_what_images_took_goes_back_to_the_system_when_none_come_any_more(api, swift, monkeypatch, grey):
    returned = []
    monkeypatch.setattr(connections.system, "return_memory", lambda: returned.append(1))
    monkeypatch.setattr(connections, "SOME_BYTES", 10)
    client = await api(locked=True)
    for _ in range(3):
        status, _ = await client.tryon(grey)
        assert status == 200
    assert (await client.get("/ping")).status == 200
    assert not returned, "another request may come"
    monkeypatch.setattr(connections, "IDLE_S", 0.0)
    await client.until(lambda: returned)
    assert (await client.get("/ping")).status == 200
    await client.tryon(grey)
    await client.until(lambda: len(returned) == 2)


async def test_a_reply_that_is_read_slowly_arrives_whole(api, swift, monkeypatch):
    monkeypatch.setattr(connections, "REPLY_STEP_S", 1.0)
    monkeypatch.setattr("comfyui_tryon.metrics.text", lambda: bytes(3_000_000))
    client = await api(locked=True)
    raw = await connect(client)
    raw.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    received = 0
    while piece := await raw.reader.read(20_000):
        received += len(piece)
        await asyncio.sleep(0)
    assert received > 3_000_000


async def test_unread_replies_do_not_add_up(api, monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_BYTES", 30_000_000)
    monkeypatch.setattr("comfyui_tryon.metrics.text", lambda: bytes(20_000_000))
    client = await api(locked=True)
    raws = []
    for _ in range(3):
        raws.append(await connect(client))
        raws[-1].send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await raws[-1].reader.readuntil(b"\r\n\r\n")
    await client.until(lambda: open_connections(client) == 1)
    received = [len(await raw.rest()) for raw in raws]
    assert received[2] == 20_000_000 and max(received[:2]) < 20_000_000


@pytest.mark.parametrize("accepted", ["application/json", "text/event-stream"])
async def test_replies_with_images_do_not_either_though_they_are_sent_in_pieces(api, grey, monkeypatch, accepted):
    async def large(request_id, result) -> bytes:
        return bytes(20_000_000)

    monkeypatch.setattr(connections, "UNREAD_BYTES", 30_000_000)
    for module in ("tryon", "events"):
        monkeypatch.setattr(f"comfyui_tryon.api.{module}.json_reply", large)
    client = await api(locked=True)
    body = json.dumps(grey).encode()
    head = f"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nAccept: {accepted}\r\nContent-Type: application/json\r\n"
    raws = []
    for _ in range(3):
        raws.append(await connect(client))
        raws[-1].send(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await raws[-1].reader.readuntil(b"\0\0\0\0")
    await client.until(lambda: open_connections(client) == 1)
    received = [len(await raw.rest()) for raw in raws]
    assert received[2] > 19_000_000 and max(received[:2]) < 19_000_000


BAD_HEADS = [
    b"GET /ping HTTP/1.1\r\nno colon\r\n\r\n",
    b"\0\0\0\r\n\r\n",
    b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("head", BAD_HEADS)
async def test_a_malformed_head_is_answered_in_the_envelope(api, head):
    client = await api(locked=True)
    raw = await connect(client)
    raw.send(head)
    head_of_reply, _, content = (await raw.rest()).partition(b"\r\n\r\n")
    lines = head_of_reply.decode().split("\r\n")
    assert lines[0].split()[1] == "400"
    assert json.loads(content)["error"]["code"] == "invalid_request"
    assert uuid.UUID(next(line.split(": ")[1] for line in lines if line.startswith("X-Request-Id")))


async def test_unlocked_the_hosts_connections_are_left_alone(api):
    client = await api(locked=False)
    raw = await connect(client)
    raw.send(b"\0\r\n\r\n")
    assert b"text/plain" in await raw.rest()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
async def test_a_compressed_body_is_refused_unread_under_its_id_and_the_connection_stays(api, grey, encoding):
    client = await api(locked=True)
    raw = await connect(client)
    raw.send(HEAD + f"X-Request-Id: mine\r\nContent-Encoding: {encoding}\r\nContent-Length: 100\r\n\r\n".encode())
    raw.send(b"x" * 100)  # which is none of them
    raw.send(post(grey, "Connection: close\r\n"))
    refused, _, answered = (await raw.rest()).partition(b"HTTP/1.1 200 OK")
    assert b" 415 " in refused and b"X-Request-Id: mine\r\n" in refused and b"Send the body uncompressed" in refused
    assert b'"images":[' in answered


async def half_closed(client, grey, accept: str) -> Raw:
    """Sends a request and ends the sending side."""
    body = json.dumps(grey).encode()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"X-Request-Id: mine\r\nAccept: %b\r\nContent-Length: %d\r\n\r\n%b" % (accept.encode(), len(body), body)
    )
    writer.write_eof()
    await client.until(lambda: client.engine.runs)
    return Raw(reader, writer)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_who_ends_the_sending_side_still_gets_the_reply(api, grey, accept):
    client = await api(locked=True)
    client.engine.holds = True
    raw = await half_closed(client, grey, accept)
    assert await raw.reader.readline() in (b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 200 OK\r\n")
    client.engine.finish(client.engine.runs[0])
    reply = await raw.rest()
    assert b'"images":[' in reply and b'"error"' not in reply


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_who_ends_the_sending_side_does_not_lose_the_request_to_another_with_its_id(api, grey, accept):
    client = await api(locked=True)
    client.engine.holds = True
    raw = await half_closed(client, grey, accept)
    again = client.error(grey, headers={"X-Request-Id": "mine"})
    assert await asyncio.wait_for(again, 20) == (409, "conflict")
    client.engine.finish(client.engine.runs[0])
    reply = await raw.rest()
    assert b'"images":[' in reply and b'"error"' not in reply


async def test_who_ends_the_sending_side_behind_several_requests_gets_all_replies(api, grey):
    client = await api(locked=True)
    client.engine.holds = True
    raw = await connect(client)
    for name in ("one", "two", "three"):
        raw.send(post(grey, f"X-Request-Id: {name}\r\n"))
    raw.writer.write_eof()
    for number in range(3):
        await client.until(lambda number=number: len(client.engine.runs) == number + 1)
        client.engine.finish(client.engine.runs[number])
    replies = await raw.rest()
    assert [replies.count(b"X-Request-Id: %b\r\n" % name) for name in (b"one", b"two", b"three")] == [1, 1, 1]
    assert replies.count(b'"images":[') == 3


async def test_who_ends_the_sending_side_between_two_replies_gets_both(api, monkeypatch):
    """The second request has come, but its handler has not begun."""
    client = await api(locked=True)
    raw = await connect(client)
    end = connections._Connection.end

    def end_with_eof(connection):
        end(connection)
        assert connection.eof_received() is bool(connection._parsed)

    monkeypatch.setattr(connections._Connection, "end", end_with_eof)
    raw.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert (await raw.rest()).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_who_ends_both_sides_cancels_the_request(api, grey, accept):
    client = await api(locked=True)
    client.engine.holds = True
    raw = await half_closed(client, grey, accept)
    raw.writer.close()
    await client.until(client.engine.runs[0].finished.done)
    await client.until(lambda: client.parts._tryon.depth == 0)
