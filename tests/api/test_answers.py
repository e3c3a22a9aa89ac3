"""What every answer has, whatever was asked: an id, the envelope, the key check; and what an application keeps."""

import json
import logging
import uuid

import pytest
from aiohttp import web
from yarl import URL

KEY = "k3y with späces"
OURS = [
    ("GET", "/api/v1/workflows"), ("GET", "/metrics"), ("GET", "/api/v1/openapi.json"),
    ("POST", "/api/v1/tryon"), ("DELETE", "/api/v1/tryon/some-id"), ("PUT", "/api/v1/tryon"), ("GET", "/api/v1/tryon"),
]  # fmt: skip
HEALTH = ["/ping", "/healthz", "/readyz", "/health"]


async def other_pack(request: web.Request) -> web.Response:
    return web.json_response({"other": request.get("id")})


def application() -> web.Application:
    """ComfyUI's, as far as this goes: somebody else's route and middleware."""

    @web.middleware
    async def mark(request, handler):
        response = await handler(request)
        response.headers["X-Host"] = "seen"
        return response

    app = web.Application(middlewares=[mark])
    app.router.add_get("/other", other_pack)
    app.router.add_post("/other", other_pack)
    return app


async def test_a_request_id_is_kept_if_it_is_one_and_else_made(api):
    client = await api()
    for given, kept in [("my-id.1_2", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("", False)]:
        async with client.get("/metrics", headers={"X-Request-Id": given}) as reply:
            found = reply.headers["X-Request-Id"]
        assert found == given if kept else uuid.UUID(found)


async def test_a_handler_that_fails_is_answered_in_the_envelope_and_logged(api, caplog, monkeypatch):
    client = await api()
    monkeypatch.setattr("comfyui_tryon.metrics.text", lambda: 1 / 0)
    async with client.get("/metrics", headers={"X-Request-Id": "mine"}) as reply:
        assert reply.status == 500 and reply.headers["X-Request-Id"] == "mine"
        content = await reply.json()
    assert content["error"]["code"] == "internal_error" and "ZeroDivision" not in json.dumps(content)
    assert content["error"]["request_id"] == "mine"
    logged = [record for record in caplog.records if record.exc_info]
    assert [record.request_id for record in logged] == ["mine"]


@pytest.mark.parametrize("locked", [True, False])
async def test_the_key_guards_all_but_the_health_paths(api, locked):
    client = await api(application(), locked=locked, api_key=KEY)
    for method, path in OURS:
        async with client.request(method, path) as reply:
            assert reply.status == 401, (method, path)
            assert reply.headers["WWW-Authenticate"] == "Bearer"
            assert (await reply.json())["error"]["code"] == "unauthorized"
    for path in HEALTH:
        async with client.get(path) as reply:
            assert reply.status in (200, 204, 503)


@pytest.mark.parametrize(
    "headers, accepted",
    [
        ({"X-API-Key": KEY}, True),
        ({"Authorization": f"Bearer {KEY}"}, True),
        ({"Authorization": f"bearer  {KEY} "}, True),
        ({"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"}, True),
        ({"X-API-Key": KEY, "Authorization": "Bearer other"}, True),
        ({"X-API-Key": KEY[:-1]}, False),
        ({"X-API-Key": KEY + "x"}, False),
        ({"Authorization": KEY}, False),
        ({"Authorization": f"Basic {KEY}"}, False),
        ({}, False),
    ],
)
async def test_keys(api, headers, accepted):
    client = await api(api_key=KEY)
    async with client.get("/metrics", headers=headers) as reply:
        assert reply.status == (200 if accepted else 401)


@pytest.mark.parametrize("locked", [True, False])
async def test_another_method_of_a_path_is_405_and_says_which_there_are(api, locked):
    client = await api(locked=locked)
    for method, path, allowed in [
        ("GET", "/api/v1/tryon", "POST"),
        ("POST", "/ping", "GET"),
        ("PATCH", "/metrics", "GET"),
        ("GET", "/api/v1/tryon/some-id", "DELETE"),
    ]:
        async with client.request(method, path) as reply:
            assert reply.status == 405 and reply.headers["Allow"] == allowed, (method, path)
            assert (await reply.json())["error"]["details"] == {"allow": [allowed]}


async def test_unlocked_it_adds_nothing_to_other_requests(api, caplog):
    client = await api(application(), api_key=KEY)
    with caplog.at_level(logging.INFO):
        for method in ("GET", "POST"):
            async with client.request(method, "/other", headers={"X-Request-Id": "x"}) as reply:
                assert reply.status == 200 and await reply.json() == {"other": None}
                assert reply.headers["X-Host"] == "seen" and "X-Request-Id" not in reply.headers
        async with client.get("/nothing") as reply:
            assert reply.status == 404 and "X-Request-Id" not in reply.headers
    assert not [record for record in caplog.records if record.name.startswith("comfyui_tryon")]
    assert len(client.app.middlewares) == 1


async def test_locked_nothing_else_is_reached(api):
    client = await api(application(), locked=True)
    for path in ("/other", "/nothing", "/", "/ping/", "//ping", "/%70ing", "/metric%73", "/api/v1/tryon%2Fx"):
        async with client.session.get(URL(f"http://{client.host}:{client.port}{path}", encoded=True)) as reply:
            assert reply.status == 404 and (await reply.json())["error"]["code"] == "not_found"
            assert "X-Host" not in reply.headers and reply.headers["X-Request-Id"]
    async with client.get("/metrics") as reply:
        assert reply.status == 200 and "X-Host" not in reply.headers


async def test_the_openapi_document_names_publishing_only_where_it_is(api):
    for locked in (True, False):
        client = await api(locked=locked)
        async with client.get("/api/v1/openapi.json") as reply:
            assert ("/api/v1/workflows/{name}" in (await reply.json())["paths"]) is not locked
        async with client.put("/api/v1/workflows/mine", json={}) as reply:
            assert reply.status == (404 if locked else 422)
