"""Requests that a webhook answers: what it gets, how often, and what becomes of it when things go wrong."""

import asyncio
import base64
import json
import logging
import signal
import time
from datetime import datetime, timezone

import pytest
from comfyui_tryon import lifecycle, metrics, signing
from comfyui_tryon.engine.interface import NodeFailed
from comfyui_tryon.outbound import webhooks
from comfyui_tryon.settings import SettingsError
from standardwebhooks.webhooks import Webhook
from support.images import from_base64
from support.outside import DOMAIN, answer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def calling(api, outside, monkeypatch):
    """Starts an API that calls webhooks outside, which take everything at /hook."""
    monkeypatch.setattr(webhooks.random, "uniform", lambda low, high: 0.01)
    outside.answers["/hook"] = answer()

    async def start(**settings):
        options = {"url_hosts": outside.hosts, "webhook_secret": SECRET, **settings}
        return await api(network=outside.network, **options)

    return start


async def accepted(client, fields, request_id: str = "mine", **headers: str) -> None:
    status, content = await client.tryon(fields, headers={"X-Request-Id": request_id, **headers})
    assert status == 202 and content == {"id": request_id, "status": "queued"}, content


async def delivered(client, outside, path: str = "/hook") -> dict:
    """Returns what the webhook got, once; its signature is right."""
    await client.until(lambda: not client.parts._outbound.webhooks.pending)
    assert len(outside.to(path)) == 1
    return verified(outside.to(path)[0])


def verified(asked) -> dict:
    assert asked.method == "POST" and asked.headers["content-type"] == "application/json"
    assert asked.headers["user-agent"] == "comfyui-tryon" and "cookie" not in asked.headers
    return Webhook(SECRET).verify(asked.body, asked.headers)


def outcomes() -> dict[str, float]:
    names = ("ok", "gone", "failed", "lost")
    return {name: metrics.webhooks.labels(name)._value.get() for name in names}


@pytest.fixture
def counted():
    """Tells which outcomes have been counted since the test began."""
    before = outcomes()
    return lambda: {name: value - before[name] for name, value in outcomes().items() if value != before[name]}


