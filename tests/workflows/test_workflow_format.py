"""A workflow file converts to the prompt that ComfyUI's web page would queue, or is refused by name."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comfyui_tryon.workflows.format import WorkflowInvalid, to_prompt
from comfyui_tryon.workflows.format.checks import MAX_NODES
from comfyui_tryon.workflows.format.graph import MAX_NESTING
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.servers import ROOT, comfyui_folders

DATA = ROOT / "tests/data/workflows"
GRAPHS = ("classic", "subgraphs", "promoted", "catvton")
PUBLISHED = ROOT.parent / "shared/workflows/catvton_workflow.json"
SUBGRAPH = "0b5fa10c-52f4-4a6f-9a44-3c3f7c1de001"


def node_class(required: dict, optional: dict | None = None, outputs: tuple = ()) -> type:
    """A node class as ComfyUI sees it."""
    spec = {"required": required, "optional": optional or {}, "hidden": {"token": ("STRING", {})}}
    return type("Node", (), {"INPUT_TYPES": classmethod(lambda cls: spec), "RETURN_TYPES": outputs})


INT, FLOAT = ("INT", {"default": 512}), ("FLOAT", {"default": 1.0})
TEXT = ("STRING", {"multiline": True, "dynamicPrompts": True})
FILES = (["a.safetensors"],)
PATH = ("STRING", {"default": "zhengchong/CatVTON"})
SEED = ("INT", {"default": 0, "control_after_generate": True})
CLASSES = {
    "CheckpointLoaderSimple": node_class({"ckpt_name": FILES}, outputs=("MODEL", "CLIP", "VAE")),
    "CLIPTextEncode": node_class({"text": TEXT, "clip": ("CLIP", {})}, outputs=("CONDITIONING",)),
    "EmptyLatentImage": node_class({"width": INT, "height": INT, "batch_size": INT}, outputs=("LATENT",)),
    "KSampler": node_class(
        {
            "model": ("MODEL",),
            "seed": SEED,
            "steps": INT,
            "cfg": FLOAT,
            "sampler_name": (["euler", "ddim"],),
            "scheduler": (["normal", "karras"],),
            "positive": ("CONDITIONING",),
            "negative": ("CONDITIONING",),
            "latent_image": ("LATENT",),
            "denoise": FLOAT,
        },
        outputs=("LATENT",),
    ),
    "VAEDecode": node_class({"samples": ("LATENT",), "vae": ("VAE",)}, outputs=("IMAGE",)),
    "VAELoader": node_class({"vae_name": FILES}, outputs=("VAE",)),
    "ImageScale": node_class(
        {
            "image": ("IMAGE",),
            "upscale_method": (["bilinear", "area"],),
            "width": INT,
            "height": INT,
            "crop": (["disabled", "center"],),
        },
        outputs=("IMAGE",),
    ),
    "ImageInvert": node_class({"image": ("IMAGE",)}, outputs=("IMAGE",)),
    "ImageBlur": node_class({"image": ("IMAGE",), "blur_radius": INT, "sigma": FLOAT}, outputs=("IMAGE",)),
    "LoadImage": node_class({"image": (["person.png"], {"image_upload": True})}, outputs=("IMAGE", "MASK")),
    "MaskToImage": node_class({"mask": ("MASK",)}, outputs=("IMAGE",)),
    "PrimitiveInt": node_class({"value": ("INT", {"control_after_generate": True})}, outputs=("INT",)),
    "SaveImage": node_class({"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})}),
    "PreviewImage": node_class({"images": ("IMAGE",)}),
    "LoadAutoMasker": node_class({"catvton_path": PATH}, outputs=("MODEL",)),
    "AutoMasker": node_class(
        {"pipe": ("MODEL",), "target_image": ("IMAGE",), "cloth_type": (["upper", "overall"],)},
        outputs=("IMAGE", "IMAGE"),
    ),
    "LoadCatVTONPipeline": node_class(
        {"sd15_inpaint_path": PATH, "catvton_path": PATH, "mixed_precision": (["fp32", "bf16"],)}, outputs=("MODEL",)
    ),
    "CatVTON": node_class(
        {
            "pipe": ("MODEL",),
            "target_image": ("IMAGE",),
            "refer_image": ("IMAGE",),
            "mask_image": ("IMAGE",),
            "seed": ("INT", {"default": 42}),
            "steps": INT,
            "cfg": FLOAT,
        },
        outputs=("IMAGE",),
    ),
}


def load(name: str) -> dict:
    return json.loads((DATA / f"{name}.json").read_text())


def node(
    number: int | str, kind: str, values: list | dict | None = None, links: dict | None = None, **more: Any
) -> dict:
    """A node in the page's format; `links` maps input names to (link number, slot type)."""
    inputs = [{"name": name, "link": link, "type": slot_type} for name, (link, slot_type) in (links or {}).items()]
    return {"id": number, "type": kind, "mode": 0, "inputs": inputs, "widgets_values": values} | more


