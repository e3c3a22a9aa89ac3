"""Everything at once: python tests/chaos.py [--minutes 10] [--engine comfyui|embedded] [--seed N] [--requests N].

Clients send what honest clients send and what nobody should, at random by a seed that is printed: invalid bodies,
bombs, nodes that misbehave, hang-ups, retries, cancellations, slow senders and readers, other paths. The server gets
SIGTERM twice in the middle of it and is started again. What must not happen is counted; exit 1 if any of it did.

With --requests nothing is random: so many requests, a third of them faulty, and what the server holds meanwhile.
"""

import argparse
import collections
import concurrent.futures
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("custom_nodes", "tests", "training")]

import httpx  # noqa: E402
import numpy as np  # noqa: E402
from servers.test_node_faults import CODES, NODES  # noqa: E402
from support.chaos import VERDICTS, Client, Ledger, Life, Requests  # noqa: E402
from support.faults import write_workflows  # noqa: E402
from support.servers import EMBEDDED, FOLDERS, ROOT, Server, comfyui_version, probe_server  # noqa: E402
from support.watching import MemoryPeak, Pings, Resources, resources  # noqa: E402

CLIENTS = 10
DECODE_MB = 1000
LIVES = 3
EXIT_S = 60
QUIET_S = 90
REST_S = 15  # after it what the first requests have freed is the system's again
SETTLED_REQUESTS = 100
AT_ONCE = 4
# Limits of what is judged; the peak is over the start, without the budget.
PEAK_MB = 2500
PING_P99_MS = 50
GROWN_MB = 150
GROWN_THREADS = 8
CHILDREN = 6


class Chaos:
    """A server that is attacked in several lives, and what came of it."""

    def __init__(self, engine: str, seed: int, folder: Path) -> None:
        self._engine, self._seed, self._folder = engine, seed, folder
        self._ledger = Ledger()
        self._requests = Requests(CODES)
        self._life: Life | None = None
        self._rows: list[tuple[str, str, str, bool]] = []
        self._seconds: list[float] = []
        self._statuses: collections.Counter = collections.Counter()

    def run(self, seconds: float) -> bool:
        for number in range(1, LIVES + 1):
            self._live(number, seconds / LIVES, ends_under_load=number < LIVES)
        ping_ms = [1000 * value for value in np.quantile(self._seconds, (0.5, 0.99, 1))]
        figures = "p50 {:.1f}, p99 {:.1f}, max {:.1f} ms".format(*ping_ms)
        self._judge("/ping", f"{figures} of {len(self._seconds)}", f"p99 < {PING_P99_MS} ms", ping_ms[1] < PING_P99_MS)
        healthy = set(self._statuses) == {"200"}
        self._judge("/ping outside of a drain", str(dict(self._statuses)), "always 200", healthy)
        for verdict in VERDICTS:
            found = self._ledger.wrong[verdict]
            self._judge(verdict, str(len(found)), "0", not found)
        return self._report()

    def _live(self, number: int, seconds: float, ends_under_load: bool) -> None:
        """Starts a server, attacks it, looks at what it holds once it is quiet, and ends it, perhaps in the middle."""
        folder = self._folder / f"life-{number}"
        folder.mkdir()
        with served(self._engine, folder) as server:
            settle(server, self._requests)
            time.sleep(REST_S)
            start, until = resources(server.process.pid), float("inf")
            self._life = life = Life(port_of(server), threading.Event(), threading.Event())
            pings = Pings(port_of(server), folder / "pings")
            with pings, MemoryPeak(server.process.pid) as memory:
                self._attack(seconds * (0.7 if ends_under_load else 1), number)
                self._compare(number, start, quiet(server, start))
                if ends_under_load:
                    until = self._end_under_load(server, life, seconds * 0.3, number)
            statuses, spent = pings.answers(until)
            self._statuses += statuses
            self._seconds += spent
            limit = start.memory + (DECODE_MB + PEAK_MB) * 1e6
            figures = f"{start.memory / 1e6:.0f} MB at the start, {memory.peak / 1e6:.0f} MB at the peak"
            allowed = f"the start, the budget of {DECODE_MB} MB and {PEAK_MB} MB"
            self._judge(f"life {number}: memory", figures, allowed, memory.peak < limit)

    def _end_under_load(self, server: Server, life: Life, seconds: float, number: int) -> float:
        """Sends SIGTERM in the middle of an attack; returns when."""
        clients, stop = self._clients(f"{number}b")
        time.sleep(seconds)
        sent = time.time()
        life.ending.set()
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(EXIT_S)
        life.over.set()
        end_all(clients, stop)
        self._judge(f"life {number}: exit status after SIGTERM", str(status), "0", status == 0)
        return sent

    def _clients(self, name: str) -> tuple[list[Client], threading.Event]:
        stop = threading.Event()
        seeds = [f"{self._seed} {name} {index}" for index in range(CLIENTS)]
        clients = [Client(seed, lambda: self._life, self._ledger, self._requests, stop) for seed in seeds]
        for client in clients:
            client.start()
        return clients, stop

    def _attack(self, seconds: float, number: int) -> None:
        clients, stop = self._clients(f"{number}a")
        time.sleep(seconds)
        end_all(clients, stop)

    def _compare(self, number: int, start: Resources, end: Resources) -> None:
        grown = (end.memory - start.memory) / 1e6
        name = f"life {number}, quiet again"
        self._judge(f"{name}: memory", f"{grown:+.0f} MB", f"at most {GROWN_MB} MB more", grown < GROWN_MB)
        own = [one.descriptors - 2 * one.children for one in (start, end)]
        self._judge(f"{name}: descriptors", f"{own[0]}, then {own[1]}", "no more", own[1] <= own[0])
        threads = f"{start.threads}, then {end.threads}"
        most = start.threads + GROWN_THREADS
        self._judge(f"{name}: threads", threads, f"at most {GROWN_THREADS} more", end.threads <= most)
        children = f"{start.children}, then {end.children}"
        self._judge(f"{name}: processes", children, f"at most {CHILDREN}", end.children <= CHILDREN)

    def _judge(self, what: str, found: str, allowed: str, good: bool) -> None:
        self._rows.append((what, found, allowed, good))
        print(f"{'ok ' if good else 'BAD'} {what}: {found}", flush=True)

    def _report(self) -> bool:
        print(f"\n{self._ledger.sent.total()} things done:")
        for name, count in sorted(self._ledger.answers.items()):
            print(f"  {name:50} {count:7}")
        for verdict, found in self._ledger.wrong.items():
            for what, count in collections.Counter(found).most_common(20):
                print(f"BAD {verdict}: {count} times {what}")
        print("\n| What | Found | Allowed |\n|---|---|---|")
        for what, found, allowed, _ in self._rows:
            print(f"| {what} | {found} | {allowed} |")
        return all(good for *_, good in self._rows)


