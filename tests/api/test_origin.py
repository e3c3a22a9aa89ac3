"""Who may change workflows on an open server: its own page and programs, no other site's page."""

import json

import pytest
from support.servers import ROOT

DEMO = json.loads((ROOT / "workflows/demo.json").read_text())
WORKFLOW = {"workflow": DEMO, "prompt": DEMO}


async def statuses(client, headers: dict[str, str]) -> list[int]:
    found = []
    for method, options in (("PUT", {"json": WORKFLOW}), ("DELETE", {})):
        async with client.request(method, "/api/v1/workflows/mine", headers=headers, **options) as reply:
            found.append(reply.status)
    return found


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://{host}.evil.example"},
        {"Origin": "http://{host}", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example:8000"},
        {"Host": "evil.example:8000", "Origin": "http://evil.example:8000", "Sec-Fetch-Site": "same-origin"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "localhost", "Origin": "http://localhost:3000"},
    ],
)
async def test_pages_of_other_sites_change_nothing(api, headers):
    client = await api()
    host = f"{client.host}:{client.port}"
    assert await statuses(client, {name: value.replace("{host}", host) for name, value in headers.items()}) == [401] * 2
    async with client.get("/api/v1/workflows") as reply:
        assert "mine" not in await reply.text()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
        {"Host": "192.0.2.7:8000", "Origin": "http://192.0.2.7:8000"},
        {"Host": "[::1]:8000", "Origin": "http://[::1]:8000"},
        {"Host": "[::1]"},
        {"Host": "comfy.example:8000", "Origin": "http://comfy.example:8000"},
    ],
)
async def test_its_own_page_and_programs_do(api, headers):
    client = await api(listen="127.0.0.1,comfy.example")
    assert await statuses(client, headers) == [200, 204]


async def test_who_has_the_key_is_nobodys_page(api):
    client = await api(api_key="key")
    headers = {"Host": "comfy.example", "Origin": "https://elsewhere.example"}
    assert await statuses(client, headers) == [401] * 2
    assert await statuses(client, headers | {"X-API-Key": "key"}) == [200, 204]
