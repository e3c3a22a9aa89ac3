"""Requests that nobody would send: no 500, no traceback, and afterwards the server is as it was.

FUZZ_EXAMPLES sets how many requests of each kind are tried, other ones every time; without it they are few and always
the same.
"""

import base64
import contextlib
import gzip
import http.client
import io
import json
import os
import re
import socket
import statistics
import string
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pillow_heif
import pytest
from comfyui_tryon.imagefiles.jxl import HAS_JXL
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features
from support.images import small_request, to_bytes
from support.servers import Server, engines
from support.waiting import until

# What reads requests is the same on all engines: the last one that is here stands for them.
pytestmark = pytest.mark.parametrize(
    "engine", [engine for engine in engines() if not engine.marks][-1:], indirect=True, scope="session"
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 60))
FIELDS = (
    "person_image garment_image mask_image cloth_type num_inference_steps guidance_scale seed width height num_images "
    "output_format output_quality workflow"
).split()
FAILURES = {400, 404, 405, 409, 413, 415, 422}
INTERNALS = ("Traceback", "site-packages", "Error(", "comfyui_tryon", "/home", "/tmp", "/root")

examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[*HealthCheck],
)


@dataclass
class Target:
    """A server under fire.

    Attributes:
        pings: status and seconds of each /ping meanwhile.
        sent: requests by status; 0 where there was no reply.
        memory: bytes that the server held before.
    """

    server: Server
    client: httpx.Client
    pings: list[tuple[int, float]] = field(default_factory=list, repr=False)
    sent: dict[int, int] = field(default_factory=dict, repr=False)
    memory: int = field(default=0, repr=False)

    def post(self, **options) -> httpx.Response:
        reply = self.client.post("/api/v1/tryon", **options)
        self.sent[reply.status_code] = self.sent.get(reply.status_code, 0) + 1
        if reply.status_code != 200:
            check_failure(reply.status_code, reply.text)
            assert reply.headers["X-Request-Id"]
        return reply

    def check_alive(self) -> None:
        """Has the executor answer with an image."""
        files = {"person_image": PICTURES["PNG RGB"], "garment_image": PICTURES["TIFF CMYK"]}
        reply = self.client.post("/api/v1/tryon", files=files, data=TO_PERSON)
        assert reply.status_code == 200, reply.text

    def raw(self, data: bytes, wait: bool = True) -> bytes:
        """Sends bytes and hangs up; what came back until the server did, or half a second passed."""
        port = int(self.server.url.rsplit(":", 1)[1])
        reply = b""
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            connection.settimeout(0.5)
            while wait and (chunk := connection.recv(65536)):
                reply += chunk
        status = int(reply.split()[1]) if reply.startswith(b"HTTP/1.") else 0
        self.sent[status] = self.sent.get(status, 0) + 1
        return reply

    def cpu_s(self) -> float:
        """Processor time that the server has had, in all its threads: a cost that does not depend on other load."""
        times = Path(f"/proc/{self.server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def spent_s(self, before: float) -> float:
        """Processor time since `before`, also what came after the reply."""
        seen = [self.cpu_s()]

        def idle() -> bool:
            self.client.get("/ping")
            seen.append(self.cpu_s())
            return len(seen) > 3 and seen[-1] - seen[-3] <= 0.01

        until(idle)
        return self.cpu_s() - before


def check_failure(status: int, text: str) -> None:
    assert status in FAILURES, (status, text)
    error = json.loads(text)["error"]
    assert set(error) == {"code", "message", "request_id", "details"} and len(error["message"]) > 10
    assert not any(internal in error["message"] for internal in INTERNALS), text


@pytest.fixture(scope="module")
def target(server, pair) -> Iterator[Target]:
    graph = json.loads((server.workflows / "demo.json").read_text())
    graph = {"1": graph["1"], "2": graph["2"], "9": graph["9"]}
    graph["9"]["inputs"] = {"images": ["1", 0]}
    (server.workflows / "person.json").write_text(json.dumps(graph))
    stop = threading.Event()
    with server.client() as client, server.client() as pinger:
        target = Target(server, client)

        def ping() -> None:
            while not stop.wait(0.05):
                started = time.perf_counter()
                status = pinger.get("/ping").status_code
                target.pings.append((status, time.perf_counter() - started))

        thread = threading.Thread(target=ping)
        thread.start()
        try:
            for _ in range(20):  # fills the pools and caches that stay
                target.check_alive()
            yield target
            reply = client.post("/api/v1/tryon", json=small_request(pair))
            assert reply.status_code == 200, reply.text
        finally:
            stop.set()
            thread.join()


@pytest.fixture(autouse=True)
def unharmed(target) -> Iterator[None]:
    """After each test the process and the executor are alive, /ping has always answered and memory is where it was."""
    target.memory = target.server.memory()
    target.pings.clear()
    yield
    assert target.server.process.poll() is None, target.server.log()[-2000:]
    target.check_alive()
    assert target.client.get("/ping").json() == {"status": "healthy"}
    seconds = [0.0, *(spent for status, spent in target.pings)]
    assert {status for status, _ in target.pings} <= {200}
    growth = target.server.memory() - target.memory
    assert growth < 200e6
    print(
        f"{target.sent} memory {growth / 1e6:+.0f} MB, /ping median "
        f"{1000 * statistics.median(seconds):.0f} ms, longest {1000 * max(seconds):.0f} ms"
    )
    target.sent.clear()


TO_PERSON = {"workflow": "person"}


def pictures() -> dict[str, bytes]:
    """Small images of every format, mode, orientation and profile."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 20, 4), np.uint8)
    rgba = Image.fromarray(noise)
    rgb = rgba.convert("RGB")
    images = {mode: rgba.convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")}
    images["I;16"] = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    images["F"] = Image.fromarray(noise[..., 0].astype(np.float32))
    images["I"] = Image.fromarray(noise[..., 0].astype(np.int32))
    modes = {
        "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "TIFF": tuple(images),
        "BMP": ("RGB", "RGBA", "L", "P", "1"),
        "GIF": ("P", "L", "1"),
    }
    if features.check("avif"):
        modes["AVIF"] = ("RGB", "RGBA")
    found = {f"{format} {mode}": to_bytes(images[mode], format) for format in modes for mode in modes[format]}
    heic = io.BytesIO()
    pillow_heif.from_pillow(rgb).save(heic)
    found["HEIC RGB"] = heic.getvalue()
    if HAS_JXL:
        import pillow_jxl  # noqa: F401  # so that Pillow writes it

        for mode in ("RGB", "RGBA", "L", "LA", "I;16", "F"):
            found[f"JXL {mode}"] = to_bytes(images[mode], "JXL", lossless=mode != "RGB", num_threads=0)
        found["JXL in boxes"] = to_bytes(rgb, "JXL", use_container=True, num_threads=0)
    found["PNG interlaced"] = to_bytes(rgb, "PNG", interlace=1)
    found["JPEG progressive"] = to_bytes(rgb, "JPEG", progressive=True)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        found[f"TIFF {compression}"] = to_bytes(rgb, "TIFF", compression=compression)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"JPEG {orientation}"] = to_bytes(rgb, "JPEG", exif=exif)
    for profile in ("sRGB", "LAB", "XYZ"):
        data = ImageCms.ImageCmsProfile(ImageCms.createProfile(profile)).tobytes()
        for format in ("PNG", "JPEG", "WEBP", "TIFF"):
            found[f"{format} {profile}"] = to_bytes(rgb, format, icc_profile=data)
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        found[f"{format} frames"] = to_bytes(rgb, format, save_all=True, append_images=[rgb.rotate(180)] * 2)
    return found


PICTURES = pictures()


@st.composite
def damaged(draw) -> bytes:
    """A image's file with some bytes changed, lost, doubled or swapped with those of another."""
    data = bytearray(PICTURES[draw(st.sampled_from(sorted(PICTURES)))])
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(1, 64)))
        match draw(st.sampled_from(["flip", "cut", "end", "double", "fill", "number", "splice"])):
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[start:end]
            case "end":
                del data[start:]
            case "double":
                data[start:start] = data[start:end]
            case "fill":
                data[start:end] = draw(st.binary(max_size=64))
            case "number":
                value = draw(st.sampled_from([0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                data[start : start + 4] = value.to_bytes(4, draw(st.sampled_from(["big", "little"])))
            case "splice":
                data[start:] = PICTURES[draw(st.sampled_from(sorted(PICTURES)))][start:]
    return bytes(data)


def test_every_kind_of_picture_is_taken(target):
    for name, data in PICTURES.items():
        files = {"person_image": data, "garment_image": data}
        reply = target.post(files=files, data=TO_PERSON, headers={"Accept": "image/png"})
        assert reply.status_code == 200, (name, reply.text)
        assert set(Image.open(io.BytesIO(reply.content)).size) == {20, 24}, name


@examples
@given(person=damaged(), garment=damaged())
def test_damaged_pictures_as_files(target, person, garment):
    reply = target.post(files={"person_image": person, "garment_image": garment}, data=TO_PERSON)
    assert reply.status_code == 200 or reply.json()["error"]["code"] in ("invalid_image", "image_too_large"), reply.text


@examples
@given(mask=damaged(), person=st.sampled_from(sorted(PICTURES)))
def test_damaged_masks_through_the_whole_workflow(target, mask, person):
    data = {"width": "64", "height": "64", "num_inference_steps": "1"}
    files = {"person_image": PICTURES[person], "garment_image": PICTURES["PNG RGB"], "mask_image": mask}
    reply = target.post(files=files, data=data)
    assert reply.status_code == 200 or reply.json()["error"]["details"] == {"field": "mask_image"}, reply.text


@examples
@given(
    data=damaged(),
    cut=st.integers(0, 3),
    head=st.sampled_from(["", "data:image/png;base64,", "data:,", "data:;;;,", " "]),
)
def test_damaged_pictures_in_base64(target, data, cut, head):
    text = head + base64.b64encode(data).decode()[: -cut or None]
    target.post(json={"person_image": text, "garment_image": text, "workflow": "person"})


text = st.text(max_size=40) | st.sampled_from(
    ["\ud800", "\0", "../demo", "demo\0", "{}", "null", "NaN", "1e999", "😀" * 20]
)
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**63, 2**64, -(2**64), 10**400, 0, -1, 1e308, -0.0, 63, 64, 65, 2048, 2049, 768.0, 768.5])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)


