"""Graphs of the shapes that people publish bind to what ComfyUI's page would queue, as far as the result needs it.

Each case is a person's image on its way through something to a blend with the garment's, and the prompt that the page
makes of it, without the nodes that the result does not need.
"""

import copy
import json
from collections.abc import Callable

import pytest
from comfyui_tryon.workflows.format import convert
from comfyui_tryon.workflows.parsing import parse_workflow
from support.page_graph import CLASSES, INNER, PageGraph, base, inverting, node_class, set_get

OUTER = "0b5fa10c-52f4-4a6f-9a44-3c3f7c1de002"
Case = tuple[PageGraph, dict]
CASES: dict[str, Callable[[], Case]] = {}


BASE = {
    "1": ("LoadImage", {"image": "a.png"}),
    "2": ("LoadImage", {"image": "b.png"}),
    "3": ("ImageBlend", {"image1": ["1", 0], "image2": ["2", 0], "blend_factor": 0.5, "blend_mode": "normal"}),
    "4": ("SaveImage", {"images": ["3", 0], "filename_prefix": "x"}),
}


def case(function: Callable[[], Case]) -> Callable[[], Case]:
    CASES[function.__name__] = function
    return function


def expected(**changes: tuple) -> dict:
    """BASE with inputs changed (`_3={"image1": …}`) and nodes added (`_5=("ImageInvert", {…})`)."""
    prompt = copy.deepcopy(BASE)
    for key, change in changes.items():
        number = key.strip("_").replace("_", ":")
        if isinstance(change, dict):
            prompt[number][1].update(change)
        else:
            prompt[number] = change
    return prompt


# Reroutes


@case
def nothing_special() -> Case:
    return base(True), expected()


@case
def core_reroutes_in_a_row() -> Case:
    graph = base().node(10, "Reroute", ":*", "IMAGE:IMAGE").node(11, "Reroute", ":*", "IMAGE:IMAGE")
    return graph.link(1, 0, 10, "").link(10, 0, 11, "").link(11, 0, 3, "image1"), expected()


def reroute_of(kind: str) -> Callable[[], Case]:
    def build() -> Case:
        return base().node(10, kind, "in:*", "out:*").link(1, 0, 10, "in").link(10, 0, 3, "image1"), expected()

    return build


for pack in ("Reroute (rgthree)", "easy reroute", "cg-reroute", "Reroute [Eclipse]", "RerouteTextForPack|x"):
    CASES[f"reroute {pack}"] = reroute_of(pack)


@case
def reroutes_of_several_packs_in_a_row() -> Case:
    graph = base().node(10, "Reroute", ":*", "IMAGE:IMAGE").node(11, "Reroute (rgthree)", ":*", ":*")
    graph.node(12, "easy reroute", "in:*", "out:*")
    graph.link(1, 0, 10, "").link(10, 0, 11, "").link(11, 0, 12, "in")
    return graph.link(12, 0, 3, "image1"), expected()


@case
def a_reroute_that_is_a_real_node() -> Case:
    CLASSES["Reroute (real)"] = node_class({"value": ("IMAGE",)})
    graph = base().node(10, "Reroute (real)", "value:IMAGE", "IMAGE:IMAGE", [])
    graph.link(1, 0, 10, "value").link(10, 0, 3, "image1")
    return graph, expected(_3={"image1": ["10", 0]}, _10=("Reroute (real)", {"value": ["1", 0]}))


@case
def bent_links_of_the_page() -> Case:
    graph = base(True)
    graph.extra = {"reroutes": [{"id": 1, "pos": [1, 1], "linkIds": [1]}], "linkExtensions": [{"id": 1, "parentId": 1}]}
    return graph, expected()


# Set and Get nodes


@case
def set_and_get() -> Case:
    return set_get(base()).link(1, 0, 30, "IMAGE").link(31, 0, 3, "image1"), expected()


@case
def set_and_get_of_easy_use() -> Case:
    graph = set_get(base(), setter="easy setNode", getter="easy getNode")
    return graph.link(1, 0, 30, "IMAGE").link(31, 0, 3, "image1"), expected()


