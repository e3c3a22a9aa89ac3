"""A workflow that cannot serve says all of what is wrong with it, where its nodes come from, and what to do."""

import json
import os
from pathlib import Path

import pytest
from comfyui_tryon.engine.embedded import EmbeddedEngine
from comfyui_tryon.guard import check_packs
from comfyui_tryon.settings import Settings
from comfyui_tryon.workflows.binding import Workflow
from comfyui_tryon.workflows.format import WorkflowInvalid
from comfyui_tryon.workflows.parsing import parse_workflow
from comfyui_tryon.workflows.store import Workflows
from comfyui_tryon.workflows.unservable import unservable
from support.page_graph import CLASSES, INNER, PageGraph, base, inverting, node_class, set_get
from support.servers import ROOT

SAVER = node_class({"image": ("IMAGE",)}, ())
COMFYUI = CLASSES | {"KSampler": CLASSES["ImageInvert"]}


def parsed(graph: PageGraph | dict, classes: dict = COMFYUI) -> Workflow:
    document = graph if isinstance(graph, dict) else graph.document()
    return parse_workflow("case", json.dumps(document).encode(), classes)


def refusal(graph: PageGraph | dict, classes: dict = COMFYUI) -> str:
    with pytest.raises(WorkflowInvalid) as caught:
        parsed(graph, classes)
    return str(caught.value)


def through(kind: str, graph: PageGraph | None = None, at: int = 10, **properties: str) -> PageGraph:
    """A graph in which the person's image goes through a node of that class."""
    graph = graph or base()
    graph.node(at, kind, "image:IMAGE", "IMAGE:IMAGE", [], properties=properties)
    return graph.link(1, 0, at, "image").link(at, 0, 3, "image1")


# Nodes that are missing


def test_all_missing_nodes_are_named_at_once_with_their_packs():
    graph = base()
    kinds = [
        ("Alpha", {"cnr_id": "pack-alpha", "ver": "1.2"}),
        ("Beta", {"aux_id": "someone/pack-beta"}),
        ("Gamma", {}),
    ]
    before = 1
    for number, (kind, properties) in enumerate(kinds, 10):
        graph.node(number, kind, "image:IMAGE", "IMAGE:IMAGE", ["?"], properties=properties)
        graph.link(before, 0, number, "image")
        before = number
    graph.node(30, "Beside", "image:IMAGE", "", [], properties={"cnr_id": "pack-beside"}).link(3, 0, 30, "image")
    text = refusal(graph.link(before, 0, 3, "image1"))
    for named in ("10 (Alpha) of the pack pack-alpha", "11 (Beta) of the pack someone/pack-beta", "12 (Gamma)"):
        assert named in text
    assert "TRYON_PACKS" in text and "Beside" not in text


def test_a_class_that_many_nodes_have_is_named_once():
    graph = base().node(10, "Gone", "image:IMAGE", "IMAGE:IMAGE", []).node(11, "Gone", "image:IMAGE", "IMAGE:IMAGE", [])
    text = refusal(graph.link(1, 0, 10, "image").link(10, 0, 11, "image").link(11, 0, 3, "image1"))
    assert text.count("(Gone)") == 1


@pytest.mark.parametrize(
    ("kind", "properties"),
    [
        ("FutureNode", {"cnr_id": "comfy-core", "ver": "0.99.1"}),
        ("ImageStitch", {}),
        ("ImageStitch", {"cnr_id": "comfy-core"}),
    ],
)
def test_a_newer_comfyui_is_told_from_a_missing_pack(kind, properties):
    text = refusal(through(kind, **properties))
    assert "update ComfyUI" in text and "TRYON_PACKS" not in text and properties.get("ver", "") in text


def test_comfyui_s_nodes_where_there_is_none():
    assert "set COMFYUI_DIR" in refusal(through("ImageStitch"), CLASSES)


def test_nodes_that_call_services_are_not_a_matter_of_versions():
    text = refusal(through("OpenAIGPTImage1", cnr_id="comfy-core"))
    assert "paid services" in text and "update ComfyUI" not in text


def test_a_pack_that_has_the_name_of_a_core_node_is_a_pack():
    assert "pack someone-else" in refusal(through("ImageStitch", cnr_id="someone-else"))


