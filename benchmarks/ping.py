"""How long /ping takes while the server is as busy as it can be.

    python benchmarks/ping.py [--seconds N]

Eight clients have 1024 x 768 images made, on the demo's weights and with the host's own number of threads, while
/ping is asked for every 50 ms. With and without that work.
"""

import argparse
import contextlib
import http.client
import tempfile
import threading
import time
from pathlib import Path

from common import Connection, bodies, comfyui, free_port, machine, median, ours, quantile, report, wait_for

CLIENTS = 8
EVERY_S = 0.05
STEPS = 10


def pings(port: int, seconds: float) -> list[float]:
    connection, times = Connection(port), []
    start = time.perf_counter()
    while (begin := time.perf_counter()) < start + seconds:
        assert connection.get("/ping") == 200
        times.append(time.perf_counter() - begin)
        time.sleep(max(0.0, EVERY_S - times[-1]))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds

    folder, port = comfyui(), free_port()
    sent = bodies(CLIENTS, width=768, height=1024, num_inference_steps=STEPS)
    answered: list[int] = []

    def client(number: int) -> None:
        connection = Connection(port)
        with contextlib.suppress(OSError, http.client.HTTPException):  # the server ends with the measurement
            while True:
                connection.post("/api/v1/tryon", sent[number])
                answered.append(number)

    with tempfile.TemporaryDirectory() as scratch, ours(folder, Path(scratch), port):
        wait_for(port, "/ping")
        times = {"idle": pings(port, min(10, seconds))}
        for number in range(CLIENTS):
            threading.Thread(target=client, args=(number,), daemon=True).start()
        time.sleep(2)
        before = len(answered)
        times[f"{CLIENTS} requests, one denoised"] = pings(port, seconds)
        made = len(answered) - before

    figures = {
        name: {"median": median(found), "p99": quantile(found, 0.99), "max": max(found), "pings": len(found)}
        for name, found in times.items()
    }
    rows = [
        {
            "/ping while": name,
            **{key: f"{1000 * found[key]:.1f} ms" for key in ("median", "p99", "max")},
            "pings": found["pings"],
        }
        for name, found in figures.items()
    ]
    facts = machine(folder)
    print(facts)
    print(f"{made} pictures were made in {seconds:g} s")
    report("ping", rows, machine=facts, seconds=seconds, pictures=made, figures=figures)


if __name__ == "__main__":
    main()