def graph(*nodes: dict, links: tuple = (), **more: Any) -> dict:
    return {"nodes": list(nodes), "links": [list(link) for link in links], "version": 0.4} | more


def subgraph(*nodes: dict, links: tuple = (), key: str = SUBGRAPH, **more: Any) -> dict:
    return {"id": key, "name": "Inner", "nodes": list(nodes), "links": list(links)} | more


def inputs_of(node_class_: type, values: list | dict | None, **more: Any) -> dict:
    return to_prompt(graph(node(1, "Node", values, **more)), {"Node": node_class_})["1"]["inputs"]


def untitled(prompt: dict) -> dict:
    return {key: {"class_type": entry["class_type"], "inputs": entry["inputs"]} for key, entry in prompt.items()}


class TestPageFormat:
    @pytest.mark.parametrize("name", GRAPHS)
    def test_converts_to_what_the_page_queues(self, name):
        assert untitled(to_prompt(load(f"page_{name}"), CLASSES)) == untitled(load(f"api_{name}"))

    @pytest.mark.parametrize("name", GRAPHS)
    def test_keeps_the_titles_that_the_author_gave(self, name):
        document, queued = load(f"page_{name}"), load(f"api_{name}")
        given_titles = {str(entry["id"]): entry["title"] for entry in document["nodes"] if "title" in entry}
        prompt = to_prompt(document, CLASSES)
        titles = {key: entry["_meta"]["title"] for key, entry in prompt.items()}
        for key in given_titles.keys() & queued.keys():
            assert titles[key] == given_titles[key] == queued[key]["_meta"]["title"]

    def test_converts_the_published_catvton_workflow(self):
        if not PUBLISHED.is_file():
            pytest.skip(f"THE PUBLISHED CATVTON WORKFLOW IS NOT AT {PUBLISHED}: only its description is tested")
        prompt = to_prompt(json.loads(PUBLISHED.read_text()), CLASSES)
        described = load("api_catvton")
        described["10"]["inputs"]["image"], described["11"]["inputs"]["image"] = "1300.jpg", "1300-28.jpg"
        assert untitled(prompt) == untitled(described)

    def test_leaves_the_document_as_it_was(self):
        document = load("page_subgraphs")
        before = copy.deepcopy(document)
        prompt = to_prompt(document, CLASSES)
        prompt["1"]["inputs"]["image"] = "changed"
        assert document == before

    def test_copies_values_for_each_use_of_a_subgraph(self):
        mixed = node_class({"box": ("BOUNDING_BOX", {})})
        inner = {"id": SUBGRAPH, "name": "Boxed", "nodes": [node(5, "Mixed", [{"x": 1}, 0, 0, 1, 1])], "links": []}
        document = graph(node(1, SUBGRAPH), node(2, SUBGRAPH), definitions={"subgraphs": [inner]})
        prompt = to_prompt(document, {"Mixed": mixed})
        prompt["1:5"]["inputs"]["box"]["x"] = 2
        assert prompt["2:5"]["inputs"]["box"] == {"x": 1}

    def test_a_long_chain_of_reroutes_is_no_obstacle(self):
        count = 3000
        chain = [
            node(number, "Reroute", None, {"": (number, "*")}, outputs=[{"name": "", "type": "*"}])
            for number in range(1, count)
        ]
        links = [(number, number - 1, 0, number, 0, "*") for number in range(1, count + 1)]
        document = graph(
            node(0, "LoadImage", ["a.png", "image"]),
            *chain,
            node(count, "PreviewImage", [], {"images": (count, "IMAGE")}),
            links=links,
        )
        assert to_prompt(document, CLASSES)[str(count)]["inputs"] == {"images": ["0", 0]}


