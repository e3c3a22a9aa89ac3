"""The templates of ComfyUI's page are the graphs of workflows/, and stand where ComfyUI looks for them."""

import json
from itertools import combinations
from math import hypot
from pathlib import Path

import pytest
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS
from comfyui_tryon.settings import TEMPLATES
from comfyui_tryon.workflows.format import to_prompt
from support.servers import ROOT
from templates import PACK, TWICE

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
VIEW = (1536, 770)  # pixels of a graph in a window of 1600 x 1000
SMALLEST = 0.6  # ComfyUI writes no text into nodes at a smaller scale
TITLE = 30  # pixels above a node's place
SPACE = 40  # pixels: room for a link to pass between two nodes
AGAIN = "run python tests/templates.py"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_template_is_the_graph_of_its_workflow(path):
    template, workflow = (prompt(folder / path.name) for folder in (TEMPLATES, path.parent))
    assert template == workflow, AGAIN


def prompt(path: Path) -> dict[str, dict]:
    """Returns a file's prompt with the defaults of the inputs that it leaves out, which the page fills in."""
    found = to_prompt(json.loads(path.read_text()), NODE_CLASS_MAPPINGS)
    for entry in found.values():
        optional = NODE_CLASS_MAPPINGS[entry["class_type"]].INPUT_TYPES().get("optional", {})
        for name, (declared, options) in optional.items():
            default = options.get("default", declared[0] if isinstance(declared, list) else None)
            if default is not None:
                entry["inputs"].setdefault(name, default)
    return found


def test_each_workflow_has_a_template_and_an_image_of_its_own():
    names = {path.stem for path in WORKFLOWS}
    assert {path.stem for path in TEMPLATES.glob("*.json")} == {path.stem for path in TEMPLATES.glob("*.jpg")} == names
    assert len({path.read_bytes() for path in TEMPLATES.glob("*.jpg")}) == len(names), "two templates share an image"


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.json")), ids=lambda path: path.stem)
def test_no_node_of_a_template_touches_another(path):
    for one, other in combinations(json.loads(path.read_text())["nodes"], 2):
        apart = any(
            first["pos"][axis] + first["size"][axis] + SPACE <= second["pos"][axis]
            for axis in (0, 1)
            for first, second in ((one, other), (other, one))
        )
        assert apart, (one["title"], other["title"])


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.json")), ids=lambda path: path.stem)
def test_a_template_opens_with_all_of_its_nodes_in_view_and_readable(path):
    template = json.loads(path.read_text())
    scale, offset = template["extra"]["ds"]["scale"], template["extra"]["ds"]["offset"]
    assert scale >= SMALLEST
    for node in template["nodes"]:
        for axis, title in ((0, 0), (1, TITLE)):
            start = (node["pos"][axis] - title + offset[axis]) * scale
            end = (node["pos"][axis] + node["size"][axis] + offset[axis]) * scale
            assert 0 <= start and end <= VIEW[axis], node["title"]


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.json")), ids=lambda path: path.stem)
def test_no_link_of_a_template_passes_behind_a_node(path):
    template = json.loads(path.read_text())
    nodes = {node["id"]: node for node in template["nodes"]}
    for _, origin, output, target, place, _ in template["links"]:
        x, y = slot(nodes[origin], output, nodes[origin]["size"][0])
        # Sockets are listed before widgets, and those that widgets have are not counted.
        sockets = [index for index, entry in enumerate(nodes[target]["inputs"]) if "widget" not in entry]
        right, low = slot(nodes[target], sockets.index(place), 0)
        reach = hypot(right - x, low - y) / 4
        for step in range(1, 50):
            t = step / 50
            parts = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            at = (
                sum(part * value for part, value in zip(parts, (x, x + reach, right - reach, right), strict=True)),
                sum(part * value for part, value in zip(parts, (y, y, low, low), strict=True)),
            )
            for other in set(nodes) - {origin, target}:
                node = nodes[other]
                inside = (node["pos"][axis] - (TITLE if axis else 0) <= at[axis] for axis in (0, 1))
                before = (at[axis] <= node["pos"][axis] + node["size"][axis] for axis in (0, 1))
                assert not (all(inside) and all(before)), (nodes[origin]["title"], node["title"])


def slot(node: dict, place: int, x: int) -> tuple[float, float]:
    """Returns where ComfyUI draws a slot."""
    return node["pos"][0] + x, node["pos"][1] + 14 + 20 * place


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.json")), ids=lambda path: path.stem)
def test_a_template_opens_as_a_form_of_its_images(path):
    template = json.loads(path.read_text())
    nodes = {node["id"]: node for node in template["nodes"]}
    form = template["extra"]["linearData"]
    assert template["extra"]["linearMode"] is True
    shown = [(nodes[node]["type"], widget) for node, widget in form["inputs"]]
    assert shown[:2] == [("TryOnPersonImage", "image"), ("TryOnGarmentImage", "image")]
    assert [nodes[node]["type"] for node in form["outputs"]] == ["TryOnOutput"]


@pytest.mark.parametrize("name", TWICE)
def test_the_root_has_what_comfyui_looks_for(name):
    assert contents(ROOT / name) == contents(PACK / name), AGAIN


def contents(path: Path) -> dict[str, bytes]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files if file.is_file()}


def test_translations_name_nodes_and_inputs_that_there_are():
    for path in sorted((PACK / "locales").glob("*/nodeDefs.json")):
        for name, words in json.loads(path.read_text()).items():
            declared = NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
            assert words.get("inputs", {}).keys() == {**declared["required"], **declared.get("optional", {})}.keys(), (
                name
            )
            outputs = {str(index) for index in range(len(NODE_CLASS_MAPPINGS[name].RETURN_TYPES))}
            assert words.get("outputs", {}).keys() <= outputs, name


def test_each_node_has_a_help_page_that_names_it():
    pages = {path.stem: path.read_text() for path in (PACK / "web/docs").glob("*.md")}
    assert pages.keys() == NODE_CLASS_MAPPINGS.keys()
    for name, page in pages.items():
        title = page.splitlines()[0].removeprefix("# ")
        assert title in (name, NODE_CLASS_MAPPINGS[name].DISPLAY_NAME)
