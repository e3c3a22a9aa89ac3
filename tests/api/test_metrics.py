"""What /metrics says, in names that Prometheus' own tool accepts."""

import asyncio
import subprocess

from comfyui_tryon.engine.interface import NodeFailed
from comfyui_tryon.version import VERSION
from prometheus_client.parser import text_string_to_metric_families
from support.prometheus import tool


async def metrics(client, **headers) -> dict[tuple[str, ...], float]:
    """The samples by name and the values of their labels."""
    async with client.get("/metrics", headers=headers) as reply:
        assert reply.status == 200
        families = text_string_to_metric_families(await reply.text())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


async def test_names_and_help_texts_follow_prometheus_rules(api, grey):
    promtool = tool("promtool")
    client = await api()
    await client.tryon(grey)
    async with client.get("/metrics") as reply:
        text = await reply.read()
    result = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr


async def test_the_build_the_process_and_the_gpu_are_described(api):
    client = await api()
    found = await metrics(client)
    build = next(name for name in found if name[0] == "tryon_build_info")
    assert VERSION in build and "fake engine" in build
    assert found[("process_resident_memory_bytes",)] > 0 and found[("process_open_fds",)] > 0
    assert (found[("tryon_gpu_memory_bytes",)], found[("tryon_gpu_memory_total_bytes",)]) == (2, 3)


async def test_waiting_and_running_requests_are_told_apart(api, grey):
    client = await api()
    client.engine.holds = True
    tasks = [asyncio.create_task(client.tryon(grey)) for _ in range(3)]
    await client.until(lambda: len(client.engine.runs) == 3)
    client.engine.start(client.engine.runs[0])
    found = await metrics(client)
    names = ("tryon_requests_running", "tryon_requests_waiting", "tryon_queue_depth")
    assert [found[(name,)] for name in names] == [1, 2, 3]
    for run in client.engine.runs:
        client.engine.finish(run)
    await asyncio.gather(*tasks)
    found = await metrics(client)
    assert [found[(name,)] for name in names] == [0, 0, 0]


async def test_a_worker_says_whether_it_is_ready_or_has_failed(api):
    client = await api()
    found = await metrics(client)
    assert (found[("tryon_ready",)], found[("tryon_failed",)]) == (1, 0)
    client.engine.dead = "the executor thread has ended"
    client.parts._tryon.check_engine()
    found = await metrics(client)
    assert (found[("tryon_ready",)], found[("tryon_failed",)]) == (0, 1)


async def test_failures_are_counted_and_timed_and_so_are_refused_keys(api, grey):
    client = await api(api_key="k3y")
    key = {"X-API-Key": "k3y"}
    before = await metrics(client, **key)
    client.engine.outcome = NodeFailed("7", "Sampler", "ValueError", "broken")
    assert await client.error(grey) == (401, "unauthorized")
    assert await client.error(grey, headers=key) == (500, "node_execution_error")
    async with client.get("/api/v1/workflows") as reply:  # is no try-on request
        assert reply.status == 401
    after = await metrics(client, **key)
    for outcome, status in (("unauthorized", "401"), ("node_execution_error", "500")):
        for name in (("tryon_requests_total", outcome), ("tryon_request_duration_seconds_count", status)):
            assert after[name] - before.get(name, 0) == 1, name
        name = ("tryon_request_duration_seconds_sum", status)
        assert after[name] > before.get(name, 0)
    assert ("tryon_requests_total", "timeout") in after  # before the first one, so that it is an increase


async def test_a_workflow_that_is_refused_is_counted_until_it_is_mended(api, grey, tmp_path):
    client = await api()
    file = tmp_path / "workflows/demo.json"
    good = file.read_text()
    await client.tryon(grey)
    assert (await metrics(client))[("tryon_workflows_refused",)] == 0
    file.write_text("{")
    assert (await client.tryon(grey))[0] == 200  # the last good version
    assert (await metrics(client))[("tryon_workflows_refused",)] == 1
    file.write_text(good)
    await client.tryon(grey)
    assert (await metrics(client))[("tryon_workflows_refused",)] == 0
