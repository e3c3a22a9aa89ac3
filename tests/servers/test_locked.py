"""What a stranger reaches of a locked-down server: the API with its key, the health paths, nothing else."""

import http.client
import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from support.servers import EMBEDDED, Server, free_port, probe_server

KEY = "k3y with späces"
HEALTH = {"/ping", "/healthz", "/readyz", "/health"}
# Pages, which load without the key and ask for it.
PAGES = {"/playground", "/playground/app.js", "/playground/person.png", "/api/v1/docs", "/api/v1/docs/docs.js",
         "/api/v1/docs/swagger-ui-bundle.js", "/api/v1/docs/swagger-ui.css"}  # fmt: skip
ALLOWED = {
    **{path: {"GET", "HEAD"} for path in HEALTH},
    "/api/v1/tryon": {"POST"},
    "/api/v1/tryon/x": {"DELETE"},
    "/api/v1/workflows": {"GET", "HEAD"},
    "/api/v1/openapi.json": {"GET", "HEAD"},
    **{path: {"GET", "HEAD"} for path in PAGES},
    "/metrics": {"GET", "HEAD"},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
# What a ComfyUI has at least, with the packs that people run beside it.
KNOWN = {
    "/", "/index.html", "/prompt", "/queue", "/history", "/interrupt", "/free", "/ws", "/view",
    "/view_metadata/{folder_name}", "/upload/image", "/upload/mask", "/userdata", "/userdata/{file}", "/users",
    "/settings", "/settings/{id}", "/internal/logs", "/internal/logs/raw", "/internal/folder_paths", "/object_info",
    "/system_stats", "/models", "/models/{folder}", "/embeddings", "/extensions", "/extensions/comfyui_tryon/{path}",
    "/experiment/models", "/workflow_templates", "/i18n", "/features",
}  # fmt: skip
OTHER_PACKS = {
    "/customnode/install", "/customnode/install/git_url", "/manager/reboot", "/manager/queue/start",
    "/snapshot/restore", "/v2/manager/queue/start", "/comfyui_manager/x", "/v2/userdata", "/api/jobs", "/api/assets",
    "/rgthree/api/config", "/api/v1/workflows/demo", "/api/v2/jobs", "/app.js", "/scripts/app.js", "/probe", "/docs",
    "/openapi.json", "/.git/config", "/favicon.ico", "/robots.txt", "/ping/", "/metrics/", "/api/ping",
    "/api/metrics", "/api/v1", "/api/",
}  # fmt: skip


@pytest.fixture(scope="module")
def health_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def locked(engine, health_port, tmp_path_factory) -> Iterator[tuple[Server, set[str]]]:
    """A locked-down server with a key, and every path its application has."""
    folder = tmp_path_factory.mktemp("locked")
    listing = folder / "routes.json"
    environment = {"TRYON_API_KEY": KEY, "TRYON_WARMUP": "0", "TRYON_PLAYGROUND": "1", "PROBE_ROUTES": str(listing)}
    environment |= {"PORT_HEALTH": str(health_port)}
    with probe_server(engine, folder, environment) as server:
        paths = KNOWN | OTHER_PACKS
        if engine != EMBEDDED:
            routes = {path or "/" for method, path in json.loads(listing.read_text())}
            assert routes >= {"/prompt", "/api/prompt", "/ws", "/view", "/userdata/{file}", "/probe"}, (
                "is this ComfyUI?"
            )
            paths |= routes | {f"{path}/x.js" for path in routes if path.startswith("/extensions")}
        yield server, {re.sub(r"\{[^}]*\}", "x", path) for path in paths}


class Caller:
    """Sends paths as they are, on one connection."""

    def __init__(self, server: Server) -> None:
        self._port = int(server.url.rsplit(":", 1)[1])
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)

    def send(self, method: str, path: str, headers: dict[str, str] = {}) -> tuple[int, bytes, http.client.HTTPMessage]:
        self._connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            self._connection.putheader(name, value.encode())
        self._connection.endheaders()
        response = self._connection.getresponse()
        content = response.read()
        if response.will_close:
            self._connection.close()
        return response.status, content, response.headers

    def raw(self, request: bytes) -> bytes:
        """What comes back for these bytes until the server closes, at most a second after the last."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=30) as connection:
            connection.sendall(request)
            connection.settimeout(1)
            reply = b""
            try:
                while chunk := connection.recv(65536):
                    reply += chunk
            except TimeoutError:
                pass
            return reply


@pytest.fixture
def caller(locked) -> Caller:
    return Caller(locked[0])


def not_found(status: int, content: bytes, method: str) -> bool:
    return status == 404 and (method == "HEAD" or json.loads(content)["error"]["code"] == "not_found")


def test_every_path_with_every_method_is_404_but_ours(locked, caller):
    passed = []
    for path in sorted(locked[1] - ALLOWED.keys()):
        for method in METHODS:
            status, content, headers = caller.send(method, path, {"X-API-Key": KEY})
            assert headers["X-Request-Id"]
            if not not_found(status, content, method):
                passed.append((method, path, status))
    assert not passed


def disguises(path: str) -> list[str]:
    """Other ways to write `path` that some servers take for it."""
    name = path[1:]
    if not name:
        return []
    before = ["/api", "/api/api", "/", "//", "/.", "/%2e", "/%2e%2e", "/x/..", "/ping/..", "/ping/%2e%2e", "/ping%2f.."]
    before += ["/api/v1/tryon/..", "/metrics%2f..", "/ping", "/ping;", "/ping%00"]
    after = ["/", "//", "/.", "%00", "%20", ";x=1", ".js", "%3fx", "%23/ping"]
    first = f"{ord(name[0]):02x}"
    spelled = [f"/%{first}{name[1:]}", f"/%25{first}{name[1:]}", f"/\\{name}", f"/{path.upper()}"]
    if path.upper() != path:
        spelled.append(path.upper())
    return [*(start + path for start in before), *(path + end for end in after), *spelled]


def test_no_disguise_opens_a_path(locked, caller):
    server, paths = locked
    passed = []
    for path in sorted(paths - ALLOWED.keys()):
        for disguise in {*disguises(path)} - ALLOWED.keys():
            for method in ("GET", "POST"):
                status, content, _ = caller.send(method, disguise, {"X-API-Key": KEY})
                if not not_found(status, content, method):
                    passed.append((method, disguise, status))
    assert not passed


def test_our_own_paths_have_one_spelling(caller):
    for path in sorted(ALLOWED):
        for disguise in disguises(path):
            for method in ("GET", "POST", "DELETE"):
                status, content, _ = caller.send(method, disguise, {"X-API-Key": KEY})
                if re.fullmatch(r"/api/v1/tryon/[A-Za-z0-9._-]{1,64}", disguise):
                    continue
                assert not_found(status, content, method), (method, disguise, status)


def test_our_paths_have_our_methods(caller):
    for path, methods in ALLOWED.items():
        for method in METHODS:
            status, content, headers = caller.send(method, path, {"X-API-Key": KEY})
            if method in methods:
                assert status != 405, (method, path, status)
            else:
                assert status == 405, (method, path, status)
                assert set(re.findall("[A-Z]+", headers["Allow"])) <= methods


@pytest.mark.parametrize(
    "target, status",
    [
        ("http://127.0.0.1/prompt", 404),
        ("http://127.0.0.1/ping/../prompt", 404),
        ("http://127.0.0.1//prompt", 404),
        ("HTTP://elsewhere/ws", 404),
        ("//elsewhere/prompt", 404),
        ("//elsewhere/ping", 404),
        ("http://127.0.0.1", 404),
        ("/prompt?/ping", 404),
        ("/prompt#/ping", 404),
        ("/ping?path=/prompt", 200),
        ("http://127.0.0.1/ping", 200),
    ],
)
def test_targets_in_absolute_form_and_with_queries(caller, target, status):
    reply = caller.raw(f"GET {target} HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\nConnection: close\r\n\r\n".encode())
    assert int(reply.split()[1]) == status


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT 127.0.0.1:80 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET /prompt HTTP/1.0",
        "GET prompt HTTP/1.1",
        "GET * HTTP/1.1",
        "GET /prompt HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade",
        "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "POST /prompt HTTP/1.1\r\nX-HTTP-Method-Override: GET\r\nX-Original-URL: /ping\r\nContent-Length: 0",
        "GET /prompt HTTP/1.1\r\nExpect: 100-continue",
        "get /prompt HTTP/1.1",
    ],
)
def test_unusual_requests_open_nothing(caller, request_line):
    reply = caller.raw(f"{request_line}\r\nHost: x\r\n\r\n".encode())
    assert int(reply.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").split()[1]) in (400, 404), reply


@pytest.mark.parametrize("path", ["/prompt", "/ping", "/api/v1/tryon"])
def test_no_other_expectation_than_to_continue_is_met(caller, path):
    head, _, content = caller.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\n\r\n".encode()).partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 400 ") and b"\r\nX-Request-Id: " in head
    error = json.loads(content)["error"]
    assert error["code"] == "invalid_request" and "Expect" in error["message"]


def test_a_second_request_on_the_same_connection_is_checked_too(caller):
    first = "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    second = "GET /queue HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert re.findall(rb"HTTP/1.1 (\d+)", caller.raw((first + second).encode())) == [b"200", b"404"]


def test_only_the_health_paths_and_pages_need_no_key(caller):
    for path, methods in ALLOWED.items():
        for method in methods:
            status, content, headers = caller.send(method, path)
            if path in HEALTH | PAGES:
                assert status == 200, path
            else:
                assert status == 401, path
                assert headers["WWW-Authenticate"] == "Bearer" and headers["X-Request-Id"]
                assert method == "HEAD" or json.loads(content)["error"]["code"] == "unauthorized"


def test_the_port_for_health_has_its_paths_alone_and_answers_in_the_same_way(caller, health_port):
    with httpx.Client(base_url=f"http://127.0.0.1:{health_port}") as client:
        for path in HEALTH:
            reply = client.get(path, headers={"X-Request-Id": "mine"})
            assert reply.status_code == 200 and reply.json() == {"status": "healthy"}
            assert client.head(path).status_code == 200 and reply.headers["X-Request-Id"] == "mine"
        for method, path, status in (("POST", "/ping", 405), ("GET", "/metrics", 404), ("POST", "/api/v1/tryon", 404)):
            reply = client.request(method, path)
            assert reply.status_code == status and reply.json()["error"]["code"] and reply.headers["X-Request-Id"]


def test_paths_that_are_not_there_look_the_same_with_and_without_a_key(caller):
    for path in ("/prompt", "/nothing", "/api/v1/nothing"):
        key = {"X-API-Key": KEY}
        replies = [caller.send("GET", path, {"X-Request-Id": "same"} | headers)[:2] for headers in ({}, key)]
        assert replies[0] == replies[1] and replies[0][0] == 404


@pytest.mark.parametrize(
    "headers, accepted",
    [
        ({"X-API-Key": KEY}, True),
        ({"Authorization": f"Bearer {KEY}"}, True),
        ({"authorization": f"bearer {KEY}"}, True),
        ({"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"}, True),
        ({"X-API-Key": KEY, "Authorization": "Bearer the-platforms-own"}, True),
        ({"X-API-Key": ""}, False),
        ({"X-API-Key": "wrong"}, False),
        ({"X-API-Key": KEY[:-1]}, False),
        ({"X-API-Key": KEY + "x"}, False),
        ({"X-API-Key": KEY.upper()}, False),
        ({"X-API-Key": "ключ 鍵 \N{KEY}"}, False),
        ({"X-API-Key": "x" * 7000}, False),
        ({"Authorization": ""}, False),
        ({"Authorization": "Bearer"}, False),
        ({"Authorization": "Bearer "}, False),
        ({"Authorization": KEY}, False),
        ({"Authorization": f"Basic {KEY}"}, False),
        ({"Authorization": "Bearer \N{KEY}"}, False),
        ({"Cookie": f"key={KEY}"}, False),
    ],
)
def test_keys(caller, headers, accepted):
    status, content, _ = caller.send("GET", "/api/v1/workflows", headers)
    assert status == (200 if accepted else 401)
    assert KEY not in content.decode()


def test_a_key_of_bytes_that_are_no_text(caller):
    reply = caller.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-API-Key: \xff\xfe\xc3\r\nConnection: close\r\n\r\n")
    assert int(reply.split()[1]) == 401


def test_a_key_in_the_query_is_none(caller):
    assert caller.send("GET", "/metrics?api_key=k3y&X-API-Key=k3y")[0] == 401


def test_the_key_is_checked_before_the_body_is_read(caller):
    status = caller.raw(
        b"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n"
    )
    assert int(status.split()[1]) == 401


def test_nothing_of_the_key_or_of_other_origins_gets_out(locked, caller):
    server = locked[0]
    caller.send("GET", "/metrics", {"X-API-Key": KEY})
    _, _, headers = caller.send("GET", "/ping", {"Origin": "https://elsewhere.example"})
    assert not [name for name in headers if name.lower().startswith("access-control-")]
    assert KEY not in server.log()
