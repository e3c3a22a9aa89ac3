"""Clients that do to a server, at random, whatever clients do, and that note what must not happen."""

import base64
import contextlib
import hashlib
import http.client
import json
import random
import socket
import struct
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from slowest_images import jpeg_of_scans, png

from .images import from_base64, to_base64, to_bytes
from .invalid import GREY, invalid_requests

LOST = "accepted requests lost"
OPEN = "foreign routes open"
BAD_500 = "500s for bad input"
WRONG = "wrong images"
ODD = "other answers that should not be"
VERDICTS = (LOST, OPEN, BAD_500, WRONG, ODD)
TRYON = "/api/v1/tryon"
WHITE = to_base64(Image.new("RGB", (64, 64), "white"))
JSON = {"Content-Type": "application/json"}
FOREIGN = (
    "/ /prompt /queue /history /object_info /view?filename=x /upload/image /userdata /ws /internal/logs /api/prompt "
    "/api/api/prompt /system_stats /interrupt /free /probe /extensions/comfyui_tryon/tryon.js /ping/../prompt "
    "/api/v1/tryon/../../../prompt /%70rompt /api/v1/workflows/none"
).split()
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")
LONGEST_PAUSE_S = 3.0
TOO_SLOW = (422, "invalid_image")  # for a decoder that has not had enough of a busy machine within its 9 s


class Unreachable(Exception):
    """The server takes no connection."""