def test_signatures_are_those_of_the_published_example():
    when = datetime.fromtimestamp(1614265330, timezone.utc)
    headers = signing.signed(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', when)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


async def test_the_reply_comes_by_webhook(calling, outside, grey, counted):
    client = await calling()
    client.engine.holds = True
    await accepted(client, grey | {"webhook_url": outside.url("/hook?token=1"), "seed": 7})
    assert not outside.asked, "nothing has been made yet"
    client.engine.finish(client.engine.runs[0])
    content = await delivered(client, outside)
    assert outside.asked[0].target == "/hook?token=1" and outside.asked[0].headers["x-request-id"] == "mine"
    assert set(content) == {"id", "seed", "output", "workflow", "timings", "warnings"}
    assert (content["id"], content["seed"]) == ("mine", 7)
    assert (from_base64(content["output"]["images"][0]["image"]) == 128).all()
    assert counted() == {"ok": 1}


async def test_an_image_by_url_and_a_webhook_go_together(calling, outside, grey):
    client = await calling()
    outside.answers["/image.png"] = answer(body=base64.b64decode(grey["person_image"]))
    url = outside.url("/image.png")
    await accepted(client, {"person_image": url, "garment_image": url, "webhook_url": outside.url("/hook")})
    assert (await delivered(client, outside))["output"]["images"]


async def test_an_error_after_the_answer_comes_by_webhook(calling, outside, grey):
    client = await calling()
    client.engine.outcome = NodeFailed("7", "CatVTON", "ValueError", "a secret path")
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    content = await delivered(client, outside)
    assert content["id"] == "mine" and content["error"]["code"] == "node_execution_error"
    assert set(content["error"]) >= {"code", "message", "details"} and "secret" not in str(content)


@pytest.mark.parametrize(
    "change, status, code",
    [
        ({"person_image": "!!!"}, 422, "invalid_image"),
        ({"person_image": base64.b64encode(b"%PDF").decode()}, 422, "invalid_image"),
        ({"width": 7}, 422, "invalid_parameter"),
        ({"workflow": "nope"}, 404, "workflow_not_found"),
        ({"person_image": "https://cdn.outside.example/none.png"}, 422, "invalid_image"),
    ],
)
async def test_an_error_before_the_answer_is_the_answer(calling, outside, grey, change, status, code):
    client = await calling()
    assert await client.error(grey | {"webhook_url": outside.url("/hook")} | change) == (status, code)
    assert client.parts._outbound.webhooks.pending == 0 and not outside.asked and not client.engine.runs


@pytest.mark.parametrize(
    "url, message",
    [
        ("http://hook.outside.example/", "https://"),
        ("https://evil.example/", "TRYON_URL_HOSTS"),
        ("https://127.0.0.1/", "addresses are not accepted"),
        ("https://user@cdn.outside.example/", "user name"),
        ("nonsense", "https://"),
        ("", "at least 1 character"),
        (7, "string"),
        ("https://" + "a" * 5000, "4096"),
    ],
)
async def test_a_webhook_that_may_not_be_called_is_refused(calling, outside, grey, url, message):
    client = await calling()
    status, content = await client.tryon(grey | {"webhook_url": url})
    assert (status, content["error"]["code"]) == (422, "invalid_parameter"), content
    assert content["error"]["details"] == {"field": "webhook_url"} and message in content["error"]["message"]
    assert not outside.looked_up and not client.engine.runs


async def test_without_the_settings_there_are_no_webhooks(api, outside, grey):
    for given, missing in (
        ({"webhook_secret": SECRET}, "TRYON_URL_HOSTS"),
        ({"url_hosts": outside.hosts}, "TRYON_WEBHOOK_SECRET"),
    ):
        client = await api(network=outside.network, **given)
        status, content = await client.tryon(grey | {"webhook_url": outside.url("/hook")})
        assert (status, content["error"]["code"]) == (422, "invalid_parameter")
        assert missing in content["error"]["message"]


@pytest.mark.parametrize("accepts", ["image/png", "text/event-stream"])
async def test_a_webhook_gets_json_only(calling, outside, grey, accepts):
    client = await calling()
    fields = grey | {"webhook_url": outside.url("/hook")}
    status, content = await client.tryon(fields, headers={"Accept": accepts})
    assert status == 422 and content["error"]["details"] == {"field": "webhook_url"}
    assert accepts in content["error"]["message"]


@pytest.mark.parametrize("secret", ["abc", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "whsec_" + "A" * 200, "x" + SECRET])
def test_a_secret_that_is_none_is_refused_at_start_and_not_shown(read_settings, secret):
    with pytest.raises(SettingsError, match="TRYON_WEBHOOK_SECRET.*openssl rand") as caught:
        read_settings(TRYON_WEBHOOK_SECRET=secret)
    assert secret not in str(caught.value).replace("whsec_ and", "")


@pytest.mark.parametrize(
    "first",
    [500, 503, 429, 400, 401, 404, 301, 302, 307, "hang up", "an inner address", "no HTTP"],
)
async def test_a_receiver_that_does_not_take_it_gets_it_again(calling, outside, grey, counted, caplog, first):
    async def hang_up(writer, asked):
        writer.transport.abort()

    if first == "an inner address":
        outside.names[f"cdn.{DOMAIN}"] = [["10.0.0.1"], ["127.0.0.1"]]
    kinds = {"hang up": hang_up, "an inner address": answer(), "no HTTP": b"SSH-2.0\r\n\r\n"}
    given = kinds[first] if isinstance(first, str) else answer(first, Location="/elsewhere", Connection="close")
    outside.answers["/hook"] = [given, answer()]
    client = await calling()
    with caplog.at_level(logging.INFO):
        await accepted(client, grey | {"webhook_url": outside.url("/hook?token=secret")})
        await client.until(lambda: not client.parts._outbound.webhooks.pending)
    sent = outside.to("/hook")
    assert len(sent) == (1 if first == "an inner address" else 2) and not outside.to("/elsewhere")
    assert len({asked.headers["webhook-id"] for asked in sent}) == 1
    for asked in sent:
        verified(asked)
    assert counted() == {"ok": 1}
    assert "mine: its webhook is tried again" in caplog.text and "token" not in caplog.text


async def test_a_receiver_that_is_gone_gets_it_no_more(calling, outside, grey, counted, caplog):
    outside.answers["/hook"] = answer(410)
    client = await calling()
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    await delivered(client, outside)
    assert counted() == {"gone": 1} and "mine: its webhook is given up after attempt 1" in caplog.text


async def test_attempts_are_further_and_further_apart_for_five_minutes(
    calling, outside, grey, monkeypatch, counted, caplog
):
    now, pauses = [0.0], []

    async def wait(event, seconds):
        pauses.append(seconds)
        now[0] += seconds
        await asyncio.sleep(0)

    class Clock:
        monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(webhooks, "_wait", wait)
    monkeypatch.setattr(webhooks, "time", Clock)
    outside.answers["/hook"] = answer(500)
    client = await calling()
    monkeypatch.setattr(webhooks.random, "uniform", lambda low, high: high)
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    await client.until(lambda: not client.parts._outbound.webhooks.pending)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60] and now[0] <= 300
    assert len(outside.to("/hook")) == len(pauses) + 1
    assert counted() == {"failed": 1} and "mine: its webhook is given up after attempt 10" in caplog.text


