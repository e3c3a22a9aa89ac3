"""The playground and the page of the documentation: what browsers load, from where, and with which key."""

import re

import aiohttp
import pytest
from aiohttp import web
from comfyui_tryon.api.playground import FOLDER
from PIL import Image
from support.images import to_bytes
from yarl import URL

KEY = "k3y"
PLAYGROUND = ["/playground", *(f"/playground/{path.name}" for path in FOLDER.iterdir() if path.name != "index.html")]
SAMPLES = ["/playground/person.png", "/playground/garment.png"]
DOCS = ["/api/v1/docs", *(f"/api/v1/docs/{name}" for name in ("docs.js", "swagger-ui.css", "swagger-ui-bundle.js"))]
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("locked", [True, False])
async def test_pages_load_without_the_key_and_what_they_show_does_not(api, locked):
    client = await api(locked=locked, playground=True, api_key=KEY)
    for path in (*PLAYGROUND, *SAMPLES, *DOCS):
        async with client.get(path) as reply:
            assert reply.status == 200 and await reply.read(), path
        async with client.post(path) as reply:
            assert reply.status == 405, path
    for path in ("/api/v1/openapi.json", "/api/v1/workflows", "/metrics"):
        async with client.get(path) as reply:
            assert reply.status == 401, path


@pytest.mark.parametrize("locked", [True, False])
async def test_there_is_no_playground_unless_it_is_asked_for(api, locked):
    client = await api(locked=locked)
    for path in (*PLAYGROUND, *SAMPLES, "/"):
        async with client.get(path, headers=BROWSER) as reply:
            assert reply.status == 404, path


async def test_nothing_else_of_the_folders_is_served(api):
    client = await api(locked=True, playground=True)
    names = ("", "index.html", "mask.png", "../settings.py", "app_js", "x/app.js", "%61pp.js")
    for path in (*(f"/playground/{name}" for name in names), "/api/v1/docs/docs_js"):
        async with client.session.get(URL(f"http://{client.host}:{client.port}{path}", encoded=True)) as reply:
            assert reply.status == 404, path


async def test_the_bare_address_leads_a_browser_to_the_playground_and_a_program_nowhere(api):
    client = await api(locked=True, playground=True, api_key=KEY)
    async with client.get("/", headers=BROWSER, allow_redirects=False) as reply:
        assert reply.status == 302 and reply.headers["Location"] == "playground"
    async with client.get("/", headers=BROWSER) as reply:
        assert reply.status == 200 and reply.url.path == "/playground"
    for method, path, headers in (("GET", "/", {}), ("POST", "/", BROWSER), ("GET", "/prompt", BROWSER)):
        async with client.request(method, path, headers=headers) as reply:
            assert reply.status == 404 and (await reply.json())["error"]["code"] == "not_found"


async def test_in_a_comfyui_with_its_own_page_that_page_stays(api):
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="ComfyUI")

    app = web.Application()
    app.router.add_get("/", page)
    client = await api(app, playground=True)
    async with client.get("/", headers=BROWSER) as reply:
        assert await reply.text() == "ComfyUI"
    async with client.get("/playground") as reply:
        assert reply.status == 200


async def test_pages_may_load_nothing_from_elsewhere_and_are_asked_for_again(api):
    client = await api(locked=True, playground=True)
    for path in (*PLAYGROUND, *DOCS):
        async with client.get(path) as reply:
            policy = dict(rule.split(" ", 1) for rule in reply.headers["Content-Security-Policy"].split("; "))
            assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Cache-Control"] == "no-cache"
            headers = {"If-None-Match": f'"other", {reply.headers["ETag"]}'}
        async with client.get(path, headers=headers) as reply:
            assert reply.status == 304 and not await reply.read()
        async with client.get(path, headers={"If-None-Match": '"other"'}) as reply:
            assert reply.status == 200


def test_the_playground_names_no_other_server_and_has_no_code_in_its_page():
    for path in FOLDER.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"""["'(]\s*(https?:)?//[a-z]""", text), path.name
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)", page)


async def test_blank_controls_of_the_form_that_the_docs_page_shows_are_no_values(api):
    client = await api()
    async with client.get("/api/v1/openapi.json") as reply:
        document = await reply.json()
    content = document["paths"]["/api/v1/tryon"]["post"]
    assert next(iter(content["requestBody"]["content"])) == "multipart/form-data"
    assert next(iter(content["responses"]["200"]["content"])) == "image/png"
    form = aiohttp.FormData()
    sent = set()
    for name, field in document["components"]["schemas"]["TryonForm"]["properties"].items():
        if name in document["components"]["schemas"]["TryonForm"]["required"]:
            form.add_field(name, to_bytes(Image.new("RGB", (16, 16))), filename="x.png")
        else:
            value = field["default"] if "default" in field else field["examples"][0]
            if field.get("type") == "array":  # shown as one blank control if it is empty
                value = [*value, ""][0]
            form.add_field(name, str(value).lower())
            sent.add(name)
    assert {"mask_image", "workflow", "width", "cloth_type", "seed"} <= sent
    async with client.post("/api/v1/tryon", data=form, headers={"Accept": "image/png"}) as reply:
        assert reply.status == 200, await reply.text()
        assert reply.content_type == "image/png"


async def test_the_example_in_json_is_a_request(api):
    client = await api()
    async with client.get("/api/v1/openapi.json") as reply:
        document = await reply.json()
    content = document["paths"]["/api/v1/tryon"]["post"]["requestBody"]["content"]["application/json"]
    status, found = await client.tryon(content["example"])
    assert status == 200, found
