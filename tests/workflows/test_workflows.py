"""What workflow files promise: where a request goes in them, how they are swapped, and what is refused."""

import asyncio
import concurrent.futures
import copy
import itertools
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import openapi_spec_validator
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from comfyui_tryon.engine import current
from comfyui_tryon.engine.embedded import EmbeddedEngine
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS
from comfyui_tryon.schema import IMAGE_FIELDS, PARAMETERS, TryonRequest
from comfyui_tryon.server import Server
from comfyui_tryon.settings import WORKFLOW_NAME, Settings
from comfyui_tryon.workflows import store
from comfyui_tryon.workflows.binding import INPUT_CLASSES, Workflow, bind
from comfyui_tryon.workflows.format import WorkflowInvalid, to_prompt
from comfyui_tryon.workflows.store import MAX_BYTES, LoadImage, Workflows, parse_workflow
from PIL import Image
from support.images import from_base64, picture, to_base64
from support.servers import DEMO_MODELS, EMBEDDED, ROOT, SHARED
from yarl import URL

PUBLISHED = SHARED / "workflows/catvton_workflow.json"
PAGE_CATVTON = ROOT / "tests/data/workflows/page_catvton.json"
DEMO = json.loads((ROOT / "workflows/demo.json").read_text())


class Sampler:
    """A node of another pack."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "first": ("IMAGE",),
                "second": ("IMAGE",),
                "seed": ("INT", {"default": 0, "max": 2**64 - 1}),
                "steps": ("INT", {"default": 20}),
                "cfg": ("FLOAT", {"default": 8.0}),
                "denoise": ("FLOAT", {"default": 1.0}),
            }
        }


class MaskToImage:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"mask": ("MASK",)}}


class Broken:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        raise RuntimeError("this pack is broken")


@pytest.fixture(scope="module")
def classes() -> dict[str, type]:
    return {
        **current().node_classes(), "Sampler": Sampler, "MaskToImage": MaskToImage, "Broken": Broken
    }  # fmt: skip


@pytest.fixture
def workflows(tmp_path, classes) -> Workflows:
    return Workflows(tmp_path, EmbeddedEngine(classes))


def get(workflows: Workflows, name: str) -> Workflow:
    return asyncio.run(workflows.get(name))


def demo(change=lambda graph: None) -> dict:
    graph = copy.deepcopy(DEMO)
    change(graph)
    return graph


def node(class_type: str, title: str = "", **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


def foreign(title: str = "Sampler", **nodes) -> dict:
    """A graph of nodes of other packs, bound by titles."""
    return {
        "1": node("LoadImage", " target PERSON ", image="a.png"),
        "2": node("LoadImage", "Reference Garment", image="b.png"),
        "3": node("Sampler", title, first=["1", 0], second=["2", 0], seed=5, steps=20, cfg=8.0, denoise=1.0),
        "4": node("PreviewImage", images=["3", 0]),
        **nodes,
    }


def bound(graph: dict) -> Workflow:
    return bind("name", "version", graph)


def test_pictures_and_parameters_of_the_packs_own_nodes():
    workflow = bound(demo())
    assert workflow.inputs == {"person_image": ["1"], "garment_image": ["2"], "mask_image": ["5"]}
    assert workflow.outputs == ["9"] and not workflow.mask_required
    assert workflow.request_independent == {"3", "6"}
    assert workflow.parameters == {
        "seed": [("7", "seed")],
        "num_inference_steps": [("7", "steps")],
        "guidance_scale": [("7", "cfg")],
        "width": [("10", "width"), ("7", "width")],
        "height": [("10", "height"), ("7", "height")],
        "num_images": [("7", "batch_size")],
        "cloth_type": [("4", "cloth_type")],
        "mask_shape": [("4", "mask_shape"), ("4", "square")],
        "framing": [("10", "framing"), ("8", "framing")],
    }
    assert workflow.pasted == {"9": "8"} and workflow.gives_mask
    prompt = workflow.prompt("secret", {"num_inference_steps": 3, "cloth_type": "lower"})
    assert [prompt[name]["inputs"]["token"] for name in ("1", "2", "4", "5", "8", "9")] == ["secret"] * 6
    assert prompt["7"]["inputs"] == DEMO["7"]["inputs"] | {"steps": 3}
    assert prompt["4"]["inputs"]["cloth_type"] == "lower"
    assert workflow.prompt("other", {})["7"]["inputs"] == DEMO["7"]["inputs"], "requests share nothing"


def test_other_nodes_are_bound_by_their_titles():
    workflow = bound(foreign("Paint it [tryon: seed,steps ] "))
    assert workflow.inputs == {"person_image": ["1"], "garment_image": ["2"]}
    assert {workflow.graph[name]["class_type"] for name in "12"} == {"TryOnPersonImage", "TryOnGarmentImage"}
    assert workflow.parameters == {"seed": [("3", "seed")], "num_inference_steps": [("3", "steps")]}
    assert workflow.outputs == ["4"] and workflow.graph["4"]["class_type"] == "TryOnOutput"


def test_untagged_nodes_keep_their_values():
    assert bound(foreign()).parameters == {}


def test_outputs_are_what_depends_on_both_pictures_each_picture_once():
    graph = foreign(
        **{
            "5": node("PreviewImage", images=["1", 0]),
            "6": node("SaveImage", images=["3", 0], filename_prefix="x"),
            "7": node("PreviewImage"),
        }
    )
    workflow = bound(graph)
    assert workflow.outputs == ["4"] and set(workflow.graph) == {"1", "2", "3", "4"}


def test_a_linked_parameter_stays_linked():
    graph = demo(lambda graph: graph["7"]["inputs"].update(steps=["20", 0]))
    graph["20"] = node("LoadAutoMasker")
    workflow = bound(graph)
    assert "num_inference_steps" not in workflow.parameters


def test_fields_nodes_and_the_web_page_agree_on_what_a_request_has():
    assert IMAGE_FIELDS == ("person_image", "garment_image", "mask_image")
    assert set(INPUT_CLASSES) == set(IMAGE_FIELDS)
    assert PARAMETERS["num_inference_steps"] == ("num_inference_steps", "steps")
    assert PARAMETERS.keys() <= TryonRequest.model_fields.keys() - set(IMAGE_FIELDS)
    script = (ROOT / "custom_nodes/comfyui_tryon/web/tryon.js").read_text()
    assert f"const NAME = /^{WORKFLOW_NAME}$/;" in script


REFUSED = {
    "no person": (lambda: demo(lambda graph: graph["1"].update(class_type="TryOnGarmentImage")), "TryOnPersonImage"),
    "no garment": (lambda: foreign(**{"2": node("LoadImage", "shirt", image="")}), "Reference garment"),
    "no output": (lambda: demo(lambda graph: graph.pop("9")), "TryOnOutput"),
    "output of the person only": (
        lambda: foreign(**{"4": node("PreviewImage", images=["1", 0])}),
        "depends on both images",
    ),
    "mistyped tag": (lambda: foreign("[tryon: stpes]"), "'stpes'"),
    "unclosed tag": (lambda: foreign("Paint [tryon: seed"), r"node 3 has '\[tryon: seed', but does not end in ]"),
    "tag before the end": (lambda: foreign("[tryon: seed] 2"), r"node 3 has '\[tryon: seed] 2', but does not end in ]"),
    "tag of no request": (lambda: foreign("[tryon: denoise]"), "'denoise'"),
    "tag without a value": (lambda: foreign("[tryon: width]"), "it has no value for"),
    "mask of a picture": (
        lambda: foreign(
            **{
                "5": node("MaskToImage", mask=["1", 1]),
                "3": node("Sampler", first=["5", 0], second=["2", 0], seed=1, steps=1, cfg=1.0, denoise=1.0),
                "6": node("PreviewImage", images=["3", 0]),
                "4": node("Sampler", first=["1", 0], second=["3", 0], seed=1, steps=1, cfg=1.0, denoise=1.0),
            }
        ),
        "ImageToMask",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_workflow_without_a_place_for_a_request_says_what_to_add(case):
    make, reason = REFUSED[case]
    with pytest.raises(WorkflowInvalid, match="(?i)" + reason):
        bound(make())


def test_a_title_of_megabytes_is_searched_at_once():
    with pytest.raises(WorkflowInvalid, match="does not end in"):
        bound(foreign("[tryon:" * 500_000))


@pytest.mark.parametrize("path", [PAGE_CATVTON, PUBLISHED], ids=["as described", "as published"])
def test_the_published_workflow_is_bound_as_it_is(workflows, tmp_path, path):
    if not path.exists():
        pytest.skip("../shared/workflows is not here: the file that CatVTON's authors publish is not read")
    (tmp_path / "catvton.json").write_bytes(path.read_bytes())
    workflow = get(workflows, "catvton")
    assert workflow.inputs == {"person_image": ["10"], "garment_image": ["11"]}
    assert workflow.outputs == ["18"] and set(workflow.graph) == {"10", "11", "12", "13", "16", "17", "18"}
    assert workflow.parameters["seed"] == [("16", "seed")] and workflow.parameters["width"] == [("16", "width")]
    assert workflow.parameters["cloth_type"] == [("13", "cloth_type")]


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_bundled_workflows_serve(classes, path):
    workflow = get(Workflows(path.parent, EmbeddedEngine(classes)), path.stem)
    assert {"person_image", "garment_image"} <= workflow.inputs.keys()


def write(folder: Path, name: str, content) -> Path:
    path = folder / f"{name}.json"
    part = folder / f".{name}.part"
    part.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    part.replace(path)
    return path


def steps(number: int) -> dict:
    return demo(lambda graph: graph["7"]["inputs"].update(steps=number))


def test_a_changed_file_serves_and_a_bad_one_leaves_the_last_good_one(workflows, tmp_path):
    write(tmp_path, "a", steps(1))
    first = get(workflows, "a")
    assert get(workflows, "a") is first
    path = write(tmp_path, "a", steps(2))
    second = get(workflows, "a")
    assert second.graph["7"]["inputs"]["steps"] == 2 and second.version != first.version
    for bad in (path.read_bytes()[:100], b"", json.dumps(steps(5000)).encode(), json.dumps(REFUSED["no output"][0]())):
        write(tmp_path, "a", bad if isinstance(bad, bytes) else bad.encode())
        assert get(workflows, "a") is second
        listed = workflows.describe("a").workflows[0]
        assert listed.version == second.version and listed.problem
    write(tmp_path, "a", steps(1))
    assert get(workflows, "a").version == first.version and workflows.describe("a").workflows[0].problem is None
    path.unlink()
    with pytest.raises(KeyError):
        get(workflows, "a")
    assert workflows.describe("a").workflows == []


def test_what_the_engine_would_not_run_does_not_serve(workflows, tmp_path):
    write(tmp_path, "a", steps(5000))
    with pytest.raises(WorkflowInvalid, match="steps is not from 1 to 500$"):
        get(workflows, "a")
    write(tmp_path, "b", foreign(**{"3": node("LoadImage", "other", image="c.png")}))
    with pytest.raises(WorkflowInvalid):
        get(workflows, "b")
    graph = demo(lambda graph: graph.update({"30": node("Broken")}))
    graph["7"]["inputs"]["refer_image"] = ["30", 0]
    write(tmp_path, "c", graph)
    with pytest.raises(WorkflowInvalid):
        get(workflows, "c")


def deep(levels: int) -> bytes:
    return b'{"1":' + b"[" * levels + b"]" * levels + b"}"


def chain(length: int) -> dict:
    graph = demo()
    for number in range(length):
        result = [f"x{number - 1}" if number else "8", 0]
        graph[f"x{number}"] = node("TryOnRepaint", person=["1", 0], result=result, mask=["5", 0])
    return graph | {"9": node("TryOnOutput", images=[f"x{length - 1}", 0])}


def cycle() -> dict:
    return demo(lambda graph: graph["8"]["inputs"].update(result=["8", 0]))


HOSTILE = {
    "empty": b"",
    "half-written": json.dumps(DEMO).encode()[:900],
    "binary": bytes(range(256)) * 64,
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "nested 100 deep": deep(100),
    "nested 1000000 deep": deep(1_000_000),
    "too large": b" " * (MAX_BYTES + 1),
    "a number": b"7",
    "a huge number": b"[" + b"9" * 100_000 + b"]",
    "not finite": b'{"1": {"class_type": "TryOnOutput", "inputs": {"x": NaN}}}',
    "cyclic": json.dumps(cycle()).encode(),
    "half a character": json.dumps({**DEMO, "\ud8007": DEMO["9"]}).encode(),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(workflows, tmp_path, case):
    write(tmp_path, "hostile", HOSTILE[case])
    with pytest.raises(WorkflowInvalid) as refusal:
        get(workflows, "hostile")
    assert str(refusal.value) and str(tmp_path) not in str(refusal.value)


def test_links_and_what_is_no_file_are_refused_and_nothing_outside_is_read(workflows, tmp_path_factory, tmp_path):
    outside = write(tmp_path_factory.mktemp("outside"), "good", DEMO)
    (tmp_path / "out.json").symlink_to(outside)
    (tmp_path / "device.json").symlink_to("/dev/zero")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "nowhere.json").symlink_to("gone")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("out", "device", "loop", "folder", "pipe"):
        with pytest.raises(WorkflowInvalid) as refusal:
            get(workflows, name)
        assert str(tmp_path) not in str(refusal.value)
    with pytest.raises(KeyError):
        get(workflows, "nowhere")
    listed = {found.name for found in workflows.describe("a").workflows}
    assert listed == {"out", "device", "loop", "folder", "pipe", "nowhere.json"}
    write(tmp_path, "target", DEMO)
    (tmp_path / "inside.json").symlink_to("target.json")
    assert get(workflows, "inside").name == "inside"


@pytest.mark.parametrize("name", ["../secret", "a/b", "/etc/passwd", "", ".", "..", ".hidden", "a" * 65, "a\0b", "ü"])
def test_names_with_paths_are_nobodys(workflows, tmp_path, name):
    write(tmp_path.parent, "secret", DEMO)
    with pytest.raises(KeyError):
        get(workflows, name)
    with pytest.raises(WorkflowInvalid):
        workflows.publish(name, json.dumps({"workflow": DEMO, "prompt": DEMO}).encode())
    with pytest.raises(KeyError):
        workflows.withdraw(name)
    assert not list(tmp_path.iterdir())


def test_a_file_replaced_while_it_is_read_ends_as_the_newest(workflows, tmp_path):
    """Many threads ask while the file is replaced; whoever asks after the last replacement gets it."""
    numbers = range(1, 41)
    versions = set()
    done = threading.Event()

    def ask():
        while not done.is_set():
            versions.add(get(workflows, "a").graph["7"]["inputs"]["steps"])

    write(tmp_path, "a", steps(1))
    get(workflows, "a")  # a good version, before a broken one may be found
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for number in numbers:
            write(tmp_path, "a", steps(number) if number % 3 else b"{")
        assert get(workflows, "a").graph["7"]["inputs"]["steps"] == 40
        done.set()
        for future in asking:
            future.result()
    assert versions <= {number for number in numbers if number % 3}


def test_a_file_that_takes_long_to_check_holds_up_nothing_else(workflows, tmp_path, monkeypatch):
    """Whoever asks for the file waits, also when another who asked goes away; the event loop and other files do not."""
    write(tmp_path, "slow", DEMO)
    write(tmp_path, "other", DEMO)
    release = threading.Event()

    def held_up(name, *rest):
        if name == "slow":
            assert release.wait(30)
        return parse_workflow(name, *rest)

    monkeypatch.setattr("comfyui_tryon.workflows.store.parse_workflow", held_up)

    async def scenario():
        leaves, stays = (asyncio.create_task(workflows.get("slow")) for _ in range(2))
        assert (await workflows.get("other")).name == "other"
        leaves.cancel()
        await asyncio.wait({leaves})
        assert not stays.done()
        release.set()
        assert (await stays).name == "slow"

    asyncio.run(scenario())


# Publishing


def page_catvton(**changes) -> dict:
    document = json.loads(PAGE_CATVTON.read_text())
    for found in document["nodes"]:
        found["widgets_values"] = changes.get(found["type"], found.get("widgets_values", []))
    return document


def converted(document: dict, classes) -> dict:
    return to_prompt(document, {"LoadImage": LoadImage, **classes})


def body(page: dict, prompt: dict) -> bytes:
    return json.dumps({"workflow": page, "prompt": prompt}).encode()


def test_publishing_keeps_the_pages_graph_that_serves(workflows, tmp_path, classes):
    page = page_catvton()
    prompt = converted(page, classes)
    prompt["16"]["_meta"]["title"] = "the page's own name for an untitled node"
    published = workflows.publish("new", body(page, prompt))
    assert json.loads((tmp_path / "new.json").read_text()) == page
    assert get(workflows, "new").version == published.version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.json"]


def test_publishing_keeps_the_prompt_where_the_graph_is_another(workflows, tmp_path, classes):
    page = page_catvton()
    prompt = converted(page, classes)
    prompt["16"]["inputs"]["steps"] = 7
    workflows.publish("new", body(page, prompt))
    assert (tmp_path / "page/new.json").is_file() and workflows.document("new") == {"workflow": page}
    assert get(workflows, "new").graph["16"]["inputs"]["steps"] == 7
    other = copy.deepcopy(prompt)
    other["16"]["inputs"]["steps"] = 77
    write(tmp_path, "new", other)
    assert workflows.document("new") == {"prompt": other}, "the page's graph is of the file before"
    workflows.publish("new", body(page, converted(page, classes)))
    assert not (tmp_path / "page/new.json").exists()
    assert get(workflows, "new").graph["16"]["inputs"]["steps"] == 50


@pytest.mark.parametrize(
    "sent",
    [b"", b"{", b"[]", b"{}", b'{"workflow": {}, "prompt": {}}', b'{"workflow": 1, "prompt": {}}', body({}, cycle())],
)
def test_publishing_what_cannot_serve_writes_nothing(workflows, tmp_path, sent):
    write(tmp_path, "a", DEMO)
    before = get(workflows, "a")
    with pytest.raises(WorkflowInvalid):
        workflows.publish("a", sent)
    assert get(workflows, "a") is before and [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_publishing_over_a_link_replaces_the_link(workflows, tmp_path_factory, tmp_path, classes):
    outside = write(tmp_path_factory.mktemp("outside"), "a", {"untouched": True})
    (tmp_path / "a.json").symlink_to(outside)
    (tmp_path / "page").symlink_to(outside.parent)
    page = page_catvton()
    workflows.publish("a", body(page, converted(page, classes)))
    assert get(workflows, "a") and not (tmp_path / "a.json").is_symlink()
    with pytest.raises(WorkflowInvalid, match="link"):
        workflows.publish("b", body({}, DEMO))
    workflows.withdraw("a")
    assert json.loads(outside.read_text()) == {"untouched": True} and len(list(outside.parent.iterdir())) == 1


def test_in_a_clone_the_repositorys_own_files_are_not_withdrawn(workflows, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "WORKFLOWS", tmp_path)
    for name in ("demo", "mine"):
        write(tmp_path, name, DEMO)
    with pytest.raises(KeyError):
        workflows.withdraw("demo")
    workflows.withdraw("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


# Over HTTP, on every engine


def listed(client) -> dict[str, dict]:
    return {found["name"]: found for found in client.get("/api/v1/workflows").json()["workflows"]}


def test_every_workflow_is_described(server):
    with server.client() as client:
        found = listed(client)["demo"]
    assert found["default"] and "problem" not in found and found["mask"] == "optional" and found["outputs"] == ["9"]
    assert found["parameters"]["num_inference_steps"] == 4 and found["bound"]["num_inference_steps"] == ["7.steps"]


def test_the_published_workflow_answers_with_its_last_preview(server, fields):
    """CatVTON's own file as it is passes the engine's check; run with the masker that needs no weights."""
    write(server.workflows, "published", PAGE_CATVTON.read_bytes())
    variant = page_catvton(LoadAutoMasker=["zhengchong/CatVTON", "geometric"])
    write(server.workflows, "published_geometric", variant)
    with server.client() as client:
        found = listed(client)
        assert "problem" not in found["published"] and found["published"]["outputs"] == ["18"]
        assert found["published"]["bound"]["person_image"] == ["10"]
        reply = client.post("/api/v1/tryon", json=fields | {"workflow": "published_geometric"})
    assert picture(reply).shape == (96, 64, 3)
    assert reply.json()["workflow"] == {
        "name": "published_geometric", "version": found["published_geometric"]["version"]
    }  # fmt: skip


def test_hostile_files_beside_it_do_not_harm_a_server(server, fields):
    for number, content in enumerate(HOSTILE.values()):
        write(server.workflows, f"hostile{number}", content)
    (server.workflows / "link.json").symlink_to("/etc/passwd")
    write(server.workflows, "hostile_chain", chain(4000))
    try:
        with server.client() as client:
            assert "hostile_chain" in listed(client)
            for name in [*(f"hostile{number}" for number in range(len(HOSTILE))), "link"]:
                reply = client.post("/api/v1/tryon", json=fields | {"workflow": name})
                assert reply.json()["error"]["code"] == "workflow_invalid", name
                assert "root:" not in reply.text and str(server.workflows) not in reply.text
            found = listed(client)
            assert all("problem" in found[f"hostile{number}"] for number in range(len(HOSTILE)))
            assert client.post("/api/v1/tryon", json=fields).status_code == 200
    finally:
        for path in [*server.workflows.glob("hostile*.json"), server.workflows / "link.json"]:
            path.unlink()


def test_a_hundred_swaps_under_load_fail_no_request_and_mix_no_versions(server, fields):
    """Two versions make images of different sizes; every third file is broken, every fourth half-written first."""
    sizes = {"wide": (96, 64), "tall": (64, 96)}
    contents = {
        name: json.dumps(
            demo(
                lambda graph, size=size: [
                    graph[node]["inputs"].update(width=size[0], height=size[1]) for node in ("7", "10")
                ]
            )
        )
        for name, size in sizes.items()
    }
    expected = {}
    sent = {key: value for key, value in fields.items() if key.endswith("_image")}
    sent |= {"workflow": "swapped", "framing": "model", "num_inference_steps": 1}
    with server.client() as client:
        for name, content in contents.items():
            write(server.workflows, "swapped", content.encode())
            expected[listed(client)["swapped"]["version"]] = sizes[name][::-1] + (3,)
    assert len(expected) == 2
    done = threading.Event()

    def ask() -> int:
        count = 0
        with server.client() as client:
            while not done.is_set():
                reply = client.post("/api/v1/tryon", json=sent)
                assert picture(reply).shape == expected[reply.json()["workflow"]["version"]]
                count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for number, content in zip(range(100), itertools.cycle(contents.values())):
            if number % 3 == 2:
                write(server.workflows, "swapped", content.encode()[:500])
            elif number % 4 == 3:
                path = server.workflows / "swapped.json"
                path.write_text(content[:500])
                path.write_text(content)
            else:
                write(server.workflows, "swapped", content.encode())
            done.wait(0.02)
        done.set()
        assert all(future.result() for future in asking)


def test_publishing_exists_only_where_it_is_not_locked(server):
    with server.client() as client:
        for method in ("PUT", "DELETE"):
            assert client.request(method, "/api/v1/workflows/demo", content="{}").status_code == 404
        assert "/api/v1/workflows/{name}" not in client.get("/api/v1/openapi.json").json()["paths"]
    assert (server.workflows / "demo.json").exists()


@pytest.fixture
async def unlocked(tmp_path, read_settings) -> AsyncIterator[TestClient]:
    """An unlocked server of the embedded engine in this process, with the demo's weights; publishes into a folder."""
    read_settings(TRYON_MODELS_DIR=str(DEMO_MODELS))
    chosen = Settings(workflow="demo", workflows_dir=tmp_path, locked=False, warmup=False)
    app = web.Application()
    Server(chosen, current()).attach(app)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_publishing_over_http(unlocked, tmp_path, fields, classes):
    write(tmp_path, "demo", DEMO)
    page = page_catvton(LoadAutoMasker=["zhengchong/CatVTON", "geometric"])
    sent = {"workflow": page, "prompt": converted(page, classes)}

    async def ask(method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with unlocked.request(method, URL(path, encoded=True), **options) as reply:
            return reply.status, await reply.json() if reply.content_type == "application/json" else None

    status, published = await ask("PUT", "/api/v1/workflows/mine", json=sent)
    assert status == 200 and published["name"] == "mine" and published["outputs"] == ["18"]
    _, document = await ask("GET", "/api/v1/openapi.json")
    openapi_spec_validator.validate(document)
    assert {"put", "delete"} <= set(document["paths"]["/api/v1/workflows/{name}"])
    assert set(published) <= set(document["components"]["schemas"]["BoundWorkflow"]["properties"])
    status, answer = await ask("POST", "/api/v1/tryon", json=fields | {"workflow": "mine"})
    assert status == 200, answer
    assert from_base64(answer["output"]["images"][0]["image"]).shape == (96, 64, 3)
    assert answer["workflow"]["version"] == published["version"]
    sent["prompt"]["16"]["inputs"]["steps"] = 5000
    status, refused = await ask("PUT", "/api/v1/workflows/mine", json=sent)
    assert status == 422 and refused["error"]["details"]["field"] == "workflow"
    assert "steps" in refused["error"]["message"]
    _, listing = await ask("GET", "/api/v1/workflows")
    assert {found["name"]: found["version"] for found in listing["workflows"]}["mine"] == published["version"]
    for method, path, options, expected in (
        ("PUT", "mine", {"data": b" " * (3 * MAX_BYTES)}, 413),
        ("PUT", "%2e%2e%2fmine", {"json": sent}, 404),
        ("GET", "mine", {}, 405),
        ("DELETE", "mine", {}, 204),
        ("DELETE", "mine", {}, 404),
    ):
        status, _ = await ask(method, f"/api/v1/workflows/{path}", **options)
        assert status == expected, (method, path)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


# Other packs' nodes


def test_a_workflow_of_core_nodes_serves(server, engine, fields, pair):
    """The inpainting example as it is but for its weights, which are tiny and random and want no text encoder."""
    if engine == EMBEDDED:
        pytest.skip("the embedded engine has no core nodes")
    logged = len(server.log())
    graph = json.loads((ROOT / "examples/inpaint_ksampler.json").read_text())
    graph["9"] = node("UNETLoader", unet_name="tiny.safetensors", weight_dtype="default")
    graph["10"] = graph["11"] = node("LotusConditioning")
    graph["18"] = node("VAELoader", vae_name="taesd")
    for name in ("12", "15"):
        graph[name]["inputs"]["vae"] = ["18", 0]
    write(server.workflows, "inpaint", graph)
    with server.client() as client:
        found = listed(client)["inpaint"]
        assert "problem" not in found, found
        assert found["bound"] == {
            "person_image": ["1"], "garment_image": ["2"], "mask_image": ["3"],
            "width": ["4.width", "5.width", "6.width"], "height": ["4.height", "5.height", "6.height"],
            "seed": ["14.seed"], "num_inference_steps": ["14.steps"], "guidance_scale": ["14.cfg"],
        }  # fmt: skip
        assert found["mask"] == "required" and found["outputs"] == ["17"]
        fields["workflow"] = "inpaint"
        assert client.post("/api/v1/tryon", json=fields).json()["error"]["code"] == "missing_field"
        mask = np.zeros((192, 144), np.uint8)
        mask[64:128, 32:96] = 255
        sent = fields | {
            "width": 144,
            "height": 192,
            "mask_image": to_base64(Image.fromarray(mask).resize(pair.person.size)),
        }
        first, same, other = (
            picture(client.post("/api/v1/tryon", json=sent | change)) for change in ({}, {}, {"seed": 8})
        )
        progress = client.post("/api/v1/tryon", json=sent, headers={"Accept": "text/event-stream"}).text
    assert first.shape == (192, 144, 3) and np.array_equal(first, same)
    person = np.array(pair.person.resize((144, 192), Image.Resampling.LANCZOS), int)
    assert np.abs(first - person)[mask == 0].mean() < 3, "outside the mask it is the person"
    assert np.abs(first.astype(int) - other)[mask > 0].mean() > 1, "the seed counts"
    assert '"max": 2' in progress, "the steps count"
    assert "missing" not in server.log()[logged:].lower().replace("missing_field", "")


def shows(class_type: str, source: str, output: int = 0) -> dict:
    return node(class_type, images=[source, output], **({"filename_prefix": "x"} if class_type == "SaveImage" else {}))


def chained(*outputs: dict, tag: str = "") -> dict:
    """A graph of two samplers, 3 and then 20, and nodes that show what they make."""
    graph = foreign(tag)
    del graph["4"]
    graph["20"] = {**graph["3"], "inputs": {**graph["3"]["inputs"], "first": ["3", 0]}}
    return graph | {str(30 + number): output for number, output in enumerate(outputs)}


@pytest.mark.parametrize(
    "outputs, expected",
    [
        ([shows("PreviewImage", "3"), shows("SaveImage", "20")], ["31"]),
        ([shows("SaveImage", "20"), shows("PreviewImage", "3")], ["30"]),
        ([shows("PreviewImage", "20"), shows("SaveImage", "20"), shows("PreviewImage", "3")], ["30"]),
        ([shows("PreviewImage", "3"), shows("PreviewImage", "20")], ["31", "30"]),
        ([shows("SaveImage", "3"), shows("SaveImage", "20")], ["31", "30"]),
        ([shows("SaveImage", "1"), shows("PreviewImage", "20")], ["31"]),
        ([shows("TryOnOutput", "3"), shows("TryOnOutput", "20"), shows("SaveImage", "20")], ["31", "30"]),
        ([shows("TryOnOutput", "20"), shows("TryOnOutput", "1")], ["30", "31"]),
        ([shows("PreviewImage", "20"), shows("PreviewImage", "20")], ["30"]),
    ],
)
def test_the_result_comes_first_and_previews_are_none_where_it_is_saved(outputs, expected):
    workflow = bound(chained(*outputs))
    assert workflow.outputs == expected == workflow.description(True).outputs
    prompt = workflow.prompt("token", {})
    assert [prompt[output]["inputs"]["place"] for output in expected] == [*range(len(expected))]


@pytest.mark.parametrize("mask", [["8", 1], ["30", 0]], ids=["of the paste", "made from the person"])
def test_an_output_of_the_mask_comes_behind_the_result(mask):
    graph = {"20": node("TryOnOutput", images=mask), "30": node("TryOnRepaint", person=["1", 0])}
    workflow = bound(graph | demo())
    assert workflow.outputs == ["9", "20"] and workflow.pasted == {"9": "8"}


def test_the_listing_says_whether_a_seed_makes_a_difference():
    assert bound(chained(shows("SaveImage", "20"))).description(True).seed == "none"
    assert bound(chained(shows("SaveImage", "20"), tag="[tryon: seed]")).description(True).seed == "used"
    assert bound(demo()).description(True).seed == "used"


def test_seeds_count_up_only_where_this_packs_sampler_makes_the_batch():
    assert bound(demo()).seeding == {"9": "each"}
    assert bound(chained(shows("SaveImage", "20"))).seeding == {"30": "none"}
    assert bound(chained(shows("SaveImage", "20"), tag="[tryon: seed]")).seeding == {"30": "one"}
    linked = demo(lambda graph: graph["7"]["inputs"].update(batch_size=["20", 0]))
    linked["20"] = node("LoadAutoMasker")
    assert bound(linked).seeding == {"9": "one"}
    person = demo(lambda graph: graph.update({"30": node("TryOnOutput", images=["1", 0])}))
    assert bound(person).seeding == {"9": "each", "30": "none"}


def test_outputs_of_one_image_are_told_from_those_of_num_images():
    person = {"30": node("TryOnOutput", images=["1", 0]), "31": node("TryOnOutput", images=["8", 1])}
    workflow = bound(demo() | person | {"32": node("TryOnOutput", images=["7", 0])})
    counts = dict(zip(workflow.outputs, workflow.image_counts(3), strict=True))
    assert counts == {"9": 3, "30": 1, "31": 1, "32": 3}
    assert workflow.seeding == {"9": "each", "30": "none", "31": "none", "32": "each"}


def test_a_crop_without_a_paste_leaves_the_frame_to_the_graph():
    def drop_paste(graph):
        del graph["8"]
        graph["9"]["inputs"] = {"images": ["7", 0]}

    workflow = bound(demo(drop_paste))
    assert "framing" not in workflow.parameters and ("10", "width") in workflow.parameters["width"]
    assert "framing" not in bound(demo(lambda graph: graph["8"]["inputs"].update(framing=["1", 0]))).parameters
    own = Sampler.INPUT_TYPES()
    own["required"]["framing"] = (["person", "model"],)
    other = type("Sampler", (Sampler,), {"INPUT_TYPES": classmethod(lambda cls: own)})
    graph = foreign("[tryon: framing]")
    graph["3"]["inputs"]["framing"] = "person"
    assert bind("x", "1", graph, {"Sampler": other}).parameters == {"framing": [("3", "framing")]}


def test_another_packs_node_that_has_the_name_is_given_its_own_inputs_only():
    class Other:
        @classmethod
        def INPUT_TYPES(cls) -> dict:
            return {"required": {"target_image": ("IMAGE",), "seed": ("INT", {}), "steps": ("INT", {})}}

    workflow = bind("x", "1", demo(), NODE_CLASS_MAPPINGS | {"TryOnCatVTON": Other})
    reached = {parameter for parameter, places in workflow.parameters.items() if "7" in dict(places)}
    assert reached == {"seed", "num_inference_steps"}
    assert workflow.seeding == {"9": "one"} and "num_images" not in workflow.parameters


def choosing(*offered: Any, **members: Any) -> type:
    """A masker of another pack, which offers a choice of types."""
    spec = {"required": {"target_image": ("IMAGE",)}, "optional": {"category": offered, "cloth_type": offered}}
    return type("Chooser", (), {"INPUT_TYPES": classmethod(lambda cls: spec), "RETURN_TYPES": ("IMAGE",), **members})


def chosen(chooser: type, name: str = "category", tag: str = "category") -> Workflow:
    graph = demo()
    graph["4"] = node("Chooser", f"V [tryon: {tag}]", target_image=["1", 0], **{name: "upper_body"})
    return bind("x", "1", graph, NODE_CLASS_MAPPINGS | {"Chooser": chooser})


@pytest.mark.parametrize("listed", [True, False], ids=["a list", "a COMBO"])
@pytest.mark.parametrize(
    ("name", "offered", "taken"),
    [
        ("category", ["tops", "bottoms", "one-pieces", "hats"], None),
        ("category", ["bottoms", "one-pieces"], ["lower", "overall"]),
        ("cloth_type", ["upper", "lower", "overall", "inner", "outer"], None),
        ("cloth_type", ["upper", "lower"], ["upper", "lower"]),
    ],
)
def test_requests_may_choose_what_a_bound_node_offers(name, offered, taken, listed):
    chooser = choosing(offered) if listed else choosing("COMBO", {"options": offered})
    assert chosen(chooser, name, name).choices == ({"cloth_type": taken} if taken else {})


def test_a_bound_node_that_offers_nothing_that_requests_set_is_refused_by_name():
    offered = ["upper_body", "lower_body", "dresses"]
    with pytest.raises(WorkflowInvalid, match=r"node 4 \(Chooser 'V.*its category to tops or bottoms or one-pieces"):
        chosen(choosing(offered))
    checked = classmethod(lambda cls, category: True)
    assert chosen(choosing(offered, VALIDATE_INPUTS=checked)).choices == {}, "the node itself says what it takes"
    checked = classmethod(lambda cls, other: True)
    with pytest.raises(WorkflowInvalid, match="its category"):
        chosen(choosing(offered, VALIDATE_INPUTS=checked))


def test_limits_are_those_of_the_strictest_node():
    class Narrow(Sampler):
        @classmethod
        def INPUT_TYPES(cls) -> dict:
            declared = super().INPUT_TYPES()
            declared["required"]["seed"] = ("INT", {"min": 1, "max": 2**32 - 1})
            return declared

    graph = chained(shows("SaveImage", "20"), tag="[tryon: seed, steps]")
    graph["20"]["class_type"] = "Narrow"
    workflow = bind("x", "1", graph, {"Sampler": Sampler, "Narrow": Narrow})
    assert workflow.limits == {"seed": (1, 2**32 - 1)}
    assert bound(demo()).limits["seed"] == (0, 2**64 - 1)