def served(engine: str, folder: Path):
    """A locked demo server with workflows of all faults, and little memory for decoding."""
    workflows = folder / "workflows"
    workflows.mkdir()
    shutil.copy(ROOT / "workflows/demo.json", workflows)
    write_workflows(workflows, NODES)
    environment = {"TRYON_WORKFLOWS_DIR": str(folder / "workflows"), "TRYON_WORKFLOW": "demo"}
    return probe_server(engine, folder, environment | {"TRYON_DECODE_MB": str(DECODE_MB)})


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def settle(server: Server, requests: Requests) -> None:
    """Sends requests of all kinds, so that pools and caches are what they stay."""
    send_all(server, requests, range(SETTLED_REQUESTS))


def send_all(server: Server, requests: Requests, numbers: Iterable[int]) -> collections.Counter:
    """Sends requests of a fixed order, a few at a time; returns how often there was which status."""
    with server.client() as client, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return collections.Counter(pool.map(lambda number: send_one(client, requests, number), numbers))


def send_one(client: httpx.Client, requests: Requests, number: int) -> int:
    """Sends request number `number` of a fixed order, every third of which is faulty; returns the status."""
    if number % 6 == 1:
        invalid = [*requests.invalid.values()][number // 6 % len(requests.invalid)]
        headers = {"Content-Type": invalid.content_type} | invalid.headers
        return client.post("/api/v1/tryon", content=invalid.body, headers=headers).status_code
    name = [*requests.faults][number // 6 % len(requests.faults)] if number % 6 == 4 else "none"
    person = requests.people[number % len(requests.people)]
    fields = {"person_image": person, "garment_image": person, "workflow": name}
    return client.post("/api/v1/tryon", json=fields).status_code


def quiet(server: Server, start: Resources) -> Resources:
    """Waits until the server holds what it held at the start; returns what it holds, at the latest after a while."""
    deadline = time.monotonic() + QUIET_S
    while True:
        held = resources(server.process.pid)
        settled = held.descriptors - 2 * held.children <= start.descriptors - 2 * start.children
        if settled and held.memory - start.memory < GROWN_MB * 1e6 or time.monotonic() > deadline:
            return held
        time.sleep(0.5)


def end_all(clients: Sequence[Client], stop: threading.Event) -> None:
    stop.set()
    for client in clients:
        client.join(240)


def many(engine: str, count: int, folder: Path) -> bool:
    """Sends `count` requests, a third of them faulty, and prints what the server holds after each tenth."""
    folder.mkdir()
    requests, statuses = Requests(CODES), collections.Counter()
    with served(engine, folder) as server:
        print("| Requests | Memory, MB | Descriptors | Threads | Processes |\n|---|---|---|---|---|")

        def look(when: str) -> Resources:
            held = resources(server.process.pid)
            print(
                f"| {when} | {held.memory / 1e6:.0f} | {held.descriptors} | {held.threads} | {held.children} |",
                flush=True,
            )
            return held

        seen, sent = [], 0
        for upto in sorted({SETTLED_REQUESTS, *range(0, count + 1, max(1, count // 10))}):
            statuses += send_all(server, requests, range(sent, upto))
            sent = upto
            held = look(str(sent))
            if sent >= SETTLED_REQUESTS:
                seen.append(held)
        quiet(server, seen[0])
        time.sleep(REST_S)
        first, last = seen[0], look(f"{count}, {REST_S} s later")
    print(dict(statuses))
    return (
        last.memory - first.memory < GROWN_MB * 1e6
        and last.descriptors <= first.descriptors
        and last.threads <= first.threads + GROWN_THREADS  # pools, which start one only when all others are busy
        and last.children <= first.children
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--engine", choices=["comfyui", EMBEDDED], default="comfyui" if FOLDERS else EMBEDDED)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--requests", type=int, default=0)
    options = parser.parse_args()
    if options.engine == "comfyui" and not FOLDERS:
        sys.exit("There is no ComfyUI here: set COMFYUI_DIR.")
    engine = EMBEDDED if options.engine == EMBEDDED else str(FOLDERS[0])
    shown = engine if engine == EMBEDDED else f"ComfyUI {comfyui_version(FOLDERS[0])}"
    print(f"seed {options.seed}, {shown}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"logs in {folder}", flush=True)
    if options.requests:
        sys.exit(not many(engine, options.requests, folder / "many"))
    sys.exit(not Chaos(engine, options.seed, folder).run(60 * options.minutes))


if __name__ == "__main__":
    main()