def test_the_api_format_names_all_missing_nodes_too_and_ignores_those_beside_the_result():
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}, "_meta": {"title": "Target Person"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": ""}, "_meta": {"title": "Reference Garment"}},
        "3": {"class_type": "Alpha", "inputs": {"a": ["1", 0], "b": ["2", 0]}},
        "4": {"class_type": "Beta", "inputs": {"a": ["3", 0]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
        "6": {"class_type": "Beside", "inputs": {"a": ["99", 0]}},
    }
    text = refusal(prompt)
    assert "3 (Alpha)" in text and "4 (Beta)" in text and "Beside" not in text
    prompt["5"]["inputs"]["images"] = ["7", 0]
    prompt["7"] = {"class_type": "ImageBlend", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}}
    assert set(parsed(prompt).graph) == {"1", "2", "5", "7"}


def test_a_graph_without_a_result_tells_of_missing_nodes_as_well():
    graph = PageGraph().node(1, "PackLoader", "", "IMAGE:IMAGE", [], properties={"cnr_id": "pack-loader"})
    text = refusal(graph)
    assert "no place for person_image" in text and "pack-loader" in text


def test_a_group_node_tells_which_node_inside_is_missing():
    graph = base()
    inside = PageGraph().node(0, "Alpha", "image:IMAGE", "IMAGE:IMAGE", [], properties={"cnr_id": "pack-alpha"})
    graph.extra = {"groupNodes": {"G": {"nodes": list(inside.nodes.values()), "links": [], "external": []}}}
    assert "10 (Alpha 'workflow>G') of the pack pack-alpha" in refusal(through("workflow>G", graph))
    assert "legacy group node" in refusal(through("workflow>Unknown"))


# Advice that fits the node that is there


def test_a_title_on_a_node_of_another_class_is_told():
    graph = base(titles=("Person of ours", "Reference Garment"))
    graph.node(10, "LoadImageFromUrl", "", "IMAGE:IMAGE", ["https://…"], title="Target Person").link(10, 0, 3, "image1")
    text = refusal(graph, COMFYUI | {"LoadImageFromUrl": CLASSES["EmptyImage"]})
    assert "node 10 (LoadImageFromUrl 'Target Person')" in text and "replace it by a TryOnPersonImage" in text


def test_a_loader_without_a_title_is_named():
    text = refusal(base(True, titles=("", "Reference Garment")))
    assert "title node 1 (LoadImage) 'target person'" in text and "node 2" not in text


def test_a_loader_of_another_class_is_replaced_instead_of_titled():
    graph = PageGraph().node(7, "Load Image Batch", "", "IMAGE:IMAGE", [])
    text = refusal(graph, COMFYUI | {"Load Image Batch": CLASSES["EmptyImage"]})
    assert "replace node 7 (Load Image Batch) by a TryOnPersonImage node" in text and "title" not in text


def test_an_output_that_is_not_read_is_named():
    graph = base(True).node(5, "Image Save", "image:IMAGE", "", []).link(3, 0, 5, "image")
    graph.nodes[4]["mode"] = 2
    assert "TryOnOutput node to what goes into node 5 (Image Save)" in refusal(graph, COMFYUI | {"Image Save": SAVER})


def test_a_bypassed_sampler_does_not_return_the_person():
    page = json.loads((ROOT / "example_workflows/demo.json").read_text())
    next(node for node in page["nodes"] if node["type"] == "TryOnCatVTON")["mode"] = 4
    text = refusal(page)
    assert "do not use garment_image, and these nodes are bypassed: node 7 (TryOnCatVTON" in text and "Enable" in text


def test_a_workflow_may_leave_the_garment_out_on_purpose_and_the_log_says_so(caplog):
    graph = {
        "1": {"class_type": "TryOnPersonImage", "inputs": {"image": ""}},
        "2": {"class_type": "TryOnGarmentImage", "inputs": {"image": ""}},
        "3": {"class_type": "TryOnOutput", "inputs": {"images": ["1", 0]}},
    }
    assert parse_workflow("echo", json.dumps(graph).encode(), COMFYUI).outputs == ["3"]
    assert "Workflow echo makes its images without garment_image" in caplog.text


# Nodes of the page that cannot be resolved


def test_a_get_without_its_set_is_refused_by_name():
    graph = base().node(31, "GetNode", "", "IMAGE:IMAGE", ["lost"]).link(31, 0, 3, "image1")
    assert "node 31" in refusal(graph) and "'lost'" in refusal(graph) and "API" in refusal(graph)


def test_a_get_with_two_sets_in_outer_graphs_is_refused():
    inner = PageGraph(INNER).end("outputs", "IMAGE", "IMAGE").node(31, "GetNode", "", "IMAGE:IMAGE", ["p"])
    inner.node(5, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", []).link(31, 0, 5, "image").link(5, 0, -20, 0)
    graph = set_get(set_get(base()), at=40).node(10, INNER, "", "IMAGE:IMAGE", [])
    graph.subgraphs = [inner]
    graph.link(1, 0, 30, "IMAGE").link(2, 0, 40, "IMAGE").link(10, 0, 3, "image1")
    assert "more than one Set node" in refusal(graph)


def test_a_circle_of_sets_and_gets_is_refused():
    graph = set_get(base())
    assert "circle" in refusal(graph.link(31, 0, 30, "IMAGE").link(31, 0, 3, "image1"))


def test_use_everywhere_links_that_the_file_lacks_are_refused():
    graph = base().node(40, "Anything Everywhere", "anything:IMAGE", "", []).link(1, 0, 40, "anything")
    assert "Use Everywhere" in refusal(graph) and "real ones" in refusal(graph)


# Tags


def tagged_subgraph(title: str) -> PageGraph:
    graph = base().node(10, INNER, "image:IMAGE", "IMAGE:IMAGE", [], title=title)
    graph.subgraphs = [inverting()]
    return graph.link(1, 0, 10, "image")


def test_a_tag_on_a_subgraph_is_refused_by_name():
    graph = tagged_subgraph("Paint [tryon: bogus]").link(10, 0, 3, "image1")
    text = refusal(graph)
    assert "'Paint [tryon: bogus]')" in text and "to the title of the node inside" in text
    assert parsed(tagged_subgraph("Paint").link(10, 0, 3, "image1")).inputs["person_image"] == ["1"]


def test_a_tag_on_a_primitive_is_refused_by_name():
    graph = base().node(10, "ImageBlur", "image:IMAGE blur_radius:INT!", "IMAGE:IMAGE", [7, 2.0])
    graph.node(11, "PrimitiveNode", "", "INT:INT", [7, "fixed"], title="Radius [tryon: seed]")
    graph.link(1, 0, 10, "image").link(11, 0, 10, "blur_radius").link(10, 0, 3, "image1")
    text = refusal(graph)
    assert "node 11 (PrimitiveNode 'Radius [tryon: seed]')" in text and "to the title of the node that it feeds" in text


def test_tags_on_notes_and_beside_the_result_do_not_matter():
    graph = tagged_subgraph("Beside [tryon: seed]").link(1, 0, 3, "image1")
    graph.node(11, "Note", "", "", ["text"], title="Sampler [tryon: seed]")
    assert parsed(graph).parameters == {}


def test_publishing_does_not_lose_a_tag_that_the_prompt_lacks(tmp_path):
    page = tagged_subgraph("Paint [tryon: seed]").link(10, 0, 3, "image1").document()
    sent = {"workflow": page, "prompt": parsed(base(True)).graph}
    with pytest.raises(WorkflowInvalid, match="to the title of the node inside"):
        Workflows(tmp_path, EmbeddedEngine(COMFYUI)).publish("new", json.dumps(sent).encode())
    assert not list(tmp_path.iterdir())


# App mode


def app(graph: PageGraph, inputs: list, outputs: list) -> PageGraph:
    graph.extra = {"linearMode": True, "linearData": {"inputs": inputs, "outputs": outputs}}
    return graph


def untitled(first: str = "", second: str = "") -> PageGraph:
    return base(True, titles=(first, second))


@pytest.mark.parametrize(
    ("titles", "order", "person"),
    [
        (("", ""), (1, 2), "1"),
        (("", ""), (2, 1), "2"),
        (("Shirt", "Model photo"), (1, 2), "2"),
        (("Photo", "Garment"), (2, 1), "1"),
        (("Photo A", "Person"), (1, 2), "2"),
        (("Person", "Garment"), (2, 1), "1"),
        (("Target Person", "Reference Garment"), (2, 1), "1"),
    ],
)
def test_an_app_s_two_images_are_the_person_and_the_garment(titles, order, person):
    graph = app(untitled(*titles), [[number, "image"] for number in order], [4])
    workflow = parsed(graph)
    assert workflow.inputs == {"person_image": [person], "garment_image": ["2" if person == "1" else "1"]}


@pytest.mark.parametrize("title", ["Scale", "Scale [fast]"])
def test_an_app_names_parameters_and_outputs(title):
    graph = base(titles=("", ""))
    graph.node(10, "KSampler", "image:IMAGE", "IMAGE:IMAGE", [7, "fixed", 20, 1.5], title=title)
    graph.node(5, "PreviewImage", "images:IMAGE", "", [])
    graph.link(1, 0, 10, "image").link(10, 0, 3, "image1").link(3, 0, 5, "images")
    spec = {"image": ("IMAGE",), "seed": ("INT", {}), "steps": ("INT", {}), "denoise": ("FLOAT", {})}
    sampler = type(
        "KSampler", (), {"INPUT_TYPES": classmethod(lambda cls: {"required": spec}), "RETURN_TYPES": ("IMAGE",)}
    )
    named = [[1, "image"], ["2", "image", {"height": 100}], [10, "seed"], [10, "denoise"], [77, "seed"], "?"]
    workflow = parsed(app(graph, named, ["5"]), CLASSES | {"KSampler": sampler})
    assert workflow.outputs == ["5"]
    assert workflow.parameters == {"seed": [("10", "seed")]}


def test_an_app_s_output_of_another_pack_gives_its_image():
    graph = untitled().node(5, "Image Save", "image:IMAGE", "", []).link(3, 0, 5, "image")
    workflow = parsed(app(graph, [[1, "image"], [2, "image"]], [5]), COMFYUI | {"Image Save": SAVER})
    assert workflow.outputs == ["5"] and workflow.graph["5"]["inputs"] == {"images": ["3", 0]}


@pytest.mark.parametrize("form", ["12345678-1234-1234-1234-123456789abc:{}:image", "{}"])
def test_an_app_names_nodes_in_each_of_the_page_s_ways(form):
    graph = app(untitled(), [[form.format(number), "image"] for number in (2, 1)], [4])
    assert parsed(graph).inputs["person_image"] == ["2"]


def test_an_app_with_another_number_of_images_is_refused():
    graph = untitled().node(6, "LoadImage", "", "IMAGE:IMAGE MASK:MASK", ["c.png", "image"])
    text = refusal(app(graph, [[number, "image"] for number in (1, 2, 6)], [4]))
    assert "3 images" in text and "Target Person" in text


@pytest.mark.parametrize("broken", [None, 5, {}, {"inputs": 5, "outputs": "x"}, {"inputs": [[]], "outputs": [{}]}])
def test_an_app_that_says_nothing_leaves_titles_to_bind(broken):
    graph = base(True)
    graph.extra = {"linearData": broken}
    assert parsed(graph).inputs == {"person_image": ["1"], "garment_image": ["2"]}


def test_the_output_of_the_person_alone_is_no_answer():
    graph = untitled().node(5, "PreviewImage", "images:IMAGE", "", []).link(1, 0, 5, "images")
    assert "depends on both images" in refusal(app(graph, [[1, "image"], [2, "image"]], [5]))


# What cannot be asked for by name

NAMES = {
    "my shop.json": "my-shop.json",
    "试衣.json": "workflow.json",
    "flow (1).json": "flow-1.json",
    "UPPER.JSON": "UPPER.json",
    "Robe d'été.json": "Robe-d-ete.json",
    "a" * 70 + ".json": "a" * 64 + ".json",
    "flow.json.txt": "flow.json",
    "-x.json": "rename it to x.json",
    "line\nbreak.json": "line-break.json",
    "result.png": "image",
    "no-suffix": "no-suffix.json",
}


def test_each_file_that_no_request_can_ask_for_is_listed_and_logged_once(tmp_path, caplog):
    for name in NAMES:
        (tmp_path / name).write_text(" {}")
    for name in (".hidden.json", "README.md", "log.txt"):
        (tmp_path / name).write_text("text")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/a.json").write_text("{}")
    (tmp_path / "page").mkdir()
    (tmp_path / "page/a.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    workflows = Workflows(tmp_path, EmbeddedEngine({}))
    found = {listed.name: listed.problem for listed in workflows.describe("a").workflows}
    assert found.keys() == {*NAMES, "shop"} and "folder" in found["shop"]
    for name, word in NAMES.items():
        assert word in found[name]
    workflows.describe("a")
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == len(found) and all("\n" not in line for line in logged)


def test_names_that_are_not_utf_8_can_be_listed(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json")).write_text("{}")
    listed = Workflows(tmp_path, EmbeddedEngine({})).describe("a")
    assert json.loads(listed.model_dump_json())["workflows"][0]["name"] == "?.json"


def test_a_folder_that_is_not_there_has_nothing(tmp_path):
    assert unservable(tmp_path / "gone") == []


# Packs that are let in


def test_the_packs_are_folders_separated_by_commas():
    assert Settings(packs=" a, b c ,,").pack_names() == ["a", "b c"]


def test_a_pack_that_is_not_there_is_named_with_those_that_are(tmp_path):
    for name in ("alpha", "beta", "off.disabled", "empty"):
        (tmp_path / name).mkdir()
        if name != "empty":
            (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "single.py").write_text("")
    check_packs(["alpha", "single.py"], [str(tmp_path), str(tmp_path / "gone")])
    for name in ("Alpha", "off.disabled", "empty"):
        with pytest.raises(LookupError, match=f"{name!r}.*It has alpha, beta, single.py"):
            check_packs(["alpha", name], [str(tmp_path)])
