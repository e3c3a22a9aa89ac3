"""Workers behind HAProxy with deploy/haproxy.cfg, as an orchestrator would run them: what the tests start, and the
figures of docs/deployment.md."""

import concurrent.futures
import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from support.servers import NO_CERTIFICATES, ROOT, free_port, without_settings

HAPROXY = os.environ.get("HAPROXY") or shutil.which("haproxy")
BACKENDS = ("tryon", "cancel", "rest")
READY_TIMEOUT_S = 240


@dataclass
class Fleet:
    """Workers on one port of several loopback addresses, and the balancer in front of them."""

    port: int
    folder: Path
    module: str = "comfyui_tryon"
    url: str = ""
    balancer: subprocess.Popen | None = None
    workers: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start_worker(self, address: str, environment: Mapping[str, str]) -> None:
        with open(self.folder / f"worker-{address}.log", "ab") as log:
            variables = without_settings()
            variables |= {
                "PORT": str(self.port),
                "LISTEN": address,
                "PYTHONPATH": str(ROOT / "custom_nodes"),
                "OMP_NUM_THREADS": "1",
                "TRYON_WORKFLOW": "demo",
            }
            command = [sys.executable, "-u", "-m", self.module]
            self.workers[address] = subprocess.Popen(command, env=variables | environment, stdout=log, stderr=log)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def retries(self) -> int:
        """How often the balancer sent a request again."""
        return sum(int(count) for count in re.findall(r"/\+?(\d+) \d+/\d+ \"POST ", self.log("haproxy")))

    def served(self) -> Counter:
        """Images by worker, as the balancer's log has them."""
        return Counter(re.findall(r"tryon/(worker\d+) \S+ 200 ", self.log("haproxy")))


@contextlib.contextmanager
def fleet(addresses: list[str], environment: Mapping[str, str], module: str = "comfyui_tryon") -> Iterator[Fleet]:
    """A fleet whose workers, which are processes of that module, are all ready; ended with the block."""
    with tempfile.TemporaryDirectory() as folder, name_server(addresses) as resolver, contextlib.ExitStack() as stack:
        running = Fleet(free_port(), Path(folder), module)
        for address in addresses:
            running.start_worker(address, environment)
        stack.callback(lambda: [worker.kill() or worker.wait() for worker in running.workers.values()])
        stack.enter_context(balance(running, resolver))
        wait_for_workers(running, len(addresses))
        yield running


@contextlib.contextmanager
def balance(running: Fleet, resolver: str, configuration: str | None = None) -> Iterator[None]:
    """Starts HAProxy in front of a fleet; `configuration` takes the place of deploy/haproxy.cfg's text."""
    port = free_port()
    running.url = f"http://127.0.0.1:{port}"
    variables = {"WORKERS": f"workers.test:{running.port}", "RESOLVER": resolver, "PORT": str(port)}
    path = running.folder / "haproxy.cfg"
    path.write_text(configuration or (ROOT / "deploy/haproxy.cfg").read_text())
    with open(running.folder / "haproxy.log", "wb") as log:
        running.balancer = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(path)], env=os.environ | variables, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        running.balancer.kill()
        running.balancer.wait()


def wait_for_workers(running: Fleet, count: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while len(set(re.findall(r"Server (\w+/worker\d+) is UP", running.log("haproxy")))) < count * len(BACKENDS):
        ended = [process for process in (running.balancer, *running.workers.values()) if process.poll() is not None]
        logs = (running.log(name) for name in ("haproxy", *(f"worker-{address}" for address in running.workers)))
        assert time.monotonic() < deadline and not ended, "\n\n".join(logs)
        time.sleep(0.1)


@contextlib.contextmanager
def name_server(addresses: list[str]) -> Iterator[str]:
    """A name server that has `addresses` for every name; gives its own address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                query, client = server.recvfrom(512)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            is_a = query[end - 4 : end - 2] == b"\0\1"
            answers = [
                b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(one) for one in addresses if is_a
            ]
            header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(answers), 0, 0)
            server.sendto(header + query[12:end] + b"".join(answers), client)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


@dataclass
class Outcome:
    statuses: Counter
    pictures: dict[int, set[bytes]]
    seconds: list[float]


def load(url: str, fields: Callable[[int], Mapping], clients: int, requests: int, seeds: int) -> Outcome:
    """Sends `requests` requests, the fields of `seeds` seeds in turn, from `clients` clients; none is sent twice."""
    pictures: dict[int, set[bytes]] = {seed: set() for seed in range(seeds)}

    def send(number: int) -> tuple[int, float]:
        started = time.perf_counter()
        seed = number % seeds
        headers = {"Accept": "image/png"}
        with httpx.Client(base_url=url, timeout=600, verify=NO_CERTIFICATES) as client:
            reply = client.post("/api/v1/tryon", json=fields(seed), headers=headers)
        if reply.status_code == 200:
            pictures[seed].add(reply.content)
        return reply.status_code, time.perf_counter() - started

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(send, range(requests)))
    return Outcome(Counter(status for status, _ in results), pictures, [seconds for _, seconds in results])


def main() -> None:
    from comfyui_tryon.demo import checkpoint
    from drawing import draw_pair

    from support.images import to_base64
    from support.servers import DEMO_MODELS

    clients, requests = (int(argument) for argument in sys.argv[1:] or ["16", "120"])
    checkpoint.write(DEMO_MODELS)
    pair = draw_pair(3, 384, 512)
    fields = {
        "person_image": to_base64(pair.person),
        "garment_image": to_base64(pair.garment),
        "num_inference_steps": 4,
        "width": 192,
        "height": 256,
    }
    environment = {"TRYON_MODELS_DIR": str(DEMO_MODELS), "TRYON_MAX_QUEUE": "1", "TRYON_WARMUP": "0"}
    with fleet(["127.0.0.2", "127.0.0.3", "127.0.0.4"], environment) as running:
        first, second, _ = running.workers.values()

        def disturb() -> None:
            while sum(running.served().values()) < requests // 4:
                time.sleep(0.05)
            first.send_signal(signal.SIGTERM)
            while sum(running.served().values()) < requests // 2:
                time.sleep(0.05)
            second.send_signal(signal.SIGKILL)

        threading.Thread(target=disturb, daemon=True).start()
        started = time.perf_counter()
        outcome = load(running.url, lambda seed: {**fields, "seed": seed}, clients, requests, seeds=12)
        spent = time.perf_counter() - started
        ranked = sorted(outcome.seconds)
        print(f"{clients} clients, {requests} requests in {spent:.1f} s, statuses {dict(outcome.statuses)}")
        print(
            f"one worker drained after {requests // 4} pictures, exit {first.wait()}; one killed after {requests // 2}"
        )
        print(f"pictures by worker {dict(running.served())}; sent again by the balancer {running.retries()} times")
        print(f"different pictures for one seed: {max(map(len, outcome.pictures.values()))}")
        print(f"latency: median {statistics.median(ranked):.2f} s, 95 % {ranked[int(0.95 * len(ranked))]:.2f} s")
