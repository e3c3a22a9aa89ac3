"""Forms and JSON as clients send them: what stands for a field, and what an error names."""

import base64
import json
import random
import re
import urllib.parse

import pytest
from aiohttp import web
from comfyui_tryon import parsing
from comfyui_tryon.api import replies as replies_module
from comfyui_tryon.datauri import decode_text
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.images import to_base64, to_bytes

PNG = to_bytes(Image.new("RGB", (16, 16), "grey"))
TEXT = to_base64(Image.effect_noise((64, 64), 90).convert("RGB"))  # has all characters of base64
BOUNDARY = "boundary"


def part(name: str, content: bytes, more: str = "", head: str = "") -> bytes:
    lines = f'Content-Disposition: form-data; name="{name}"{more}\r\n{head}'.encode()
    return b"--%s\r\n%s\r\n%s\r\n" % (BOUNDARY.encode(), lines, content)


PERSON, GARMENT = (part(name, PNG, '; filename="a.png"') for name in ("person_image", "garment_image"))


async def send_form(client, *parts: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}"):
    """Returns the status, the reply, and the prompt's inputs of the sampler if there is one."""
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    async with client.post("/api/v1/tryon", data=body, headers={"Content-Type": content_type}) as reply:
        content = await reply.json()
    inputs = client.engine.runs[-1].prompt["7"]["inputs"] if reply.status == 200 else {}
    return reply.status, content.get("error", {}), inputs


async def send_bytes(client, body: bytes, content_type: str | None = "application/json", **headers: str):
    headers |= {"Content-Type": content_type} if content_type else {}
    skipped = [] if content_type else ["Content-Type"]
    async with client.post("/api/v1/tryon", data=body, headers=headers, skip_auto_headers=skipped) as reply:
        return reply.status, (await reply.json()).get("error", {})


@pytest.mark.parametrize(
    "blank",
    [
        *(part(name, b"") for name in ("mask_image", "seed", "cloth_type", "workflow", "output_format", "width")),
        part("mask_image", b"", '; filename=""', "Content-Type: application/octet-stream\r\n"),
        part("_charset_", b"UTF-8"),
        part("_charset_", b""),
    ],
)
async def test_a_control_that_was_left_blank_is_no_field(api, blank):
    client = await api()
    status, error, _ = await send_form(client, PERSON, blank, GARMENT)
    assert status == 200, error


@pytest.mark.parametrize("name, value", [("person_image", PNG), ("seed", b"7")])
async def test_a_blank_part_behind_a_filled_one_of_the_same_name_is_no_field(api, name, value):
    client = await api()
    others = {"person_image": PERSON, "garment_image": GARMENT}
    others.pop(name, None)
    filled = part(name, value, '; filename="a"' if value is PNG else "")
    status, error, _ = await send_form(client, filled, part(name, b""), *others.values())
    assert status == 200, error


async def test_a_required_file_that_was_left_blank_is_missing(api):
    client = await api()
    status, error, _ = await send_form(client, part("person_image", b"", '; filename=""'), GARMENT)
    assert (status, error["code"], error["details"]["field"]) == (422, "missing_field", "person_image")
    status, error, _ = await send_form(client, part("person_image", b"", '; filename="empty.png"'), GARMENT)
    assert (status, error["code"]) == (422, "invalid_image")


@pytest.mark.parametrize(
    "person",
    [
        part("person_image", PNG),
        part("person_image", PNG, head="Content-Type: image/png\r\n"),
        part("person_image", PNG, '; filename=""'),
        part("person_image", PNG, "; filename*=UTF-8''%e2%82%ac.png"),
        part("person_image[]", PNG, '; filename="a.png"'),
        part("person_image", TEXT.encode()),
        part("person_image", b"data:image/png;base64," + TEXT.encode()),
        part("person_image", base64.encodebytes(PNG), '; filename="a.png"', "Content-Transfer-Encoding: base64\r\n"),
        part("person_image", PNG, '; filename="a.png"', "Content-Transfer-Encoding: binary\r\n"),
    ],
)
async def test_an_image_comes_with_a_file_name_or_without(api, person):
    client = await api()
    status, error, _ = await send_form(client, person, GARMENT)
    assert status == 200, error


