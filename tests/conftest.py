import json
import re
import shutil
from collections.abc import Callable, Generator, Iterator

import pytest
from comfyui_tryon import cpus
from comfyui_tryon.demo import SAMPLES, checkpoint
from comfyui_tryon.engine import install
from comfyui_tryon.engine.embedded import EmbeddedEngine
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS
from comfyui_tryon.settings import Settings, settings
from drawing import Pair, draw_pair
from support import tiny_diffusion
from support.faults import add_faults
from support.images import small_request
from support.servers import (
    DEMO_MODELS,
    EMBEDDED,
    FOLDERS,
    NONE_FOUND,
    ROOT,
    Server,
    comfyui_version,
    engines,
    probe_server,
)

# Start servers of their own, so that they need not wait for those that the tests of an engine share.
OWN_SERVERS = tuple(f"tests/servers/test_{name}.py" for name in ("ends", "fail_closed", "locked", "pack"))

install(EmbeddedEngine(NODE_CLASS_MAPPINGS))  # for the tests that call nodes in this process


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last_on_its_server: ends or breaks the server that other tests share")
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers start after this process
        checkpoint.write(DEMO_MODELS)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Keeps the tests of an engine together, which share its servers, and puts those last that end one."""
    yield  # pytest sorts too, by parameters
    groups = {item: group(item.nodeid) for item in items}
    order = {name: number for number, name in enumerate(sorted(dict.fromkeys(groups.values()), key=_rank))}
    items.sort(key=lambda item: (order[groups[item]], _is_last(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two, for -n auto: with their servers they keep two cores busy. On one core none."""
    return 2 if cpus.available() > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> object:
    """Gives each group to one worker, in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # --dist loadgroup of xdist 3.8 has no effect with pytest 9.2
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False  # the collection has its order already
    return Groups(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escapes in what a test printed and logged what has no UTF-8: pytest-xdist's workers could not send it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def group(test: str) -> str:
    """The engine whose shared servers a test needs, or else its file."""
    file = test.partition("::")[0]
    if file.startswith(OWN_SERVERS):
        return file
    found = re.search(r"[\[\-](embedded|comfyui(-[\d.]+)?)[\]\-]", test)
    return found[1] if found else file


def _rank(name: str) -> int:
    """The quickest tests come first, and after them what takes long, so that two workers end at about the same time."""
    if name.startswith("tests/api/"):
        return 0
    if not name.endswith(".py"):
        return 1
    if name.startswith("tests/servers/"):
        return 2
    return 3 if name.startswith("tests/models/") else 4


def _is_last(item: pytest.Item) -> bool:
    return item.get_closest_marker("last_on_its_server") is not None


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
    environment = {"TRYON_WORKFLOWS_DIR": str(workflows), "TRYON_PLAYGROUND": "1"}
    paths = () if engine == EMBEDDED else (tiny_diffusion.write(folder / "models"),)
    with probe_server(engine, folder, environment, paths=paths) as running_server:
        running_server.workflows = workflows
        yield running_server


@pytest.fixture(scope="module")
def worker(server) -> Iterator[Server]:
    """The server with a workflow for each fault of the probe's node."""
    written = add_faults(server.workflows)
    yield server
    for path in written:
        path.unlink()


PAGE_SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}


@pytest.fixture(scope="session")
def dev(engine, tmp_path_factory) -> Iterator[Server]:
    """A ComfyUI with its web page in --dev, the probe's nodes and folders of its own."""
    if engine == EMBEDDED:
        pytest.skip("the embedded engine has no page")
    folder = tmp_path_factory.mktemp("dev")
    for name in ("user/default", "output", "temp"):
        (folder / name).mkdir(parents=True)
    (folder / "user/default/comfy.settings.json").write_text(json.dumps(PAGE_SETTINGS))
    shutil.copytree(SAMPLES, folder / "input")
    shutil.copytree(ROOT / "workflows", folder / "workflows")
    options = [f"--{name}-directory={folder / name}" for name in ("user", "input", "output", "temp")]
    options.append(f"--database-url=sqlite:///{folder}/user/comfyui.db")
    environment = {"TRYON_WORKFLOWS_DIR": str(folder / "workflows")}
    with probe_server(engine, folder, environment, "--dev", arguments=options) as running_server:
        running_server.folder = folder
        running_server.workflows = folder / "workflows"
        yield running_server


@pytest.fixture(scope="session")
def pair() -> Pair:
    return draw_pair(3, 192, 256)


@pytest.fixture
def read_settings(monkeypatch) -> Iterator[Callable[..., Settings]]:
    """Sets the given variables, if any, and reads the settings; after the test they are read again."""

    def read(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        return settings()

    yield read
    settings.cache_clear()


@pytest.fixture
def fields(pair) -> dict:
    """A small request that succeeds."""
    return small_request(pair)
