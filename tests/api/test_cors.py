"""Web pages of other sites: which may call the API from a browser, and what they may read."""

import pytest
from comfyui_tryon.origins import Origins

SHOP = "https://shop.example"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}
PATHS = {
    "/api/v1/tryon": "POST",
    "/api/v1/tryon/some-id": "DELETE",
    "/api/v1/workflows": "GET",
    "/metrics": "GET",
    "/ping": "GET",
}


@pytest.mark.parametrize("locked", [True, False])
async def test_a_preflight_is_answered_before_the_key_is_asked_for(api, locked):
    client = await api(locked=locked, api_key="secret", cors_origins=f"http://localhost:3000, {SHOP}")
    for path, method in PATHS.items():
        async with client.options(path, headers={"Origin": SHOP, **ASKS}) as reply:
            assert reply.status == 204 and await reply.read() == b""
            assert reply.headers["Access-Control-Allow-Origin"] == SHOP and reply.headers["Vary"] == "Origin"
            assert reply.headers["Access-Control-Allow-Methods"] == method
            allowed = reply.headers["Access-Control-Allow-Headers"].lower().split(", ")
            assert {"accept", "authorization", "content-type", "x-api-key", "x-request-id"} == set(allowed)


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize(
    "origin", ["https://other.example", "https://shop.example.evil", "http://shop.example", "null"]
)
async def test_other_pages_are_told_nothing(api, grey, locked, origin):
    client = await api(locked=locked, cors_origins=SHOP)
    for method, status in (("OPTIONS", 405), ("POST", 200)):
        headers = {"Origin": origin, **ASKS}
        async with client.request(method, "/api/v1/tryon", json=grey, headers=headers) as reply:
            assert reply.status == status and reply.headers["Vary"] == "Origin"
            assert not [name for name in reply.headers if name.startswith("Access-Control")]


async def test_without_the_setting_there_is_no_cors(api, grey):
    client = await api()
    for method, status in (("OPTIONS", 405), ("POST", 200)):
        async with client.request(method, "/api/v1/tryon", json=grey, headers={"Origin": SHOP, **ASKS}) as reply:
            assert reply.status == status and "Vary" not in reply.headers
            assert not [name for name in reply.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("origins, told", [(SHOP, SHOP), ("*", "*")])
@pytest.mark.parametrize("locked", [True, False])
async def test_every_reply_can_be_read(api, grey, origins, told, locked):
    client = await api(locked=locked, cors_origins=origins, api_key="secret")
    key = {"X-API-Key": "secret"}
    stream = key | {"Accept": "text/event-stream"}
    replies = [(grey, key, 200), (grey | {"width": 7}, key, 422), (grey, {}, 401), (grey, stream, 200)]
    for fields, headers, status in replies:
        async with client.post("/api/v1/tryon", json=fields, headers={"Origin": SHOP, **headers}) as reply:
            assert reply.status == status and reply.headers["Access-Control-Allow-Origin"] == told
            assert reply.headers["Access-Control-Expose-Headers"] == "Retry-After, X-Request-Id, X-Seed"
            assert ("Vary" in reply.headers) is (told != "*")
    async with client.options("/api/v1/tryon", headers={"Origin": SHOP}) as reply:
        assert reply.status == 401, "not a preflight"


async def test_locked_the_rest_stays_closed(api):
    client = await api(locked=True, cors_origins="*")
    for path in ("/prompt", "/api/v1/other"):
        async with client.options(path, headers={"Origin": SHOP, **ASKS}) as reply:
            assert reply.status == 404


BAD = ["shop.example", "https://shop.example/", "https://shop.example/x", "https://*.example", "null"]


@pytest.mark.parametrize("text", [*BAD, "*, https://a.example", "https://a.example b"])
def test_what_is_no_origin_is_refused_at_the_start(text):
    with pytest.raises(ValueError, match="origin"):
        Origins.parse(text)


def test_origins_are_compared_without_case_and_port_by_port():
    origins = Origins.parse(" HTTPS://Shop.example ,http://[::1]:3000,")
    assert origins.allowed("https://shop.example") and origins.allowed("http://[::1]:3000")
    assert not origins.allowed("https://shop.example:444") and not origins.allowed(None)
