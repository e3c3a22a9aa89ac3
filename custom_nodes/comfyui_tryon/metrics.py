"""What GET /metrics counts."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)

registry = CollectorRegistry()
requests = Counter(
    "tryon_requests", "Try-on requests answered, by outcome: ok or the error's code.", ["outcome"], registry=registry
)
callers = Counter(
    "tryon_caller_requests",
    "Try-on requests answered, by the name of the caller's key and by outcome.",
    ["caller", "outcome"],
    registry=registry,
)
stages = Histogram(
    "tryon_stage_seconds",
    "How long a stage of a request took: receive, fetch, decode, queue, execute, encode, total, upload.",
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
_pending = Gauge("tryon_webhooks_pending", "Webhooks promised and not delivered yet.", registry=registry)
_queue = Gauge("tryon_queue_depth", "Requests waiting or running.", registry=registry)
_memory = Gauge("tryon_gpu_memory_bytes", "Memory of the GPU in use by this process.", registry=registry)


def watch(queue_depth: Callable[[], int], gpu_memory: Callable[[], int], pending_webhooks: Callable[[], int]) -> None:
    """Says where the gauges read their values when they are asked for."""
    _queue.set_function(queue_depth)
    _memory.set_function(gpu_memory)
    _pending.set_function(pending_webhooks)


def count(outcome: str, caller: str = "") -> None:
    """Counts an answered try-on request, with images (ok) or an error's code; `caller` is a name from the settings."""
    requests.labels(outcome).inc()
    if caller:
        callers.labels(caller, outcome).inc()


def observe(seconds: Mapping[str, float], picture_count: int) -> None:
    """Notes how long each stage of a request took that was answered with images."""
    pictures.inc(picture_count)
    for stage, value in seconds.items():
        stages.labels(stage).observe(value)


def text() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(registry)