@examples
@given(
    changed=st.dictionaries(st.sampled_from(FIELDS) | text, values, min_size=1, max_size=4),
    lost=st.sampled_from([*FIELDS, ""]),
)
def test_json_of_wild_values(target, changed, lost):
    small = {"width": 64, "height": 64, "num_inference_steps": 1, "num_images": 1}
    picture = base64.b64encode(PICTURES["PNG RGB"]).decode()
    body = {"person_image": picture, "garment_image": picture, **small, **changed}
    body.pop(lost, None)
    if isinstance(body.get("num_inference_steps"), int) and body["num_inference_steps"] > 4:
        body["num_inference_steps"] = 101
    target.post(content=json.dumps(body), headers={"Content-Type": "application/json"})


@examples
@given(
    body=values,
    damage=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=4),
    repeat=st.integers(1, 3),
)
def test_bodies_that_are_hardly_json(target, body, damage, repeat):
    data = bytearray(json.dumps(body).encode() * repeat)
    for at, inserted in damage:
        data[at:at] = inserted
    target.post(content=bytes(data), headers={"Content-Type": "application/json"})


tokens = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=12)
lines = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
part_headers = st.lists(
    st.sampled_from(
        [
            "Content-Disposition: form-data",
            "Content-Disposition: attachment; filename=x",
            'Content-Disposition: form-data; name="seed"',
            "Content-Disposition: form-data; name*=utf-8''person%5fimage",
            "Content-Disposition: form-data; name*=nonsense''%ff",
            'Content-Disposition: form-data; name="garment_image"; filename="x"',
            "Content-Disposition: form-data; name=\"garment_image\"; filename*=UTF-8''%f0%9f",
            'Content-Disposition: form-data; name="a"; name="b"',
            "Content-Type: multipart/mixed; boundary=inner",
            "Content-Type: multipart/form-data",
            "Content-Type: application/x-www-form-urlencoded",
            "Content-Type: text/plain; charset=nonsense",
            "Content-Type: " + "x" * 9000,
            "Content-Transfer-Encoding: base64",
            "Content-Transfer-Encoding: quoted-printable",
            "Content-Transfer-Encoding: nonsense",
            "Content-Encoding: gzip",
            "Content-Encoding: deflate",
            "Content-Encoding: nonsense",
            "Content-Length: 5",
            "Content-Length: -1",
            "Content-Length: 99999999999999999999",
            "Content-Length: x",
            "no colon",
            ": no name",
        ]
    )
    | lines,
    max_size=3,
)