class TestBypass:
    """A bypassed node passes on the input beside the output if the types fit, else the first that does."""

    def convert(self, inputs: dict, output_type: str, wanted: str, slot: int = 0) -> Any:
        links = [(number, number, 0, 9, number - 1, "*") for number in range(1, len(inputs) + 1)]
        sources = [node(number, "Source") for number in range(1, len(inputs) + 1)]
        bypassed = node(
            9,
            "FromAPackThatIsGone",
            [1, "x"],
            {name: (number, slot_type) for number, (name, slot_type) in enumerate(inputs.items(), 1)},
            mode=4,
            outputs=[{"name": "out", "type": output_type}] * (slot + 1),
        )
        sink = node(10, "Sink", None, {"value": (99, wanted)})
        classes = {"Source": node_class({}, outputs=("*",)), "Sink": node_class({})}
        document = graph(*sources, bypassed, sink, links=(*links, (99, 9, slot, 10, 0, "*")))
        return to_prompt(document, classes)["10"]["inputs"].get("value")

    def test_same_slot_first(self):
        assert self.convert({"a": "IMAGE", "b": "IMAGE"}, "IMAGE", "IMAGE", slot=1) == ["2", 0]

    def test_else_the_first_of_the_same_type(self):
        assert self.convert({"a": "MODEL", "b": "MASK", "c": "MASK"}, "MASK", "MASK") == ["2", 0]

    def test_types_may_be_lists(self):
        assert self.convert({"a": "MODEL", "b": "MASK,IMAGE"}, "IMAGE", "IMAGE") == ["2", 0]

    def test_any_type_takes_the_same_slot(self):
        assert self.convert({"a": "MODEL", "b": "MASK"}, "*", "*", slot=1) == ["2", 0]

    def test_nothing_passes_where_no_type_fits(self):
        assert self.convert({"a": "MODEL"}, "IMAGE", "IMAGE") is None


