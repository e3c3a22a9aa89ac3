"""The alert rules and the dashboard, against what the server says and a real Prometheus that asks it."""

import asyncio
import json
import re
import subprocess
import time

import aiohttp
import yaml
from comfyui_tryon import metrics
from comfyui_tryon.engine.interface import NodeFailed
from support.prometheus import MONITORING, expressions, running, tool
from support.servers import ROOT

RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
OF_PROMETHEUS = {"up"}


def named(expression: str) -> set[str]:
    """The metrics in an expression."""
    return set(re.findall(r"\b(?:tryon|process)_\w+|\bup\b", expression))


def known() -> set[str]:
    metrics.model_load.labels("any")
    metrics.stages.labels("any")
    metrics.count("ok", "somebody", 1)
    return OF_PROMETHEUS | set(re.findall(r"^(\w+)", metrics.text().decode(), re.MULTILINE))


def test_alerts_and_dashboard_ask_for_metrics_that_exist():
    asked = {name: named(expression) for name, expression in expressions().items()}
    asked |= {rule["alert"]: named(rule["expr"]) for rule in RULES}
    assert all(asked.values())
    assert {name: unknown for name, found in asked.items() if (unknown := found - known())} == {}


def test_alerts_and_the_configuration_pass_prometheus_own_tests():
    for command in (["check", "config", "prometheus.yaml"], ["test", "rules", "alerts_test.yaml"]):
        result = subprocess.run([tool("promtool"), *command], cwd=MONITORING, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tried_and_has_its_section_in_the_runbook():
    tried = (MONITORING / "alerts_test.yaml").read_text()
    sections = re.findall(r"^### (\w+)$", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE)
    for rule in RULES:
        name = rule["alert"]
        assert f'alertname="{name}"' in tried, name
        assert rule["annotations"]["runbook_url"].endswith(f"docs/reliability.md#{name.lower()}")
        assert name in sections and rule["labels"]["severity"] in ("page", "ticket"), name
    assert [name for name in sections if name.startswith("Tryon")] == [rule["alert"] for rule in RULES]


def test_the_dashboard_has_what_grafana_needs():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    places = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + 7)}
        assert place["x"] + place["w"] <= 24 and place["h"] == 7 and not cells & places, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "instance"}


def test_a_prometheus_operator_takes_the_alerts_by_the_documented_command():
    page = (ROOT / "docs/deployment.md").read_text()
    command = re.search(r"^(\{ cat deploy/monitoring/.*\}) \| kubectl apply -f -$", page, re.MULTILINE)[1]
    made = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rule = yaml.safe_load(made)
    assert rule["kind"] == "PrometheusRule" and rule["spec"]["groups"][0]["rules"] == RULES


async def test_a_real_prometheus_sees_requests_failures_and_a_failed_worker(api, grey, tmp_path):
    tool("prometheus")
    client = await api(locked=True, api_key="shop:k3y")
    key = {"X-API-Key": "k3y"}
    async with running(f"{client.host}:{client.port}", tmp_path, "k3y") as prometheus:

        async def until(condition) -> None:
            deadline = time.monotonic() + 60
            while True:
                try:
                    if await condition():
                        return
                except aiohttp.ClientError:  # it is still starting
                    pass
                assert time.monotonic() < deadline, await prometheus.get("alerts")
                await asyncio.sleep(0.05)

        async def is_ready() -> bool:
            return await prometheus.value("tryon_ready") == 1

        async def has_the_outcomes() -> bool:
            wanted = {"ok", "node_execution_error", "unauthorized"}
            found = await prometheus.get("query", query="increase(tryon_requests_total[1m]) > 0")
            return wanted <= {series["metric"]["outcome"] for series in found["result"]}

        async def fills_the_dashboard() -> bool:
            answers = {name: await prometheus.get("query", query=text) for name, text in expressions().items()}
            empty = {name for name, answer in answers.items() if not answer["result"]}
            return empty <= {"Time to load a model A"}  # none is loaded here

        async def has_failed() -> bool:
            return {"TryonNoWorkerReady", "TryonWorkerFailed"} <= await prometheus.alerts()

        await until(is_ready)
        assert (await client.tryon(grey, headers=key))[0] == 200
        client.engine.outcome = NodeFailed("7", "Sampler", "ValueError", "broken")
        assert await client.error(grey, headers=key) == (500, "node_execution_error")
        assert await client.error(grey) == (401, "unauthorized")
        await until(has_the_outcomes)
        client.engine.outcome = None
        assert (await client.tryon(grey, headers=key))[0] == 200
        await until(fills_the_dashboard)
        assert "TryonNoWorkerReady" not in await prometheus.alerts()
        client.engine.dead = "the executor thread has ended"
        await until(has_failed)
