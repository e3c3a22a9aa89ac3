"""What POST /api/v1/tryon and the health paths promise, over HTTP, on every engine."""

import base64
import concurrent.futures
import io
import json
import os
import struct
import threading
import uuid
import zlib

import numpy as np
import openapi_spec_validator
import pytest
from comfyui_tryon.schema import TryonRequest
from PIL import Image
from support.faults import body
from support.images import from_base64, picture, psnr, to_base64, to_bytes
from support.parity import CHECKPOINT, DATA, sampler_cases
from support.replies import error
from support.waiting import until


def post(server, fields, **options):
    with server.client() as client:
        return client.post("/api/v1/tryon", json=fields, **options)


def test_person_and_garment_become_a_picture(server, fields):
    reply = post(server, fields | {"width": 128, "height": 192})  # smaller, the reply would warn of it
    image = picture(reply)
    content = reply.json()
    assert image.shape == (256, 192, 3)
    report = content["output"]["images"][0]["report"]
    assert content["output"]["images"][0] | {"image": ""} == {
        "image": "", "format": "png", "width": 192, "height": 256, "seed": 7, "report": report
    }  # fmt: skip
    x, y, width, height = report["window"]
    assert 0 <= x <= x + width <= 192 and 0 <= y <= y + height <= 256 and abs(width / height - 128 / 192) < 0.01
    assert 0 < report["changed"] < 1 and report["colour_difference"] >= 0
    assert content["seed"] == 7
    assert content["id"] == reply.headers["X-Request-Id"] and uuid.UUID(content["id"])
    assert content["workflow"]["name"] == "demo" and len(content["workflow"]["version"]) == 12
    timings = content["timings"]
    assert 0 <= timings["queue_s"] and 0 < timings["execute_s"] <= timings["total_s"] < 120
    assert [warning["code"] for warning in content["warnings"]] == ["demo_weights"]


def test_size_steps_and_guidance_come_from_the_workflow_unless_asked_for(server, fields):
    wide = picture(post(server, fields | {"width": 192, "height": 128, "framing": "model"}))
    assert wide.shape == (128, 192, 3)
    base = picture(post(server, fields))
    for change in ({"num_inference_steps": 3}, {"guidance_scale": 7.5}, {"seed": 8}, {"cloth_type": "lower"}):
        assert not np.array_equal(base, picture(post(server, fields | change))), change


def test_the_same_request_gives_the_same_bytes_whatever_ran_between(server, fields, pair):
    first = post(server, fields).json()["output"]
    assert post(server, fields).json()["output"] == first
    post(server, fields | {"seed": 99, "person_image": to_base64(pair.worn), "width": 192, "height": 128})
    assert post(server, fields).json()["output"] == first