@pytest.mark.parametrize("kind", ["silent", "endless reply", "lies about its length", "slow to read"])
async def test_a_receiver_that_hangs_holds_up_nobody(calling, outside, grey, monkeypatch, kind):
    async def hang(writer, asked):
        if kind == "endless reply":
            writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n%b\r\n" % bytes(1000) * 100)
        elif kind == "lies about its length":
            writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 9999999\r\n\r\nx")
        await writer.drain()
        await asyncio.Event().wait()

    monkeypatch.setattr(webhooks, "ATTEMPT_S", 60)
    outside.answers["/hang"] = hang
    client = await calling(max_queue=0)
    for number in range(5):
        await accepted(client, grey | {"webhook_url": outside.url("/hang")}, f"n{number}")
        await client.until(lambda: not client.parts._tryon.depth)
    assert (await client.tryon(grey))[0] == 200
    await accepted(client, grey | {"webhook_url": outside.url("/hook")}, "other")
    await client.until(lambda: outside.to("/hook"))
    taken = kind in ("endless reply", "lies about its length")  # the status is known
    await client.until(lambda: client.parts._outbound.webhooks.pending == (0 if taken else 5))


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 103 X\r\n\r\n", b"HTTP/1.1 200 X\r\nContent-Le"])
async def test_a_receiver_that_does_not_answer_is_asked_again(calling, outside, grey, monkeypatch, first):
    async def hang(writer, asked):
        writer.write(first)
        await writer.drain()
        await asyncio.Event().wait()

    monkeypatch.setattr(webhooks, "ATTEMPT_S", 0.3)
    outside.answers["/hook"] = [hang, answer()]
    client = await calling()
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    await client.until(lambda: len(outside.to("/hook")) >= 2)


async def test_no_more_than_so_many_are_pending(calling, outside, grey, monkeypatch):
    monkeypatch.setattr(webhooks, "MAX_PENDING", 2)
    client = await calling()
    client.engine.holds = True
    fields = grey | {"webhook_url": outside.url("/hook")}
    for number in range(2):
        await accepted(client, fields, f"n{number}")
    async with client.post("/api/v1/tryon", json=fields) as reply:
        assert reply.status == 429 and int(reply.headers["Retry-After"]) >= 1
        assert (await reply.json())["error"]["code"] == "queue_full"
    async with client.get("/metrics") as reply:
        assert "\ntryon_webhooks_pending 2.0\n" in await reply.text()
    for run in client.engine.runs:
        client.engine.finish(run)
    await client.until(lambda: len(outside.to("/hook")) == 2)
    await client.until(lambda: not client.parts._outbound.webhooks.pending)
    client.engine.holds = False
    await accepted(client, fields, "later")