@case
def set_and_get_of_another_pack() -> Case:
    graph = set_get(base(), setter="SetNode [Eclipse]", getter="GetNode [Eclipse]")
    return graph.link(1, 0, 30, "IMAGE").link(31, 0, 3, "image1"), expected()


@case
def set_and_get_of_two_packs_by_the_same_name() -> Case:
    graph = set_get(set_get(base()), setter="easy setNode", getter="easy getNode", at=40)
    graph.link(1, 0, 30, "IMAGE").link(2, 0, 40, "IMAGE")
    return graph.link(31, 0, 3, "image1"), expected()


@case
def several_gets_of_one_set() -> Case:
    graph = (
        set_get(base()).node(32, "GetNode", "", "IMAGE:IMAGE", ["p"]).node(5, "PreviewImage", "images:IMAGE", "", [])
    )
    return graph.link(1, 0, 30, "IMAGE").link(31, 0, 3, "image1").link(32, 0, 5, "images"), expected()


@case
def a_get_feeds_another_set() -> Case:
    graph = set_get(set_get(base()), "q", at=40)
    return graph.link(1, 0, 30, "IMAGE").link(31, 0, 40, "IMAGE").link(41, 0, 3, "image1"), expected()


@case
def the_output_of_a_set() -> Case:
    return set_get(base()).link(1, 0, 30, "IMAGE").link(30, 0, 3, "image1"), expected()


@case
def a_set_behind_a_reroute_and_a_bypass() -> Case:
    graph = set_get(base()).node(10, "Reroute", ":*", "IMAGE:IMAGE")
    graph.node(11, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [], mode=4)
    graph.link(1, 0, 11, "image").link(11, 0, 10, "").link(10, 0, 30, "IMAGE")
    return graph.link(31, 0, 3, "image1"), expected()


@case
def the_first_of_two_sets_of_one_name() -> Case:
    graph = set_get(base()).node(40, "SetNode", "IMAGE:IMAGE", "*:*", ["p"])
    return graph.link(1, 0, 30, "IMAGE").link(2, 0, 40, "IMAGE").link(31, 0, 3, "image1"), expected()


@case
def a_muted_set_that_the_page_reads_all_the_same() -> Case:
    graph = set_get(base())
    graph.nodes[30]["mode"] = 2
    return graph.link(1, 0, 30, "IMAGE").link(31, 0, 3, "image1"), expected()


@case
def a_get_within_a_subgraph() -> Case:
    inner = PageGraph(INNER).end("outputs", "IMAGE", "IMAGE").node(31, "GetNode", "", "IMAGE:IMAGE", ["p"])
    inner.node(5, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [])
    inner.link(31, 0, 5, "image").link(5, 0, -20, 0)
    graph = base().node(30, "SetNode", "IMAGE:IMAGE", "*:*", ["p"]).node(10, INNER, "", "IMAGE:IMAGE", [])
    graph.subgraphs = [inner]
    graph.link(1, 0, 30, "IMAGE").link(10, 0, 3, "image1")
    return graph, expected(_3={"image1": ["10:5", 0]}, _10_5=("ImageInvert", {"image": ["1", 0]}))


# Notes and switches


@case
def labels_bookmarks_and_switches() -> Case:
    graph = base(True).node(20, "Label (rgthree)").node(21, "Bookmark (rgthree)", values=["1", 1])
    graph.node(22, "Fast Groups Bypasser (rgthree)", "", "OPT_CONNECTION:*")
    graph.node(23, "Fast Groups Muter (rgthree)", "", "OPT_CONNECTION:*").node(24, "Note", values=["text"])
    return graph.node(25, "MarkdownNote", values=["# text"]).node(26, "Note Plus (mtb)", values=["x"]), expected()


@case
def switches_that_are_linked_to_nodes() -> Case:
    graph = base(True).node(20, "Fast Bypasser (rgthree)", "Blend:* :*", "OPT_CONNECTION:*", [True])
    graph.node(21, "Mute / Bypass Repeater (rgthree)", ":*", "OPT_CONNECTION:*")
    graph.node(22, "Node Collector (rgthree)", "Load:* :*", "Output:*")
    graph.node(23, "Fast Actions Button (rgthree)", "Load:*", "", [])
    graph.link(3, 0, 20, "Blend").link(1, 0, 22, "Load").link(22, 0, 21, "").link(21, 0, 20, "")
    return graph.link(1, 0, 23, "Load"), expected()