def test_however_the_json_is_written_it_is_the_same_request(server, fields):
    def output(body: bytes) -> dict:
        with server.client() as client:
            reply = client.post("/api/v1/tryon", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 200, reply.text
        return reply.json()["output"]

    plain = json.dumps(fields)
    first = output(plain.encode())
    assert output(plain.replace("/", "\\/").encode()) == first
    assert output(json.dumps(fields, indent=4).encode()) == first
    lines = {name: "\r\n".join(value[i : i + 76] for i in range(0, len(value), 76)) for name, value in fields.items()
             if isinstance(value, str)}  # fmt: skip
    assert output(json.dumps(fields | lines).encode()) == first


def test_engines_agree_to_the_byte(server, fields, request, tmp_path_factory):
    """Each compares with those that came before, which may have run in another worker of pytest-xdist."""
    if [getattr(item, "originalname", "") for item in request.session.items].count(request.node.originalname) == 1:
        pytest.skip("ONE ENGINE ONLY: nothing to compare its bytes with")
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "engines"
    folder.mkdir(exist_ok=True)
    part = folder.with_name(f"{request.node.callspec.id}.part")
    part.write_text(post(server, fields).json()["output"]["images"][0]["image"])
    part.rename(folder / request.node.callspec.id)
    known = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(set(known.values())) == 1, list(known)


def test_pixels_outside_the_mask_are_the_persons_own(server, fields, pair):
    mask = np.zeros((256, 192), np.uint8)
    mask[100:180, 60:130] = 255
    image = picture(
        post(server, fields | {"mask_image": to_base64(Image.fromarray(mask)), "width": 192, "height": 256})
    )
    person = np.array(pair.person)
    outside = mask == 0
    assert np.array_equal(image[outside], person[outside])
    assert not np.array_equal(image[~outside], person[~outside])


def test_seed_is_random_unless_given_and_always_returned(server, fields):
    seeds = [post(server, fields | {"seed": seed}).json()["seed"] for seed in (None, -1)]
    assert len(set(seeds)) == 2 and all(0 <= seed < 2**64 for seed in seeds)


def test_several_pictures_count_their_seeds_up_and_each_is_the_one_its_seed_gives(server, fields):
    reply = post(server, fields | {"num_images": 3, "seed": 2**64 - 1})
    assert [image["seed"] for image in reply.json()["output"]["images"]] == [2**64 - 1, 0, 1]
    assert np.array_equal(picture(reply, 2), picture(post(server, fields | {"seed": 1})))


def test_cloth_type_aliases(server, fields):
    outputs = [post(server, fields | {"cloth_type": value}).json()["output"] for value in ("Lower_Body", "lower")]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("output_format, pil_format", [("jpeg", "JPEG"), ("webp", "WEBP"), ("PNG", "PNG")])
def test_output_formats(server, fields, output_format, pil_format):
    reply = post(server, fields | {"output_format": output_format, "output_quality": 80})
    data = base64.b64decode(reply.json()["output"]["images"][0]["image"])
    assert Image.open(io.BytesIO(data)).format == pil_format


def test_data_uris_and_url_safe_base64_are_understood(server, fields):
    plain = post(server, fields).json()["output"]
    raw = fields["person_image"]
    for variant in (
        f"data:image/png;base64,{raw}",
        raw.replace("+", "-").replace("/", "_").rstrip("="),
        "\n".join(raw[i : i + 76] for i in range(0, len(raw), 76)),
    ):
        assert post(server, fields | {"person_image": variant}).json()["output"] == plain


def test_a_form_with_files_gives_the_same_picture(server, fields, pair):
    wanted = post(server, fields).json()["output"]
    files = {
        "person_image": to_bytes(pair.person),
        "garment_image": ("garment.png", to_bytes(pair.garment), "image/png"),
    }
    values = {key: str(value) for key, value in fields.items() if key not in files}
    with server.client() as client:
        reply = client.post("/api/v1/tryon", data=values, files=files)
    assert reply.json()["output"] == wanted


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
def test_accept_picks_the_bytes_of_the_picture(server, fields, media_type):
    reply = post(server, fields, headers={"Accept": media_type})
    assert reply.headers["Content-Type"] == media_type and reply.headers["X-Seed"] == "7"
    assert Image.open(io.BytesIO(reply.content)).size == (192, 256)


def bomb() -> bytes:
    """A PNG of 30000 x 30000 white pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" + b"\xff" * 3750) for _ in range(30000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    data = to_bytes(Image.fromarray(noise), "JPEG")
    return data[: len(data) // 2]


BAD = {
    "missing person": ({"person_image": None}, 422, "missing_field", "person_image"),
    "not base64": ({"person_image": "!!!"}, 422, "invalid_image", "person_image"),
    "a number for a picture": ({"garment_image": 5}, 422, "invalid_image", "garment_image"),
    "not a picture": ({"garment_image": "aGVsbG8gd29ybGQ="}, 422, "invalid_image", "garment_image"),
    "an svg": ({"person_image": "PHN2Zy8+"}, 422, "invalid_image", "person_image"),
    "1 x 1": ({"person_image": to_base64(Image.new("RGB", (1, 1)))}, 422, "invalid_image", "person_image"),
    "bomb": ({"person_image": base64.b64encode(bomb()).decode()}, 422, "image_too_large", "person_image"),
    "truncated": ({"person_image": base64.b64encode(truncated_jpeg()).decode()}, 422, "invalid_image", "person_image"),
    "width 770": ({"width": 770}, 422, "invalid_parameter", "width"),
    "height 4096": ({"height": 4096}, 422, "invalid_parameter", "height"),
    "seed x": ({"seed": "x"}, 422, "invalid_parameter", "seed"),
    "seed too large": ({"seed": 2**64}, 422, "invalid_parameter", "seed"),
    "no steps": ({"num_inference_steps": 0}, 422, "invalid_parameter", "num_inference_steps"),
    "true steps": ({"num_inference_steps": True}, 422, "invalid_parameter", "num_inference_steps"),
    "guidance": ({"guidance_scale": 21}, 422, "invalid_parameter", "guidance_scale"),
    "cloth type": ({"cloth_type": "hat"}, 422, "invalid_parameter", "cloth_type"),
    "five pictures": ({"num_images": 5}, 422, "invalid_parameter", "num_images"),
    "gif out": ({"output_format": "gif"}, 422, "invalid_parameter", "output_format"),
    "unknown field": ({"person": "x"}, 422, "invalid_parameter", "person"),
    "mask of another shape": ({"mask_image": to_base64(Image.new("L", (256, 64)))}, 422, "invalid_image", "mask_image"),
    "unknown workflow": ({"workflow": "nope"}, 404, "workflow_not_found", None),
    "a path for a workflow": ({"workflow": "../demo"}, 422, "invalid_parameter", "workflow"),
    "missing mask": ({"workflow": "catvton_mask"}, 422, "missing_field", "mask_image"),
    "missing weights": ({"workflow": "catvton"}, 503, "not_ready", None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_have_their_code_and_say_what_to_do(server, fields, name):
    change, status, code, field = BAD[name]
    sent = {key: value for key, value in (fields | change).items() if value is not None}
    found = error(post(server, sent), status, code)
    assert found["details"].get("field") == field
    assert len(found["message"]) > 20


def test_width_770_names_the_nearest_good_widths(server, fields):
    message = error(post(server, fields | {"width": 770}), 422, "invalid_parameter")["message"]
    assert "768" in message and "776" in message


@pytest.mark.parametrize(
    "content, content_type, status, code",
    [
        (b"{", "application/json", 400, "invalid_request"),
        (b"[1]", "application/json", 400, "invalid_request"),
        (b"[" * 100_000, "application/json", 400, "invalid_request"),
        (b"\xff\xfe", "application/json", 400, "invalid_request"),
        (b"", "application/json", 400, "invalid_request"),
        (b"x", "text/plain", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data", 400, "invalid_request"),
        (b"--b\r\n\r\n", "multipart/form-data; boundary=b", 400, "invalid_request"),
    ],
)
def test_bodies_that_are_no_request(server, content, content_type, status, code):
    with server.client() as client:
        error(client.post("/api/v1/tryon", content=content, headers={"Content-Type": content_type}), status, code)


def test_too_large_a_body_is_refused(server):
    with server.client() as client:
        error(client.post("/api/v1/tryon", json={"person_image": "A" * 31_000_000}), 413, "payload_too_large")


def add_workflow(server, name: str, change) -> str:
    graph = json.loads((server.workflows / "demo.json").read_text())
    change(graph)
    (server.workflows / f"{name}.json").write_text(json.dumps(graph))
    return name


@pytest.mark.parametrize(
    "fault, status, code",
    [
        ("error", 500, "node_execution_error"),
        ("nobody", 422, "no_person_found"),
        ("memory", 503, "out_of_memory"),
    ],
)
def test_a_node_that_raises_has_its_code_and_the_next_request_works(server, fields, fault, status, code):
    def insert(graph):
        graph["20"] = {"class_type": "ProbeFault", "inputs": {"image": ["1", 0], "fault": fault}}
        graph["7"]["inputs"]["target_image"] = ["20", 0]

    reply = post(server, fields | {"workflow": add_workflow(server, f"raises_{fault}", insert)})
    found = error(reply, status, code)
    if code == "node_execution_error":
        assert found["details"] == {"node": "20", "node_type": "ProbeFault", "title": "ProbeFault"}
        assert "secret" not in reply.text
        assert "secret" in server.log()
    if status == 503:
        assert int(reply.headers["Retry-After"]) >= 1
    assert post(server, fields).status_code == 200


@pytest.mark.parametrize(
    "name, change, reason",
    [
        ("no_person", lambda graph: graph["1"].update(class_type="TryOnGarmentImage"), "person_image"),
        ("no_output", lambda graph: graph.pop("9"), "TryOnOutput"),
        ("unknown_node", lambda graph: graph["7"].update(class_type="Nothing"), "Nothing"),
        ("bad_value", lambda graph: graph["5"]["inputs"].update(automatic=["4", 7]), "automatic"),
    ],
)
def test_a_workflow_that_cannot_run_says_why(server, fields, name, change, reason):
    found = error(post(server, fields | {"workflow": add_workflow(server, name, change)}), 500, "workflow_invalid")
    assert reason in found["message"]


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("cloth_type", "/secret", "cloth_type"),
        ("mask_grow", "/secret", "mask_grow"),
        ("mask_grow", 98765, "mask_grow is not from -256 to 256"),
        ("mask_grow", -98765, "mask_grow is not from -256 to 256"),
    ],
)
def test_what_a_workflows_node_has_is_not_told(server, fields, name, value, said):
    broken = add_workflow(server, f"bad_{name}", lambda graph: graph["4"]["inputs"].update({name: value}))
    reply = post(server, fields | {"workflow": broken})
    assert said in error(reply, 500, "workflow_invalid")["message"]
    assert str(value).strip("/-") not in reply.text


# tests/models compares the photographs too, if there are any, with the same sampler.
@pytest.mark.parametrize("case", [case for case in sampler_cases() if DATA in case.parents], ids=lambda case: case.name)
def test_golden_images_of_the_published_code(server, case):
    settings = json.loads((case / "case.json").read_text())

    def name_checkpoint(graph):
        graph["6"]["inputs"] |= {
            "sd15_inpaint_path": str(CHECKPOINT / "stable-diffusion-inpainting"),
            "vae_path": str(CHECKPOINT / "sd-vae-ft-mse"),
            "catvton_path": str(CHECKPOINT / "CatVTON"),
            "attention_version": settings["version"],
            "mixed_precision": "fp32",
        }
        graph["7"]["inputs"]["mask_blur"] = 0
        graph["9"]["inputs"]["images"] = ["7", 0]

    sent = {
        f"{name}_image": base64.b64encode((case / f"{name}.png").read_bytes()).decode()
        for name in ("person", "garment", "mask")
    }
    sent |= {
        "workflow": add_workflow(server, f"parity_{case.name}", name_checkpoint),
        "num_inference_steps": settings["steps"],
        "guidance_scale": settings["guidance"],
        **{key: settings[key] for key in ("seed", "width", "height")},
        "framing": "model",
    }
    assert psnr(picture(post(server, sent)), np.array(Image.open(case / "output.png"))) >= 60


def events(server, fields) -> list[tuple[str, dict]]:
    with server.client() as client:
        with client.stream("POST", "/api/v1/tryon", json=fields, headers={"Accept": "text/event-stream"}) as reply:
            assert reply.status_code == 200 and reply.headers["Content-Type"].startswith("text/event-stream")
            assert reply.headers["X-Request-Id"]
            blocks = "".join(reply.iter_text()).split("\n\n")
    named = [block.split("\n") for block in blocks if block and not block.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in named]


def test_events_tell_the_way_to_the_picture(server, fields):
    found = events(server, fields | {"num_inference_steps": 3})
    assert [data["status"] for name, data in found if name == "status"] == ["queued", "running"]
    assert [data["value"] for name, data in found if name == "progress" and data["max"] == 3] == [0, 1, 2, 3]
    assert {data["node"] for name, data in found if name == "progress" and data["max"] == 3} == {"7"}
    previews = [data["image"] for name, data in found if name == "preview"]
    assert previews and Image.open(io.BytesIO(base64.b64decode(previews[0]))).format == "JPEG"
    name, reply = found[-1]
    assert name == "output"
    plain = post(server, fields | {"num_inference_steps": 3}).json()
    assert reply["output"] == plain["output"]


def test_events_end_in_the_error_a_plain_reply_would_be(server, fields):
    def insert(graph):
        graph["20"] = {"class_type": "ProbeFault", "inputs": {"image": ["1", 0], "fault": "error"}}
        graph["7"]["inputs"]["target_image"] = ["20", 0]

    name, content = events(server, fields | {"workflow": add_workflow(server, "raises_late", insert)})[-1]
    assert name == "error" and content["error"]["code"] == "node_execution_error"
    reply = post(server, fields | {"seed": "x"}, headers={"Accept": "text/event-stream"})
    error(reply, 422, "invalid_parameter")


def test_the_api_describes_itself(server):
    with server.client() as client:
        document = client.get("/api/v1/openapi.json").json()
        openapi_spec_validator.validate(document)
        assert document["openapi"].startswith("3.1")
        assert set(document["components"]["schemas"]["TryonRequest"]["properties"]) == set(TryonRequest.model_fields)
        page = client.get("/api/v1/docs").text
        assert "://" not in page
        for path in ("docs/swagger-ui-bundle.js", "docs/swagger-ui.css"):
            assert path in page and client.get(f"/api/v1/{path}").status_code == 200
        listed = {entry["name"]: entry for entry in client.get("/api/v1/workflows").json()["workflows"]}
        assert listed["demo"]["default"] and listed["demo"]["parameters"]["guidance_scale"] == 1.0
        assert listed["demo"]["bound"]["seed"] == ["7.seed"] and listed["catvton_mask"]["mask"] == "required"


def test_metrics_count_requests_and_pictures(server, fields):
    def value(text: str, name: str) -> float:
        return float(next((line.split()[-1] for line in text.splitlines() if line.startswith(name + " ")), 0))

    with server.client() as client:
        before = client.get("/metrics").text
        post(server, fields | {"num_images": 2})
        post(server, fields | {"seed": "x"})
        after = client.get("/metrics").text
    for name, more in (
        ('tryon_requests_total{outcome="ok"}', 1),
        ('tryon_requests_total{outcome="invalid_parameter"}', 1),
        ("tryon_pictures_total", 2),
        ('tryon_stage_seconds_count{stage="execute"}', 1),
    ):
        assert value(after, name) == value(before, name) + more, name


def test_requests_are_answered_in_order_each_with_its_own_while_ping_answers(worker):
    people = [Image.new("RGB", (32, 32), (25 * number, 0, 0)) for number in range(5)]

    def send(name: str, person: Image.Image, queued: threading.Event) -> bool:
        headers = {"X-Request-Id": name, "Accept": "text/event-stream"}
        fields = body("pause", to_base64(person))  # apart enough for the log to have them in order too
        last = ""
        with worker.client() as client:
            with client.stream("POST", "/api/v1/tryon", json=fields, headers=headers) as reply:
                for line in reply.iter_lines():
                    queued.set()  # the first event says that it is
                    last = line or last
        images = json.loads(last.removeprefix("data: "))["output"]["images"]
        return np.array_equal(from_base64(images[0]["image"]), np.array(person))

    names = [f"in-order-{number}" for number in range(len(people))]
    with concurrent.futures.ThreadPoolExecutor(len(people)) as pool, worker.client() as client:
        waiting = []
        for name, person in zip(names, people):
            queued = threading.Event()
            waiting.append(pool.submit(send, name, person, queued))
            assert queued.wait(60)
        while not all(future.done() for future in waiting):
            assert client.get("/ping").status_code == 200
        assert all(future.result() for future in waiting)
    until(lambda: f"{names[-1]}: POST" in worker.log())
    answered = [name for line in worker.log().splitlines() for name in names if f"{name}: POST" in line]
    assert answered == names


def test_health_paths(server):
    with server.client() as client:
        assert client.get("/ping").json() == {"status": "healthy"}
        for path in ("/healthz", "/readyz", "/health"):
            assert client.get(path).status_code == 200
        assert client.head("/ping").status_code == 200


def test_request_ids(server, fields):
    with server.client() as client:
        assert client.get("/ping", headers={"X-Request-Id": "my-id.1_2"}).headers["X-Request-Id"] == "my-id.1_2"
        for bad in ("a b", "x" * 65, "ü", ""):
            given = client.get("/ping", headers={"X-Request-Id": bad.encode()}).headers["X-Request-Id"]
            assert given != bad and uuid.UUID(given)
    assert post(server, fields, headers={"X-Request-Id": "mine"}).json()["id"] == "mine"


def test_wrong_methods_and_paths(server):
    with server.client() as client:
        reply = client.get("/api/v1/tryon")
        error(reply, 405, "method_not_allowed")
        assert reply.headers["Allow"] == "POST"
        for path in ("/", "/prompt", "/api/api/v1/tryon", "/api/v1/tryon/", "//ping", "/%70ing", "/PING"):
            error(client.get(path), 404, "not_found")
