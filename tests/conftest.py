import base64
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_tryon.demo import checkpoint
from comfyui_tryon.engine import install
from comfyui_tryon.engine.embedded import EmbeddedEngine
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS
from drawing import draw_pair
from hosts import EMBEDDED, ROOT, Server, comfyui_folders, comfyui_version, running
from PIL import Image

DEMO_MODELS = ROOT / ".demo/models"
SHARED = ROOT.parent / "shared"
FOLDERS = comfyui_folders()
install(EmbeddedEngine(NODE_CLASS_MAPPINGS))  # for the tests that call nodes in this process
NONE_FOUND = (
    "NO COMFYUI HERE: every test of it is skipped, the embedded engine alone is tested. "
    "Set COMFYUI_DIR or put one into ~/comfy/ComfyUI."
)


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


def engines() -> list:
    """The embedded engine and every ComfyUI at hand, as parameters."""
    found = [pytest.param(str(folder), id=f"comfyui-{comfyui_version(folder)}") for folder in FOLDERS]
    none = pytest.param("", id="comfyui", marks=pytest.mark.skip(reason=NONE_FOUND))
    return [pytest.param(EMBEDDED, id=EMBEDDED), *(found or [none])]


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


def probe_server(engine: str, folder: Path, environment: dict[str, str] = {}, mode: str = "--demo", **options):
    """A server that also has the nodes and the route of tests/probe."""
    checkpoint.write(DEMO_MODELS)
    environment = {"TRYON_MODELS_DIR": str(DEMO_MODELS), "TRYON_WORKFLOW": "demo", **environment}
    if engine == EMBEDDED:
        environment |= {"PYTHONPATH": f"{ROOT / 'custom_nodes'}:{ROOT / 'tests'}"}
        return running(
            engine, folder / "log.txt", environment, command=(sys.executable, "-u", "-m", "probe"), **options
        )
    packs = folder / "packs"
    packs.mkdir()
    (packs / "probe").symlink_to(ROOT / "tests/probe")
    paths = folder / "paths.yaml"
    paths.write_text(f"probe:\n  custom_nodes: {packs}\n")
    extra = ("--", "--extra-model-paths-config", str(paths))
    if mode != "--dev":
        extra += ("--whitelist-custom-nodes", "comfyui_tryon", "probe")
    return running(engine, folder / "log.txt", environment, mode, extra, **options)


@pytest.fixture(scope="session")
def pair():
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


def to_bytes(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def to_base64(image: Image.Image) -> str:
    return base64.b64encode(to_bytes(image)).decode()


def picture(reply, index: int = 0) -> np.ndarray:
    """The pixels of a JSON reply's picture."""
    assert reply.status_code == 200, reply.text
    return np.array(Image.open(io.BytesIO(base64.b64decode(reply.json()["output"]["images"][index]["image"]))))


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    difference = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return 10 * np.log10(255**2 / max(difference, 1e-10))
