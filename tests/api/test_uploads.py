"""Results that are uploaded: to a real S3 server, and to stores that misbehave."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator

import pytest
from aiohttp import FormData
from comfyui_tryon.outbound import uploads
from PIL import Image
from standardwebhooks.webhooks import Webhook
from support.outside import DOMAIN, LOOPBACK, answer, contexts

ACCOUNT = "123456789012"  # moto's
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def uploading(api, outside, monkeypatch):
    """An API that uploads to the hosts outside, which take everything at /1, /2 and /3."""
    monkeypatch.setattr(uploads.random, "uniform", lambda low, high: 0.001)
    outside.answers |= dict.fromkeys(["/1", "/2", "/3"], answer())
    return await api(network=outside.network, url_hosts=outside.hosts, webhook_secret=SECRET)


async def failed(client, fields, name: str = "upload_failed", status: int = 424) -> str:
    got, content = await client.tryon(fields)
    assert (got, content["error"]["code"]) == (status, name), content
    assert content["error"]["details"] == {"field": "upload_urls"}
    assert "secret" not in content["error"]["message"] and LOOPBACK not in content["error"]["message"]
    return content["error"]["message"]


async def test_images_go_to_their_urls_and_the_reply_says_where(uploading, outside, grey):
    urls = [outside.url(f"/{number}?X-Sig=secret%2Fb") for number in (1, 2, 3)]
    _, usual = await uploading.tryon(grey | {"seed": 7, "num_images": 3})
    status, content = await uploading.tryon(grey | {"seed": 7, "num_images": 3, "upload_urls": urls})
    assert status == 200, content
    sent = {asked.target: asked for asked in outside.asked}
    for number, (shown, before) in enumerate(zip(content["output"]["images"], usual["output"]["images"]), 1):
        data = base64.b64decode(before.pop("image"))
        assert shown == before | {"url": outside.url(f"/{number}"), "bytes": len(data)}
        asked = sent[f"/{number}?X-Sig=secret%2Fb"]
        assert asked.method == "PUT" and asked.body == data
        assert asked.headers["content-type"] == "image/png" and asked.headers["content-length"] == str(len(data))
        assert not asked.headers.keys() & {"transfer-encoding", "authorization", "cookie", "expect"}
    assert len(outside.asked) == 3 and "secret" not in str(content)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
async def test_the_media_type_is_that_of_the_output(uploading, outside, grey, name):
    fields = grey | {"upload_urls": outside.url("/1"), "output_format": name}
    status, content = await uploading.tryon(fields)
    assert status == 200 and content["output"]["images"][0]["format"] == name
    assert outside.asked[0].headers["content-type"] == f"image/{name}"
    assert Image.open(io.BytesIO(outside.asked[0].body)).format == name.upper()


async def test_a_form_repeats_the_part(uploading, outside, grey):
    form = FormData({"num_images": "2", **grey}, default_to_multipart=True)
    for number in (1, 2):
        form.add_field("upload_urls", outside.url(f"/{number}"))
    async with uploading.post("/api/v1/tryon", data=form) as reply:
        content = await reply.json()
    assert [image["url"] for image in content["output"]["images"]] == [outside.url("/1"), outside.url("/2")]


async def test_events_end_with_where_the_images_are(uploading, outside, grey):
    fields = grey | {"upload_urls": [outside.url("/1")]}
    async with uploading.post("/api/v1/tryon", json=fields, headers={"Accept": "text/event-stream"}) as reply:
        text = await reply.text()
    assert "event: output" in text and f'"url":"{outside.url("/1")}"' in text


async def test_uploads_and_a_webhook_go_together(uploading, outside, grey):
    outside.answers["/hook"] = answer()
    fields = grey | {"upload_urls": [outside.url("/1")], "webhook_url": outside.url("/hook")}
    assert (await uploading.tryon(fields))[0] == 202
    await uploading.until(lambda: not uploading.parts._outbound.webhooks.pending)
    assert [asked.method for asked in outside.asked] == ["PUT", "POST"]
    content = Webhook(SECRET).verify(outside.asked[1].body, outside.asked[1].headers)
    assert content["output"]["images"][0]["url"] == outside.url("/1")


async def test_a_webhook_tells_of_an_upload_that_failed(uploading, outside, grey):
    outside.answers |= {"/hook": answer(), "/1": answer(403)}
    fields = grey | {"upload_urls": [outside.url("/1")], "webhook_url": outside.url("/hook")}
    assert (await uploading.tryon(fields))[0] == 202
    await uploading.until(lambda: not uploading.parts._outbound.webhooks.pending)
    content = Webhook(SECRET).verify(outside.to("/hook")[0].body, outside.to("/hook")[0].headers)
    assert content["error"]["code"] == "upload_failed"


@pytest.mark.parametrize("urls", [["/1"], ["/1", "/2", "/3"], []])
async def test_there_is_one_url_for_each_image(uploading, outside, grey, urls):
    fields = grey | {"num_images": 2, "upload_urls": [outside.url(path) for path in urls]}
    if not urls:
        assert "image" in (await uploading.tryon(fields))[1]["output"]["images"][0]
    else:
        assert f"has {len(urls)} URLs" in await failed(uploading, fields, "invalid_parameter", 422)
    assert not outside.asked


async def test_outputs_of_one_image_need_one_url(uploading, outside, grey, tmp_path):
    graph = json.loads((tmp_path / "workflows/demo.json").read_text())
    graph["30"] = {"class_type": "TryOnOutput", "inputs": {"images": ["8", 1]}}
    (tmp_path / "workflows/two.json").write_text(json.dumps(graph))
    outside.answers["/4"] = answer()
    uploading.engine.deliveries = [1, 0, 0, 0]  # one of the mask and three of the result
    urls = [outside.url(f"/{number}") for number in (1, 2, 3, 4)]
    asked = grey | {"workflow": "two", "num_images": 3}
    status, content = await uploading.tryon(asked | {"upload_urls": urls})
    assert status == 200, content
    assert [image["url"] for image in content["output"]["images"]] == urls
    message = await failed(uploading, asked | {"upload_urls": urls[:3]}, "invalid_parameter", 422)
    assert "the images are 4" in message
    several = {"garment_image": [grey["garment_image"]] * 2, "upload_urls": urls}
    message = await failed(uploading, asked | several, "invalid_parameter", 422)
    assert "the images are 6" in message, "the last garment has a run for each of three people"


@pytest.mark.parametrize(
    "urls, reason",
    [
        (["http://cdn.outside.example/1"], "https://"),
        (["https://evil.example/1?sig=secret"], "TRYON_URL_HOSTS"),
        (["https://127.0.0.1/1"], "addresses are not accepted"),
        ("twice", "twice"),
    ],
)
async def test_urls_that_may_not_be_used_are_refused(uploading, outside, grey, urls, reason):
    fields = grey | {"upload_urls": [outside.url("/1")] * 2 if urls == "twice" else urls, "num_images": 2}
    assert reason in await failed(uploading, fields, "invalid_parameter", 422)
    assert not outside.asked and not uploading.engine.runs


async def test_without_the_setting_there_are_no_uploads(api, outside, grey):
    client = await api(network=outside.network)
    fields = grey | {"upload_urls": [outside.url("/1")]}
    assert "TRYON_URL_HOSTS" in await failed(client, fields, "invalid_parameter", 422)


async def test_the_bytes_of_an_image_cannot_be_asked_for_too(uploading, outside, grey):
    fields = grey | {"upload_urls": [outside.url("/1")]}
    async with uploading.post("/api/v1/tryon", json=fields, headers={"Accept": "image/png"}) as reply:
        assert reply.status == 422 and (await reply.json())["error"]["details"] == {"field": "upload_urls"}


@pytest.mark.parametrize("status, attempts", [(400, 1), (403, 1), (404, 1), (301, 1), (307, 1), (429, 3), (503, 3)])
async def test_a_store_that_refuses_is_named_with_its_status(uploading, outside, grey, status, attempts):
    outside.answers["/1"] = answer(status, b"<Error>secret</Error>", Location="/2", Connection="close")
    message = await failed(uploading, grey | {"upload_urls": [outside.url("/1?sig=secret")]})
    assert f"cdn.{DOMAIN} answered {status}" in message
    assert len(outside.to("/1")) == attempts and not outside.to("/2")


@pytest.mark.parametrize("first", [500, 503, "hang up", "an inner address"])
async def test_what_may_pass_is_tried_again(uploading, outside, grey, first):
    async def hang_up(writer, asked):
        writer.transport.abort()

    if first == "an inner address":
        outside.names[f"cdn.{DOMAIN}"] = [["169.254.169.254"], [LOOPBACK]]
    outside.answers["/1"] = [answer(first) if isinstance(first, int) else hang_up, answer()]
    if first == "an inner address":
        outside.answers["/1"] = answer()
    assert (await uploading.tryon(grey | {"upload_urls": [outside.url("/1")]}))[0] == 200


async def test_a_store_that_hangs_delays_nobody_and_ends_with_the_deadline(api, outside, grey):
    async def hang(writer, asked):
        await asyncio.Event().wait()

    outside.answers["/1"] = hang
    client = await api(network=outside.network, url_hosts=outside.hosts, max_queue=0)
    hanging = []
    for number in range(5):
        sent = client.tryon(grey | {"upload_urls": [outside.url("/1")]}, headers={"X-Request-Id": f"n{number}"})
        hanging.append(asyncio.ensure_future(sent))
        await client.until(lambda number=number: len(outside.asked) == number + 1)
    assert client.parts._tryon.depth == 0 and (await client.tryon(grey))[0] == 200
    for number, one in enumerate(hanging):
        async with client.delete(f"/api/v1/tryon/n{number}") as reply:
            assert reply.status == 204
        assert (await one)[0] == 499


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 X\r\nContent-Le"])
async def test_a_store_that_does_not_answer_is_asked_again(uploading, outside, grey, monkeypatch, first):
    async def hang(writer, asked):
        writer.write(first)
        await writer.drain()
        await asyncio.Event().wait()

    monkeypatch.setattr(uploads, "UPLOAD_S", 0.3)
    outside.answers["/1"] = hang
    assert "did not answer in time" in await failed(uploading, grey | {"upload_urls": [outside.url("/1")]})
    assert len(outside.to("/1")) == 3


async def test_the_mask_stays_in_the_reply(uploading, outside, grey):
    fields = grey | {"upload_urls": [outside.url("/1")], "return_mask": True}
    status, content = await uploading.tryon(fields)
    assert status == 200 and "image" not in content["output"]["images"][0]


@pytest.fixture
def s3(monkeypatch) -> Iterator[int]:
    """The port of an S3 server over TLS (moto's, in this process), which has a bucket "results"."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    monkeypatch.setattr("moto.settings.S3_IGNORE_SUBDOMAIN_BUCKETNAME", True)
    s3_backends[ACCOUNT]["aws"].create_bucket("results", "us-east-1")
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server(LOOPBACK, 0, app, threaded=True, ssl_context=contexts()[0])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_real_s3_server_takes_what_its_presigned_urls_ask_for(api, outside, grey, s3):
    import boto3
    from botocore.config import Config
    from moto.s3.models import s3_backends

    client = await api(network=outside.network, url_hosts=f"s3.{DOMAIN}:{s3}")
    signer = boto3.client(
        "s3",
        "us-east-1",
        endpoint_url=f"https://s3.{DOMAIN}:{s3}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        aws_session_token="token/with+signs==",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    keys = ["a/first result.webp", "a/zw\u00f6lf+1&2=3.webp"]
    urls = [
        signer.generate_presigned_url(
            "put_object", {"Bucket": "results", "Key": key, "ContentType": "image/webp"}, ExpiresIn=600
        )
        for key in keys
    ]
    fields = grey | {"num_images": 2, "output_format": "webp", "upload_urls": urls}
    status, content = await client.tryon(fields)
    assert status == 200, content
    for key, image in zip(keys, content["output"]["images"], strict=True):
        stored = s3_backends[ACCOUNT]["aws"].get_object("results", key)
        assert Image.open(io.BytesIO(stored.value)).format == "WEBP" and len(stored.value) == image["bytes"]
        assert stored.metadata["Content-Type"] == "image/webp"
        assert "?" not in image["url"] and image["url"].startswith(f"https://s3.{DOMAIN}:{s3}/results/a/")
    missing = signer.generate_presigned_url("put_object", {"Bucket": "none", "Key": "x"}, ExpiresIn=600)
    assert f"s3.{DOMAIN} answered 404" in await failed(client, grey | {"upload_urls": [missing]})