@pytest.mark.parametrize(
    "content, more, head",
    [
        (b"7", "", ""),
        (b" 7\r\n", "", ""),
        (b"7", '; filename="blob"', "Content-Type: application/json\r\n"),
        (b"7", '; filename=""', ""),
        (b"7", "", "Content-Type: text/plain; charset=ISO-8859-1\r\n"),
        ("7".encode("utf-16"), "", "Content-Type: text/plain; charset=utf-16\r\n"),
    ],
)
async def test_a_value_comes_as_text_or_as_a_file(api, content, more, head):
    client = await api()
    status, error, inputs = await send_form(
        client, PERSON, GARMENT, part("seed", content, more, head), part("cloth_type", b" Upper ")
    )
    assert status == 200, error
    assert inputs["seed"] == 7


@pytest.mark.parametrize(
    "bad, words",
    [
        (part("seed", b"\xff"), "seed is not text in 'utf-8'"),
        (part("seed", b"7", head="Content-Type: text/plain; charset=nonsense\r\n"), "'nonsense'"),
        (part("garm_img", PNG, '; filename="a"'), "'garm_img' is not a field: did you mean garment_image?"),
        (part("prompt", b"x"), "'prompt' is not a field. Known:"),
        # an encoding that no browser uses and Python takes milliseconds for
        (part("seed", b"7-", head="Content-Type: text/plain; charset=punycode\r\n"), "'punycode'"),
        (part("seed", b"7", head="Content-Type: text/plain; charset=idna\r\n"), "'idna'"),
        (part("seed", b"7") + part("seed", b"8"), "'seed' twice"),
    ],
)
async def test_a_bad_part_is_named(api, bad, words):
    client = await api()
    status, error, _ = await send_form(client, PERSON, bad, GARMENT)
    assert status in (400, 422) and words in error["message"]


async def test_a_form_without_a_boundary_says_so(api):
    client = await api()
    status, error, _ = await send_form(client, PERSON, GARMENT, content_type="multipart/form-data")
    assert status == 400 and "boundary" in error["message"]


OPTIONAL = (
    "mask_image cloth_type garment_photo mask_shape framing return_mask num_inference_steps guidance_scale seed "
    "width height num_images output_format output_quality workflow webhook_url upload_urls"
).split()


async def test_the_document_allows_the_names_that_the_api_understands(api):
    async with (await api()).get("/api/v1/openapi.json") as reply:
        fields = (await reply.json())["components"]["schemas"]["TryonRequest"]["properties"]
    assert {"upper", "tops", "dress", "full"} <= set(str(fields["cloth_type"]).replace("'", " ").split())
    assert "'jpg'" in str(fields["output_format"])


async def test_null_stands_for_no_value_in_every_optional_field(api, grey):
    client = await api()
    assert (await client.tryon(grey | dict.fromkeys(OPTIONAL)))[0] == 200
    for name in OPTIONAL:
        assert (await client.tryon(grey | {name: None}))[0] == 200, name
    for name in grey:
        assert await client.error(grey | {name: None}) == (422, "missing_field")


async def test_the_document_allows_null_where_the_api_does(api):
    client = await api()
    async with client.get("/api/v1/openapi.json") as reply:
        schemas = (await reply.json())["components"]["schemas"]
    allowed = {
        name
        for name, field in schemas["TryonRequest"]["properties"].items()
        if {"type": "null"} in field.get("anyOf", ())
    }
    assert allowed == set(OPTIONAL)
    assert "null" not in json.dumps(schemas["TryonForm"])


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"[1]", "is an array"),
        (b'"{}"', "not JSON in a string"),
        (b"3", "is a number"),
        (b"null", "is null"),
        (b'{"a": }', "column 7"),
        (b'{"a": "\xff"}', "not text in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16"),
        ('{"a": 1}'.encode("utf-32"), "UTF-16 or UTF-32"),
    ],
)
async def test_a_body_that_is_no_object_says_what_it_is(api, body, words):
    client = await api()
    status, error = await send_bytes(client, body)
    assert (status, error["code"]) == (400, "invalid_request") and words in error["message"], error["message"]


async def test_a_byte_order_mark_is_passed_over(api, grey):
    client = await api()
    assert (await send_bytes(client, b"\xef\xbb\xbf" + json.dumps(grey).encode()))[0] == 200


