"""Which image is which in a reply: their order, and the seeds that made them."""

import copy
import json

import pytest
from comfyui_tryon.nodes.catvton import TryOnCatVTON
from support.servers import ROOT

DEMO = json.loads((ROOT / "workflows/demo.json").read_text())


@pytest.fixture
def published(tmp_path):
    """Writes the demo workflow with a change."""

    def write(name: str, change) -> None:
        graph = copy.deepcopy(DEMO)
        change(graph)
        (tmp_path / f"workflows/{name}.json").write_text(json.dumps(graph))

    return write


def add_output(graph: dict, source: str) -> None:
    graph["30"] = {"class_type": "TryOnOutput", "inputs": {"images": [source, 0]}}


def drop_seed(graph: dict) -> None:
    graph["7"]["inputs"]["seed"] = ["40", 0]
    graph["40"] = {"class_type": "TryOnPersonImage", "inputs": {"image": ""}}


async def images_of(client, fields) -> tuple[dict, list[tuple[int, int | None]]]:
    status, content = await client.tryon(fields)
    assert status == 200, content
    return content, [(image["height"], image["seed"]) for image in content["output"]["images"]]


async def test_images_come_in_the_order_of_the_listing_whatever_ran_first(api, grey, published):
    published("two", lambda graph: add_output(graph, "1"))
    client = await api()
    client.engine.deliveries = [1, 0, 1]  # heights 16, 15, 14
    async with client.get("/api/v1/workflows") as reply:
        [listed] = [one for one in (await reply.json())["workflows"] if one["name"] == "two"]
    assert listed["outputs"] == ["9", "30"]
    content, images = await images_of(client, grey | {"workflow": "two", "seed": 7})
    assert images == [(15, 7), (16, None), (14, None)] and content["seed"] == 7


@pytest.mark.parametrize("accept", ["image/png", "application/json"])
async def test_the_header_states_the_seed_of_the_first_image_only(api, grey, published, accept):
    published("unseeded", drop_seed)
    client = await api()
    for workflow, seed in (("demo", "7"), ("unseeded", None)):
        fields = grey | {"workflow": workflow} | ({"seed": 7} if seed else {})
        async with client.post("/api/v1/tryon", json=fields, headers={"Accept": accept}) as reply:
            assert reply.status == 200 and reply.headers.get("X-Seed") == seed


async def test_a_graph_that_takes_no_seed_says_so(api, grey, published):
    published("unseeded", drop_seed)
    client = await api()
    async with client.get("/api/v1/workflows") as reply:
        listed = {one["name"]: one["seed"] for one in (await reply.json())["workflows"]}
    assert listed == {"demo": "used", "unseeded": "none"}
    content, images = await images_of(client, grey | {"workflow": "unseeded"})
    assert content["seed"] is None and images == [(16, None)]
    assert await client.error(grey | {"workflow": "unseeded", "seed": 7}) == (422, "invalid_parameter")


async def test_a_batch_that_was_not_asked_for_has_one_seed_for_all(api, grey):
    client = await api()
    client.engine.deliveries = [0, 0]
    content, images = await images_of(client, grey | {"seed": 7})
    assert content["seed"] == 7 and [seed for _, seed in images] == [None, None]
    content, images = await images_of(client, grey | {"seed": 7, "num_images": 2})
    assert [seed for _, seed in images] == [7, 8]


async def test_drawn_seeds_survive_javascript_and_given_ones_are_exact(api, grey, monkeypatch):
    client = await api()
    monkeypatch.setattr("comfyui_tryon.fields.secrets.randbelow", lambda limit: limit - 1)
    content, images = await images_of(client, grey | {"num_images": 4})
    assert [seed for _, seed in images] == [2**53 - 4, 2**53 - 3, 2**53 - 2, 2**53 - 1]
    for seed in (2**53 + 1, 2**64 - 1):
        content, _ = await images_of(client, grey | {"seed": seed})
        assert content["seed"] == seed


async def test_seeds_fit_the_nodes_of_other_packs(api, grey, monkeypatch):
    declared = TryOnCatVTON.INPUT_TYPES()
    declared["required"]["seed"] = ("INT", {"min": 5, "max": 2**32 - 1})
    monkeypatch.setattr(TryOnCatVTON, "INPUT_TYPES", classmethod(lambda cls: declared))
    client = await api()
    for drawn, expected in ((lambda limit: limit - 1, 2**32 - 1), (lambda limit: 0, 5)):
        monkeypatch.setattr("comfyui_tryon.fields.secrets.randbelow", drawn)
        assert (await images_of(client, grey))[0]["seed"] == expected
    for seed in (4, 2**32):
        status, content = await client.tryon(grey | {"seed": seed})
        assert (status, content["error"]["code"]) == (422, "invalid_parameter")
        assert "from 5 to 4294967295" in content["error"]["message"]