# Bypassed and muted


@case
def a_bypassed_node() -> Case:
    graph = base().node(10, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [], mode=4)
    return graph.link(1, 0, 10, "image").link(10, 0, 3, "image1"), expected()


@case
def two_bypassed_nodes_in_a_row() -> Case:
    graph = base().node(10, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [], mode=4)
    graph.node(11, "ImageBlur", "image:IMAGE", "IMAGE:IMAGE", [1, 1.0], mode=4)
    return graph.link(1, 0, 10, "image").link(10, 0, 11, "image").link(11, 0, 3, "image1"), expected()


@case
def a_bypassed_node_of_a_pack_that_is_missing() -> Case:
    graph = base().node(10, "Gone", "model:MODEL image:IMAGE", "IMAGE:IMAGE", ["?"], mode=4)
    return graph.link(1, 0, 10, "image").link(10, 0, 3, "image1"), expected()


@case
def a_bypassed_node_with_two_images() -> Case:
    graph = base().node(10, "ImageBlend", "image1:IMAGE image2:IMAGE", "IMAGE:IMAGE", [0.5, "normal"], mode=4)
    return graph.link(1, 0, 10, "image1").link(2, 0, 10, "image2").link(10, 0, 3, "image1"), expected()


@case
def a_muted_branch() -> Case:
    graph = base(True).node(10, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [], mode=2)
    graph.node(11, "PreviewImage", "images:IMAGE", "", [], mode=2)
    return graph.link(3, 0, 10, "image").link(10, 0, 11, "images"), expected()


@case
def a_bypassed_output() -> Case:
    graph = base(True).node(5, "SaveImage", "images:IMAGE", "", ["%date:yyyy%"], mode=4)
    return graph.link(3, 0, 5, "images"), expected()


# Primitives and widgets that became inputs


@case
def a_primitive() -> Case:
    graph = base().node(10, "ImageBlur", "image:IMAGE blur_radius:INT!", "IMAGE:IMAGE", [7, 2.0])
    graph.node(11, "PrimitiveNode", "", "INT:INT", [7, "fixed"])
    graph.link(1, 0, 10, "image").link(11, 0, 10, "blur_radius").link(10, 0, 3, "image1")
    blur = ("ImageBlur", {"image": ["1", 0], "blur_radius": 7, "sigma": 2.0})
    return graph, expected(_3={"image1": ["10", 0]}, _10=blur)


@case
def a_primitive_for_two_nodes() -> Case:
    graph = base().node(12, "PrimitiveNode", "", "INT:INT", [7, "increment"])
    for number in (10, 11):
        graph.node(number, "ImageBlur", "image:IMAGE blur_radius:INT!", "IMAGE:IMAGE", [7, 2.0])
        graph.link(12, 0, number, "blur_radius")
    graph.link(1, 0, 10, "image").link(10, 0, 11, "image").link(11, 0, 3, "image1")
    first, second = (("ImageBlur", {"image": [origin, 0], "blur_radius": 7, "sigma": 2.0}) for origin in ("1", "10"))
    return graph, expected(_3={"image1": ["11", 0]}, _10=first, _11=second)


@case
def a_widget_that_another_node_sets() -> Case:
    graph = base().node(10, "ImageBlur", "image:IMAGE blur_radius:INT!", "IMAGE:IMAGE", [1, 2.0])
    graph.node(11, "PrimitiveInt", "", "INT:INT", [7, "randomize"])
    graph.link(1, 0, 10, "image").link(11, 0, 10, "blur_radius").link(10, 0, 3, "image1")
    blur = ("ImageBlur", {"image": ["1", 0], "blur_radius": ["11", 0], "sigma": 2.0})
    return graph, expected(_3={"image1": ["10", 0]}, _10=blur, _11=("PrimitiveInt", {"value": 7}))