async def test_replies_that_wait_for_their_receivers_hold_so_many_bytes(calling, outside, grey, monkeypatch):
    monkeypatch.setattr(webhooks, "MAX_HELD_BYTES", 100)
    outside.answers["/hook"] = [answer(500), answer()]
    client = await calling()
    monkeypatch.setattr(webhooks.random, "uniform", lambda low, high: 60)
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    await client.until(lambda: outside.to("/hook"))
    assert await client.error(grey | {"webhook_url": outside.url("/hook")}) == (429, "queue_full")
    client.parts._outbound.webhooks.hurry()
    await client.until(lambda: not client.parts._outbound.webhooks.pending)
    assert client.parts._outbound.webhooks._held == 0


async def test_a_request_is_canceled_by_its_id_and_its_webhook_says_so(calling, outside, grey):
    client = await calling()
    client.engine.holds = True
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    async with client.delete("/api/v1/tryon/mine") as reply:
        assert reply.status == 204
    content = await delivered(client, outside)
    assert (content["id"], content["error"]["code"]) == ("mine", "canceled")


async def test_the_same_id_again_is_a_conflict_until_it_has_ended(calling, outside, grey):
    client = await calling()
    client.engine.holds = True
    fields = grey | {"webhook_url": outside.url("/hook")}
    await accepted(client, fields, Connection="close")
    assert await client.error(fields, headers={"X-Request-Id": "mine"}) == (409, "conflict")
    client.engine.finish(client.engine.runs[0])
    assert (await delivered(client, outside))["output"]
    client.engine.holds = False
    await accepted(client, fields)


async def test_the_deadline_counts_for_webhooks_too(calling, outside, grey):
    client = await calling(timeout_s=0.3)
    client.engine.holds = True
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    assert (await delivered(client, outside))["error"]["code"] == "timeout"


async def test_who_goes_away_before_the_answer_is_canceled(calling, outside, grey):
    client = await calling()

    async def hang(writer, asked):
        await asyncio.Event().wait()

    outside.answers["/slow"] = hang
    fields = grey | {"webhook_url": outside.url("/hook"), "person_image": outside.url("/slow")}
    sent = asyncio.ensure_future(client.tryon(fields))
    await client.until(lambda: outside.asked)
    sent.cancel()
    await client.until(lambda: not len(client.parts._tryon._requests))
    assert client.parts._outbound.webhooks.pending == 0


async def test_an_accepted_request_keeps_its_callers_share(calling, outside, grey):
    client = await calling(max_queue=1)
    client.engine.holds = True
    fields = grey | {"webhook_url": outside.url("/hook")}
    for number in range(2):
        await accepted(client, fields, f"n{number}")
    assert await client.error(grey, headers={"X-Forwarded-For": "192.0.2.7"}) == (429, "queue_full")
    client.engine.finish(client.engine.runs[0])
    await client.until(lambda: client.parts._tryon.depth == 1)
    assert await client.error(fields) == (429, "queue_full"), "it has its share, while somebody else was refused"
    client.engine.finish(client.engine.runs[1])
    await client.until(lambda: not client.parts._outbound.webhooks.pending)


async def test_outcomes_are_counted_when_they_are_known(calling, outside, grey):
    client = await calling(api_key="hooks:secret")
    headers = {"X-API-Key": "secret"}

    async def counted(outcome: str) -> float:
        async with client.get("/metrics", headers=headers) as reply:
            lines = (await reply.text()).splitlines()
        start = f'tryon_caller_requests_total{{caller="hooks",outcome="{outcome}"}} '
        return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))

    before = [await counted("ok"), await counted("canceled")]
    client.engine.holds = True
    fields = grey | {"webhook_url": outside.url("/hook")}
    await accepted(client, fields, "one", **headers)
    await accepted(client, fields, "two", **headers)
    assert [await counted("ok"), await counted("canceled")] == before
    client.engine.finish(client.engine.runs[0])
    async with client.delete("/api/v1/tryon/two", headers=headers) as reply:
        assert reply.status == 204
    await client.until(lambda: not client.parts._outbound.webhooks.pending)
    assert [await counted("ok"), await counted("canceled")] == [before[0] + 1, before[1] + 1]


