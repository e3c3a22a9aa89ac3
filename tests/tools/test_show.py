"""`training/show.py` puts every garment on everybody and says what the replies say."""

import base64
import json

import httpx
import pytest
import show
from PIL import Image
from support.images import to_bytes
from tryon_client import TryOn


def reply(request: httpx.Request) -> httpx.Response:
    """What a demo answers: half of a 96 x 128 person is masked, and a dress changes nothing."""
    size = (96, 128)
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, 96, 64))
    difference = None if b"\r\ndress\r\n" in request.read() else 3.25
    report = {"window": [0, 0, *size], "changed": 0.5, "colour_difference": difference}
    image = {"image": base64.b64encode(to_bytes(Image.new("RGB", size, "blue"))).decode(), "format": "png"}
    content = {
        "id": "one",
        "seed": 42,
        "output": {
            "images": [{**image, "width": 96, "height": 128, "seed": 42, "report": report}],
            "mask": base64.b64encode(to_bytes(mask)).decode(),
        },
        "workflow": {"name": "demo", "version": "1"},
        "timings": {"queue_s": 0, "execute_s": 1.5, "total_s": 1.6},
        "warnings": [{"code": "demo_weights", "message": "Small weights."}],
    }
    return httpx.Response(200, content=json.dumps(content))


@pytest.fixture
def client():
    with httpx.Client(transport=httpx.MockTransport(reply)) as transport:
        yield TryOn("http://demo", http_client=transport)


def test_every_garment_is_tried_on_by_everybody(client, tmp_path, capsys):
    for folder, names in (("persons", ("ann.png", "bob.jpg")), ("garments", ("dress.png", "shirt-2.webp"))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").write_text("no image")
        for name in names:
            Image.new("RGB", (96, 128), "grey").save(tmp_path / folder / name)
    show.show_photos(client, tmp_path / "persons", tmp_path / "garments", tmp_path / "output")
    _, *rows, median = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows] == [
        [person, *garment]
        for person in ("ann.png", "bob.jpg")
        for garment in (
            ["dress.png", "dress", "50.0%", "-", "1.5", "demo_weights"],
            ["shirt-2.webp", "upper", "50.0%", "3.2", "1.5", "demo_weights"],
        )
    ]
    assert median == "median CIEDE2000 3.2"
    sheet = Image.open(tmp_path / "output" / "photos.jpg")
    assert sheet.size == (2 * 656 + 12, 2 * 288 + 12)
    red, green, blue = sheet.getpixel((108, 80))
    assert red > green and red > blue
    assert sheet.getpixel((108, 200)) == pytest.approx((128, 128, 128), abs=4)
    assert sheet.getpixel((548, 80)) == pytest.approx((0, 0, 255), abs=4)


def test_a_folder_without_images_is_named(client, tmp_path):
    with pytest.raises(SystemExit, match="No images in .*: put JPEG, PNG or WebP files there"):
        show.show_photos(client, tmp_path, tmp_path, tmp_path)