@case
def a_widget_set_through_a_get() -> Case:
    graph = set_get(base(), "radius").node(10, "ImageBlur", "image:IMAGE blur_radius:INT!", "IMAGE:IMAGE", [1, 2.0])
    graph.node(11, "PrimitiveInt", "", "INT:INT", [7, "fixed"])
    graph.link(11, 0, 30, "IMAGE").link(31, 0, 10, "blur_radius").link(1, 0, 10, "image").link(10, 0, 3, "image1")
    blur = ("ImageBlur", {"image": ["1", 0], "blur_radius": ["11", 0], "sigma": 2.0})
    return graph, expected(_3={"image1": ["10", 0]}, _10=blur, _11=("PrimitiveInt", {"value": 7}))


# Subgraphs


@case
def a_subgraph() -> Case:
    graph = base().node(10, INNER, "image:IMAGE", "IMAGE:IMAGE", [])
    graph.subgraphs = [inverting()]
    graph.link(1, 0, 10, "image").link(10, 0, 3, "image1")
    return graph, expected(_3={"image1": ["10:5", 0]}, _10_5=("ImageInvert", {"image": ["1", 0]}))


@case
def a_subgraph_in_a_subgraph() -> Case:
    outer = PageGraph(OUTER).end("inputs", "image", "IMAGE").end("outputs", "IMAGE", "IMAGE")
    outer.node(7, INNER, "image:IMAGE", "IMAGE:IMAGE", []).link(-10, 0, 7, "image").link(7, 0, -20, 0)
    graph = base().node(10, OUTER, "image:IMAGE", "IMAGE:IMAGE", [])
    graph.subgraphs = [inverting(), outer]
    graph.link(1, 0, 10, "image").link(10, 0, 3, "image1")
    return graph, expected(_3={"image1": ["10:7:5", 0]}, _10_7_5=("ImageInvert", {"image": ["1", 0]}))


@case
def a_subgraph_twice() -> Case:
    graph = base()
    for number, origin in ((10, 1), (11, 10)):
        graph.node(number, INNER, "image:IMAGE", "IMAGE:IMAGE", []).link(origin, 0, number, "image")
    graph.subgraphs = [inverting()]
    graph.link(11, 0, 3, "image1")
    inner = {f"_{n}_5": ("ImageInvert", {"image": [origin, 0]}) for n, origin in ((10, "1"), (11, "10:5"))}
    return graph, expected(_3={"image1": ["11:5", 0]}, **inner)


@case
def a_bypassed_subgraph() -> Case:
    graph = base().node(10, INNER, "image:IMAGE", "IMAGE:IMAGE", [], mode=4)
    graph.subgraphs = [inverting()]
    return graph.link(1, 0, 10, "image").link(10, 0, 3, "image1"), expected()


@case
def a_bypassed_node_in_a_subgraph() -> Case:
    graph = base().node(10, INNER, "image:IMAGE", "IMAGE:IMAGE", [])
    graph.subgraphs = [inverting()]
    graph.subgraphs[0].nodes[5]["mode"] = 4
    return graph.link(1, 0, 10, "image").link(10, 0, 3, "image1"), expected()


@case
def a_subgraph_with_a_widget_of_an_inner_node() -> Case:
    inner = PageGraph(INNER).end("inputs", "image", "IMAGE").end("inputs", "blur_radius", "INT")
    inner.end("outputs", "IMAGE", "IMAGE")
    inner.node(5, "ImageBlur", "image:IMAGE blur_radius:INT!", "IMAGE:IMAGE", [1, 2.0])
    inner.link(-10, 0, 5, "image").link(-10, 1, 5, "blur_radius").link(5, 0, -20, 0)
    graph = base().node(10, INNER, "image:IMAGE blur_radius:INT!", "IMAGE:IMAGE", [9])
    graph.subgraphs = [inner]
    graph.link(1, 0, 10, "image").link(10, 0, 3, "image1")
    blur = ("ImageBlur", {"image": ["1", 0], "blur_radius": 9, "sigma": 2.0})
    return graph, expected(_3={"image1": ["10:5", 0]}, _10_5=blur)