class TestWidgets:
    def test_seed_is_followed_by_its_control_value(self):
        kind = node_class({"seed": ("INT", {}), "steps": ("INT", {})})
        assert inputs_of(kind, [7, "randomize", 20]) == {"seed": 7, "steps": 20}

    def test_control_after_generate_false_has_no_control_value(self):
        kind = node_class({"seed": ("INT", {"control_after_generate": False}), "steps": ("INT", {})})
        assert inputs_of(kind, [7, 20]) == {"seed": 7, "steps": 20}

    def test_controlled_combo_has_a_filter_too(self):
        kind = node_class({"name": (["a", "b"], {"control_after_generate": True}), "steps": ("INT", {})})
        assert inputs_of(kind, ["b", "fixed", "", 20]) == {"name": "b", "steps": 20}

    def test_new_style_combo_and_remote_helpers(self):
        remote = {"options": [], "remote": {"route": "/x", "refresh_button": True}}
        kind = node_class({"name": ("COMBO", remote), "steps": ("INT", {})})
        assert inputs_of(kind, ["b", "refresh", False, 20]) == {"name": "b", "steps": 20}

    @pytest.mark.parametrize("values", [["a.png", 0.5, "image"], ["a.png", "image", 0.5]])
    def test_upload_button_at_either_place(self, values):
        kind = node_class({"image": (["a.png"], {"image_upload": True})}, {"strength": ("FLOAT", {})})
        assert inputs_of(kind, values) == {"image": "a.png", "strength": 0.5}

    @pytest.mark.parametrize("values", [[20, 3], [20]])
    def test_forced_input_with_and_without_the_dummy_value_of_old_files(self, values):
        kind = node_class({"steps": ("INT", {}), "extra": ("INT", {"forceInput": True})})
        assert inputs_of(kind, values) == {"steps": 20}

    def test_values_by_name(self):
        kind = node_class({"seed": ("INT", {}), "text": ("STRING", {})})
        assert inputs_of(kind, {"text": "t", "seed": 3, "preview": {"hidden": True}}) == {"seed": 3, "text": "t"}

    def test_short_list_takes_defaults_of_inputs_added_since(self):
        kind = node_class(
            {"steps": ("INT", {}), "blur": ("INT", {"default": 9})},
            {"mode": (["mix", "dress"], {}), "on": ("BOOLEAN",)},
        )
        assert inputs_of(kind, [20]) == {"steps": 20, "blur": 9, "mode": "mix", "on": False}

    def test_lists_are_wrapped_so_they_are_no_links(self):
        kind = node_class({"names": ("COMBO", {"options": ["a", "b"], "multi_select": {}}), "curve": ("CURVE", {})})
        assert inputs_of(kind, [["a", "b"], [[0, 0], [1, 1]]]) == {
            "names": {"__value__": ["a", "b"]},
            "curve": {"__type__": "CURVE", "__value__": [[0, 0], [1, 1]]},
        }

    def test_selected_option_of_a_dynamic_combo_brings_its_inputs(self):
        inner = ("COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "re-encode", "inputs": {"required": {"crf": FLOAT}}}]})
        options = [
            {"key": "auto", "inputs": {"required": {}}},
            {"key": "h264", "inputs": {"required": {"audio": ("AUDIO", {})}, "optional": {"encoding": inner}}},
        ]
        kind = node_class({"codec": ("COMFY_DYNAMICCOMBO_V3", {"options": options}), "name": ("STRING", {})})
        assert inputs_of(kind, ["auto", "x"]) == {"codec": "auto", "name": "x"}
        assert inputs_of(kind, ["h264", "re-encode", 20.5, "x"]) == {
            "codec": "h264",
            "codec.encoding": "re-encode",
            "codec.encoding.crf": 20.5,
            "name": "x",
        }

    def test_widget_of_a_pack_s_own_kind(self):
        kind = node_class({"steps": ("INT", {}), "mask": ("PACK_CANVAS", {}), "name": ("STRING", {})})
        slot = {"name": "mask", "type": "PACK_CANVAS", "link": None, "widget": {"name": "mask"}}
        assert inputs_of(kind, [20, {"strokes": []}, "x"], inputs=[slot]) == {
            "steps": 20,
            "mask": {"strokes": []},
            "name": "x",
        }

    def test_display_widgets_send_nothing(self):
        assert inputs_of(node_class({"value": ("*", {})}), ["", None]) == {}

    def test_a_linked_widget_sends_the_link(self):
        kind = node_class({"steps": ("INT", {}), "name": ("STRING", {})})
        document = graph(
            node(1, "PrimitiveInt", [5, "fixed"]),
            node(2, "Node", [20, "x"], {"steps": (1, "INT")}),
            links=[(1, 1, 0, 2, 0, "INT")],
        )
        assert to_prompt(document, CLASSES | {"Node": kind})["2"]["inputs"] == {"steps": ["1", 0], "name": "x"}


class TestPromotedWidgets:
    """Values that a subgraph node holds for widgets inside it; `page_subgraphs` and `page_promoted` hold more."""

    def convert(self, values: list, proxies: list, **properties: Any) -> dict:
        inner = subgraph(
            node(5, "KSampler", [1, "fixed", 20, 8, "euler", "normal", 1], {"seed": (7, "INT")}),
            links=[[7, -10, 0, 5, 0, "INT"]],
            inputs=[{"name": "noise", "type": "INT", "linkIds": [7]}],
        )
        host = node(3, SUBGRAPH, values, properties={"proxyWidgets": proxies} | properties)
        inputs = to_prompt(graph(host, definitions={"subgraphs": [inner]}), CLASSES)["3:5"]["inputs"]
        return {name: inputs[name] for name in ("seed", "steps")}

    @pytest.mark.parametrize("source", ["-1", "5"])
    def test_by_subgraph_input_or_inner_node(self, source):
        name = "noise" if source == "-1" else "seed"
        assert self.convert([30, 99], [["5", "steps"], [source, name]]) == {"seed": 99, "steps": 30}

    def test_without_a_value_the_inner_one_counts(self):
        assert self.convert([None], [["5", "steps"], ["-1", "noise"]]) == {"seed": 1, "steps": 20}

    def test_in_the_order_of_the_subgraph_s_inputs(self):
        assert self.convert([99], []) == {"seed": 99, "steps": 20}

    def test_previews_and_control_widgets_change_nothing(self):
        proxies = [["5", "control_after_generate"], ["5", "$$canvas-image-preview"], ["5", "steps"]]
        assert self.convert(["randomize", "x", 30], proxies) == {"seed": 1, "steps": 30}

    def test_values_the_page_set_aside_while_loading(self):
        kept = {"originalEntry": ["-1", "noise"], "reason": "missingSourceNode", "hostValue": 77}
        assert self.convert([5], [], proxyWidgetErrorQuarantine=[kept]) == {"seed": 77, "steps": 20}


class TestDynamicPrompts:
    @pytest.mark.parametrize(
        ("saved", "sent"),
        [
            ("a {b} c", "a b c"),
            (r"\{kept\|so\}", "{kept|so}"),
            ("one // gone\ntwo /* gone\n*/ three", "one \ntwo  three"),
            ("/* never closed // gone", "/* never closed "),
            ("a | b } \\", "a | b } \\"),
        ],
    )
    def test_text_is_sent_as_the_page_resolves_it(self, saved, sent):
        assert inputs_of(node_class({"text": TEXT}), [saved]) == {"text": sent}

    def test_text_without_dynamic_prompts_is_sent_as_it_is(self):
        assert inputs_of(node_class({"text": ("STRING", {})}), ["{a|b} // c"]) == {"text": "{a|b} // c"}

    def test_many_unclosed_comments_take_no_quadratic_time(self):
        text = "/* " * 200_000
        assert inputs_of(node_class({"text": TEXT}), [text]) == {"text": text}


class TestApiFormat:
    PROMPT = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Target Person"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}, "is_changed": ["x"]},
    }
    NORMALISED = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Target Person"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "PreviewImage"}},
    }

    @pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"prompt": p, "client_id": "x"}, lambda p: {"output": p}])
    def test_is_returned_normalised(self, wrap):
        assert to_prompt(wrap(self.PROMPT), CLASSES) == self.NORMALISED

    @pytest.mark.parametrize("name", GRAPHS)
    def test_what_the_page_exports_is_returned_as_it_is(self, name):
        assert to_prompt(load(f"api_{name}"), CLASSES) == load(f"api_{name}")

    def test_is_a_copy(self):
        prompt = to_prompt(self.PROMPT, CLASSES)
        prompt["2"]["inputs"]["images"][1] = 5
        assert self.PROMPT["2"]["inputs"]["images"] == ["1", 0]

    def test_numeric_link_ids_become_strings(self):
        document = {"1": self.PROMPT["1"], "2": {"class_type": "PreviewImage", "inputs": {"images": [1, 0]}}}
        assert to_prompt(document, CLASSES)["2"]["inputs"]["images"] == ["1", 0]

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"2": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}}}, "7"),
            ({"2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 2]}}}, "no such output"),
            ({"2": {"class_type": "PreviewImage", "inputs": {"images": ["1", -1]}}}, "no such output"),
            ({"2": {"class_type": "PreviewImage", "inputs": {"images": ["1", True]}}}, "__value__"),
            ({"2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0, 0]}}}, "__value__"),
            ({"2": {"class_type": "PreviewImage", "inputs": [["1", 0]]}}, "object"),
            ({"2": {"class_type": "Gone", "inputs": {}}}, "Gone"),
            ({"2": {"class_type": 5, "inputs": {}}}, "class_type"),
            ({"2": {"inputs": {}}}, "not a node"),
            ({"2": "text"}, "not a node"),
            ({"2": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}}}, "loop"),
        ],
    )
    def test_malformed_is_refused_naming_the_node(self, change, word):
        with pytest.raises(WorkflowInvalid, match=word) as caught:
            to_prompt(self.PROMPT | change, CLASSES)
        assert str(caught.value).startswith(("node 2", "entry '2'"))


