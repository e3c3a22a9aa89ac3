"""What a server holds while it is attacked, and how soon it answers /ping."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGESIZE")
SAMPLE_S = 0.02
PING_S = 0.05


@dataclass(frozen=True)
class Resources:
    """What a process holds: resident bytes, with its children's; its own descriptors and threads; its children."""

    memory: int
    descriptors: int
    threads: int
    children: int


def resources(pid: int) -> Resources:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for task in Path(f"/proc/{pid}/task").iterdir():
        if task.name != str(pid):
            children += [int(child) for child in (task / "children").read_text().split()]
    return Resources(
        resident(pid, children),
        len(os.listdir(f"/proc/{pid}/fd")),
        len(os.listdir(f"/proc/{pid}/task")),
        len(children),
    )


def resident(pid: int, children: list[int]) -> int:
    """Resident bytes of a process and its children, each page once: decoders share their images with their parent."""
    own = _memory(pid)
    decoders = [_memory(child) for child in children]
    shared = max(own["RssShmem"], sum(decoder["RssShmem"] for decoder in decoders))
    return own["RssAnon"] + own["RssFile"] + shared + sum(decoder["RssAnon"] for decoder in decoders)


def _memory(process: int) -> Counter[str]:
    """Resident bytes by kind; none of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return Counter()
    found = (line.split() for line in lines if line.startswith("Rss"))
    return Counter({name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, *_ in found})


class MemoryPeak:
    """Watches the resident memory of a process tree while the block runs.

    Attributes:
        peak: the most bytes at one time.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryPeak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            try:
                children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
                self.peak = max(self.peak, resident(self._pid, [int(child) for child in children]))
            except OSError:
                return


PINGER = """
import http.client, json, sys, time
port, period = int(sys.argv[1]), float(sys.argv[2])
while True:
    start, when = time.perf_counter(), time.time()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/ping")
        status = connection.getresponse().status
        connection.close()
    except OSError as error:
        status = type(error).__name__
    spent = time.perf_counter() - start
    print(json.dumps([when, status, spent]), flush=True)
    time.sleep(max(0.0, period - spent))
"""


class Pings:
    """Asks for /ping, from a process of its own, while the block runs."""

    def __init__(self, port: int, path: Path) -> None:
        self._path = path
        self._command = [sys.executable, "-c", PINGER, str(port), str(PING_S)]

    def __enter__(self) -> "Pings":
        with open(self._path, "wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def answers(self, until: float) -> tuple[Counter[str], list[float]]:
        """Returns how often /ping had which status, and the seconds of each; only of those answered before `until`."""
        lines = self._path.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.endswith("]")]
        found = [entry for entry in found if entry[0] + entry[2] < until]
        return Counter(str(status) for _, status, _ in found), [spent for _, _, spent in found]
