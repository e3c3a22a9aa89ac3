import shutil
from collections.abc import Iterator

import pytest
from comfyui_tryon.engine import install
from comfyui_tryon.engine.embedded import EmbeddedEngine
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS
from drawing import Pair, draw_pair
from support.images import to_base64
from support.servers import FOLDERS, NONE_FOUND, ROOT, Server, comfyui_version, engines, probe_server

install(EmbeddedEngine(NODE_CLASS_MAPPINGS))  # for the tests that call nodes in this process


def pytest_report_header() -> str:
    if not FOLDERS:
        return NONE_FOUND
    return (
        "ComfyUI "
        + ", ".join(f"{comfyui_version(folder)} ({folder})" for folder in FOLDERS)
        + " and the embedded engine"
    )


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.write_line(pytest_report_header(), bold=True, red=not FOLDERS)


@pytest.fixture(scope="session", params=engines())
def engine(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def server(engine, tmp_path_factory) -> Iterator[Server]:
    """A locked-down demo server on each engine, with the probe's nodes and a workflow folder of its own."""
    folder = tmp_path_factory.mktemp("server")
    workflows = folder / "workflows"
    shutil.copytree(ROOT / "workflows", workflows)
    with probe_server(engine, folder, {"TRYON_WORKFLOWS_DIR": str(workflows)}) as running_server:
        running_server.workflows = workflows
        yield running_server


@pytest.fixture(scope="session")
def pair() -> Pair:
    return draw_pair(3, 192, 256)


@pytest.fixture
def fields(pair) -> dict:
    """A small request that succeeds."""
    return {
        "person_image": to_base64(pair.person),
        "garment_image": to_base64(pair.garment),
        "num_inference_steps": 2,
        "width": 128,
        "height": 192,
        "seed": 7,
    }