LOOP = graph(
    node(1, "ImageInvert", [], {"image": (2, "IMAGE")}),
    node(2, "ImageInvert", [], {"image": (1, "IMAGE")}),
    links=[(1, 1, 0, 2, 0, "IMAGE"), (2, 2, 0, 1, 0, "IMAGE")],
)
REROUTE_LOOP = graph(
    node(1, "Reroute", None, {"": (1, "*")}),
    node(2, "Reroute", None, {"": (2, "*")}),
    node(3, "PreviewImage", [], {"images": (3, "IMAGE")}),
    links=[(1, 2, 0, 1, 0, "*"), (2, 1, 0, 2, 0, "*"), (3, 1, 0, 3, 0, "*")],
)
STALE_PRIMITIVE = graph(
    node(1, "PrimitiveNode", [99, "fixed"]),
    node(2, "Reroute", None, {"": (1, "*")}),
    node(3, "EmptyLatentImage", [512, 512, 1], {"width": (2, "INT")}),
    links=[(1, 1, 0, 2, 0, "INT"), (2, 2, 0, 3, 0, "INT")],
)
PRIMITIVE_ON_SOCKET = graph(
    node(1, "PrimitiveNode", [99, "fixed"]),
    node(3, "ImageInvert", [], {"image": (1, "IMAGE")}),
    links=[(1, 1, 0, 3, 0, "INT")],
)


