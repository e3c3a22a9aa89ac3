"""A request's way through the API and TryOn: what it becomes when all goes well, and each way that it can end."""

import asyncio
import base64
import encodings
import gc
import io
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from aiohttp import FormData
from comfyui_tryon import exchange
from comfyui_tryon.api import events as api_events
from comfyui_tryon.engine.interface import Interrupted, NodeFailed, Progress
from comfyui_tryon.errors import ApiError, draining, failed_worker
from PIL import Image
from support.images import from_base64, to_base64, to_bytes


async def test_the_reply_has_the_image_and_how_it_was_made(api, grey):
    client = await api()
    status, content = await client.tryon(grey | {"seed": 7}, headers={"X-Request-Id": "mine"})
    assert status == 200
    assert set(content) == {"id", "seed", "output", "workflow", "timings", "warnings"}
    assert (content["id"], content["seed"]) == ("mine", 7)
    assert content["output"]["images"][0] | {"image": ""} == {
        "image": "", "format": "png", "width": 16, "height": 16, "seed": 7
    }  # fmt: skip
    assert (from_base64(content["output"]["images"][0]["image"]) == 128).all()
    assert content["workflow"]["name"] == "demo" and len(content["workflow"]["version"]) == 12
    assert set(content["timings"]) == {"queue_s", "execute_s", "total_s"}


async def test_cloth_types_go_by_other_names_too(api, grey):
    names = {
        "tops": "upper",
        "Upper_Body": "upper",
        "bottoms": "lower",
        "lower_body": "lower",
        " one-pieces": "overall",
        "dresses": "overall",
        "dress": "overall",
        "full": "overall",
        "inner": "inner",
        "OUTER": "outer",
    }
    client = await api(max_queue=len(names))
    for given in names:
        assert (await client.tryon(grey | {"cloth_type": given}))[0] == 200
    reached = [run.prompt["4"]["inputs"]["cloth_type"] for run in client.engine.runs]
    assert dict(zip(names, reached, strict=True)) == names


async def test_parameters_reach_the_nodes_and_the_rest_is_the_workflows(api, grey):
    client = await api()
    asked = {"seed": 3, "num_inference_steps": 6, "guidance_scale": 5.5, "cloth_type": "Dress", "width": 128}
    await client.tryon(grey | asked)
    inputs = client.engine.runs[0].prompt["7"]["inputs"]
    assert (inputs["seed"], inputs["steps"], inputs["cfg"], inputs["width"]) == (3, 6, 5.5, 128)
    assert client.engine.runs[0].prompt["4"]["inputs"]["cloth_type"] == "overall"
    await client.tryon(grey)
    theirs = client.engine.runs[1].prompt["7"]["inputs"]
    assert theirs["steps"] != 6 and theirs["width"] != 128


async def test_the_images_never_enter_the_prompt(api, grey):
    client = await api()
    await client.tryon(grey)
    assert len(json.dumps(client.engine.runs[0].prompt)) < 4000


async def test_several_images_count_their_seeds_up(api, grey):
    client = await api()
    status, content = await client.tryon(grey | {"num_images": 3, "seed": 2**64 - 1})
    assert status == 200 and content["seed"] == 2**64 - 1
    assert [image["seed"] for image in content["output"]["images"]] == [2**64 - 1, 0, 1]


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
async def test_accept_asks_for_the_bytes_of_the_image(api, grey, media_type):
    client = await api()
    async with client.post("/api/v1/tryon", json=grey | {"seed": 7}, headers={"Accept": media_type}) as reply:
        assert reply.headers["Content-Type"] == media_type and reply.headers["X-Seed"] == "7"
        assert Image.open(io.BytesIO(await reply.read())).format == media_type[6:].upper()