@pytest.mark.parametrize(
    "content_type, words",
    [
        ("text/plain", "'text/plain'"),
        ("application/x-www-form-urlencoded", "-H"),
        (None, "is missing"),
        ("multipart/mixed; boundary=x", "multipart/form-data"),
    ],
)
async def test_a_content_type_that_is_not_read_is_named(api, grey, content_type, words):
    client = await api()
    status, error = await send_bytes(client, json.dumps(grey).encode(), content_type)
    assert (status, error["code"]) == (415, "unsupported_media_type") and words in error["message"]


async def test_the_type_of_a_body_is_read_without_a_parser_that_takes_seconds(api, grey, monkeypatch):
    def content_type(request: web.BaseRequest) -> str:
        raise AssertionError("quotes in this header take it a second")

    client = await api()
    monkeypatch.setattr(web.BaseRequest, "content_type", property(content_type))
    body = json.dumps(grey).encode()
    assert (await send_bytes(client, body, 'application/json;a="' + '"' * 4_000))[0] == 200
    assert (await send_bytes(client, body, "Application/JSON ; charset=utf-8"))[0] == 200
    assert (await send_bytes(client, body, "text/plain;" + '"' * 4_000))[0] == 415


async def test_a_large_body_may_have_the_escapes_of_php_and_few_others(api, grey):
    client = await api()
    noise = to_base64(Image.effect_noise((1_400, 1_400), 90))
    written = json.dumps(grey | {"person_image": noise, "seed": 7}).replace("/", "\\/")
    assert len(written) > 2_000_000 and written.count("\\") > 30_000
    assert (await send_bytes(client, written.encode()))[0] == 200
    lines = json.dumps(grey | {"person_image": "\r\n".join(re.findall(".{1,76}", noise)), "seed": 7})
    assert lines.count("\\") > 50_000 and (await send_bytes(client, lines.encode()))[0] == 200
    for letter in ("\\u0041", "\u00e4"):
        status, error = await send_bytes(client, f'{{"person_image": "{letter * 700_000}"}}'.encode())
        assert status == 400 and "escapes" in error["message"]
    for filling, said in (("\\" * 3_000_000, "escapes"), (" " * 3_000_000, "white space")):
        status, error = await send_bytes(client, filling.encode())
        assert status == 400 and said in error["message"]
    both = f'{{"person_image": "{"A" * 2_000_000}", "garment_image": "\\\\/"}}'
    assert (await send_bytes(client, both.encode()))[1]["code"] == "invalid_image"


async def test_a_compressed_body_is_refused_and_identity_is_not(api, grey):
    client = await api()
    status, error = await send_bytes(client, b"x", **{"Content-Encoding": "gzip"})
    assert (status, error["code"]) == (415, "unsupported_media_type") and "uncompressed" in error["message"]
    assert (await send_bytes(client, json.dumps(grey).encode(), **{"Content-Encoding": "identity"}))[0] == 200


def folded(text: str, end: str) -> str:
    return end.join(re.findall(".{1,76}", text))