REFUSED = {
    "unknown class": (graph(node(3, "Gone", [1], title="My node")), "3", "'My node'.*Put the node pack"),
    "group node": (graph(node(3, "workflow>Edit")), "3", "legacy group node"),
    "missing definition": (graph(node(3, SUBGRAPH)), "3", "definition is not in the file"),
    "too many values": (graph(node(3, "EmptyLatentImage", [1, 2, 3, 4])), "3", "1 more than"),
    "value of another type": (graph(node(3, "EmptyLatentImage", [1, "fixed", 3])), "3", "saved value does not fit"),
    "control value expected": (graph(node(3, "KSampler", [1, 20, 8, "euler", "normal", 1])), "3", "value is not a set"),
    "no value, no default": (graph(node(3, "CheckpointLoaderSimple", [])), "3", "no value for 'ckpt_name'"),
    "values of the wrong type": (graph(node(3, "PreviewImage", "x")), "3", "widgets_values"),
    "random choice": (graph(node(3, "CLIPTextEncode", ["a {b|c}"])), "3", r"\{a\|b\} choice"),
    "date in the prefix": (graph(node(3, "SaveImage", ["%date:yyyy%/x"])), "3", "plain prefix"),
    "loop": (LOOP, "1", "loop"),
    "loop of reroutes": (REROUTE_LOOP, "1", "circle"),
    "primitive behind a reroute": (STALE_PRIMITIVE, "3", "primitive node 1 and the widget 'width'.*different values"),
    "primitive on a socket": (PRIMITIVE_ON_SOCKET, "3", "no widget that the primitive"),
    "primitive without value": (
        graph(
            node(1, "PrimitiveNode"),
            node(3, "EmptyLatentImage", [1, 2, 3], {"width": (1, "INT")}),
            links=[(1, 1, 0, 3, 0, "INT")],
        ),
        "1",
        "no saved value",
    ),
    "dangling link": (graph(node(3, "ImageInvert", [], {"image": (1, "IMAGE")})), "3", "link 1"),
    "link from nowhere": (
        graph(node(3, "ImageInvert", [], {"image": (1, "IMAGE")}), links=[(1, 8, 0, 3, 0, "IMAGE")]),
        "3",
        "'8', which does not exist",
    ),
    "link to another node": (
        graph(
            node(1, "LoadImage", ["a", "image"]),
            node(3, "ImageInvert", [], {"image": (1, "IMAGE")}),
            links=[(1, 1, 0, 4, 0, "IMAGE")],
        ),
        "3",
        "link 1",
    ),
    "output out of range": (
        graph(
            node(1, "LoadImage", ["a", "image"]),
            node(3, "ImageInvert", [], {"image": (1, "IMAGE")}),
            links=[(1, 1, 2, 3, 0, "IMAGE")],
        ),
        "3",
        "no such output",
    ),
    "linked widget that is gone": (
        graph(
            node(1, "PrimitiveInt", [1, "fixed"]),
            node(3, "ImageInvert", [], inputs=[{"name": "old", "type": "INT", "link": 1, "widget": {"name": "old"}}]),
            links=[(1, 1, 0, 3, 0, "INT")],
        ),
        "3",
        "no longer exists",
    ),
    "same id twice": (graph(node(3, "PreviewImage"), node("3", "PreviewImage")), "3", "same id"),
    "mode is not a number": (graph(node(3, "PreviewImage", mode="muted")), "3", "mode"),
    "no type": (graph({"id": 3}), "3", "no type"),
    "nameless input": (graph({"id": 3, "type": "PreviewImage", "inputs": [{"link": 1}]}), "3", "no name"),
    "too many inputs": (
        graph({"id": 3, "type": "PreviewImage", "inputs": [{"name": "x"}] * 5000}),
        "3",
        "more than 500 inputs",
    ),
    "too many promoted values": (
        graph(node(3, SUBGRAPH, [1]), definitions={"subgraphs": [subgraph(node(5, "PreviewImage"))]}),
        "3",
        "1 values for 0 promoted widgets",
    ),
    "promoted widgets that are not a list": (
        graph(
            node(3, SUBGRAPH, properties={"proxyWidgets": 5}),
            definitions={"subgraphs": [subgraph(node(5, "PreviewImage"))]},
        ),
        "3",
        "must be a list",
    ),
    "promoted widget that is gone": (
        graph(
            node(3, SUBGRAPH, [1], properties={"proxyWidgets": [["5", "gone"]]}),
            definitions={"subgraphs": [subgraph(node(5, "PreviewImage"))]},
        ),
        "3",
        "'gone' of inner node '5', which does not exist",
    ),
    "subgraph input that is gone": (
        graph(
            node(1, "LoadImage", ["a", "image"]),
            node(3, SUBGRAPH, None, {"gone": (1, "IMAGE")}),
            links=[(1, 1, 0, 3, 0, "IMAGE")],
            definitions={
                "subgraphs": [
                    subgraph(
                        node(5, "ImageInvert", [], {"image": (7, "IMAGE")}),
                        links=[[7, -10, 0, 5, 0, "IMAGE"]],
                        inputs=[{"name": "image", "type": "IMAGE"}],
                    )
                ]
            },
        ),
        "3",
        "'gone' is not in the subgraph's definition",
    ),
}


