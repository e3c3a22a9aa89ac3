"""What a request says of frames, masks and several garments, and what its reply says of the result."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest
from aiohttp import FormData
from comfyui_tryon import exchange, images
from comfyui_tryon.decoding.decoder import Decoder
from comfyui_tryon.engine.interface import Progress
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS
from PIL import Image
from support.fake_engine import FakeEngine
from support.images import from_base64, psnr, to_base64, to_bytes
from support.servers import ROOT


def level(value: int, size: tuple[int, int] = (16, 16)) -> str:
    return to_base64(Image.new("RGB", size, (value,) * 3))


def job_of(run) -> exchange.ImageExchange:
    return exchange.find(run.prompt["9"]["inputs"]["token"])


def put_on(client, run, change=lambda job: None, count: int = 1) -> None:
    """Finishes a run: its images are the person's, brighter by the garment's value and the number of the image."""
    job = job_of(run)
    for number in range(count):
        job.deliver(job.images["person_image"] + job.images["garment_image"][0, 0, 0] + np.uint8(number), 0)
    change(job)
    run.finish()
    run.release()


async def next_run(client, count: int):
    await client.until(lambda: len(client.engine.runs) == count)
    return client.engine.runs[-1]


async def test_several_garments_are_put_on_one_after_the_other(api, grey):
    client = await api()
    client.engine.holds = True
    asked = grey | {
        "garment_image": [level(1), level(20)],
        "cloth_type": ["upper", "Bottoms"],
        "seed": 7,
        "num_images": 2,
    }
    sending = asyncio.ensure_future(client.tryon(asked))
    run = await next_run(client, 1)
    assert run.prompt["4"]["inputs"]["cloth_type"] == "upper" and run.prompt["7"]["inputs"]["batch_size"] == 2
    put_on(client, run, count=2)
    tokens = {run.prompt["9"]["inputs"]["token"]}
    for number, seed in enumerate((7, 8)):
        run = await next_run(client, 2 + number)
        inputs = run.prompt["7"]["inputs"]
        assert (inputs["seed"], inputs["batch_size"], run.prompt["4"]["inputs"]["cloth_type"]) == (seed, 1, "lower")
        tokens.add(run.prompt["9"]["inputs"]["token"])
        put_on(client, run)
    status, content = await sending
    assert status == 200, content
    images = content["output"]["images"]
    assert [(from_base64(image["image"])[0, 0, 0], image["seed"]) for image in images] == [(149, 7), (150, 8)]
    assert len(tokens) == 3, "what a host caches of one run is not taken for another's"
    assert not exchange._open


async def test_a_form_repeats_its_parts_for_several_garments(api, grey):
    client = await api()
    form = FormData([("cloth_type", "upper"), ("cloth_type", "lower")])
    form.add_field("person_image", to_bytes(Image.new("RGB", (16, 16), "grey")), filename="a.png")
    for name in ("garment_image", "garment_image[]"):
        form.add_field(name, to_bytes(Image.new("RGB", (16, 16))), filename="b.png")
    async with client.post("/api/v1/tryon", data=form) as reply:
        assert reply.status == 200, await reply.text()
    types = [run.prompt["4"]["inputs"]["cloth_type"] for run in client.engine.runs]
    assert types == ["upper", "lower"]


BAD = {
    "none": ({"garment_image": []}, "invalid_parameter", "garment_image"),
    "five": ({"garment_image": [level(1)] * 5}, "invalid_parameter", "garment_image"),
    "one that is no text": ({"garment_image": [level(1), None]}, "invalid_image", "garment_image"),
    "one that is no image": ({"garment_image": [level(1), "aGVsbG8gaGVsbG8="]}, "invalid_image", "garment_image"),
    "fewer types": ({"garment_image": [level(1)] * 3, "cloth_type": ["upper"] * 2}, "invalid_parameter", "cloth_type"),
    "more types": ({"cloth_type": ["upper"] * 2}, "invalid_parameter", "cloth_type"),
    "a mask": ({"garment_image": [level(1)] * 2, "mask_image": level(255)}, "invalid_parameter", "mask_image"),
    "a framing": ({"framing": "mine"}, "invalid_parameter", "framing"),
    "a shape": ({"mask_shape": "round"}, "invalid_parameter", "mask_shape"),
    "a low height": ({"height": 64}, "invalid_parameter", "height"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_done_is_refused_by_name(api, grey, case):
    change, code, field = BAD[case]
    client = await api()
    status, content = await client.tryon(grey | change)
    assert (status, content["error"]["code"], content["error"]["details"]["field"]) == (422, code, field)
    assert not client.engine.runs


@pytest.mark.parametrize("second", ["aGVsbG8gaGVsbG8=", "not base64!!", None])
async def test_an_error_says_which_of_several_garments_it_is(api, grey, second):
    client = await api()
    _, content = await client.tryon(grey | {"garment_image": [level(1), second]})
    assert content["error"]["message"].startswith("garment_image[1] ")
    assert content["error"]["details"]["field"] == "garment_image"


async def test_an_error_says_which_of_several_types_it_is(api, grey):
    client = await api()
    _, content = await client.tryon(grey | {"garment_image": [level(1)] * 2, "cloth_type": ["upper", "shirt"]})
    assert content["error"]["message"].startswith("cloth_type[1]: should be 'upper'")


@pytest.mark.parametrize("finished", [0, 1, 2])
async def test_a_request_for_several_garments_is_canceled_at_any_of_them(api, grey, finished):
    client = await api()
    client.engine.holds = True
    asked = grey | {"garment_image": [level(1)] * 3}
    sending = asyncio.ensure_future(client.tryon(asked, headers={"X-Request-Id": "mine"}))
    for number in range(finished):
        put_on(client, await next_run(client, number + 1))
    run = await next_run(client, finished + 1)
    async with client.delete("/api/v1/tryon/mine") as reply:
        assert reply.status == 204
    assert (await sending)[0] == 499
    await client.until(run.finished.done)
    assert len(client.engine.runs) == finished + 1 and not exchange._open and client.parts._tryon.depth == 0


async def test_the_progress_of_several_garments_is_one(api, grey):
    client = await api()
    client.engine.holds = True
    asked = grey | {"garment_image": [level(1)] * 2, "num_images": 2}

    async def events() -> list[dict]:
        async with client.post("/api/v1/tryon", json=asked, headers={"Accept": "text/event-stream"}) as reply:
            blocks = (await reply.text()).strip().split("\n\n")
        return [json.loads(block.split("data: ")[1]) for block in blocks if block.startswith(("event: p", "event: s"))]

    reading = asyncio.ensure_future(events())
    for number in range(3):
        run = await next_run(client, number + 1)
        steps = 3 if number else 6
        client.engine.start(run, *(Progress(step, steps, "7") for step in (0, steps)))
        put_on(client, run, count=1 if number else 2)
    found = await reading
    assert [event["status"] for event in found if "status" in event] == ["queued", "running"]
    counted = [(event["value"], event["max"]) for event in found if "value" in event]
    assert counted == [(0, 12), (6, 12), (6, 12), (9, 12), (9, 12), (12, 12)]


async def test_a_reply_says_what_was_done_to_the_person(api, grey):
    client = await api()
    client.engine.holds = True
    sending = asyncio.ensure_future(client.tryon(grey | {"return_mask": True, "garment_image": level(100)}))
    run = await next_run(client, 1)
    assert run.prompt["8"]["inputs"]["node"] == "8"
    job = job_of(run)
    before = job.images["person_image"]
    after = before.copy()
    after[:4] = 100
    job.framed["8"] = exchange.Framed((2, 3, 12, 16), before)
    job.warnings += ["person_cut", "several_people", "person_cut"]
    job.mask = np.zeros((16, 16), bool)
    job.mask[:4] = True
    assert job.wants_mask
    job.deliver(after, 0)
    run.finish()
    run.release()
    status, content = await sending
    assert status == 200
    [image] = content["output"]["images"]
    assert image["report"] == {"window": [2, 3, 12, 16], "changed": 0.25, "colour_difference": 0.0}
    assert [warning["code"] for warning in content["warnings"]] == ["several_people", "person_cut", "demo_weights"]
    assert all(warning["message"] for warning in content["warnings"])
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["output"]["mask"]))))
    assert (mask[:4] == 255).all() and not mask[4:].any()


async def test_masks_of_several_garments_are_one(api, grey):
    client = await api()
    client.engine.holds = True
    sending = asyncio.ensure_future(client.tryon(grey | {"return_mask": True, "garment_image": [level(1)] * 2}))
    for number in range(2):

        def mark(job, row=number):
            job.mask = np.zeros((16, 16), bool)
            job.mask[row] = True

        put_on(client, await next_run(client, number + 1), mark)
    _, content = await sending
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["output"]["mask"]))))
    assert mask.any(axis=1).tolist() == [True, True] + [False] * 14


async def test_a_mask_comes_with_json_only(api, grey):
    client = await api()
    asked = grey | {"return_mask": True}
    assert await client.error(asked, headers={"Accept": "image/png"}) == (422, "invalid_parameter")


async def test_a_workflow_that_cannot_take_them_refuses_the_fields_by_name(api, grey, tmp_path):
    graph = {
        "1": {"class_type": "TryOnPersonImage", "inputs": {"image": ""}},
        "2": {"class_type": "TryOnGarmentImage", "inputs": {"image": ""}},
        "3": {"class_type": "TryOnRepaint", "inputs": {"person": ["1", 0], "result": ["2", 0], "mask": ["1", 0]}},
        "9": {"class_type": "TryOnOutput", "inputs": {"images": ["3", 0]}},
    }
    (tmp_path / "workflows/echo.json").write_text(json.dumps(graph))
    client = await api()
    for field, value in (("framing", "person"), ("mask_shape", "box"), ("return_mask", True), ("width", 64)):
        status, content = await client.tryon(grey | {"workflow": "echo", field: value})
        assert (status, content["error"]["details"]["field"]) == (422, field)


@pytest.mark.parametrize("name", ["catvton_mask", "fashn"])
async def test_what_workflows_do_anyway_may_be_asked_for(api, grey, tmp_path, name):
    (tmp_path / f"workflows/{name}.json").write_text((ROOT / f"workflows/{name}.json").read_text())
    client = await api()
    asked = grey | {"workflow": name, "mask_image": level(255)}
    usual = {"mask_shape": "Outline", "garment_photo": "flat-lay", "cloth_type": "upper", "num_images": 1}
    assert (await client.tryon(asked | usual))[0] == 200
    status, content = await client.tryon(asked | {"mask_shape": "box"})
    assert (status, content["error"]["details"]) == (422, {"field": "mask_shape"})


async def test_types_of_garment_that_a_node_does_not_offer_are_refused(api, grey, tmp_path, monkeypatch):
    spec = {"required": {"target_image": ("IMAGE",), "category": (["bottoms", "one-pieces"],)}}
    masker = type("Masker", (), {"INPUT_TYPES": classmethod(lambda cls: spec), "RETURN_TYPES": ("IMAGE",)})
    monkeypatch.setattr(FakeEngine, "node_classes", lambda engine: NODE_CLASS_MAPPINGS | {"Masker": masker})
    graph = json.loads((tmp_path / "workflows/demo.json").read_text())
    inputs = {"target_image": ["1", 0], "category": "bottoms"}
    graph["4"] = {"class_type": "Masker", "inputs": inputs, "_meta": {"title": "Masker [tryon: category]"}}
    (tmp_path / "workflows/lower.json").write_text(json.dumps(graph))
    client = await api(locked=True, warmup=True, workflow="lower")
    await client.until(lambda: client.parts._health.is_ready)
    for types in ({}, {"cloth_type": "upper"}, {"cloth_type": ["lower", "inner"], "garment_image": [level(1)] * 2}):
        status, content = await client.tryon(grey | types)
        assert (status, content["error"]["details"]) == (422, {"field": "cloth_type"})
        assert "lower or overall" in content["error"]["message"]
    assert (await client.tryon(grey | {"cloth_type": "dress"}))[0] == 200
    reached = [run.prompt["4"]["inputs"]["category"] for run in client.engine.runs]
    assert reached == ["bottoms", "bottoms", "one-pieces"], "the warm-up's two and the one that is answered"


@pytest.mark.parametrize("asked, sides", [({"width": 96}, (96, 128)), ({"height": 256}, (192, 256)), ({}, (384, 512))])
async def test_one_side_keeps_the_workflows_aspect_ratio(api, grey, asked, sides):
    client = await api()
    await client.tryon(grey | asked)
    for node in ("7", "10"):
        inputs = client.engine.runs[0].prompt[node]["inputs"]
        assert (inputs["width"], inputs["height"]) == sides


async def test_one_side_keeps_the_aspect_ratio_that_a_file_leaves_to_its_nodes(api, grey, tmp_path):
    graph = json.loads((tmp_path / "workflows/demo.json").read_text())
    for inputs in (graph["7"]["inputs"], graph["10"]["inputs"]):
        del inputs["width"], inputs["height"]
    (tmp_path / "workflows/bare.json").write_text(json.dumps(graph))
    client = await api()
    assert (await client.tryon(grey | {"workflow": "bare", "width": 96}))[0] == 200
    inputs = client.engine.runs[0].prompt["7"]["inputs"]
    assert (inputs["width"], inputs["height"]) == (96, 128)


async def test_mask_shape_and_framing_reach_every_node_that_has_them(api, grey):
    client = await api()
    await client.tryon(grey | {"mask_shape": "Box", "framing": "model"})
    prompt = client.engine.runs[0].prompt
    assert (prompt["4"]["inputs"]["mask_shape"], prompt["4"]["inputs"]["square"]) == ("box", True)
    assert prompt["10"]["inputs"]["framing"] == prompt["8"]["inputs"]["framing"] == "model"


@pytest.mark.parametrize("framing, size", [("person", (75, 100)), ("model", (150, 200))])
async def test_person_and_mask_are_reduced_where_the_reply_has_the_persons_size(api, grey, framing, size):
    client = await api(max_output_side=100)
    client.engine.holds = True
    mask = to_base64(Image.new("L", (300, 400), 255))
    asked = {"person_image": level(9, (150, 200)), "mask_image": mask, "garment_image": level(9, (150, 200))}
    sending = asyncio.ensure_future(client.tryon(asked | {"framing": framing}))
    job = job_of(await next_run(client, 1))
    shapes = {name: pixels.shape[1::-1] for name, pixels in job.images.items()}
    assert shapes == {"person_image": size, "mask_image": size, "garment_image": (150, 200)}
    put_on(client, client.engine.runs[0])
    assert (await sending)[0] == 200


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
async def test_a_reduced_image_is_turned_and_converted_as_a_whole_one(mode):
    smooth = Image.linear_gradient("L").resize((300, 200))
    image = Image.new("RGB", (300, 200), (40, 90, 200))
    image.paste((250, 240, 10), mask=smooth)
    if mode == "RGBA":
        image.putalpha(smooth)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(smooth).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = to_bytes(image, "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    decoder = Decoder(10**9, 10**8)
    decoded = []
    for max_side in (None, 100):
        with decoder.share() as share:
            decoded.append((await decoder.decode({"person_image": data}, share, max_side))["person_image"])
    assert decoded[1].shape == (100, 67, 3)
    wanted = Image.fromarray(decoded[0]).resize((67, 100), Image.Resampling.LANCZOS)
    assert np.abs(decoded[1].astype(int) - np.asarray(wanted)).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size, progressive", [((1003, 751), False), ((751, 1003), True), ((401, 300), False)])
def test_a_jpeg_much_larger_than_wanted_is_decoded_at_a_part_of_its_size(mode, size, progressive):
    noise = Image.effect_noise((40, 40), 90).resize(size, Image.Resampling.BICUBIC)
    image = Image.merge("RGB", [noise, noise.rotate(180), noise.transpose(Image.Transpose.FLIP_TOP_BOTTOM)])
    data = to_bytes(image.convert(mode), "JPEG", quality=95, progressive=progressive)
    reduced = images.decode(data, "person_image", 10**7, max_side=200)
    whole = Image.fromarray(images.decode(data, "person_image", 10**7))
    wanted = np.asarray(whole.resize((200, 150) if size[0] > size[1] else (150, 200), Image.Resampling.LANCZOS))
    assert reduced.shape == wanted.shape
    assert psnr(reduced, wanted) > 40
    costs = [images.read_header(data, "person_image", 10**7, side).decoder_bytes for side in (None, 200)]
    assert costs[1] < costs[0]


@pytest.mark.parametrize("size, fits", [((50, 5000), True), ((25, 2500), True), ((52, 5000), False)])
async def test_the_aspect_ratio_of_a_mask_is_that_of_the_images_as_they_were_sent(size, fits):
    decoder = Decoder(10**9, 10**8)
    uploads = {
        "person_image": to_bytes(Image.new("RGB", (50, 5000))),
        "mask_image": to_bytes(Image.new("L", size, 255)),
    }
    with decoder.share() as share:
        if fits:
            decoded = await decoder.decode(uploads, share, 1024)
            assert decoded["mask_image"].shape == decoded["person_image"].shape == (1024, 10, 3)
        else:
            with pytest.raises(Exception, match="mask of the person image's size"):
                await decoder.decode(uploads, share, 1024)
