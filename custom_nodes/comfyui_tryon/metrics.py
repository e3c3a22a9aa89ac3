"""What GET /metrics counts."""

import platform
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from .errors import STATUS
from .version import VERSION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)

registry = CollectorRegistry()
ProcessCollector(registry=registry)  # memory, processor time, open files; only on Linux
_build = Info("tryon_build", "The version of this project, the engine and Python.", registry=registry)
requests = Counter(
    "tryon_requests", "Try-on requests answered, by outcome: ok or the error's code.", ["outcome"], registry=registry
)
callers = Counter(
    "tryon_caller_requests",
    "Try-on requests answered, by the name of the caller's key and by outcome.",
    ["caller", "outcome"],
    registry=registry,
)
durations = Histogram(
    "tryon_request_duration_seconds",
    "How long a try-on request took from its head to its answer, failures too, by the HTTP status of its outcome.",
    ["status"],
    buckets=SECONDS,
    registry=registry,
)
stages = Histogram(
    "tryon_stage_seconds",
    "How long a stage took: receive and upload of all requests; fetch, decode, queue, execute, encode and total of "
    "those that were answered with images.",
    ["stage"],
    buckets=SECONDS,
    registry=registry,
)
pictures = Counter("tryon_pictures", "Pictures returned.", registry=registry)
model_load = Histogram(
    "tryon_model_load_seconds", "How long a model took to read.", ["model"], buckets=SECONDS, registry=registry
)
executor_restarts = Counter(
    "tryon_executor_restarts", "Executor threads replaced because a node ended them.", registry=registry
)
webhooks = Counter(
    "tryon_webhook_deliveries",
    "Webhooks that are done with, by outcome: ok, gone (410), failed (given up) or lost with the worker.",
    ["outcome"],
    registry=registry,
)
_gauges = {
    name: Gauge(f"tryon_{name}", text, registry=registry)
    for name, text in {
        "ready": "1 if a request would be answered now, 0 while starting or draining and after a failure.",
        "failed": "1 if this process can make no images any more and must be replaced.",
        "queue_depth": "Requests waiting or running.",
        "requests_waiting": "Requests that are prepared or wait for their turn.",
        "requests_running": "Requests whose graph is executed.",
        "webhooks_pending": "Webhooks promised and not delivered yet.",
        "workflows_refused": "Workflow files that are refused in their present state; a last good version may serve.",
        "gpu_memory_bytes": "Memory of the GPU in use by this process.",
        "gpu_memory_total_bytes": "Memory that the GPU has.",
    }.items()
}
# A series that appears with its first event has no increase then, and no alert sees that event.
for _outcome in ("ok", *STATUS):
    requests.labels(_outcome)
for _outcome in ("ok", "gone", "failed", "lost"):
    webhooks.labels(_outcome)
for _stage in ("receive", "fetch", "decode", "queue", "execute", "encode", "total", "upload"):
    stages.labels(_stage)


def watch(engine: str, **gauges: Callable[[], float]) -> None:
    """Names the engine, and says where the gauges, by their names without `tryon_`, read their values when asked."""
    _build.info({"version": VERSION, "engine": engine, "python": platform.python_version()})
    for name, value in gauges.items():
        _gauges[name].set_function(value)


def count(outcome: str, caller: str, seconds: float) -> None:
    """Counts an answered try-on request, with images (ok) or an error's code, that took so long.

    `caller` is a name from the settings, or empty.
    """
    requests.labels(outcome).inc()
    durations.labels(200 if outcome == "ok" else STATUS[outcome]).observe(seconds)
    if caller:
        callers.labels(caller, outcome).inc()


def observe(seconds: Mapping[str, float], picture_count: int) -> None:
    """Notes how long each stage of a request that was answered took."""
    pictures.inc(picture_count)
    for stage, value in seconds.items():
        stages.labels(stage).observe(value)


def text() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(registry)