class Ledger:
    """Counts what was sent and how it was answered, and keeps what must not happen, by verdict."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.wrong: defaultdict[str, list[str]] = defaultdict(list)
        self._images: dict[object, str] = {}

    def count(self, kind: str, answer: object) -> None:
        with self._lock:
            self.sent[kind] += 1
            self.answers[f"{kind}: {answer}"] += 1

    def blame(self, verdict: str, what: str) -> None:
        with self._lock:
            self.wrong[verdict].append(what)

    def check_image(self, key: object, data: bytes) -> None:
        """Notes a wrong image unless the bytes are those that the same request had before."""
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            if self._images.setdefault(key, digest) != digest:
                self.wrong[WRONG].append(f"{key}: other bytes than before")


@dataclass
class Life:
    """One server process. `ending` is set before it gets its SIGTERM, `over` once it is gone."""

    port: int
    ending: threading.Event
    over: threading.Event


@dataclass(frozen=True)
class Answer:
    status: int
    content: bytes
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return json.loads(self.content)["error"]["code"]
        return "ok" if self.status == 200 else "no envelope"


class Requests:
    """The bodies that the clients share, made once."""

    def __init__(self, faults: Mapping[str, tuple[int, str]]) -> None:
        rng = np.random.default_rng(3)
        sizes = ((64, 64), (200, 300), (600, 800), (1024, 768))
        self.people = [to_base64(Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8))) for w, h in sizes]
        noise = Image.fromarray(rng.integers(0, 255, (2000, 2000, 3), np.uint8))
        self.photograph = base64.b64encode(to_bytes(noise, "JPEG", quality=90)).decode()
        self.faults = faults
        self.invalid = invalid_requests("none")
        self.large = base64.b64encode(png(16, 0, 1)).decode()
        # To those in `invalid`: what costs most until it is refused.
        self.bombs = [base64.b64encode(jpeg_of_scans(20_000)).decode()]


class Client(threading.Thread):
    """Does one thing after the other to `server()`, until `stop` is set."""

    def __init__(
        self, seed: str, server: Callable[[], Life], ledger: Ledger, requests: Requests, stop: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self._rng = random.Random(seed)
        self._server, self._ledger, self._requests, self._done = server, ledger, requests, stop
        self._life = server()
        self._address = {"X-Forwarded-For": seed.rpartition(" ")[2]}
        self._actions: dict[Callable[[], None], int] = {
            self.person: 30,
            self.image: 8,
            self.form: 6,
            self.events: 6,
            self.faulty_node: 12,
            self.invalid: 20,
            self.malformed_head: 3,
            self.bomb: 2,
            self.large: 1,
            self.hang_up: 8,
            self.retry: 5,
            self.delete: 6,
            self.slow_sender: 2,
            self.slow_reader: 2,
            self.half_heads: 1,
            self.foreign: 15,
        }

    def run(self) -> None:
        while not self._done.is_set():
            self._life = self._server()
            if self._life.over.is_set():
                time.sleep(0.1)
                continue
            action = self._rng.choices([*self._actions], [*self._actions.values()])[0]
            try:
                action()
            except Unreachable:
                time.sleep(0.1)
            except Exception as error:
                self._ledger.blame(ODD, f"{action.__name__}: the client failed with {error!r}")

    # Requests that must be answered.

    def person(self) -> None:
        """A graph that gives the person back, so that its pixels are known."""
        number = self._rng.randrange(len(self._requests.people))
        person = self._requests.people[number]
        answer = self._expect("person", self._fields("none", person_image=person))
        if answer and answer.status == 200:
            data = base64.b64decode(json.loads(answer.content)["output"]["images"][0]["image"])
            self._ledger.check_image(("person", number), data)
            if self._rng.random() < 0.1 and not np.array_equal(
                from_base64(person), from_base64(base64.b64encode(data).decode())
            ):
                self._ledger.blame(WRONG, f"person {number} came back as another one")

    def image(self) -> None:
        """A denoised image, of one of a few seeds."""
        seed = self._rng.randrange(4)
        fields = self._fields("demo", mask_image=WHITE, seed=seed, num_inference_steps=1, width=64, height=64)
        answer = self._expect("image", fields, {"Accept": "image/png"})
        if answer and answer.status == 200:
            self._ledger.check_image(("image", seed), answer.content)

    def form(self) -> None:
        number = self._rng.randrange(len(self._requests.people))
        parts = {"person_image": self._requests.people[number], "garment_image": GREY}
        files = (
            f'--limit\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
            + base64.b64decode(data)
            + b"\r\n"
            for name, data in parts.items()
        )
        name = b'--limit\r\nContent-Disposition: form-data; name="workflow"\r\n\r\nnone\r\n--limit--\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=limit", "Accept": "image/png"}
        answer = self._expect("form", b"".join(files) + name, headers)
        if answer and answer.status == 200:
            self._ledger.check_image(("person", number), answer.content)

    def events(self) -> None:
        answer = self._expect("events", self._fields("none"), {"Accept": "text/event-stream"})
        if answer and answer.status == 200:
            last = answer.content.rpartition(b"event: ")[2].split(b"\n")[0]
            said = answer.content.rpartition(b'"code":')[2][:40].decode(errors="replace")
            allowed = last == b"output" or b"queue_full" in answer.content or self._excused(said)
            if not allowed:
                self._ledger.blame(LOST, f"events end in {last!r} {said}")

    def faulty_node(self) -> None:
        name = self._rng.choice([*self._requests.faults])
        self._expect("faulty node", self._fields(name), expected=self._requests.faults[name])

    def large(self) -> None:
        """Allowed images of 50 megapixels, which must be decoded, or not be taken."""
        fields = self._fields("none", person_image=self._requests.large, garment_image=self._requests.large)
        self._expect("large", fields, {"Accept": "image/jpeg"}, also={(422, "image_too_large"), TOO_SLOW})

    # What must be refused.

    def invalid(self) -> None:
        name = self._rng.choice([*self._requests.invalid])
        given = self._requests.invalid[name]
        self._refused(name, given.body, {"Content-Type": given.content_type} | given.headers, given.status, given.code)

    def bomb(self) -> None:
        fields = self._fields("none", person_image=self._rng.choice(self._requests.bombs))
        self._refused("bomb", fields, JSON, 422, "invalid_image")

    def malformed_head(self) -> None:
        heads = (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST /api HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000)
        heads += (b"GET /ping HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",)
        with self._connected() as connection:
            connection.sendall(self._rng.choice(heads))
            connection.settimeout(2)
            reply = connection.recv(65_536)
            self._ledger.count("malformed head", reply[9:12].decode(errors="replace"))
            if reply and reply[9:12] != b"400":
                self._ledger.blame(BAD_500, f"malformed head: {reply[:40]!r}")

    def foreign(self) -> None:
        path, method = self._rng.choice(FOREIGN), self._rng.choice(METHODS)
        answer = self._ask("foreign route", method, path, b"", {})
        if answer and answer.status != 404:
            self._ledger.blame(OPEN, f"{method} {path}: {answer.status}")

    # Clients that do not behave.

    def hang_up(self) -> None:
        """Goes away while it sends, waits or reads."""
        body = self._fields(
            self._rng.choice(("none", "pause", "demo")), person_image=self._rng.choice(self._requests.people)
        )
        with self._connected() as connection:
            connection.sendall(_head(body) + body[: self._rng.choice((0, len(body) // 2, len(body)))])
            time.sleep(self._rng.choice((0, 0.01, 0.1, 0.5)))
            if self._rng.random() < 0.5:  # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._ledger.count("hang-up", "gone")

    def retry(self) -> None:
        """Hangs up and comes back at once with the same id, which is not in use any more."""
        body, request_id = self._fields("pause"), str(uuid.uuid4())
        with self._connected() as connection:
            connection.sendall(_head(body, f"X-Request-Id: {request_id}\r\n") + body)
            time.sleep(self._rng.choice((0, 0.05, 0.3)))
        self._expect("retry", body, {"X-Request-Id": request_id})

    def delete(self) -> None:
        """Cancels its own request: after 204 there is no image, and without a cancellation there is one."""
        request_id = str(uuid.uuid4())
        found: list[Answer | None] = []
        body = self._fields(self._rng.choice(("none", "pause", "sleep")))
        wait = threading.Thread(
            target=lambda: found.append(self._ask("deleted", "POST", TRYON, body, JSON | {"X-Request-Id": request_id}))
        )
        wait.start()
        said = None
        while wait.is_alive() and not self._life.over.is_set():
            time.sleep(self._rng.uniform(0.02, 0.5))
            said = self._ask("DELETE", "DELETE", f"{TRYON}/{request_id}", b"", {})
            if said is None or said.status == 204:
                break
        wait.join()
        answer = found[0]
        if said and said.status not in (204, 404) and not self._excused(said.code):
            self._ledger.blame(ODD, f"DELETE: {said.status} {said.code}")
        if answer and said and said.status == 204 and answer.status == 200:
            self._ledger.blame(WRONG, "an image after DELETE has answered 204")
        if answer and answer.status not in (200, 429, 499) and not self._excused(answer.code):
            self._ledger.blame(ODD, f"deleted: {answer.status} {answer.code}")

    def slow_sender(self) -> None:
        """Sends its body in pieces with pauses, or stops."""
        body = self._fields("none", person_image=self._requests.people[2])
        pause_s, pieces = self._rng.choice(((0.2, 10), (1.0, 5), (30.0, 2)))
        with self._connected() as connection:
            connection.sendall(_head(body))
            for piece in range(pieces):
                connection.sendall(body[len(body) * piece // pieces : len(body) * (piece + 1) // pieces])
                connection.settimeout(pause_s)
                with contextlib.suppress(TimeoutError):
                    if connection.recv(1, socket.MSG_PEEK) or True:
                        break
                if self._done.is_set():
                    return
            connection.settimeout(60)
            reply = connection.recv(65_536)
            status = reply[9:12].decode(errors="replace")
            self._ledger.count("slow sender", status)
            if status not in ("200", "400", "429", "503") and not self._life.ending.is_set():
                self._ledger.blame(LOST, f"slow sender: {reply[:60]!r}")

    def slow_reader(self) -> None:
        """Leaves a large reply unread, and goes on reading or goes away."""
        body = self._fields("none", person_image=self._requests.photograph)
        with self._connected() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            connection.sendall(_head(body) + body)
            self._done.wait(self._rng.choice((2, 5, 10)))
            connection.settimeout(60)
            size, reads = 0, self._rng.random() < 0.5
            while reads and (data := connection.recv(65_536)):
                size += len(data)
                if data.endswith(b"}"):
                    break
            self._ledger.count("slow reader", "read" if reads else "gone")

    def half_heads(self) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                connection = stack.enter_context(self._connected())
                connection.sendall(b"POST /api/v1/tryon HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            self._done.wait(self._rng.choice((1, 3, 12)))
            self._ledger.count("half a head", "40 of them")

    # How they send.

    def _expect(
        self,
        kind: str,
        body: bytes,
        headers: Mapping[str, str] = {},
        expected: tuple[int, str] = (200, "ok"),
        also: set[tuple[int, str]] = frozenset(),
    ) -> Answer | None:
        """Sends a request that must be answered as expected, or told to come back."""
        answer = self._ask(kind, "POST", TRYON, body, {**JSON, **headers})
        if answer is None:
            return None
        found = answer.status, answer.code
        if headers.get("Accept", "").startswith(("image", "text")) and answer.status == 200:
            found = 200, "ok"
        if found == (429, "queue_full"):
            self._done.wait(min(LONGEST_PAUSE_S, float(answer.headers["Retry-After"])))
        elif found != expected and found not in also and not self._excused(answer.code):
            self._ledger.blame(LOST if answer.status >= 500 else ODD, f"{kind}: {found} instead of {expected}")
        return answer

    def _refused(self, name: str, body: bytes, headers: Mapping[str, str], status: int, code: str) -> None:
        answer = self._ask("invalid", "POST", TRYON, body, headers, keeps=False)
        if (
            answer is None
            or answer.code in ("queue_full", "draining")
            or (answer.status, answer.code) == (status, code)
        ):
            return
        verdict = BAD_500 if answer.status >= 500 or answer.status == 200 else ODD
        self._ledger.blame(verdict, f"{name}: {answer.status} {answer.code} instead of {status} {code}")

    def _ask(
        self, kind: str, method: str, path: str, body: bytes, headers: Mapping[str, str], keeps: bool = True
    ) -> Answer | None:
        """Returns the answer, or None if there is none and need not be: a server that ends is at liberty to refuse
        what comes after its signal, and one that refuses a body to close while it is sent (unless `keeps`)."""
        late = self._life.ending.is_set()
        connection = http.client.HTTPConnection("127.0.0.1", self._life.port, timeout=200)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body or None, {**self._address, **headers})
            reply = connection.getresponse()
            answer = Answer(reply.status, reply.read(), reply.headers)
        except (OSError, http.client.HTTPException) as error:
            self._ledger.count(kind, type(error).__name__)
            if keeps and not late:
                self._ledger.blame(LOST, f"{kind}: {error!r}")
            return None
        finally:
            connection.close()
        self._ledger.count(kind, f"{answer.status} {answer.code if answer.status >= 400 else ''}")
        return answer

    def _excused(self, code: str) -> bool:
        return "draining" in code and self._life.ending.is_set()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        """A socket for what may be cut off at any time."""
        try:
            connection = socket.create_connection(("127.0.0.1", self._life.port), timeout=30)
        except OSError as error:
            if not self._life.ending.is_set():
                self._ledger.blame(LOST, f"no connection: {error!r}")
            raise Unreachable from None
        with connection, contextlib.suppress(OSError):
            yield connection

    def _fields(self, workflow: str, **others: Any) -> bytes:
        return json.dumps({"person_image": GREY, "garment_image": GREY, "workflow": workflow} | others).encode()


def _head(body: bytes, more: str = "") -> bytes:
    kind = f"Content-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n"
    return f"POST {TRYON} HTTP/1.1\r\nHost: x\r\n{kind}\r\n".encode()
