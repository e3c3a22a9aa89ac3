"""Images by URL: what is fetched, what never is, and what becomes of hosts that misbehave."""

import asyncio
import gzip
import socket
import threading

import aiohappyeyeballs
import pytest
from aiohttp import FormData
from comfyui_tryon import pending
from comfyui_tryon.api import arrivals
from comfyui_tryon.hosts import UrlHosts, UrlRefused
from comfyui_tryon.outbound import dns, network
from comfyui_tryon.outbound import fetching as fetcher
from comfyui_tryon.outbound.addresses import is_public
from comfyui_tryon.settings import Settings, SettingsError
from PIL import Image
from support.images import from_base64, to_bytes
from support.outside import DOMAIN, answer

GREY = to_bytes(Image.new("RGB", (16, 16), "grey"))
WHITE = to_bytes(Image.new("L", (16, 16), 255))


@pytest.fixture
async def fetching(api, outside):
    """An API that fetches from the hosts outside, which have an image at /image.png."""
    outside.answers["/image.png"] = answer(body=GREY)
    return await api(network=outside.network, url_hosts=outside.hosts)


async def refused(client, outside, grey, field: str = "person_image", **change) -> str:
    """Sends a request that is refused because of its image; returns the message."""
    status, content = await client.tryon(grey | change)
    assert (status, content["error"]["code"]) == (422, "invalid_image"), content
    assert content["error"]["details"] == {"field": field}
    assert "127.0.0.1" not in content["error"]["message"]
    return content["error"]["message"]


async def test_all_images_may_be_urls(fetching, outside):
    outside.answers["/mask.png"] = answer(body=WHITE)
    url = outside.url("/image.png?sig=a%2Fb%20c+d")
    fields = {"person_image": url, "garment_image": url, "mask_image": outside.url("/mask.png"), "workflow": "demo"}
    status, content = await fetching.tryon(fields)
    assert status == 200, content
    assert (from_base64(content["output"]["images"][0]["image"]) == 128).all()
    targets = sorted(asked.target for asked in outside.asked)
    assert targets == ["/image.png?sig=a%2Fb%20c+d"] * 2 + ["/mask.png"], "as they came: a signature may be over them"


async def test_garments_may_be_urls_and_bytes(fetching, outside, grey):
    garments = [outside.url("/image.png"), grey["garment_image"], outside.url("/image.png", "shop")]
    assert (await fetching.tryon(grey | {"garment_image": garments}))[0] == 200
    assert len(outside.to("/image.png")) == 2


async def test_a_form_may_have_urls(fetching, outside):
    form = FormData({"person_image": outside.url("/image.png")})
    form.add_field("garment_image", outside.url("/image.png"))
    form.add_field("garment_image", GREY, filename="a.png")
    async with fetching.post("/api/v1/tryon", data=form) as reply:
        assert reply.status == 200, await reply.text()


async def test_the_request_to_a_host_shows_nothing_of_the_client_or_the_server(fetching, outside, grey):
    outside.answers["/image.png"] = answer(body=GREY, Set_Cookie="a=b")
    for _ in range(2):
        headers = {"Authorization": "Bearer x", "Cookie": "c=d", "X-API-Key": "x", "X-Forwarded-For": "192.0.2.1"}
        await fetching.tryon(grey | {"person_image": outside.url("/image.png")}, headers=headers)
    assert len(outside.asked) == 2
    for asked in outside.asked:
        assert set(asked.headers) == {"host", "user-agent", "accept", "accept-encoding"}
        assert asked.headers["accept-encoding"] == "identity" and asked.headers["user-agent"] == "comfyui-tryon"