@examples
@given(
    parts=st.lists(
        st.tuples(part_headers, st.binary(max_size=80) | st.sampled_from([b"--inner--", b"\r\n--b--", b"=FF"])),
        max_size=4,
    ),
    boundary=st.sampled_from(["b", "b b", '"b"', "", "=", "b" * 70, "b" * 300, "\xff", '"', "b; boundary=c"]),
    ending=st.sampled_from([b"--b--\r\n", b"--b--", b"--b", b"", b"--b\r\n", b"\r\n"]),
    newline=st.sampled_from([b"\r\n", b"\n", b"\r"]),
)
def test_forms_that_are_hardly_forms(target, parts, boundary, ending, newline):
    body = b""
    for headers, content in parts:
        body += b"--b" + newline + b"".join(line.encode("latin-1") + newline for line in headers) + newline
        body += content + newline
    content_type = f"multipart/form-data; boundary={boundary}".encode("latin-1")
    target.post(content=body + ending, headers={b"Content-Type": content_type})


@examples
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS) | tokens, st.binary(max_size=60), max_size=6), as_file=st.booleans()
)
def test_forms_of_wild_values(target, fields, as_file):
    fields.pop("num_inference_steps", None)
    parts = {"person_image": PICTURES["PNG RGB"], "garment_image": PICTURES["PNG RGB"]} | fields
    parts = {"width": b"64", "height": b"64", "num_inference_steps": b"1"} | parts
    names = {name: (name if as_file or "image" in name else None, value) for name, value in parts.items()}
    target.post(files=names)


