"""The way through the server: ours against a wrapper in a process of its own, before the same ComfyUI and graph.

    python benchmarks/server.py [--repeat N]

The graph (workflows/blend.json) blends a 768 x 1024 person and garment, PNG in, PNG out: it takes no time to speak of,
so what is left is the way. Every request brings images of its own. The wrapper is wrapper.py, with its variants.
Needs benchmarks/requirements.txt.
"""

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from common import (
    ROOT,
    Connection,
    bodies,
    comfyui,
    comfyui_alone,
    free_port,
    machine,
    median,
    ours,
    process,
    report,
    timed,
    wait_for,
)

PICTURES = 16
CLIENTS = 8
PATH = "/api/v1/tryon"
OURS = "ours"
WRAPPERS = {
    "wrapper, websocket": {"WAIT": "websocket"},
    "wrapper, websocket, PreviewImage": {"WAIT": "websocket", "OUTPUT": "PreviewImage"},
    "wrapper, polling every 0.25 s": {"WAIT": "polling"},
}


@contextlib.contextmanager
def servers(folder: Path, scratch: Path) -> Iterator[dict[str, int]]:
    """Ports of ours and of the wrappers, all started and warm."""
    with contextlib.ExitStack() as stack:
        host, port = free_port(), free_port()
        stack.enter_context(comfyui_alone(folder, scratch, host))
        environment = {
            "TRYON_WORKFLOWS_DIR": str(ROOT / "benchmarks/workflows"),
            "TRYON_WORKFLOW": "blend",
            "SPANS": str(scratch / "spans"),
        }
        stack.enter_context(ours(folder, scratch, port, environment, ROOT / "benchmarks/packs"))
        ports = {OURS: port}
        wait_for(host, "/queue")
        wait_for(port, "/ping")
        for name, settings in WRAPPERS.items():
            ports[name] = free_port()
            command = [sys.executable, "-m", "uvicorn", "wrapper:app", "--port", str(ports[name]), "--no-access-log"]
            environment = {"COMFYUI_URL": f"http://127.0.0.1:{host}", **settings}
            stack.enter_context(process(command, scratch / f"{name}.log", environment, ROOT / "benchmarks"))
            wait_for(ports[name], "/ping")
        yield ports


def latencies(port: int, sent: Iterator[bytes], count: int) -> list[tuple[float, float]]:
    """When each of one client's requests was sent and answered."""
    connection, times = Connection(port), []
    for body in itertools.islice(sent, count):
        start = time.perf_counter()
        connection.post(PATH, body)
        times.append((start, time.perf_counter()))
    return times


def throughput(port: int, sent: list[bytes], count: int) -> float:
    """Requests a second of CLIENTS clients, each sending its next request when its last one is answered."""

    def client(number: int) -> None:
        connection = Connection(port)
        for index in range(count):
            connection.post(PATH, sent[(number + CLIENTS * index) % len(sent)])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]

    def run() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return CLIENTS * count / timed(run)


def outside(times: list[tuple[float, float]], spans: list[tuple[str, str, float, float]]) -> list[float]:
    """For each request, the seconds in which none of its nodes and codecs worked."""
    left = []
    for start, end in times:
        busy, until = 0.0, start
        for _, _, begin, finish in sorted(spans, key=lambda span: span[2]):
            if start <= begin <= end:
                busy += max(0.0, finish - max(begin, until))
                until = max(until, finish)
        left.append(end - start - busy)
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=6, help="rounds of ten requests to each server")
    repeat = parser.parse_args().repeat

    folder = comfyui()
    sent = bodies(PICTURES)
    size = sum(map(len, sent)) / len(sent) / 1e6
    endless = itertools.cycle(sent)
    with tempfile.TemporaryDirectory() as scratch:
        with servers(folder, Path(scratch)) as ports:
            for port in ports.values():
                latencies(port, endless, 5)
            one = {name: [] for name in ports}
            many = {name: [] for name in ports}
            for _ in range(repeat):
                for name, port in ports.items():
                    one[name] += latencies(port, endless, 10)
            for _ in range(max(1, repeat // 2)):
                for name, port in ports.items():
                    many[name].append(throughput(port, sent, 5))
        spans = json.loads((Path(scratch) / "spans").read_text())

    latency = {name: median([end - start for start, end in times]) for name, times in one.items()}
    rate = {name: median(rates) for name, rates in many.items()}
    work = [span for span in spans if span[0] != "host"]
    overhead, without_host = (median(outside(one[OURS], found)) for found in (work, spans))
    first = next(iter(WRAPPERS))
    rows = [
        {
            "": name,
            "one client, median": f"{latency[name]:.3f} s",
            "of the websocket wrapper's": f"{latency[name] / latency[first]:.2f}",
            f"{CLIENTS} clients": f"{rate[name]:.1f} requests/s",
            "times the websocket wrapper's": f"{rate[name] / rate[first]:.2f}",
        }
        for name in ports
    ]
    facts = machine(folder)
    print(facts)
    print(f"a request has {size:.2f} MB; {10 * repeat} requests of one client, {max(1, repeat // 2)} runs of {CLIENTS}")
    report(
        "server",
        rows,
        machine=facts,
        latency_s=latency,
        requests_per_s=rate,
        request_mb=size,
        overhead_s=overhead,
        overhead_without_executor_s=without_host,
    )
    print(
        f"\nours, not spent in nodes or image codecs: {1000 * overhead:.1f} ms at the median, "
        f"{1000 * without_host:.1f} ms without ComfyUI's executor"
    )
    steps = {}
    for kind, name, begin, finish in spans:
        if any(start <= begin <= end for start, end in one[OURS]):
            steps.setdefault(f"{kind} {name}", []).append(finish - begin)
    for name, seconds in steps.items():
        print(f"  {name:28}{1000 * median(seconds):7.1f} ms")


if __name__ == "__main__":
    main()
