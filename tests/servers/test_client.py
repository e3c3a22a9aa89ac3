"""The Python client, its command and the examples, against real servers."""

import asyncio
import io
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.servers import ROOT, without_settings
from tryon_client import AsyncTryOn, Event, OutputEvent, ProgressEvent, StatusEvent, TryOn, TryOnError

SMALL = {"num_inference_steps": 2, "width": 128, "height": 192, "seed": 7}
SMALL_OPTIONS = [text for name, value in SMALL.items() for text in ("--" + name.replace("_", "-"), value)]


@pytest.fixture
def files(pair, tmp_path):
    """The paths of a person, a garment and a mask."""
    mask = np.zeros((256, 192), np.uint8)
    mask[100:180, 60:130] = 255
    images = {"person": pair.person, "garment": pair.garment, "mask": Image.fromarray(mask)}
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    return [tmp_path / f"{name}.png" for name in images]


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=without_settings("RUNPOD_") | {"PYTHONPATH": str(ROOT / "clients/python/src")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def read(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_files_events_and_both_clients_give_the_same_images(server, files):
    person, garment, mask = files

    async def with_events() -> list[Event]:
        async with AsyncTryOn(server.url) as client, client.stream(*files[:2], mask=mask, **options) as events:
            return [event async for event in events]

    options = SMALL | {"num_images": 2, "return_mask": True}
    with TryOn(server.url) as client:
        result = client.try_on(person.read_bytes(), str(garment), mask=mask, **options)
    assert [image.seed for image in result.images] == [7, 8]
    for image in result.images:
        opened = Image.open(io.BytesIO(image.bytes))
        assert opened.size == (image.width, image.height) == (192, 256) and image.format == "png"
        assert image.report.changed > 0
    assert set(np.unique(np.array(Image.open(io.BytesIO(result.mask))))) == {0, 255}
    events = asyncio.run(with_events())
    assert [event.status for event in events if isinstance(event, StatusEvent)][-1] == "running"
    progress = [event for event in events if isinstance(event, ProgressEvent)]
    assert progress[-1].value == progress[-1].max > 1
    assert isinstance(events[-1], OutputEvent)
    assert [image.bytes for image in events[-1].result.images] == [image.bytes for image in result.images]


def test_cancel(server, files):
    started = threading.Event()
    caught: list[TryOnError] = []

    def send(client: TryOn) -> None:
        options = {"num_inference_steps": 100, "width": 512, "height": 512}
        try:
            for event in client.stream(*files[:2], request_id="to-cancel", **options):
                if isinstance(event, ProgressEvent):
                    started.set()
        except TryOnError as error:
            caught.append(error)

    with TryOn(server.url) as client:
        assert client.cancel("to-cancel") is False
        thread = threading.Thread(target=send, args=[client])
        thread.start()
        assert started.wait(60)
        assert client.cancel("to-cancel") is True
        thread.join(60)
    assert [error.code for error in caught] == ["canceled"]


def test_command(server, files, tmp_path):
    person, garment, mask = files
    output = tmp_path / "result.jpg"
    command = ["-m", "tryon_client", person, garment, "-o", output, *SMALL_OPTIONS, "--num-images", 2]
    done = run(*command, "--mask", mask, TRYON_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert "seed 7" in done.stdout and re.search(r"\b(\d+)/\1\b", done.stderr)
    first, second = (read(tmp_path / f"result-{number}.jpg") for number in (1, 2))
    assert first.format == "JPEG" and not np.array_equal(np.array(first), np.array(second))


def test_command_says_what_is_wrong(server, files, tmp_path):
    command = ["-m", "tryon_client", "--url", server.url]
    done = run(*command, *files[:2], "-o", tmp_path / "o.png", "--width", 770)
    assert done.returncode == 1 and "invalid_parameter" in done.stderr and "768" in done.stderr
    done = run(*command, tmp_path / "nobody.png", files[1])
    assert done.returncode == 1 and "nobody.png" in done.stderr and "Traceback" not in done.stderr
    done = run(*command, *files[:2], "-o", tmp_path / "o.bmp")
    assert done.returncode == 1 and "output_format" in done.stderr


@pytest.fixture
def quick_demo(server):
    """The default workflow with fewer steps and pixels, for callers that ask for nothing."""
    path = server.workflows / "demo.json"
    graph = path.read_text()
    quick = json.loads(graph)
    quick["10"]["inputs"] |= {"width": 128, "height": 192}
    quick["7"]["inputs"] |= {"steps": 2, "width": 128, "height": 192}
    path.write_text(json.dumps(quick))
    yield
    path.write_text(graph)


def test_backend(server, quick_demo, files, tmp_path):
    """The application's side: files in, one call, a file out."""
    output = tmp_path / "result.png"
    backend = ROOT / "examples/backend.py"
    done = run(backend, *files[:2], output, TRYON_URL=server.url, RUNPOD_API_KEY="anything")
    assert done.returncode == 0, done.stderr
    assert read(output).size == (192, 256)
    done = run(backend, files[0], ROOT / "README.md", output, TRYON_URL=server.url)
    assert done.returncode == 1 and "invalid_image" in done.stderr