DATA_URIS = {
    "parameters": "data:image/png;charset=utf-8;base64,{}",
    "an encoded file name": "data:image/png;name=my%20photo.png;base64,{}",
    "brackets": "data:image/png;name=IMG(2)!~[1].png;base64,{}",
    "a quoted name with a comma": 'data:image/png;name="a b,c.png";base64,{}',
    "spaces": " \n data:image/png ; charset=utf-8 ; base64 , {} \n",
    "upper case": "DATA:IMAGE/PNG;BASE64,{}",
    "no type": "data:;base64,{}",
    "no mark": "data:image/png,{}",
    "a long name": "data:image/png;name=" + "a%20" * 900 + ".png;base64,{}",
}
WRITTEN = {
    "plain": lambda text: text,
    "URL-safe": lambda text: text.replace("+", "-").replace("/", "_"),
    "without padding": lambda text: text.rstrip("="),
    "in lines": lambda text: folded(text, "\r\n") + "\n",
    "folded with spaces": lambda text: folded(text, " "),
    "percent-encoded": lambda text: urllib.parse.quote(text, safe=""),
    "plus signs lost in a form": lambda text: text.replace("+", " "),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_every_spelling_of_base64_is_the_same_image(written):
    data = random.Random(1).randbytes(3001)
    text = base64.b64encode(data).decode()
    assert "+" in text and "=" in text
    for frame in ("{}", *DATA_URIS.values()):
        assert decode_text(frame.format(written(text))) == data, frame


def test_a_data_uri_without_base64_has_its_bytes_percent_encoded():
    assert decode_text("data:image/png," + urllib.parse.quote_from_bytes(PNG)) == PNG


@given(st.text("%2bB4 é\0", max_size=20))
def test_escapes_are_read_as_elsewhere_and_incomplete_ones_stay(text):
    assert decode_text("data:,!" + text) == b"!" + urllib.parse.unquote_to_bytes(text)


@pytest.mark.parametrize(
    "value, words",
    [
        ("https://shop.example/person.png", "is a URL"),
        ("blob:https://shop.example/1", "is a URL"),
        ("data:image/png;base64", "without a comma"),
        ("data:image/png;base64,!!", "is not base64"),
        ("€", "is not base64"),
        (7, "must be a base64 string"),
        ({"url": "x"}, "must be a base64 string"),
    ],
)
async def test_text_that_is_no_image_says_what_to_send(api, grey, value, words):
    client = await api()
    status, content = await client.tryon(grey | {"person_image": value})
    assert (status, content["error"]["code"]) == (422, "invalid_image") and words in content["error"]["message"]


NAMES = {
    "person_image": "model_image human_image human_img humanImage person personImage person_image_url init_image image "
    "person_img personimage PERSON_IMAGE user_photo person-image target_image",
    "garment_image": "garm_img garmImg cloth_image clothing_image top_garment productImages garment outfit_url clothes "
    "garment_img refer_image reference_image dress_image",
    "mask_image": "mask inpaint_mask agnosticMask",
    "cloth_type": "category garment_type clothType clothes_type cloth_category",
    "num_inference_steps": "steps denoise_steps num_steps inference_steps",
    "guidance_scale": "cfg cfgScale guidance image_scale",
    "num_images": "num_samples n number_of_images batch_size",
    "output_format": "format outputFormat image_format",
    "workflow": "model_name workflow_name",
    "seed": "noise_seed random_seed",
}


@pytest.mark.parametrize("meant", NAMES)
async def test_the_names_of_other_services_are_understood_and_explained(api, grey, meant):
    client = await api()
    for name in NAMES[meant].split():
        sent = grey | {name: "x"}
        if meant in grey:
            del sent[meant]
        status, content = await client.tryon(sent)
        message = content["error"]["message"]
        assert status == 422 and f"{name!r} is not a field: did you mean {meant}?" in message, (name, message)
        if meant in grey:
            assert content["error"]["code"] == "missing_field" and f"{meant} is missing" in message
            assert content["error"]["details"] == {"field": meant, "unknown": [name]}


@pytest.mark.parametrize("name", ["prompt", "garment_des", "user_id", "x" * 5000, "", "ß"])
async def test_a_name_that_means_nothing_here_gets_no_guess(api, grey, name):
    client = await api()
    status, content = await client.tryon(grey | {name: "x"})
    assert (status, content["error"]["code"]) == (422, "invalid_parameter")
    assert "did you mean" not in content["error"]["message"] and "Known: person_image" in content["error"]["message"]


@pytest.mark.parametrize("wrapper", ["input", "data", "payload", "instances"])
async def test_fields_in_a_wrapper_are_found_and_not_taken(api, grey, wrapper):
    client = await api()
    for inner in (grey, [grey], {"model_image": "x"}):
        status, content = await client.tryon({wrapper: inner})
        assert (status, content["error"]["code"]) == (422, "missing_field")
        assert f"inside {wrapper!r}" in content["error"]["message"]


async def test_of_any_number_of_unknown_fields_a_few_are_looked_at(api, monkeypatch):
    looked_at = []
    monkeypatch.setattr(parsing, "meant_field", lambda name, known: looked_at.append(name))
    client = await api()
    body = {f"a{number}": {f"b{inner}": 1 for inner in range(2)} for number in range(300)}
    assert await client.error(body) == (422, "missing_field")
    assert 0 < len(looked_at) <= 3 * parsing.MAX_NAMED


@pytest.mark.parametrize("query", ["cloth_type=lower", "seed=", "flag", "%ff=1", "cloth_type=lower&seed=1"])
async def test_fields_in_the_query_are_refused(api, grey, query):
    client = await api()
    async with client.post(f"/api/v1/tryon?{query}", json=grey) as reply:
        error = (await reply.json())["error"]
    assert (reply.status, error["code"]) == (422, "invalid_parameter")
    assert error["details"]["field"] in error["message"] and "body" in error["message"]
    async with client.post("/api/v1/tryon?", json=grey) as reply:
        assert reply.status == 200


@pytest.mark.parametrize("name", ["jpg", "JPG", ".jpg", "image/jpg", "image/jpeg", " Jpeg "])
async def test_common_names_of_a_format_are_understood(api, grey, name):
    client = await api()
    status, content = await client.tryon(grey | {"output_format": name})
    assert status == 200 and content["output"]["images"][0]["format"] == "jpeg"


@pytest.mark.parametrize(
    "change", [{"seed": "7"}, {"seed": 7.0}, {"seed": " 7 "}, {"guidance_scale": "2.5", "seed": 7}]
)
async def test_numbers_may_be_strings(api, grey, change):
    client = await api()
    assert (await client.tryon(grey | change))[1]["seed"] == 7


async def test_seeds_beyond_64_bits_of_a_float_are_whole_numbers(api, grey):
    client = await api()
    for text, seed in (("1e19", 10**19), ("18446744073709549568.0", 2**64 - 2048)):
        body = json.dumps(grey)[:-1] + f', "seed": {text}}}'
        async with client.post("/api/v1/tryon", data=body, headers={"Content-Type": "application/json"}) as reply:
            assert (await reply.json())["seed"] == seed


@pytest.mark.parametrize("value", ["1_0", 1.5, True, "seven", 2e19])
async def test_what_is_no_seed_is_refused(api, grey, value):
    assert await (await api()).error(grey | {"seed": value}) == (422, "invalid_parameter")


async def test_minus_one_is_a_random_seed_as_text_too(api, grey):
    client = await api()
    for value in (-1, "-1", " -1 ", -1.0, "-1.0"):
        status, content = await client.tryon(grey | {"seed": value})
        assert status == 200 and content["seed"] >= 0


ACCEPT = {
    "image/jpg": "image/jpeg",
    "IMAGE/PNG": "image/png",
    "image/*": "image/webp",
    "image/avif,image/webp,image/png,*/*;q=0.8": "image/webp",
    "application/json;q=0.5, image/png": "image/png",
    "image/png;q=0.5, application/json": "application/json",
    "image/png;q=0, */*": "application/json",
    "image/png;q=0.1, image/jpeg;q=0.2": "image/jpeg",
    "image/*;q=x": "image/webp",
    "application/json, text/plain, */*": "application/json",
    "image/avif": "application/json",
    "nonsense": "application/json",
    "": "application/json",
    "," * 100 + "image/png": "application/json",
    "text/event-stream;q=0.9, image/png;q=0.8": "text/event-stream",
}


@pytest.mark.parametrize("accept", ACCEPT)
async def test_the_form_of_the_reply_is_what_the_client_prefers(api, grey, accept):
    client = await api()
    async with client.post("/api/v1/tryon", json=grey | {"output_format": "webp"}, headers={"Accept": accept}) as reply:
        assert reply.status == 200 and reply.content_type == ACCEPT[accept]


@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/event-stream"])
async def test_a_reply_in_many_pieces_is_the_same(api, grey, accept, monkeypatch):
    client = await api()
    headers = {"Accept": accept, "X-Request-Id": "one"}
    replies = []
    for piece in (10**9, 7):
        monkeypatch.setattr(replies_module, "WRITTEN_BYTES", piece)
        async with client.post("/api/v1/tryon", json=grey | {"seed": 7}, headers=headers) as reply:
            content = await reply.read()
            assert reply.status == 200
            assert accept == "text/event-stream" or int(reply.headers["Content-Length"]) == len(content)
        replies.append(re.sub(rb'"(queue|execute|total)_s":[0-9.e-]+', b"", content))
    assert replies[0] == replies[1] and len(replies[0]) > 7 * 7