@examples
@given(
    headers=st.dictionaries(
        st.sampled_from(
            "Content-Type Accept Accept-Encoding Content-Encoding Authorization X-API-Key X-Request-Id Origin Cookie "
            "Range If-None-Match Transfer-Encoding X-Forwarded-For Forwarded Content-Length".split()
        )
        | tokens,
        lines
        | st.sampled_from(
            [
                "application/json; charset=nonsense",
                "application/json; charset=utf-16",
                "gzip",
                "br",
                "zstd",
                "deflate, gzip",
                "text/event-stream",
                "image/*;q=x",
                "multipart/form-data",
                "bytes=0-1",
            ]
        ),
        max_size=4,
    )
)
def test_wild_headers(target, headers):
    headers = {name: value for name, value in headers.items() if name.lower() not in ("host", "connection", "expect")}
    headers = {"Content-Type": "application/json"} | headers
    body = json.dumps({"person_image": "x"}).encode()
    if "Transfer-Encoding" not in headers:
        headers = {"Content-Length": str(len(body))} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode("latin-1") + body
    check_raw(target.raw(request))


def check_raw(reply: bytes) -> None:
    """Closed without a word, or an error that gives nothing away."""
    if reply:
        status = int(reply.split()[1])
        assert 400 <= status < 500, reply
        assert not any(internal.encode() in reply for internal in INTERNALS), reply


