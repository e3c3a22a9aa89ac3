"""How much later than ComfyUI alone the server is ready, and what importing the pack takes.

    python benchmarks/start.py [--repeat N]

From the moment that start.sh becomes ComfyUI: until ComfyUI alone answers `/`, until ours answers /ping with 204, and
with 200, its models loaded and warm (the demo's weights). The import is timed inside ComfyUI, where torch and what else
ComfyUI itself needs is there already.
"""

import argparse
import contextlib
import http.client
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import Connection, comfyui, comfyui_alone, free_port, machine, median, ours, report

TIMEOUT_S = 120


def until(condition: Callable[[], bool]) -> float:
    """When `condition` came true."""
    deadline = time.perf_counter() + TIMEOUT_S
    while not condition():
        assert time.perf_counter() < deadline, "it did not come about"
        time.sleep(0.005)
    return time.perf_counter()


def executed(pid: int) -> float:
    """When start.sh became ComfyUI."""
    return until(lambda: b"main.py" in Path(f"/proc/{pid}/cmdline").read_bytes())


def answered(port: int, path: str, *statuses: int) -> float:
    """When `path` was first answered with one of `statuses`."""

    def asked() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return Connection(port).get(path) in statuses
        return False

    return until(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat

    folder = comfyui()
    alone, first, ready, imports = [], [], [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as scratch:
            port = free_port()
            with comfyui_alone(folder, Path(scratch), port) as pid:
                start = executed(pid)
                alone.append(answered(port, "/", 200) - start)
            port = free_port()
            with ours(folder, Path(scratch), port) as pid:
                start = executed(pid)
                first.append(answered(port, "/ping", 200, 204) - start)
                ready.append(answered(port, "/ping", 200) - start)
            log = (Path(scratch) / f"{port}.log").read_text()
            imports.append(float(re.search(r"([\d.]+) seconds: \S+comfyui_tryon", log)[1]))

    figures = {"comfyui_s": alone, "first_answer_s": first, "ready_s": ready, "import_s": imports}
    medians = {name: median(values) for name, values in figures.items()}
    rows = [
        {"from exec until": "ComfyUI alone answers /", "median": f"{medians['comfyui_s']:.2f} s", "beyond it": ""},
        *(
            {
                "from exec until": name,
                "median": f"{medians[key]:.2f} s",
                "beyond it": f"{medians[key] - medians['comfyui_s']:+.2f} s",
            }
            for name, key in (("ours answers /ping", "first_answer_s"), ("ours is ready (200)", "ready_s"))
        ),
        {"from exec until": "of which the pack's import", "median": f"{medians['import_s']:.1f} s", "beyond it": ""},
    ]
    facts = machine(folder)
    print(facts, f"medians of {repeat} starts")
    report("start", rows, machine=facts, figures=figures, medians=medians)


if __name__ == "__main__":
    main()