async def test_the_duration_is_from_the_head_to_the_end_with_body_and_upload(calling, outside, grey, caplog):
    uploaded = asyncio.Event()

    async def hold(writer, asked):
        await uploaded.wait()
        writer.write(answer())

    outside.answers["/put"] = hold
    client = await calling(locked=True)
    body = json.dumps(grey | {"webhook_url": outside.url("/hook"), "upload_urls": outside.url("/put")}).encode()
    before = metrics.durations.labels(200)._sum.get()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n" % len(body))
    await client.until(lambda: client.app.middlewares[0].__self__.in_flight)
    began = time.perf_counter()
    with caplog.at_level(logging.INFO):
        writer.write(body)
        await client.until(lambda: outside.to("/put"))
        lasted = time.perf_counter() - began
        uploaded.set()
        await delivered(client, outside)
    writer.close()
    (fields,) = (record.fields for record in caplog.records if record.getMessage().endswith("ended: ok"))
    assert metrics.durations.labels(200)._sum.get() - before >= lasted
    assert fields["duration_s"] >= lasted - 0.0001


async def test_what_is_lost_when_a_server_closes_is_logged(calling, outside, grey, counted, caplog):
    client = await calling()
    client.engine.holds = True
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    await client.parts._outbound.close()
    assert counted() == {"lost": 1} and f"mine: its webhook to cdn.{DOMAIN} is lost" in caplog.text


@pytest.fixture
def stopped(monkeypatch) -> asyncio.Event:
    """Is set when a drained process would end."""
    event = asyncio.Event()
    monkeypatch.setattr(lifecycle, "_stop", event.set)
    return event


async def test_a_draining_worker_finishes_what_it_accepted_and_calls_the_webhook(calling, outside, grey, stopped):
    outside.answers["/hook"] = [answer(500), answer()]
    client = await calling(locked=True)
    client.engine.holds = True
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    signal.raise_signal(signal.SIGTERM)
    await client.until(lambda: client.parts._health.draining)
    client.engine.finish(client.engine.runs[0])
    await asyncio.wait_for(stopped.wait(), 60)
    assert len(outside.to("/hook")) == 2 and verified(outside.to("/hook")[1])["output"]


@pytest.mark.parametrize("how", ["deadline", "no time", "second signal"])
async def test_the_webhook_of_what_does_not_finish_says_that_the_worker_ends(calling, outside, grey, stopped, how):
    client = await calling(locked=True, drain_s={"deadline": 1, "no time": 0, "second signal": 3600}[how])
    client.engine.holds = True
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    signal.raise_signal(signal.SIGTERM)
    await client.until(lambda: client.parts._health.draining)
    if how == "second signal":
        signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(stopped.wait(), 60)
    assert len(outside.to("/hook")) == 1
    content = verified(outside.to("/hook")[0])
    assert (content["id"], content["error"]["code"]) == ("mine", "draining")


async def test_what_waits_for_another_attempt_gets_it_when_the_worker_ends(
    calling, outside, grey, stopped, monkeypatch, counted, caplog
):
    outside.answers |= {"/hook": [answer(500), answer()], "/bad": answer(500)}
    client = await calling(locked=True, drain_s=1)
    monkeypatch.setattr(webhooks.random, "uniform", lambda low, high: 60)
    for name in ("hook", "bad"):
        await accepted(client, grey | {"webhook_url": outside.url(f"/{name}")}, name)
        await client.until(lambda name=name: outside.to(f"/{name}"))
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(stopped.wait(), 60)
    assert len(outside.to("/hook")) == len(outside.to("/bad")) == 2
    assert counted() == {"ok": 1, "failed": 1} and "bad: its webhook is given up after attempt 2" in caplog.text