@case
def a_subgraph_with_a_broken_inner_node_beside_the_result() -> Case:
    graph = base().node(10, INNER, "image:IMAGE", "IMAGE:IMAGE", [])
    graph.subgraphs = [inverting().node(6, "Gone", "image:IMAGE", "", []).node(7, "ImageBlur", "", "", ["?"])]
    graph.link(1, 0, 10, "image").link(10, 0, 3, "image1")
    return graph, expected(_3={"image1": ["10:5", 0]}, _10_5=("ImageInvert", {"image": ["1", 0]}))


# Group nodes, which subgraphs replaced


def blur_group(graph: PageGraph, name: str = "Blur") -> PageGraph:
    """Stores a group of an ImageInvert that feeds an ImageBlur."""
    inside = PageGraph().node(0, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [])
    inside.node(1, "ImageBlur", "image:IMAGE", "IMAGE:IMAGE", [1, 2.0])
    nodes = [{**node, "index": index} for index, node in inside.nodes.items()]
    group = {"nodes": nodes, "links": [[0, 0, 1, 0, 1, "IMAGE"]], "external": []}
    graph.extra = {"groupNodes": {name: group}}
    return graph


BLURRED = {"_10_0": ("ImageInvert", {"image": ["1", 0]})}


def blurred(radius: int, sigma: float, host: str = "10") -> tuple:
    return ("ImageBlur", {"image": [f"{host}:0", 0], "blur_radius": radius, "sigma": sigma})


@case
def a_group_node() -> Case:
    graph = blur_group(base()).node(10, "workflow>Blur", "image:IMAGE", "IMAGE:IMAGE", [5, 3.0])
    graph.link(1, 0, 10, "image").link(10, 0, 3, "image1")
    return graph, expected(_3={"image1": ["10:1", 0]}, _10_1=blurred(5, 3.0), **BLURRED)


@case
def a_group_node_of_the_first_page_versions() -> Case:
    graph = blur_group(base()).node(10, "workflow/Blur", "image:IMAGE", "IMAGE:IMAGE", [5, 3.0])
    graph.link(1, 0, 10, "image").link(10, 0, 3, "image1")
    return graph, expected(_3={"image1": ["10:1", 0]}, _10_1=blurred(5, 3.0), **BLURRED)


@case
def a_group_node_twice_with_values_of_their_own() -> Case:
    graph = blur_group(base())
    for number, origin, radius in ((10, 1, 5), (11, 10, 6)):
        graph.node(number, "workflow>Blur", "image:IMAGE", "IMAGE:IMAGE", [radius, 3.0]).link(
            origin, 0, number, "image"
        )
    graph.link(11, 0, 3, "image1")
    second = {"_11_0": ("ImageInvert", {"image": ["10:1", 0]}), "_11_1": blurred(6, 3.0, "11")}
    return graph, expected(_3={"image1": ["11:1", 0]}, _10_1=blurred(5, 3.0), **BLURRED, **second)


@case
def a_group_node_whose_inputs_have_one_name() -> Case:
    inside = PageGraph().node(0, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [])
    inside.node(1, "ImageScaleBy", "image:IMAGE", "IMAGE:IMAGE", ["area", 2.0])
    graph = base()
    graph.extra = {"groupNodes": {"Both": {"nodes": list(inside.nodes.values()), "links": [], "external": []}}}
    names = "image:IMAGE ImageScaleBy~image:IMAGE"
    graph.node(10, "workflow>Both", names, "IMAGE:IMAGE ImageScaleBy~IMAGE:IMAGE", ["lanczos", 0.5])
    graph.link(2, 0, 10, "image").link(1, 0, 10, "ImageScaleBy image").link(10, 1, 3, "image1")
    scaled = ("ImageScaleBy", {"image": ["1", 0], "upscale_method": "lanczos", "scale_by": 0.5})
    return graph, expected(_3={"image1": ["10:1", 0]}, _10_1=scaled)


