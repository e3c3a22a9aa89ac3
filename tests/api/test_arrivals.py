"""Bodies that come slowly, in crowds or not at all; and who gets the places when there are too few."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from comfyui_tryon.api import arrivals
from comfyui_tryon.api.shares import Shares
from comfyui_tryon.errors import ApiError

HEAD = b"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"


class Begun:
    """A request of which only the beginning has been sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def error(self) -> tuple[int, str]:
        await self.reader.readuntil(b"HTTP/1.1 ")
        status = int(await self.reader.readexactly(3))
        await self.reader.readuntil(b"\r\n\r\n")
        content = json.loads(await self.reader.readuntil(b"}}}"))
        self.writer.close()  # else the server would let the rest of the body come
        return status, content["error"]["code"]


async def begin(client: Any, data: bytes, length: int, head: bytes = HEAD) -> Begun:
    begun = Begun(*await asyncio.open_connection(client.host, client.port))
    begun.writer.write(head + b"Content-Length: %d\r\n\r\n" % length + data)
    return begun


@pytest.fixture
def held(monkeypatch) -> Callable[[], int]:
    """Tells how many bytes of bodies the API holds."""
    made: list[arrivals.Arrivals] = []

    def make(max_bytes: int) -> arrivals.Arrivals:
        made.append(arrivals.Arrivals(max_bytes))
        return made[-1]

    monkeypatch.setattr("comfyui_tryon.api.tryon.Arrivals", make)
    return lambda: sum(one.held for one in made)


@pytest.mark.parametrize("locked", [True, False])
async def test_bodies_that_stop_lock_nobody_out(api, grey, locked):
    client = await api(locked=locked)
    begun = [await begin(client, b"{", 1000) for _ in range(100)]
    for _ in range(3):
        assert (await client.tryon(grey))[0] == 200
    assert not any(one.reader.at_eof() for one in begun)


@pytest.mark.parametrize("locked", [True, False])
async def test_a_body_that_stops_is_not_waited_for(api, monkeypatch, locked):
    monkeypatch.setattr(arrivals, "BODY_STEP_S", 0.05)
    client = await api(locked=locked)
    assert await (await begin(client, b"{" * 100_000, 1_000_000)).error() == (400, "invalid_request")


async def test_a_form_that_stops_is_not_waited_for(api, monkeypatch):
    monkeypatch.setattr(arrivals, "BODY_STEP_S", 0.05)
    client = await api()
    form = b'--b\r\nContent-Disposition: form-data; name="person_image"; filename="a"\r\n\r\n' + bytes(100_000)
    head = HEAD.replace(b"application/json", b"multipart/form-data; boundary=b")
    assert await (await begin(client, form, 1_000_000, head)).error() == (400, "invalid_request")


async def test_a_workflow_that_stops_is_not_waited_for(api, monkeypatch):
    monkeypatch.setattr(arrivals, "BODY_STEP_S", 0.05)
    client = await api()
    head = HEAD.replace(b"POST /api/v1/tryon", b"PUT /api/v1/workflows/mine").replace(b"Host: x", b"Host: 127.0.0.1")
    assert await (await begin(client, b"{" * 1000, 10_000, head)).error() == (400, "invalid_request")


async def test_stalled_bodies_make_room_for_those_that_come(api, monkeypatch, held):
    monkeypatch.setattr(arrivals, "BODIES", 2)
    monkeypatch.setattr(arrivals, "CROWDED_STEP_S", 0.0)
    client = await api(max_body_mb=1)
    stalled = [await begin(client, b"{" + b" " * 990_000, 1_000_000) for _ in range(2)]
    await client.until(lambda: held() >= 1_900_000)
    body = b"{" + b" " * 900_000
    assert await (await begin(client, body, len(body))).error() == (400, "invalid_request"), "it was read to its end"
    ended = [asyncio.ensure_future(one.error()) for one in stalled]
    done, waiting = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    assert [one.result() for one in done] == [(429, "queue_full")] and len(waiting) == 1
    for one in waiting:
        one.cancel()


async def test_where_all_bodies_come_fast_the_last_one_is_refused(api, monkeypatch, held):
    monkeypatch.setattr(arrivals, "BODIES", 1)
    monkeypatch.setattr(arrivals, "CROWDED_STEP_S", 1e9)
    client = await api(max_body_mb=1)
    first = await begin(client, b"{" + b" " * 900_000, 1_000_000)
    await client.until(lambda: held() >= 900_000)
    assert await (await begin(client, b" " * 200_000, 1_000_000)).error() == (429, "queue_full")
    assert not first.reader.at_eof()


async def test_memory_is_given_back_whatever_becomes_of_a_body(api, grey, held):
    client = await api(max_body_mb=1)
    await client.tryon(grey)
    await (await begin(client, b"{" * 10_000, 10_000)).error()
    begun = await begin(client, b"{", 1000)
    await client.until(lambda: held() == 1)
    begun.writer.close()
    await client.until(lambda: held() == 0)