REQUEST = (
    b"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 64\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n1\r\n--b--\r\n'
)
PIECES = (
    b"GET /ping HTTP/1.1\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"\xff\xfe",
    b"Transfer-Encoding: chunked\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n",
    b"5\r\nabcde\r\n0\r\n\r\n",
    b"-1\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: 1e3\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: nonsense\r\n",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"X" * 10_000,
    b"A: b\r\n" * 400,
    b"Content-Encoding: gzip\r\n",
    b" : \r\n",
    b"\r\n folded\r\n",
    b"%",
    b"%zz",
    b"//",
    b"http://[::1",
    b"?" * 500,
)


@examples
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(REQUEST)), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=8)),
        max_size=4,
    ),
    end=st.integers(0, len(REQUEST)) | st.none(),
    wait=st.booleans(),
)
def test_bytes_that_are_hardly_http(target, edits, end, wait):
    data = bytearray(REQUEST)
    for at, removed, inserted in edits:
        data[at : at + removed] = inserted
    reply = target.raw(bytes(data[:end]), wait)
    statuses = [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d+) ", reply, re.MULTILINE)]
    assert all(status in (100, 200) or 400 <= status < 500 for status in statuses), reply
    assert b"Traceback" not in reply and b"site-packages" not in reply, reply


def test_bodies_that_end_early_and_clients_that_go_away(target):
    for length in range(0, len(REQUEST), 7):
        target.raw(REQUEST[:length], wait=False)
    claimed = (
        b"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    check_raw(target.raw(claimed))
    chunked = claimed.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked").removesuffix(b"{")
    for body in (
        b"5\r\n{",
        b"zz\r\n{\r\n0\r\n\r\n",
        b"1\r\n{\r\n",
        b"ffffffffffff\r\n{",
        b"1;" + b"x" * 20_000 + b"\r\n{\r\n0\r\n\r\n",
    ):
        check_raw(target.raw(chunked + body))


JSON = "application/json"
FORM = "multipart/form-data; boundary=b"


def form(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(b"--b\r\n%s\r\n\r\n%s\r\n" % (head.encode(), content) for head, content in parts) + b"--b--\r\n"


def file_part(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"; filename="x"{more}'


def bomb() -> bytes:
    return b'{"person_image":"' + b"A" * 200_000_000 + b'"}'


def compressed_parts() -> bytes:
    packed = gzip.compress(bytes(60_000_000), 9)
    return form(*((file_part(f"x{number}", "\r\nContent-Encoding: gzip"), packed) for number in range(20)))


# Content type, encoding and body, each under the limit of 30 MB, that cost far more than their bytes.
HOGS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "an array of millions": (JSON, "", lambda: b'{"seed":[' + b"0," * 12_000_000 + b"0]}"),
    "millions of objects": (JSON, "", lambda: b'{"seed":[' + b"{}," * 9_000_000 + b"0]}"),
    "millions of fields": (
        JSON,
        "",
        lambda: b"{" + b",".join(b'"%d":0' % key for key in range(2_000_000)) + b"}",
    ),
    "one field again and again": (JSON, "", lambda: b"{" + b",".join([b'"seed":0'] * 3_000_000) + b"}"),
    "nested arrays": (JSON, "", lambda: b'{"seed":' + b"[" * 29_000_000),
    "a long number": (JSON, "", lambda: b'{"seed":' + b"1" * 29_000_000 + b"}"),
    "base64 with spaces": (JSON, "", lambda: b'{"garment_image":"AAAA","person_image":"' + b"AA " * 9_000_000 + b'"}'),
    "base64 with escapes": (JSON, "", lambda: b'{"person_image":"' + b"\\u0041" * 4_800_000 + b'"}'),
    "a gzip bomb": (JSON, "gzip", lambda: gzip.compress(bomb(), 9)),
    "a deflate bomb": (JSON, "deflate", lambda: zlib.compress(bomb(), 9)),
    "parts without end": (FORM, "", lambda: form(*((file_part(f"x{number}"), b"") for number in range(300_000)))),
    "compressed parts": (FORM, "", compressed_parts),
    "a preamble of empty lines": (FORM, "", lambda: b"\r\n" * 14_000_000),
    "a part of empty lines": (FORM, "", lambda: form((file_part("person_image"), b"\r\n" * 14_000_000))),
    "headers without end": (FORM, "", lambda: b"--b\r\n" + b"A: b\r\n" * 4_000_000),
    "a header without end": (FORM, "", lambda: b"--b\r\nA: " + b"b" * 29_000_000),
    "nested forms": (FORM, "", lambda: b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 400_000),
}


@pytest.mark.parametrize("name", HOGS)
def test_a_body_that_costs_more_than_its_bytes_is_refused_early(target, name):
    content_type, encoding, make = HOGS[name]
    body = make()
    assert len(body) < 30e6
    headers = {"Content-Type": content_type} | ({"Content-Encoding": encoding} if encoding else {})
    before = target.cpu_s()
    reply = target.post(content=body, headers=headers)
    spent = target.spent_s(before)
    print(f"{name}: {spent:.2f} s of processor time, {reply.text[:200]}")
    assert reply.status_code != 200 and spent < 0.8


@pytest.mark.parametrize("method, path", [("POST", "/nothing"), ("GET", "/ping"), ("DELETE", "/api/v1/tryon/x")])
def test_a_compressed_body_is_inflated_nowhere(target, method, path):
    headers, body = {"Content-Type": JSON, "Content-Encoding": "gzip"}, gzip.compress(bomb(), 1)
    before = target.cpu_s()
    target.client.request(method, path, content=body, headers=headers)
    assert target.spent_s(before) < 0.2


def test_many_slow_senders_keep_nobody_out(target, fields):
    port = int(target.server.url.rsplit(":", 1)[1])
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            connection.sendall(REQUEST[: number % 90])
        assert target.client.post("/api/v1/tryon", json=fields).status_code == 200


def test_large_pictures_leave_nothing_behind(target):
    """Sixteen-bit, transparent or with a profile: all that decoding can do, on two million pixels."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    clear = to_bytes(Image.new("RGBA", (1600, 1300), (9, 8, 7, 128)), icc_profile=profile, compress_level=1)
    grey = to_bytes(Image.fromarray(np.full((1600, 1300), 4000, np.uint16)), compress_level=1)
    mask = to_bytes(Image.new("RGBA", (1600, 1300), (255, 255, 255, 128)), compress_level=1)
    for number in range(6):
        reply = target.post(
            files={"person_image": clear, "garment_image": grey, "mask_image": mask},
            data={"width": "64", "height": "64", "num_inference_steps": "1"},
        )
        assert reply.status_code == 200
        if number == 2:
            target.memory = target.server.memory()


def test_unusual_connections_do_not_disturb_a_request_under_way(target, fields):
    connection = http.client.HTTPConnection(target.server.url.removeprefix("http://"), timeout=60)
    body = json.dumps(fields)
    connection.request("POST", "/api/v1/tryon", body, {"Content-Type": "application/json"})
    for number in range(50):
        target.raw(REQUEST[: 2 * number], wait=number % 10 == 0)
    assert connection.getresponse().status == 200