def written(document: Any, number: Any) -> Any:
    """The document with every number that the page takes for a position, id or mode written in another way."""
    if isinstance(document, list):
        return [written(member, number) for member in document]
    if not isinstance(document, dict):
        return document
    made = {key: value if key == "widgets_values" else written(value, number) for key, value in document.items()}
    for key in ("id", "mode", "link", "origin_id", "origin_slot", "target_id", "target_slot"):
        if isinstance(made.get(key), int):
            made[key] = number(key, made[key])
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    for link in made["links"] if isinstance(made.get("links"), list) else ():
        if isinstance(link, list):
            link[:5] = [number(key, field) for key, field in zip(keys, link)]
    return made


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(
    "number",
    [lambda key, value: float(value), lambda key, value: str(value) if "slot" in key else value],
    ids=["slots, ids and modes as floats", "slots as text"],
)
def test_numbers_are_read_as_the_page_reads_them(name, number):
    document = load(f"page_{name}")
    assert json.dumps(written(document, number)) != json.dumps(document)
    assert to_prompt(written(document, number), CLASSES) == to_prompt(document, CLASSES)


class TestRefusal:
    @pytest.mark.parametrize("case", REFUSED)
    def test_names_the_node(self, case):
        document, node_id, words = REFUSED[case]
        with pytest.raises(WorkflowInvalid, match=words) as caught:
            to_prompt(document, CLASSES)
        node_type = next(entry.get("type") for entry in document["nodes"] if str(entry["id"]) == node_id)
        assert f"node {node_id} {f'({node_type}' if node_type else 'has no type'}" in str(caught.value)
        assert not any(f"{value!r} " in str(caught.value) for value in ("fixed", 20, 99, 512)), "requests get it too"

    def test_names_inner_nodes(self):
        document = graph(node(3, SUBGRAPH), definitions={"subgraphs": [subgraph(node(5, "Gone"))]})
        with pytest.raises(WorkflowInvalid, match="node 5 .Gone"):
            to_prompt(document, CLASSES)

    @pytest.mark.parametrize("mode", [2, 4])
    def test_a_node_that_is_off_needs_no_class(self, mode):
        document = graph(node(3, "Gone", [1], mode=mode), node(4, "PreviewImage"))
        assert list(to_prompt(document, CLASSES)) == ["4"]

    @pytest.mark.parametrize("kind", ["WEBCAM", "LOAD_3D", "AUDIO_RECORD"])
    def test_widgets_whose_value_a_script_makes(self, kind):
        with pytest.raises(WorkflowInvalid, match=f"node 1 .*{kind}.*script"):
            inputs_of(node_class({"image": (kind, {})}), ["", "", "", ""][: 4 if kind == "LOAD_3D" else 1])

    def test_links_of_the_use_everywhere_pack(self):
        with pytest.raises(WorkflowInvalid, match="Use Everywhere"):
            to_prompt(graph(node(1, "PreviewImage"), extra={"ue_links": [{"type": "IMAGE"}]}), CLASSES)

    def test_class_whose_inputs_cannot_be_read(self):
        class Broken:
            RETURN_TYPES = ()

            @classmethod
            def INPUT_TYPES(cls):
                raise FileNotFoundError("models")

        with pytest.raises(WorkflowInvalid, match="node 1 .Broken.*INPUT_TYPES"):
            to_prompt(graph(node(1, "Broken")), {"Broken": Broken})

    @pytest.mark.parametrize(
        "document",
        [None, [], "text", 5, {}, {"nodes": []}, {"nodes": {}}, {"prompt": {}}, {"nodes": [5]}, {"nodes": [{}]}]
        + [graph(node(1, "Note", ["only a note"])), graph(node(1, "PreviewImage", mode=2))]
        + [graph(node(1, "PreviewImage"), links=[(1, 2)]), graph(node(1, "PreviewImage"), definitions=[1])]
        + [graph(node(1, "PreviewImage"), definitions={"subgraphs": 5}, extra={"groupNodes": {}})]
        + [graph(node(1, "PreviewImage"), definitions=5, extra={"groupNodes": {}})]
        + [graph(node(1, "PreviewImage", mode=0.5)), graph(node(1, "PreviewImage"), links=[(1, 1, "x", 1, 0, "IMAGE")])]
        + [{"nodes": [], "links": 5}, {1: {}}, {"1": {"class_type": "PreviewImage", "inputs": {"x": {1, 2}}}}]
        + [{"1": {"class_type": "PreviewImage", "inputs": {"x": float("nan")}}}],
        ids=repr,
    )
    def test_what_is_no_workflow(self, document):
        with pytest.raises(WorkflowInvalid):
            to_prompt(document, CLASSES)


