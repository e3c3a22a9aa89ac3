"""FASHN VTON over HTTP, on every engine: small weights in the published layout, on servers that other tests share."""

import base64
import json
import threading

import numpy as np
import pytest
from PIL import Image
from support import tiny_fashn
from support.images import picture, to_base64
from support.replies import error
from support.waiting import until


@pytest.fixture(scope="module")
def fashn(server, tmp_path_factory) -> str:
    """The name of a workflow that the server serves."""
    folder = tiny_fashn.write_all(tmp_path_factory.mktemp("fashn"))
    (server.workflows / "small_fashn.json").write_text(json.dumps(tiny_fashn.workflow(folder)))
    return "small_fashn"


@pytest.fixture
def request_fields(fashn, pair) -> dict:
    return {
        "workflow": fashn,
        "person_image": to_base64(pair.person),
        "garment_image": to_base64(pair.garment),
        "seed": 7,
    }


def post(server, fields, **options):
    with server.client() as client:
        return client.post("/api/v1/tryon", json=fields, **options)


def test_without_a_mask_the_reply_has_the_persons_size_and_the_same_seed_gives_the_same_bytes(server, request_fields):
    reply = post(server, request_fields | {"return_mask": True})
    assert picture(reply).shape == (256, 192, 3)
    content = reply.json()
    image = content["output"]["images"][0]
    assert image["report"]["window"] == [0, 0, 192, 256] and image["seed"] == 7
    assert all(warning["code"] == "demo_weights" for warning in content.get("warnings", []))
    form = {name: str(value) for name, value in request_fields.items() if not name.endswith("_image")}
    files = {name: base64.b64decode(request_fields[name]) for name in ("person_image", "garment_image")}
    with server.client() as client:
        sent = client.post("/api/v1/tryon", data=form | {"framing": "person"}, files=files)
    assert sent.json()["output"]["images"] == content["output"]["images"]


def test_framing_model_is_the_published_size(server, request_fields):
    assert picture(post(server, request_fields | {"framing": "model"})).shape == (128, 96, 3)


def test_a_mask_repaints_only_inside_it(server, request_fields, pair):
    mask = np.zeros((256, 192), np.uint8)
    mask[100:180, 60:130] = 255
    image = picture(post(server, request_fields | {"mask_image": to_base64(Image.fromarray(mask))}))
    person = np.array(pair.person)
    assert np.array_equal(image[mask == 0], person[mask == 0])
    assert not np.array_equal(image[mask > 0], person[mask > 0])


def test_several_garments_and_categories(server, request_fields, pair):
    sent = request_fields | {"garment_image": [to_base64(pair.garment)] * 2, "cloth_type": ["upper", "lower"]}
    twice = picture(post(server, sent))
    once = picture(post(server, request_fields))
    worn = request_fields | {"person_image": to_base64(Image.fromarray(once)), "cloth_type": "lower"}
    assert np.array_equal(twice, picture(post(server, worn)))


def test_events_tell_steps_and_show_what_is_made(server, request_fields):
    found = []
    with server.client() as client:
        options = {"json": request_fields, "headers": {"Accept": "text/event-stream"}}
        with client.stream("POST", "/api/v1/tryon", **options) as reply:
            for line in reply.iter_lines():
                if line.startswith("event: "):
                    found.append([line.removeprefix("event: ")])
                elif line.startswith("data: "):
                    found[-1].append(json.loads(line.removeprefix("data: ")))
    progress = [data["value"] for name, data in found if name == "progress" and data["max"] == 2]
    assert progress == [0, 1, 2]
    assert "preview" in {name for name, _ in found} and found[-1][0] == "output"


def test_a_cancel_ends_the_run_within_a_step(server, request_fields):
    name, statuses = "fashn-canceled", []

    def send() -> None:
        sent = request_fields | {"num_inference_steps": 100}
        statuses.append(post(server, sent, headers={"X-Request-Id": name}).status_code)

    sending = threading.Thread(target=send)
    sending.start()
    with server.client() as client:
        until(lambda: client.delete(f"/api/v1/tryon/{name}").status_code == 204)
    sending.join()
    assert statuses == [499]
    assert post(server, request_fields).status_code == 200


def test_what_the_model_does_not_take_is_refused_by_name(server, request_fields):
    for change in ({"width": 128, "height": 192}, {"mask_shape": "box"}, {"num_inference_steps": 0}):
        refused = error(post(server, request_fields | change), 422, "invalid_parameter")
        assert refused["details"]["field"] in change
    refused = error(post(server, request_fields | {"garment_photo": "model"}), 422, "invalid_parameter")
    assert refused["details"]["field"] == "garment_photo" and "not for commercial use" in refused["message"]
    sent = request_fields | {"workflow": "demo", "garment_photo": "model"}
    assert error(post(server, sent), 422, "invalid_parameter")["details"]["field"] == "garment_photo"


def test_without_weights_a_request_is_told_so(server, request_fields):
    error(post(server, request_fields | {"workflow": "fashn"}), 503, "not_ready")
    until(lambda: "fashn-ai/fashn-vton-1.5: model.safetensors" in server.log())
    assert "download fashn" in server.log()


def test_the_list_says_which_workflows_may_be_used_commercially(server, fashn):
    with server.client() as client:
        listed = {entry["name"]: entry for entry in client.get("/api/v1/workflows").json()["workflows"]}
    assert listed[fashn]["commercial_use"] is True and listed[fashn]["licence"] == "Apache-2.0"
    assert listed["catvton"]["commercial_use"] is False
    assert listed[fashn]["mask"] == "optional" and listed[fashn]["parameters"]["garment_photo"] == "flat-lay"
