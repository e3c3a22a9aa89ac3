"""What the code keeps to: who may import whom, how long a module is, one name for one thing, types and style."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from support.servers import ROOT

PACK = ROOT / "custom_nodes/comfyui_tryon"
# From the top down; a module may import from rows below its own, and from its own folder.
LAYERS = [
    ["", "__main__", "check"],
    ["launch", "needs", "standalone"],
    ["server"],
    ["lifecycle"],
    ["api"],
    ["tryon"],
    ["delivery", "fields"],
    ["pending", "failures", "templates"],
    ["workflows"],
    ["nodes"],
    ["fashn"],
    ["engine", "catvton", "masker", "dwpose", "weights"],
    ["framing", "resampling", "seeds"],
    ["demo"],
    ["decoding", "outbound"],
    ["parsing", "reply_models"],
    ["exchange", "images", "schema", "metrics"],
    ["datauri"],
    ["errors", "hints", "settings", "imagefiles"],
    ["cpus", "guard", "hosts", "keys", "log", "origins", "signing", "version"],
]
RANK = {name: row for row, names in enumerate(LAYERS) for name in names}
LONGEST = 300
NETWORKS = {"masker/densepose.py"}  # one subject that would not get clearer in two files
TWICE = {
    "CheckpointError": "catvton/ and masker/ know nothing of each other",
    "ATTENTION_FOLDERS": "weights/ and the download stage do without torch; tests/tools pins them to each other",
}


def modules() -> dict[str, Path]:
    """The pack's modules by dotted name, a package by its own."""
    found = {}
    for path in sorted(PACK.rglob("*.py")):
        parts = path.relative_to(PACK).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path) -> set[str]:
    """The pack's modules that a module imports, wherever in it."""
    known, found = modules(), set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            found.add(whole if whole in known else ".".join(base))
    return found - {name}


def layer(name: str) -> str:
    return name.split(".")[0]


def test_nothing_imports_upwards():
    upwards = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imported(name, path)
        if layer(name) != layer(other) and RANK[layer(other)] <= RANK[layer(name)]
    ]
    assert not upwards


def test_no_module_imports_itself_in_a_circle():
    edges = {name: imported(name, path) for name, path in modules().items()}
    # A package's own name stands for its __init__, which every import of a module in it runs first anyway.
    done: set[str] = set()
    circles = []

    def visit(name: str, above: list[str]) -> None:
        if name in above:
            circles.append([*above[above.index(name) :], name])
        elif name not in done:
            for other in edges.get(name, ()):
                visit(other, [*above, name])
            done.add(name)

    for name in edges:
        visit(name, [])
    assert not circles


def test_models_know_nothing_of_http_or_comfyui():
    foreign = {"aiohttp", "server", "comfy", "execution", "folder_paths", "nodes", "pydantic"}
    for folder in ("catvton", "dwpose", "fashn", "masker"):
        for path in (PACK / folder).rglob("*.py"):
            assert not imports(path) & foreign, path


def test_http_code_knows_nothing_of_tensors():
    for path in (PACK / "api").rglob("*.py"):
        assert not imports(path) & {"torch", "numpy", "PIL"}, path


def test_comfyui_is_met_in_one_place():
    hosts = {"comfy", "execution", "nodes", "server"}
    meeting = {path.relative_to(PACK).as_posix() for path in PACK.rglob("*.py") if imports(path) & hosts}
    # __init__ finds the application to join, check reads ComfyUI's own options in a process of its own
    assert meeting == {"__init__.py", "engine/comfyui.py", "check.py"}


def imports(path: Path) -> set[str]:
    """The top-level names of what a module imports from outside the pack."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


def test_modules_are_short():
    long = {path.relative_to(PACK).as_posix() for path in PACK.rglob("*.py") if length(path) > LONGEST}
    assert long == NETWORKS


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_public_names_mean_one_thing():
    """No class and no constant of the pack has the name of another one, unless it is imported from there."""
    homes = defaultdict(set)
    for name, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(name)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name) and target.id.isupper():
                        homes[target.id].add(name)
    twice = {
        name: sorted(places) for name, places in homes.items() if len(places) > 1 and name[0] != "_" and len(name) > 1
    }
    assert twice.keys() == TWICE.keys(), twice


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["mypy"]])
def test_linters_find_nothing(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