class TestBombs:
    @pytest.mark.parametrize("kind", [list, dict])
    def test_deep_nesting(self, kind):
        value: Any = 0
        for _ in range(100_000):
            value = [value] if kind is list else {"a": value}
        with pytest.raises(WorkflowInvalid, match="levels deep"):
            to_prompt({"nodes": [], "extra": value}, CLASSES)

    def test_a_value_that_holds_itself(self):
        value: dict = {}
        value["self"] = value
        with pytest.raises(WorkflowInvalid, match="levels deep"):
            to_prompt(value, CLASSES)

    def test_many_values(self):
        with pytest.raises(WorkflowInvalid, match="values"):
            to_prompt({"nodes": [], "extra": [0] * 2_000_000}, CLASSES)

    def test_many_nodes(self):
        with pytest.raises(WorkflowInvalid, match="nodes"):
            to_prompt(graph(*(node(number, "PreviewImage") for number in range(MAX_NODES + 1))), CLASSES)

    def test_subgraphs_that_double(self):
        definitions = [
            subgraph(node(1, str(level + 1)), node(2, str(level + 1)), key=str(level))
            for level in range(MAX_NESTING - 2)
        ]
        definitions.append(subgraph(node(1, "PreviewImage"), key=str(MAX_NESTING - 2)))
        with pytest.raises(WorkflowInvalid, match="subgraphs expanded"):
            to_prompt(graph(node(1, "0"), definitions={"subgraphs": definitions}), CLASSES)

    def test_subgraphs_nested_without_end(self):
        definitions = [subgraph(node(1, str(level + 1)), key=str(level)) for level in range(2000)]
        with pytest.raises(WorkflowInvalid, match="nested more than"):
            to_prompt(graph(node(1, "0"), definitions={"subgraphs": definitions}), CLASSES)

    def test_a_subgraph_in_itself(self):
        definitions = [subgraph(node(1, "b"), key="a"), subgraph(node(1, "a"), key="b")]
        with pytest.raises(WorkflowInvalid, match="contains itself"):
            to_prompt(graph(node(1, "a"), definitions={"subgraphs": definitions}), CLASSES)


WORDS = st.sampled_from(
    ["nodes", "links", "id", "type", "inputs", "outputs", "widgets_values", "definitions", "subgraphs", "class_type"]
    + ["prompt", "output", "Reroute", "PrimitiveNode", "KSampler", "LoadImage", "-10", "-20", "1", "2", SUBGRAPH, "*"]
)
SCALARS = st.none() | st.booleans() | st.integers(-30, 30) | st.floats() | WORDS | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=25
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def convert_or_refuse(document: Any) -> None:
    try:
        prompt = to_prompt(document, CLASSES)
    except WorkflowInvalid as error:
        assert str(error)
        return
    assert json.loads(json.dumps(prompt)) == prompt
    for entry in prompt.values():
        assert entry["class_type"] in CLASSES
        for value in entry["inputs"].values():
            if isinstance(value, list):
                assert value[1] < len(CLASSES[prompt[value[0]]["class_type"]].RETURN_TYPES)


class TestFuzz:
    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(JSON)
    def test_any_json_converts_or_is_refused(self, document):
        convert_or_refuse(document)

    @settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_a_damaged_workflow_converts_or_is_refused(self, data):
        document = load(data.draw(st.sampled_from([f"{kind}_{name}" for kind in ("page", "api") for name in GRAPHS])))
        for _ in range(data.draw(st.integers(1, 4))):
            container, key = data.draw(st.sampled_from(places(document)))
            if data.draw(st.booleans()):
                container[key] = data.draw(JSON)
            elif isinstance(container, dict):
                container.pop(key, None)
            else:
                container.append(copy.deepcopy(container[key]) if key < len(container) else None)
        convert_or_refuse(document)


@pytest.mark.parametrize("comfyui", comfyui_folders()[-1:], ids=lambda folder: folder.name)
def test_comfyui_s_own_templates(comfyui):
    """Every template converts to a prompt that ComfyUI finds valid, missing files aside, or is refused by name."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("workflow_corpus.py")), str(comfyui)]
    ran = subprocess.run(
        [*command, "--every", "5", "--json"], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    if not result["templates"]:
        pytest.skip("NO TEMPLATES: pip install comfyui-workflow-templates to convert ComfyUI's own workflows")
    assert result["accepted"] + len(result["refused"]) == result["templates"]
    assert all(reason.startswith("node ") for reason in result["refused"].values()), result["refused"]
    # Templates newer than this ComfyUI ask for model kinds it does not know; nothing else may be wrong.
    wrong = {
        name: kept
        for name, found in result["findings"].items()
        if (kept := [finding for finding in found if not finding.startswith("value_not_in_list")])
    }
    assert not wrong
    assert result["accepted"] > 0