async def test_a_receiver_that_hangs_does_not_keep_a_worker(calling, outside, grey, stopped, counted, caplog):
    async def hang(writer, asked):
        await asyncio.Event().wait()

    outside.answers["/hook"] = hang
    client = await calling(locked=True, drain_s=0)
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    await client.until(lambda: outside.asked)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(stopped.wait(), 60)
    assert counted() == {"lost": 1} and f"mine: its webhook to cdn.{DOMAIN} is lost" in caplog.text


@pytest.fixture
def ended(monkeypatch) -> asyncio.Event:
    """Is set when a failed process would end."""
    event = asyncio.Event()
    monkeypatch.setattr(lifecycle, "end", lambda status: event.set())
    monkeypatch.setattr(lifecycle, "FAILURE_CHECK_S", 0.01)
    monkeypatch.setattr(lifecycle, "EXIT_DELAY_S", 0)
    return event


@pytest.mark.parametrize("exits", [True, False])
async def test_the_webhook_of_what_waits_for_an_executor_that_dies_says_so(calling, outside, grey, ended, exits):
    client = await calling(locked=True, exit_when_failed=exits)
    client.engine.holds = True
    for name in ("running", "waiting"):
        outside.answers[f"/{name}"] = answer()
        await accepted(client, grey | {"webhook_url": outside.url(f"/{name}")}, name)
    client.engine.start(client.engine.runs[0])
    client.engine.dead = "it has ended"
    for name in ("running", "waiting"):
        await client.until(lambda name=name: outside.to(f"/{name}"))
        content = verified(outside.to(f"/{name}")[0])
        assert (content["id"], content["error"]["code"]) == (name, "not_ready")


async def test_a_failed_worker_that_exits_answers_everybody_first(calling, outside, grey, ended):
    client = await calling(locked=True, exit_when_failed=True)
    client.engine.holds = True
    await accepted(client, grey | {"webhook_url": outside.url("/hook")})
    sent = asyncio.ensure_future(client.error(grey))
    await client.until(lambda: len(client.engine.runs) == 2)
    client.parts._health.fail("for a test")
    await asyncio.wait_for(ended.wait(), 60)
    assert sent.done() and await sent == (503, "not_ready")
    content = await delivered(client, outside)
    assert (content["id"], content["error"]["code"]) == ("mine", "not_ready")


async def test_a_failed_worker_that_exits_makes_the_last_attempts_and_logs_what_is_lost(
    calling, outside, grey, ended, monkeypatch, counted, caplog
):
    async def hang(writer, asked):
        await asyncio.Event().wait()

    monkeypatch.setattr(lifecycle, "LONGEST_WEBHOOKS_S", 1)
    outside.answers |= {"/hook": [answer(500), answer()], "/hang": hang}
    client = await calling(locked=True, exit_when_failed=True)
    monkeypatch.setattr(webhooks.random, "uniform", lambda low, high: 60)
    for name in ("hook", "hang"):
        await accepted(client, grey | {"webhook_url": outside.url(f"/{name}")}, name)
        await client.until(lambda name=name: outside.to(f"/{name}"))
    client.parts._health.fail("for a test")
    await asyncio.wait_for(ended.wait(), 60)
    assert counted() == {"ok": 1, "lost": 1} and f"hang: its webhook to cdn.{DOMAIN} is lost" in caplog.text


async def test_vertex_has_no_webhooks(calling, outside, grey):
    client = await calling(AIP_PREDICT_ROUTE="/predict")
    body = {"instances": [grey | {"webhook_url": outside.url("/hook")}]}
    async with client.post("/predict", json=body) as reply:
        assert reply.status == 422 and (await reply.json())["error"]["details"] == {"field": "webhook_url"}


async def test_the_document_describes_the_callback(calling):
    client = await calling()
    async with client.get("/api/v1/openapi.json") as reply:
        post = (await reply.json())["paths"]["/api/v1/tryon"]["post"]
    assert "202" in post["responses"] and "{$request.body#/webhook_url}" in post["callbacks"]["finished"]
