"""Keys: which are accepted, at start and from callers, and what is whose."""

import asyncio
import json
import logging
import os

import pytest
from comfyui_tryon.keys import Keys
from comfyui_tryon.settings import SettingsError

SECRET = "s3cret-of-ours"


@pytest.mark.parametrize(
    "value, reason",
    [
        (" ", "empty"),
        (" \t ", "empty"),
        ("\n", "empty"),
        (",", "empty"),
        (f"{SECRET},", "key 2 is empty"),
        (f",{SECRET}", "key 1 is empty"),
        (f"{SECRET},,x", "key 2 is empty"),
        ("shop:", "empty"),
        ("shop: ", "empty"),
        (f"{SECRET}\n", "line end"),
        (f"{SECRET}\r\nX: y", "line end"),
        (f"{SECRET}\tx", "control character"),
        (f"{SECRET}\x7f", "control character"),
        (f" {SECRET}", "white space"),
        (f"{SECRET} ", "white space"),
        (f"{SECRET}\N{NO-BREAK SPACE}", "white space"),
        (f"x, {SECRET}", "key 2 begins"),
        (f"shop: {SECRET}", "white space"),
        (f"shop:{SECRET},web:{SECRET}", "another caller's"),
        (SECRET * 1000, "longer"),
    ],
)
def test_a_key_that_no_caller_could_send_is_refused_at_start(read_settings, value, reason):
    with pytest.raises(SettingsError, match="TRYON_API_KEY") as caught:
        read_settings(TRYON_API_KEY=value)
    assert reason in str(caught.value) and SECRET not in str(caught.value)


def test_a_nul_is_refused_too():
    with pytest.raises(ValueError, match="control character") as caught:
        Keys.parse(f"{SECRET}\0")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text, given, caller",
    [
        ("abc", "abc", "#1"),
        ("abc", " abc\t", "#1"),
        ("abc", "abc\N{NO-BREAK SPACE}", None),
        ("abc", "abcd", None),
        ("abc", "", None),
        ("abc,def", "def", "#2"),
        ("shop:abc,shop:def,web:ghi", "def", "shop"),
        ("shop:abc,shop:def,web:ghi", "ghi", "web"),
        ("shop:abc", "shop:abc", None),
        ("a b:c", "a b:c", "#1"),
        ("a:b:c", "b:c", "a"),
        ("k3y späces 鍵", "k3y späces 鍵", "#1"),
        ("k3y späces 鍵", "k3y spaces 鍵", None),
    ],
)
def test_whose_key_it_is(text, given, caller):
    assert Keys.parse(text).caller(["", given]) == caller


def test_keys_are_compared_as_the_bytes_that_were_set_and_sent():
    latin = b"k\xe9y"
    assert Keys.parse(os.fsdecode(latin)).caller([latin.decode("utf-8", "surrogateescape")]) == "#1"
    assert Keys.parse("k\N{LATIN SMALL LETTER E WITH ACUTE}y").caller([os.fsdecode(latin)]) is None


async def test_every_key_of_several_is_accepted(api):
    client = await api(api_key="shop:one,two")
    for key, status in [("one", 200), ("two", 200), ("three", 401), ("one,two", 401), ("shop:one", 401), ("", 401)]:
        async with client.get("/metrics", headers={"X-API-Key": key}) as reply:
            assert reply.status == status, key


@pytest.mark.parametrize("keys", ["shop:one,web:two", "one,two"])
async def test_an_id_is_its_callers_own(api, grey, keys):
    client = await api(api_key=keys)
    client.engine.holds = True
    mine, theirs = ({"X-API-Key": key, "X-Request-Id": "same"} for key in ("one", "two"))
    first = asyncio.ensure_future(client.tryon(grey, headers=mine))
    await client.until(lambda: len(client.engine.runs) == 1)
    async with client.delete("/api/v1/tryon/same", headers=theirs) as reply:
        assert reply.status == 404
    second = asyncio.ensure_future(client.tryon(grey, headers=theirs))
    await client.until(lambda: len(client.engine.runs) == 2)
    assert await client.error(grey, headers=mine) == (409, "conflict")
    async with client.delete("/api/v1/tryon/same", headers=theirs) as reply:
        assert reply.status == 204
    assert (await second)[0] == 499 and not first.done()
    client.engine.finish(client.engine.runs[0])
    assert (await first)[0] == 200


async def test_a_caller_keeps_its_requests_when_its_key_changes(api, grey):
    client = await api(api_key="shop:old,shop:new")
    client.engine.holds = True
    sent = asyncio.ensure_future(client.tryon(grey, headers={"X-API-Key": "old", "X-Request-Id": "mine"}))
    await client.until(lambda: client.engine.runs)
    async with client.delete("/api/v1/tryon/mine", headers={"X-API-Key": "new"}) as reply:
        assert reply.status == 204
    assert (await sent)[0] == 499


async def test_callers_are_named_in_the_log_and_the_metrics_and_keys_are_not(api, grey, caplog, monkeypatch):
    client = await api(api_key=f"shop:{SECRET}")
    monkeypatch.setattr(logging.getLogger("aiohttp.access"), "disabled", True)  # the test server's
    with caplog.at_level(logging.DEBUG):
        await client.tryon(grey, headers={"X-API-Key": SECRET, "X-Request-Id": "mine"})
        await client.tryon(grey, headers={"X-API-Key": f"{SECRET}x"})
        async with client.get(f"/api/v1/workflows?key={SECRET}", headers={"X-API-Key": SECRET}) as reply:
            assert reply.status == 200
        async with client.get("/metrics", headers={"Authorization": f"Bearer {SECRET}"}) as reply:
            metrics = await reply.text()
    assert 'tryon_caller_requests_total{caller="shop",outcome="ok"}' in metrics
    assert "mine (shop): POST /api/v1/tryon -> 200" in caplog.text
    assert SECRET not in caplog.text + metrics + json.dumps([record.__dict__ for record in caplog.records], default=str)


@pytest.mark.parametrize(
    "variables, locked, level",
    [
        ({"TRYON_API_KEY": ""}, True, logging.WARNING),
        ({"TRYON_API_KEY": ""}, False, logging.WARNING),
        ({}, True, logging.INFO),
        ({}, False, None),
    ],
)
async def test_a_server_that_is_open_says_so(api, monkeypatch, caplog, variables, locked, level):
    monkeypatch.delenv("TRYON_API_KEY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO):
        client = await api(locked=locked)
    async with client.get("/metrics") as reply:
        assert reply.status == 200
    told = [record.levelno for record in caplog.records if "TRYON_API_KEY" in record.getMessage()]
    assert told == ([level] if level else [])