@pytest.mark.parametrize("locked", [True, False])
async def test_a_client_that_hangs_up_and_retries_at_once_is_answered(api, grey, locked):
    client = await api(locked=locked)
    client.engine.holds = True
    for number in range(1, 10, 2):
        reader, writer = await asyncio.open_connection(client.host, client.port)
        body = json.dumps(grey).encode()
        writer.write(HEAD + b"X-Request-Id: same\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await client.until(lambda number=number: len(client.engine.runs) == number)
        writer.close()
        again = asyncio.ensure_future(client.tryon(grey, headers={"X-Request-Id": "same"}))
        await client.until(lambda number=number: len(client.engine.runs) == number + 1)
        client.engine.finish(client.engine.runs[-1])
        assert (await again)[0] == 200


async def test_an_id_whose_client_waits_is_still_a_conflict(api, grey):
    client = await api()
    client.engine.holds = True
    first = asyncio.ensure_future(client.tryon(grey, headers={"X-Request-Id": "same"}))
    await client.until(lambda: client.engine.runs)
    assert await client.error(grey, headers={"X-Request-Id": "same"}) == (409, "conflict")
    client.engine.finish(client.engine.runs[0])
    assert (await first)[0] == 200


def refused(shares: Shares, caller: str) -> bool:
    """Whether `caller` is refused before the queue is asked."""
    try:
        with shares.place(caller):
            return False
    except ApiError as error:
        assert error.code == "queue_full" and error.retry_after
        return True


async def test_one_caller_may_have_all_places_while_nobody_else_wants_one(api, grey):
    client = await api(max_queue=3)
    client.engine.holds = True
    sent = [asyncio.ensure_future(client.tryon(grey)) for _ in range(4)]
    await client.until(lambda: len(client.engine.runs) == 4)
    assert await client.error(grey) == (429, "queue_full")
    for run in client.engine.runs:
        client.engine.finish(run)
    assert {status for status, _ in await asyncio.gather(*sent)} == {200}


async def test_who_was_refused_finds_a_place_when_he_comes_back(api, grey):
    client = await api(max_queue=3)
    client.engine.holds = True
    sent = [asyncio.ensure_future(client.tryon(grey)) for _ in range(4)]
    await client.until(lambda: len(client.engine.runs) == 4)
    other = {"X-Forwarded-For": "203.0.113.9, 192.0.2.7"}
    assert await client.error(grey, headers=other) == (429, "queue_full")
    client.engine.finish(client.engine.runs[0])
    await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(5):
        assert await client.error(grey) == (429, "queue_full"), "who has his share waits, though a place is free"
    polite = asyncio.ensure_future(client.tryon(grey, headers=other))
    await client.until(lambda: len(client.engine.runs) == 5)
    for run in client.engine.runs[1:]:
        client.engine.finish(run)
    assert {status for status, _ in await asyncio.gather(polite, *sent)} == {200}


async def test_a_named_key_has_one_share_whatever_addresses_it_comes_from(api, grey):
    client = await api(max_queue=3, api_key="shop:first,shop:second,app:third,nameless")
    client.engine.holds = True

    def by(key: str, address: str) -> dict[str, dict[str, str]]:
        return {"headers": {"X-API-Key": key, "X-Forwarded-For": address}}

    keys = ("first", "second", "first", "second")
    sent = [asyncio.ensure_future(client.tryon(grey, **by(key, str(n)))) for n, key in enumerate(keys)]
    await client.until(lambda: len(client.engine.runs) == 4)
    for key in ("third", "nameless"):  # both are told to come back, from an address that the shop has too
        assert await client.error(grey, **by(key, "0")) == (429, "queue_full")
    client.engine.finish(client.engine.runs[0])
    await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
    assert await client.error(grey, **by("first", "a new one")) == (429, "queue_full")
    other = asyncio.ensure_future(client.tryon(grey, **by("third", "0")))
    await client.until(lambda: len(client.engine.runs) == 5)
    for run in client.engine.runs[1:]:
        client.engine.finish(run)
    assert {status for status, _ in await asyncio.gather(other, *sent)} == {200}


def test_shares_are_forgotten_after_a_while(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    shares = Shares(4)
    with shares.place("greedy"), shares.place("greedy"):
        with pytest.raises(ApiError), shares.place("polite"):
            raise ApiError("queue_full", "no room")
        assert refused(shares, "greedy") and not refused(shares, "polite")
        now[0] = 61.0
        assert not refused(shares, "greedy")


def test_other_errors_are_no_refusals():
    shares = Shares(2)
    with shares.place("greedy"):
        with pytest.raises(ApiError), shares.place("other"):
            raise ApiError("invalid_image", "damaged")
        assert not refused(shares, "greedy")


def test_callers_beyond_number_still_get_one_place_each():
    shares = Shares(2)
    for number in range(5000):
        with pytest.raises(ApiError), shares.place(f"caller {number}"):
            raise ApiError("queue_full", "no room")
    assert not refused(shares, "somebody")
    with shares.place("somebody"):
        assert refused(shares, "somebody")


async def test_a_retry_that_is_received_at_the_same_time_as_the_request_it_repeats_is_answered(api, held, grey):
    client = await api(locked=True)
    client.engine.holds = True
    body = json.dumps(grey).encode()
    head = f"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    first, again = [await asyncio.open_connection(client.host, client.port) for _ in range(2)]
    for _, writer in (first, again):
        writer.write(f"{head}\r\nX-Request-Id: again\r\nConnection: close\r\n\r\n".encode() + body[:-1])
    await client.until(lambda: held() == 2 * len(body) - 2)
    first[1].write(body[-1:])
    await client.until(lambda: client.engine.runs)
    first[1].close()
    client.engine.holds = False
    again[1].write(body[-1:])
    assert (await again[0].readline()).startswith(b"HTTP/1.1 200")
    again[1].close()