async def test_a_proxy_of_the_environment_is_not_used(api, outside, grey, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    outside.answers["/image.png"] = answer(body=GREY)
    client = await api(network=outside.network, url_hosts=outside.hosts)
    assert (await client.tryon(grey | {"person_image": outside.url("/image.png")}))[0] == 200


async def test_by_default_nothing_is_fetched_and_the_setting_is_named(api, outside, grey):
    client = await api(network=outside.network)
    for field in grey:
        message = await refused(client, outside, grey, field, **{field: outside.url("/image.png")})
        assert "TRYON_URL_HOSTS" in message and "Send the image's bytes" in message
    assert not outside.looked_up and not outside.connections


# What no host can be reached by, whichever addresses its name has.
TRICKS = [
    "http://cdn.{domain}:{port}/image.png",
    "HTTP://cdn.{domain}:{port}/image.png",
    "https://{domain}:{port}/image.png",
    "https://cdn.{domain}/image.png",
    "https://cdn.{domain}:80/image.png",
    "https://cdn.{domain}:{port}0/image.png",
    "https://cdn.{domain}:99999/image.png",
    "https://cdn.{domain}:-1/image.png",
    "https://cdn.{domain}:{port}:{port}/image.png",
    "https://cdn.{domain}.:{port}/image.png",
    "https://cdn.{domain}.evil.example:{port}/image.png",
    "https://evil{domain}:{port}/image.png",
    "https://evil.example:{port}/cdn.{domain}",
    "https://evil.example:{port}?cdn.{domain}",
    "https://evil.example:{port}#cdn.{domain}",
    "https://evil.example:{port}#@cdn.{domain}:{port}/image.png",
    "https://evil.example:{port}\\@cdn.{domain}:{port}/image.png",
    "https://cdn.{domain}:{port}\\@evil.example/image.png",
    "https://user@cdn.{domain}:{port}/image.png",
    "https://user:password@cdn.{domain}:{port}/image.png",
    "https://@cdn.{domain}:{port}/image.png",
    "https://:@cdn.{domain}:{port}/image.png",
    "https://cdn.{domain}:{port}@evil.example/image.png",
    "https://cdn.{domain}%40evil.example:{port}/image.png",
    "https://cdn.{domain}%2f@evil.example:{port}/image.png",
    "https://cdn%2e{domain}:{port}/image.png",
    "https://cdn.{domain}%00.evil.example:{port}/",
    "https://cdn.{domain}%0d%0ahost:x:{port}/",
    "https://cdn.{domain}\t:{port}/image.png",
    "https://cdn.{domain}:{port}/ima ge.png",
    "https://cdn.{domain}:{port}/\r\nX: y",
    "https://cdn.{domain}:{port}/\x00",
    "https://cdn..{domain}:{port}/image.png",
    "https://.{domain}:{port}/image.png",
    "https://-.{domain}:{port}/image.png",
    "https:///cdn.{domain}:{port}/image.png",
    "https://\N{CARE OF}.{domain}:{port}/image.png",
    "https://cdn.\N{FULLWIDTH LATIN SMALL LETTER O}utside.example.evil.example:{port}/",
    "https://xn--.{domain}x:{port}/",
    "https://xn--cdn-outside-.example:{port}/",
    "https://{long}.{domain}:{port}/image.png",
    "https://cdn.{domain}:{port}/{long}{long}",
    "https://localhost:{port}/image.png",
    "https://LOCALHOST:{port}/image.png",
    "https://localhost.:{port}/image.png",
    "https://127.0.0.1:{port}/image.png",
    "https://127.0.0.1.:{port}/image.png",
    "https://127.1:{port}/image.png",
    "https://2130706433:{port}/image.png",
    "https://017700000001:{port}/image.png",
    "https://0x7f000001:{port}/image.png",
    "https://0x7f.0.0.1:{port}/image.png",
    "https://0177.0.0.01:{port}/image.png",
    "https://127.0.0.1%20:{port}/image.png",
    "https://\N{CIRCLED DIGIT ONE}\N{CIRCLED DIGIT TWO}\N{CIRCLED DIGIT SEVEN}.0.0.1:{port}/image.png",
    "https://127\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}1:{port}/image.png",
    "https://0:{port}/image.png",
    "https://0.0.0.0:{port}/image.png",
    "https://[::1]:{port}/image.png",
    "https://[::]:{port}/image.png",
    "https://[::ffff:127.0.0.1]:{port}/image.png",
    "https://[::ffff:7f00:1]:{port}/image.png",
    "https://[::127.0.0.1]:{port}/image.png",
    "https://[0:0:0:0:0:0:0:1]:{port}/image.png",
    "https://[64:ff9b::7f00:1]:{port}/image.png",
    "https://[2002:7f00:1::]:{port}/image.png",
    "https://[fe80::1%25lo]:{port}/image.png",
    "https://[::1%25lo]:{port}/image.png",
    "https://[cdn.{domain}]:{port}/image.png",
    "https://cdn.{domain}[::1]:{port}/image.png",
    "https://169.254.169.254:{port}/latest/meta-data/",
    "https://metadata.google.internal:{port}/",
]


@pytest.mark.parametrize("trick", TRICKS)
async def test_no_trick_with_a_url_leads_to_a_connection(fetching, outside, grey, trick):
    url = trick.format(domain=DOMAIN, port=outside.port, long="a" * 2100)
    await refused(fetching, outside, grey, person_image=url)
    assert not outside.looked_up and not outside.connections


@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher", "ws", "jar:https", "view-source:https", "https+unix"])
async def test_only_https_is_a_url(fetching, outside, grey, scheme):
    await refused(fetching, outside, grey, person_image=outside.url("/image.png").replace("https", scheme, 1))
    assert not outside.looked_up and not outside.connections


INNER = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255
240.0.0.1 255.255.255.255
:: ::1 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 ::8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808
64:ff9b:1::a00:1 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::
2002:808:808:: 3fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%lo fec0::1 ff02::1 ff0e::1
2600::1%lo 127.1 2130706433 0x7f000001 0177.0.0.1 localhost nothing
""".split()
PUBLIC = "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.255.255 172.32.0.1 2606:4700::1111 2a00:1450::1".split()


def test_addresses_that_are_public_and_not():
    assert [address for address in INNER if is_public(address)] == []
    assert [address for address in PUBLIC if not is_public(address)] == []
    assert len(INNER) + len(TRICKS) > 120


@pytest.fixture
def connected(monkeypatch) -> list[tuple]:
    """The addresses that HTTP clients in this process connect to, the test's own among them."""
    found: list[tuple] = []
    real = aiohappyeyeballs.start_connection

    async def start(addr_infos, **options):
        found.extend(info[4] for info in addr_infos)
        return await real(addr_infos, **options)

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", start)
    return found


async def test_a_name_with_an_inner_address_is_not_connected_to(api, outside, grey, connected):
    real = network.Network(outside.network.look_up, tls=outside.network.tls)
    client = await api(network=real, url_hosts=outside.hosts)
    for number, address in enumerate(INNER):
        for answers in ([address], ["8.8.8.8", address], [address, "2606:4700::1111"]):
            host = f"h{number}-{len(answers)}-{answers[0] == address:d}"
            outside.names[f"{host}.{DOMAIN}"] = [answers]
            message = await refused(client, outside, grey, person_image=outside.url("/image.png", host))
            assert f"{host}.{DOMAIN} has an address that is not public" in message and address not in message
    assert len(outside.looked_up) == 3 * len(INNER)
    assert {address[:2] for address in connected} == {(client.host, client.port)} and not outside.connections


async def test_every_server_connects_to_public_addresses_only(api, outside):
    client = await api(url_hosts=outside.hosts, locked=True)
    parts = client.parts._outbound
    for one in (parts.fetcher, parts.uploader, parts.webhooks):
        assert one._network.allows is is_public and one._network.tls is True


def test_a_socket_is_made_for_public_addresses_only():
    for address in INNER:
        with pytest.raises(network.InnerAddress):
            network.Network()._socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 443)))
    network.Network()._socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 443))).close()