@case
def a_group_node_beside_the_result_that_cannot_be_expanded() -> Case:
    return base(True).node(10, "workflow>Lost", "image:IMAGE", "IMAGE:IMAGE", [1]), expected()


# Use Everywhere


@case
def links_of_use_everywhere() -> Case:
    graph = base().node(40, "Anything Everywhere", "anything:*", "", []).link(1, 0, 40, "anything")
    made = {
        "downstream": 3,
        "downstream_slot": 0,
        "upstream": "1",
        "upstream_slot": 0,
        "controller": 40,
        "type": "IMAGE",
    }
    graph.extra = {"ue_links": [made], "links_added_by_ue": []}
    return graph, expected()


@case
def links_of_use_everywhere_beside_a_real_one() -> Case:
    graph = base(True).node(40, "Anything Everywhere3", "anything:*", "", []).link(2, 0, 40, "anything")
    made = {"downstream": 3, "downstream_slot": 0, "upstream": 2, "upstream_slot": 0, "controller": 40, "type": "IMAGE"}
    graph.extra = {"ue_links": [made, {**made, "downstream": 77}]}
    return graph, expected()


@case
def links_of_use_everywhere_in_a_subgraph() -> Case:
    graph = base().node(10, INNER, "image:IMAGE", "IMAGE:IMAGE", [])
    inner = PageGraph(INNER).end("inputs", "image", "IMAGE").end("outputs", "IMAGE", "IMAGE")
    inner.node(5, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", []).link(5, 0, -20, 0)
    made = {
        "downstream": 5,
        "downstream_slot": 0,
        "upstream": -10,
        "upstream_slot": 0,
        "controller": 6,
        "type": "IMAGE",
    }
    inner.extra = {"ue_links": [made]}
    graph.subgraphs = [inner]
    graph.link(1, 0, 10, "image").link(10, 0, 3, "image1")
    return graph, expected(_3={"image1": ["10:5", 0]}, _10_5=("ImageInvert", {"image": ["1", 0]}))


@case
def a_use_everywhere_node_that_sends_nothing_the_result_lacks() -> Case:
    return base(True).node(40, "Anything Everywhere", "anything:*", "", []).link(1, 0, 40, "anything"), expected()


# What the result does not need


@case
def unknown_nodes_beside_the_result() -> Case:
    graph = base(True).node(10, "Gone", "image:IMAGE", "IMAGE:IMAGE", [1], properties={"cnr_id": "gone-pack"})
    graph.node(11, "Text Note Of A Pack", values=["hello"])
    return graph.link(3, 0, 10, "image"), expected()


@case
def broken_values_beside_the_result() -> Case:
    graph = base(True).node(10, "ImageBlur", "image:IMAGE", "IMAGE:IMAGE", ["?", "!", 3]).link(3, 0, 10, "image")
    return graph, expected()


@case
def dangling_links_beside_the_result() -> Case:
    graph = base(True).node(10, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [])
    graph.nodes[10]["inputs"][0]["link"] = 77
    return graph, expected()


@case
def a_circle_beside_the_result() -> Case:
    graph = base(True).node(10, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [])
    graph.node(11, "ImageInvert", "image:IMAGE", "IMAGE:IMAGE", [])
    return graph.link(10, 0, 11, "image").link(11, 0, 10, "image"), expected()


def needed_by_result(document: dict) -> dict:
    """The converted nodes that the result needs, as (class, inputs)."""
    prompt = convert(document, CLASSES).prompt
    workflow = parse_workflow("case", json.dumps(document).encode(), CLASSES)
    return {node: (prompt[node]["class_type"], prompt[node]["inputs"]) for node in workflow.graph}


@pytest.mark.parametrize("name", CASES)
def test_what_the_page_would_queue_is_what_serves(name):
    graph, prompt = CASES[name]()
    assert needed_by_result(graph.document()) == prompt


def test_there_are_as_many_kinds_as_promised():
    assert len(CASES) >= 40


def test_links_may_be_objects_as_in_the_page_s_next_format():
    document = base(True).document()
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    document["links"] = [dict(zip(names, link, strict=True)) for link in document["links"]]
    assert needed_by_result(document | {"version": 1}) == BASE
