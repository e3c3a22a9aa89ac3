"""A real Prometheus with this project's alert rules, which scrapes one server."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from .servers import ROOT, free_port

MONITORING = ROOT / "deploy/monitoring"
NONE_HERE = "NO PROMETHEUS HERE: apt-get install prometheus"


def tool(name: str) -> str:
    """Returns the path of promtool or prometheus, or skips the test."""
    return shutil.which(name) or pytest.skip(NONE_HERE)


class Prometheus:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as reply:
            return (await reply.json())["data"]

    async def value(self, expression: str) -> float | None:
        """Returns the value of the first series that an expression gives, or None if there is none."""
        result = (await self.get("query", query=expression))["result"]
        return float(result[0]["value"][1]) if result else None

    async def alerts(self) -> set[str]:
        """Returns the names of the alerts that are pending or fire."""
        return {alert["labels"]["alertname"] for alert in (await self.get("alerts"))["alerts"]}


@contextlib.asynccontextmanager
async def running(target: str, folder: Path, key: str) -> AsyncIterator[Prometheus]:
    """Starts a Prometheus that asks `target`, HOST:PORT, with a key, as often as it can."""
    port = free_port()
    scrape = {"job_name": "tryon", "static_configs": [{"targets": [target]}], "authorization": {"credentials": key}}
    settings = {
        "global": {"scrape_interval": "100ms", "evaluation_interval": "100ms"},
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(f"http://127.0.0.1:{port}", session)
    finally:
        process.kill()
        await process.wait()


def expressions() -> dict[str, str]:
    """Returns the expressions of the dashboard for all workers, by the titles and places of their panels."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$instance", ".*")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