async def test_a_form_is_the_same_request(api, grey):
    client = await api()
    data = to_bytes(Image.new("RGB", (16, 16), "grey"))
    form = FormData({"seed": "5", "num_inference_steps": "2"})
    form.add_field("person_image", data, filename="a.png")
    form.add_field("garment_image", base64.b64encode(data).decode())
    async with client.post("/api/v1/tryon", data=form) as reply:
        content = await reply.json()
    assert reply.status == 200, content
    assert content["output"] == (await client.tryon(grey | {"seed": 5, "num_inference_steps": 2}))[1]["output"]


@pytest.mark.parametrize(
    "parameters",
    [
        'name="person_image"; filename="a;b;c.png"',
        "name=person_image; filename=a.png",
        'Name = "person_image" ; FILENAME = ""',
        "name=\"person_image\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.png",
        'name="person_image"; filename="say "cheese".png"',
        'filename="C:\\\\people\\\\a.png"; name="person_image[]"',
        'name="person_image"' + "".join(f"; {n}*=q{n}''%41" for n in range(500)),
        'name="person_image"; ' + "; ".join(f"=a{n}" for n in range(1000)),
    ],
)
async def test_the_head_of_a_forms_part_may_be_as_clients_write_it(api, grey, parameters, caplog):
    client = await api()
    image = base64.b64decode(grey["person_image"])
    parts = [(parameters, image), ('name="garment_image"; filename="b.png"', image)]
    lines = [b"--x\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data for head, data in parts]
    body = b"\r\n".join([*lines, b"--x--\r\n"])
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with client.post("/api/v1/tryon", data=body, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
    assert not {"q1", "q499"} & set(encodings._cache) and "Content-Disposition" not in caplog.text


@pytest.mark.parametrize("parameters", ['filename="a.png"', 'x="; name=person_image', ""])
async def test_a_part_without_a_name_is_refused(api, parameters):
    client = await api()
    body = f"--x\r\nContent-Disposition: form-data; {parameters}\r\n\r\na\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with client.post("/api/v1/tryon", data=body.encode(), headers=headers) as reply:
        assert reply.status == 400 and "needs a field name" in await reply.text()


async def test_a_forms_text_may_have_letters_of_any_language(api, grey):
    client = await api()
    text = f"data:image/png;name=größe.png;base64,{grey['person_image']}"
    form = FormData(grey | {"person_image": text}, default_to_multipart=True)
    async with client.post("/api/v1/tryon", data=form) as reply:
        assert reply.status == 200, await reply.text()
    form = FormData(grey | {"person_image": "https://shop.example/größe.png"}, default_to_multipart=True)
    async with client.post("/api/v1/tryon", data=form) as reply:
        assert reply.status == 422 and "TRYON_URL_HOSTS" in await reply.text()


BAD = [
    ({"person_image": None}, 422, "missing_field"),
    ({"person_image": "!!!"}, 422, "invalid_image"),
    ({"person_image": base64.b64encode(b"%PDF-1.7").decode()}, 422, "invalid_image"),
    ({"width": 770}, 422, "invalid_parameter"),
    ({"seed": 2**64}, 422, "invalid_parameter"),
    ({"num_images": 5}, 422, "invalid_parameter"),
    ({"person": "x"}, 422, "invalid_parameter"),
    ({"workflow": "nope"}, 404, "workflow_not_found"),
    ({"workflow": "../demo"}, 422, "invalid_parameter"),
    ({"mask_image": to_base64(Image.new("L", (64, 16)))}, 422, "invalid_image"),
]


@pytest.mark.parametrize("change, status, code", BAD)
async def test_bad_requests_never_reach_the_engine(api, grey, change, status, code):
    client = await api()
    sent = {name: value for name, value in (grey | change).items() if value is not None}
    assert await client.error(sent) == (status, code)
    assert not client.engine.runs


@pytest.mark.parametrize(
    "content, content_type, status, code",
    [
        (b"{", "application/json", 400, "invalid_request"),
        (b"[" * 100_000, "application/json", 400, "invalid_request"),
        (b"\xff\xfe", "application/json", 400, "invalid_request"),
        (b"x", "text/plain", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data", 400, "invalid_request"),
        (b"--b\r\n\r\n", "multipart/form-data; boundary=b", 400, "invalid_request"),
        (b"{" + b" " * 2_000_000 + b"}", "application/json", 413, "payload_too_large"),
    ],
)
async def test_bodies_that_are_not_a_request(api, content, content_type, status, code):
    client = await api(max_body_mb=1)
    headers = {"Content-Type": content_type}
    async with client.post("/api/v1/tryon", data=io.BytesIO(content), headers=headers) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (status, code)


async def test_a_full_queue_says_when_to_come_back(api, grey):
    client = await api(max_queue=2)
    client.engine.holds = True
    sent = [asyncio.ensure_future(client.tryon(grey)) for _ in range(3)]
    await client.until(lambda: len(client.engine.runs) == 3)
    async with client.post("/api/v1/tryon", json=grey) as reply:
        assert reply.status == 429 and int(reply.headers["Retry-After"]) >= 1
        assert (await reply.json())["error"]["details"] == {"queue": 3}
    for run in client.engine.runs:
        client.engine.finish(run)
    assert [status for status, _ in await asyncio.gather(*sent)] == [200] * 3


async def test_an_id_is_used_by_one_request_at_a_time(api, grey):
    client = await api()
    client.engine.holds = True
    first = asyncio.ensure_future(client.tryon(grey, headers={"X-Request-Id": "mine"}))
    await client.until(lambda: client.engine.runs)
    assert await client.error(grey, headers={"X-Request-Id": "mine"}) == (409, "conflict")
    client.engine.finish(client.engine.runs[0])
    assert (await first)[0] == 200
    client.engine.holds = False
    assert (await client.tryon(grey, headers={"X-Request-Id": "mine"}))[0] == 200


async def test_an_id_in_use_is_a_conflict_on_a_full_worker_too(api, grey):
    client = await api(max_queue=0)
    client.engine.holds = True
    first = asyncio.ensure_future(client.tryon(grey, headers={"X-Request-Id": "mine"}))
    await client.until(lambda: client.engine.runs)
    assert await client.error(grey, headers={"X-Request-Id": "other"}) == (429, "queue_full")
    assert await client.error(grey, headers={"X-Request-Id": "mine"}) == (409, "conflict")
    client.engine.finish(client.engine.runs[0])
    assert (await first)[0] == 200


async def test_delete_cancels_its_own_request(api, grey):
    client = await api()
    client.engine.holds = True
    sent = {name: asyncio.ensure_future(client.tryon(grey, headers={"X-Request-Id": name})) for name in ("a", "b")}
    await client.until(lambda: len(client.engine.runs) == 2)
    async with client.delete("/api/v1/tryon/a") as reply:
        assert reply.status == 204
    status, content = await sent["a"]
    assert (status, content["error"]["code"]) == (499, "canceled")
    assert not sent["b"].done()
    async with client.delete("/api/v1/tryon/a") as reply:
        assert reply.status == 404
    # which of the two was queued first depends on whose images were decoded first
    client.engine.finish(next(run for run in client.engine.runs if not run.finished.done()))
    assert (await sent["b"])[0] == 200


async def test_a_deadline_cancels_the_run(api, grey):
    client = await api(timeout_s=1)
    client.engine.holds = True
    assert await client.error(grey) == (504, "timeout")
    assert client.engine.runs[0].finished.done()


async def test_a_client_that_goes_away_cancels_the_run(api, grey):
    client = await api()
    client.engine.holds = True
    sent = asyncio.ensure_future(client.tryon(grey))
    await client.until(lambda: client.engine.runs)
    sent.cancel()
    await client.until(client.engine.runs[0].finished.done)
    await client.until(lambda: client.parts._tryon.depth == 0)


@pytest.mark.parametrize(
    "error_type, message, status, code",
    [
        ("ValueError", "secret /path", 500, "node_execution_error"),
        ("NoPersonFound", "", 422, "no_person_found"),
        ("WeightsMissing", "/models", 503, "not_ready"),
        ("OutOfMemoryError", "CUDA", 503, "out_of_memory"),
        ("RuntimeError", "CUDA out of memory", 503, "out_of_memory"),
        ("MemoryError", "", 503, "out_of_memory"),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory", 503, "out_of_memory"),
        ("SystemExit", "3", 500, "node_execution_error"),
        ("RuntimeError", "CUDA error: an illegal memory access", 503, "not_ready"),
        ("AcceleratorError", "", 503, "not_ready"),
    ],
)
async def test_what_a_node_raises_has_its_code_and_no_secret(api, grey, error_type, message, status, code, caplog):
    client = await api()
    client.engine.outcome = NodeFailed("7", "CatVTON", error_type, message)
    found, content = await client.tryon(grey)
    assert (found, content["error"]["code"]) == (status, code)
    assert "/" not in content["error"]["message"].replace("./", "")
    assert (error_type in caplog.text) is (code != "no_person_found")
    async with client.get("/ping") as reply:
        assert reply.status == (503 if "CUDA error" in message or error_type == "AcceleratorError" else 200)


async def test_who_canceled_a_request_is_told(api, grey):
    client = await api()
    client.engine.outcome = Interrupted("The operator removed this request from ComfyUI's queue.")
    status, content = await client.tryon(grey)
    assert (status, content["error"]["code"]) == (499, "canceled")
    assert content["error"]["message"].startswith("The operator removed this request")


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (16, 16, 4), (0, 16, 3), (16, 20_000, 3), (1, 16, 16, 3)])
async def test_what_is_no_image_is_refused_in_the_node_that_delivers_it(api, grey, shape):
    client = await api()
    client.engine.holds = True
    sent = asyncio.ensure_future(client.tryon(grey))
    await client.until(lambda: client.engine.runs)
    run = client.engine.runs[0]
    with pytest.raises(ValueError, match="shape"):
        exchange.find(run.prompt[run.outputs[0]]["inputs"]["token"]).deliver(np.zeros(shape, np.uint8))
    client.engine.finish(run)
    assert (await sent)[0] == 200


async def test_a_workflow_that_cannot_run_says_why(api, grey):
    client = await api()
    assert (await client.tryon(grey))[0] == 200
    client.engine.graph_error = "node 7: no such model"
    status, content = await client.tryon(grey)
    assert (status, content["error"]["code"]) == (500, "workflow_invalid")
    assert "node 7: no such model" in content["error"]["message"]


async def events(client, fields) -> list[tuple[str, dict]]:
    async with client.post("/api/v1/tryon", json=fields, headers={"Accept": "text/event-stream"}) as reply:
        assert reply.status == 200 and reply.headers["Content-Type"] == "text/event-stream"
        blocks = (await reply.text()).strip().split("\n\n")
    pairs = [block.split("\n") for block in blocks if not block.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


async def test_events_come_in_order_and_end_in_the_reply(api, grey):
    client = await api()
    client.engine.holds = True
    reading = asyncio.ensure_future(events(client, grey | {"seed": 7}))
    await client.until(lambda: client.engine.runs)
    run = client.engine.runs[0]
    client.engine.start(run, Progress(1, 2, "7", Image.new("RGB", (8, 8))), Progress(2, 2, "7"))
    client.engine.finish(run)
    found = await reading
    assert [name for name, _ in found] == ["status", "status", "progress", "preview", "progress", "output"]
    assert found[0][1] == {"status": "queued", "position": 0} and found[1][1] == {"status": "running"}
    assert found[2][1] == {"value": 1, "max": 2, "node": "7"}
    assert Image.open(io.BytesIO(base64.b64decode(found[3][1]["image"]))).format == "JPEG"
    assert found[-1][1]["output"]["images"][0]["seed"] == 7


async def test_an_error_after_the_stream_has_begun_is_its_last_event(api, grey):
    client = await api()
    client.engine.outcome = NodeFailed("7", "CatVTON", "ValueError", "")
    found = await events(client, grey)
    assert found[-1][0] == "error" and found[-1][1]["error"]["code"] == "node_execution_error"
    async with client.get("/metrics") as reply:
        assert 'tryon_requests_total{outcome="node_execution_error"}' in await reply.text()


async def test_a_fault_after_the_stream_has_begun_is_its_last_event(api, grey, monkeypatch):
    def fail(*arguments) -> bytes:
        raise MemoryError("secret")

    monkeypatch.setattr(api_events, "json_reply", fail)
    client = await api()
    found = await events(client, grey)
    assert found[-1][0] == "error" and found[-1][1]["error"]["code"] == "internal_error"
    assert "secret" not in str(found)
    async with client.get("/metrics") as reply:
        assert 'tryon_requests_total{outcome="internal_error"}' in await reply.text()


async def test_an_error_before_it_is_queued_is_an_ordinary_reply(api, grey):
    client = await api()
    assert await client.error(grey | {"width": 7}, headers={"Accept": "text/event-stream"}) == (
        422, "invalid_parameter"
    )  # fmt: skip


async def test_those_that_wait_hear_their_position(api, grey):
    client = await api()
    client.engine.holds = True
    first = asyncio.ensure_future(client.tryon(grey))
    await client.until(lambda: len(client.engine.runs) == 1)
    reading = asyncio.ensure_future(events(client, grey))
    await client.until(lambda: len(client.engine.runs) == 2)
    client.engine.finish(client.engine.runs[0])
    await first
    client.engine.finish(client.engine.runs[1])
    found = await reading
    assert [content.get("position") for name, content in found if name == "status"][:2] == [1, 0]


async def test_positions_count_those_that_run_earlier_and_not_those_that_came_earlier(api, grey, monkeypatch):
    client = await api()
    client.engine.holds = True
    decoder, first_is_decoded = client.parts._tryon._decoder, asyncio.Event()
    decode, calls = decoder.decode, []

    async def slow_at_first(*args):
        calls.append(args)
        if len(calls) == 1:
            await first_is_decoded.wait()
        return await decode(*args)

    monkeypatch.setattr(decoder, "decode", slow_at_first)
    reading = []
    for number in range(3):
        reading.append(asyncio.ensure_future(events(client, grey)))
        await client.until(lambda number=number: len(calls) == number + 1 and len(client.engine.runs) == number)
    first_is_decoded.set()
    await client.until(lambda: len(client.engine.runs) == 3)
    for run, number in zip(client.engine.runs, (1, 2, 0), strict=True):
        client.engine.finish(run)
        await reading[number]
    streams = await asyncio.gather(*reading)
    found = [[data.get("position") for name, data in stream if name == "status"] for stream in streams]
    assert found == [[2, 1, 0, None], [0, None], [1, 0, None]]


def test_an_error_is_made_each_time_it_is_raised():
    """A shared one would grow its traceback, and keep the request of every frame in it."""
    for make in (draining, failed_worker):
        assert make() is not make()


async def test_two_thousand_refused_requests_leave_nothing(api, grey):
    """Their bodies have 400 MB; the log that pytest keeps of them has ten."""
    draining_worker, failed_one = await api(), await api()
    draining_worker.parts._health.drain()
    failed_one.parts._health.fail("for a test")
    large = json.dumps(grey | {"person_image": "A" * 200_000}).encode()

    async def refuse(count: int) -> int:
        """Returns how many bytes are resident after so many refused requests."""
        for _ in range(count // 2):
            for client in (draining_worker, failed_one):
                async with client.post("/api/v1/tryon", data=large) as reply:
                    assert reply.status == 503
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def errors() -> int:
        # isinstance would ask torch's lazy objects for their class, and they warn.
        return sum(issubclass(type(item), ApiError) for item in gc.get_objects())

    before, kept = await refuse(100), errors()
    assert await refuse(2000) - before < 40e6
    assert errors() <= kept


async def test_an_answered_request_leaves_nothing(api, grey):
    client = await api()
    await client.tryon(grey)
    run = weakref.ref(client.engine.runs.pop())
    await client.until(lambda: gc.collect() >= 0 and run() is None)
    assert client.parts._tryon.depth == 0