async def test_the_answer_that_is_checked_is_the_one_that_is_connected_to(fetching, outside, grey, connected):
    outside.names[f"cdn.{DOMAIN}"] = [["127.0.0.1"], ["10.0.0.1"]]
    outside.answers["/image.png"] = answer(body=GREY, Connection="close")
    assert (await fetching.tryon(grey | {"person_image": outside.url("/image.png")}))[0] == 200
    assert outside.looked_up == [f"cdn.{DOMAIN}"]
    assert "10.0.0.1" not in {address[0] for address in connected}


async def test_the_systems_resolver_is_asked_in_a_thread_that_may_hang(monkeypatch):
    answered = threading.Event()

    def slow(host, *_, **__):
        if host == "slow.example":
            assert answered.wait(60)
        if host == "none.example":
            raise socket.gaierror(-2, "unknown")
        return [(socket.AF_INET, 1, 6, "", ("192.0.2.7", 0)), (socket.AF_INET6, 1, 6, "", ("2001:db8::7", 0, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(dns, "LOOKUP_S", 0.01)
    look_up = dns.SystemLookup()
    for _ in range(dns.LOOKUPS - 1):
        with pytest.raises(OSError, match="in time"):
            await look_up("slow.example")
    monkeypatch.setattr(dns, "LOOKUP_S", 60)
    assert await look_up("quick.example") == ["192.0.2.7", "2001:db8::7"]
    with pytest.raises(OSError):
        await look_up("none.example")
    answered.set()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(fetching, outside, grey, status):
    outside.answers["/1"] = answer(status, Location="/2")
    outside.answers["/2"] = answer(status, Location=outside.url("/3", "other"))
    outside.answers["/3"] = answer(status, Location="image.png#fragment")
    assert (await fetching.tryon(grey | {"person_image": outside.url("/1")}))[0] == 200
    assert [asked.target for asked in outside.asked] == ["/1", "/2", "/3", "/image.png"]


async def test_redirects_end_after_three(fetching, outside, grey):
    outside.answers["/1"] = answer(302, Location="/1")
    assert "more than 3 redirects" in await refused(fetching, outside, grey, person_image=outside.url("/1"))
    assert len(outside.asked) == 4


@pytest.mark.parametrize(
    "target",
    [
        *TRICKS,
        "",
        "//127.0.0.1:{port}/image.png",
        "//evil.example/image.png",
        "//user@cdn.{domain}:{port}/image.png",
        "\\\\127.0.0.1:{port}\\image.png",
        "https://cdn.{domain}:{port}\xff/",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "gopher://127.0.0.1:{port}/",
        "https://inner.{domain}:{port}/image.png",
    ],
)
async def test_a_redirect_is_checked_as_the_url_was(fetching, outside, grey, target):
    outside.names[f"inner.{DOMAIN}"] = [["169.254.169.254"]]
    location = target.format(domain=DOMAIN, port=outside.port, long="a" * 2100).split("\r")[0].replace("\x00", "\x7f")
    head = f"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n"
    outside.answers["/first"] = head.encode("utf-8", "surrogateescape")
    await refused(fetching, outside, grey, person_image=outside.url("/first"))
    assert not outside.to("/image.png") and outside.connections <= 2
    assert [asked.target for asked in outside.asked if asked.target != "/first"] in ([], ["/"])


async def stop_after(writer, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    await asyncio.Event().wait()


def half(asked_bytes: bytes):
    async def send(writer, asked):
        await stop_after(writer, asked_bytes)

    return send


async def hang_up(writer, asked):
    writer.transport.abort()


LARGE = 2_000_000
MISBEHAVING = {
    "404": (answer(404, b"no"), "answered 404"),
    "500": (answer(500), "answered 500"),
    "204": (answer(204), "answered 204"),
    "206": (answer(206, GREY), "answered 206"),
    "304": (answer(304), "answered 304"),
    "300": (answer(300, Location="/image.png"), "answered 300"),
    "gzip": (answer(200, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip"), "compressed"),
    "br": (answer(200, GREY, Content_Encoding="br"), "compressed"),
    "twice": (answer(200, GREY, Content_Encoding="gzip, gzip"), "compressed"),
    "a web page": (answer(200, b"<!doctype html>secret inside"), "is a web page"),
    "nothing": (answer(200), "is empty"),
    "less than said": (answer(200, GREY, Content_Length=str(len(GREY) + 9), Connection="close"), "did not send all"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "did not speak HTTP"),
    "an endless head": (b"HTTP/1.1 200 X\r\n" + b"X: y\r\n" * 100_000, "did not speak HTTP"),
    "bad chunks": (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "did not"),
    "hangs up": (hang_up, "broke off"),
    "says nothing": (half(b""), "did not answer in time"),
    "stops in its head": (half(b"HTTP/1.1 200 X\r\nContent-Le"), "did not answer in time"),
    "goes on greeting": (half(b"HTTP/1.1 103 X\r\n\r\n"), "did not answer in time"),
    "greets too often": (half(b"HTTP/1.1 103 X\r\n\r\n" * 20), "broke off the connection"),
    "stops": (half(answer(200, GREY[:30], Content_Length="1000")), "sent too slowly"),
}


@pytest.mark.parametrize("kind", MISBEHAVING)
async def test_a_host_that_misbehaves_is_named_and_others_are_not_disturbed(api, outside, grey, monkeypatch, kind):
    given, reason = MISBEHAVING[kind]
    monkeypatch.setattr(network, "SILENCE_S", 0.2 if "time" in reason else 60)
    monkeypatch.setattr(fetcher, "ANSWER_S", 0.2 if kind == "goes on greeting" else 60)
    monkeypatch.setattr(arrivals, "BODY_STEP_S", 0.2 if "slowly" in reason else 60)
    outside.answers |= {"/image.png": answer(body=GREY), "/bad": given}
    client = await api(network=outside.network, url_hosts=outside.hosts)
    message = await refused(client, outside, grey, "garment_image", garment_image=outside.url("/bad"))
    assert reason in message and "secret" not in message
    assert f"cdn.{DOMAIN}" in message or "is a web page" in message or "is empty" in message
    assert (await client.tryon(grey | {"person_image": outside.url("/image.png")}))[0] == 200


@pytest.mark.parametrize(
    "given",
    [
        answer(200, bytes(LARGE)),
        half(b"HTTP/1.1 200 X\r\nContent-Length: 5000000000\r\n\r\n"),
        half(b"HTTP/1.1 200 X\r\nContent-Type: image/png\r\n\r\n" + bytes(LARGE)),
        half(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (LARGE, bytes(LARGE))),
    ],
    ids=["said", "said and never sent", "unsaid", "chunked"],
)
async def test_an_image_is_at_most_as_large_as_a_body(api, outside, grey, given):
    client = await api(network=outside.network, url_hosts=outside.hosts, max_body_mb=1)
    outside.answers["/large"] = given
    assert await client.error(grey | {"person_image": outside.url("/large")}) == (422, "image_too_large")


async def test_the_images_of_a_request_are_together_at_most_as_large_as_a_body(api, outside, grey):
    client = await api(network=outside.network, url_hosts=outside.hosts, max_body_mb=1)
    outside.answers["/half"] = answer(200, GREY + bytes(600_000))
    url = outside.url("/half")
    assert await client.error({"person_image": url, "garment_image": url}) == (422, "image_too_large")


async def test_fetched_bytes_count_as_those_of_bodies_do(api, outside, grey, monkeypatch):
    monkeypatch.setattr(arrivals, "BODIES", 1)
    made = []

    def make(max_bytes: int) -> arrivals.Arrivals:
        made.append(arrivals.Arrivals(max_bytes))
        return made[-1]

    monkeypatch.setattr("comfyui_tryon.api.tryon.Arrivals", make)
    client = await api(network=outside.network, url_hosts=outside.hosts, max_body_mb=1)
    outside.answers["/most"] = half(b"HTTP/1.1 200 X\r\n\r\n" + bytes(900_000))
    first = asyncio.ensure_future(client.tryon(grey | {"person_image": outside.url("/most")}))
    counted = made[-1]
    await client.until(lambda: counted.held >= 900_000)
    outside.answers["/other"] = answer(200, bytes(500_000))
    assert await client.error(grey | {"person_image": outside.url("/other")}) == (429, "queue_full")
    first.cancel()
    await client.until(lambda: counted.held == 0)


async def test_a_certificate_must_be_the_hosts_own(api, outside, grey):
    real = network.Network(outside.network.look_up, lambda address: True)
    client = await api(network=real, url_hosts=outside.hosts)
    assert "certificate" in await refused(client, outside, grey, person_image=outside.url("/image.png"))


async def test_hosts_that_do_not_exist_or_do_not_listen_are_named(fetching, outside, grey, monkeypatch):
    async def unknown(host):
        raise OSError("some words of the system's")

    outside.allowed.add("127.0.0.2")
    outside.names[f"closed.{DOMAIN}"] = [["127.0.0.2"]]
    assert "refused the conn" in await refused(fetching, outside, grey, person_image=outside.url("/", "closed"))
    monkeypatch.setattr(outside, "_look_up", unknown)
    object.__setattr__(outside.network, "look_up", unknown)
    message = await refused(fetching, outside, grey, person_image=outside.url("/", "unknown"))
    assert "is not known to the DNS" in message and "words" not in message


async def test_slow_hosts_take_no_places_in_the_queue(api, outside, grey):
    client = await api(network=outside.network, url_hosts=outside.hosts, max_queue=0)
    outside.answers["/slow"] = half(b"")
    slow = [asyncio.ensure_future(client.tryon(grey | {"person_image": outside.url("/slow")})) for _ in range(10)]
    await client.until(lambda: len(outside.asked) == 10)
    assert client.parts._tryon.depth == 0 and (await client.tryon(grey))[0] == 200
    for one in slow:
        one.cancel()


async def test_so_many_requests_wait_for_hosts_and_no_more(api, outside, grey, monkeypatch):
    monkeypatch.setattr(pending, "MAX_ELSEWHERE", 2)
    client = await api(network=outside.network, url_hosts=outside.hosts)
    outside.answers["/slow"] = half(b"")
    slow = [asyncio.ensure_future(client.tryon(grey | {"person_image": outside.url("/slow")})) for _ in range(2)]
    await client.until(lambda: len(outside.asked) == 2)
    assert await client.error(grey | {"person_image": outside.url("/slow")}) == (429, "queue_full")
    assert (await client.tryon(grey))[0] == 200
    for one in slow:
        one.cancel()


@pytest.mark.parametrize("how", ["delete", "deadline", "hang up"])
async def test_a_fetch_ends_with_its_request(api, outside, grey, how):
    client = await api(network=outside.network, url_hosts=outside.hosts, timeout_s=0.5 if how == "deadline" else 60)
    gone = asyncio.Event()

    async def wait(writer, asked):
        await _closed(writer)
        gone.set()

    outside.answers["/slow"] = wait
    fields = grey | {"person_image": outside.url("/slow")}
    sent = asyncio.ensure_future(client.tryon(fields, headers={"X-Request-Id": "mine"}))
    await client.until(lambda: outside.asked)
    if how == "delete":
        async with client.delete("/api/v1/tryon/mine") as reply:
            assert reply.status == 204
    if how == "hang up":
        sent.cancel()
    else:
        assert (await sent)[0] == (499 if how == "delete" else 504)
    await asyncio.wait_for(gone.wait(), 60)
    assert not client.engine.runs


async def _closed(writer) -> None:
    while not writer.transport.is_closing():
        await asyncio.sleep(0.005)


async def test_who_fetched_for_long_comes_behind_those_who_waited(fetching, outside, grey):
    go_on = asyncio.Event()

    async def wait(writer, asked):
        await go_on.wait()
        writer.write(answer(200, GREY))

    outside.answers["/slow"] = wait
    fetching.engine.holds = True
    fields = grey | {"person_image": outside.url("/slow")}
    late = asyncio.ensure_future(fetching.tryon(fields, headers={"X-Request-Id": "late"}))
    await fetching.until(lambda: outside.asked)
    early = asyncio.ensure_future(fetching.tryon(grey, headers={"X-Request-Id": "early"}))
    await fetching.until(lambda: fetching.engine.runs)
    go_on.set()
    await fetching.until(lambda: len(fetching.engine.runs) == 2)
    assert {request.id: request.position for request in fetching.parts._tryon._requests} == {"early": 0, "late": 1}
    for run in fetching.engine.runs:
        fetching.engine.finish(run)
    assert (await early)[0] == (await late)[0] == 200


GOOD_HOSTS = {
    "cdn.example.com": [(False, "cdn.example.com", 443)],
    " CDN.Example.com , *.shop.example ": [(False, "cdn.example.com", 443), (True, "shop.example", 443)],
    "files.example.com:8443": [(False, "files.example.com", 8443)],
    "b\u00fccher.example,*.\u4f8b\u3048.example": [
        (False, "xn--bcher-kva.example", 443),
        (True, "xn--r8jz45g.example", 443),
    ],
    "": [],
    ",": [],
}
BAD_HOSTS = """
* *.com com localhost 127.0.0.1 10.0.0.1:443 [::1] ::1 1.2 0x7f.1 https://cdn.example.com cdn.example.com/ a.b:0 a.b:x
a.b:99999 *.*.example.com x*.example.com *example.com a..b .a.b a.b. user@a.b a_b a.b?c a.b#c -.example.com a.-b a.b-
""".split()


@pytest.mark.parametrize("text", GOOD_HOSTS)
def test_hosts_that_may_be_set(text):
    assert UrlHosts.parse(text).entries == frozenset(GOOD_HOSTS[text])
    assert Settings(url_hosts=text).hosts() == UrlHosts.parse(text)


@pytest.mark.parametrize("text", [*BAD_HOSTS, "a b.example", "a.example;b.example", "a.example b.example"])
def test_what_is_no_host_is_refused_at_start(read_settings, text):
    with pytest.raises(SettingsError, match=r"TRYON_URL_HOSTS.*Write names such as cdn.example.com"):
        read_settings(TRYON_URL_HOSTS=f"cdn.example.com,{text}")


@pytest.mark.parametrize(
    "url, sent",
    [
        ("https://cdn.example.com", "https://cdn.example.com/"),
        ("HTTPS://CDN.EXAMPLE.COM:443/A%2fb?x=%41&y=+#z", "https://cdn.example.com/A%2fb?x=%41&y=+"),
        (" https://a.b.shop.example/x ", "https://a.b.shop.example/x"),
        ("https://b\u00fccher.example/\u00fc?\u00fc", "https://xn--bcher-kva.example/%C3%BC?%C3%BC"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://\uff43\uff44\uff4e.example\u3002com/", "https://cdn.example.com/"),
        ("https://files.example.com:8443/?a[]=1", "https://files.example.com:8443/?a[]=1"),
        ("https://shop.example/", None),
        ("https://files.example.com/", None),
        ("https://cdn.example.com:8443/", None),
        ("https://xn--bcher-kva.example.com/", None),
    ],
)
def test_a_url_is_requested_as_it_was_written_at_its_hosts_ascii_name(url, sent):
    hosts = UrlHosts.parse("cdn.example.com, *.shop.example, files.example.com:8443, b\u00fccher.example")
    if sent is None:
        with pytest.raises(UrlRefused):
            hosts.url(url)
    else:
        assert str(hosts.url(url)) == sent
