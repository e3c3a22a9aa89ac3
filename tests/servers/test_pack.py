"""The repository as a pack of somebody's ComfyUI, which start.sh does not start: it adds, and changes nothing else."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from comfyui_tryon.workflows.format import to_prompt
from support.images import from_base64, picture
from support.page_graph import CLASSES, base
from support.servers import (
    FOLDERS,
    NONE_FOUND,
    ROOT,
    START_TIMEOUT_S,
    Server,
    comfyui_version,
    free_port,
    running,
    without_settings,
)

REQUESTS = 20
START = 'cd "$1" && exec "$2" -u main.py --cpu --port "$PORT" --disable-auto-launch "${@:3}"'
OTHER_PACK = """
class Other:
    CATEGORY, RETURN_TYPES, FUNCTION, DESCRIPTION = "other", ("IMAGE",), "run", "of another pack"
    @classmethod
    def INPUT_TYPES(cls): return {"required": {}}
    def run(self): return (None,)
NODE_CLASS_MAPPINGS = {"%s": Other}
"""
OTHER_HOOKS = """
import execution
from aiohttp import web
from server import PromptServer
queue, output, done = PromptServer.instance.prompt_queue, execution.get_output_data, execution.PromptQueue.task_done
execution.PromptQueue.task_done = lambda *args, **kwargs: done(*args, **kwargs)
own = queue.task_done
queue.task_done = lambda *args, **kwargs: own(*args, **kwargs)
execution.get_output_data = lambda *args, **kwargs: output(*args, **kwargs)
@PromptServer.instance.routes.get("/health")
async def health(request): return web.Response(text="of another pack")
NODE_CLASS_MAPPINGS = {}
"""
HOSTS = [pytest.param(folder, id=comfyui_version(folder)) for folder in FOLDERS] or [
    pytest.param(None, marks=pytest.mark.skip(reason=NONE_FOUND))
]


@contextlib.contextmanager
def host(comfyui: Path, folder: Path, *packs: Path, arguments: Sequence[str] = ()) -> Iterator[Server]:
    """A ComfyUI as its user starts it, with these folders of packs, in this order, and other folders of its own."""
    paths = folder / "paths.yaml"
    paths.write_text("".join(f"packs{index}:\n  custom_nodes: {pack}\n" for index, pack in enumerate(packs)) or "{}")
    for name in ("user", "input", "output", "temp", "page"):
        (folder / name).mkdir(parents=True)
    options = [f"--{name}-directory={folder / name}" for name in ("user", "input", "output", "temp")]
    options += [f"--front-end-root={folder / 'page'}", f"--extra-model-paths-config={paths}"]
    command = ("bash", "-c", START, "bash", str(comfyui), sys.executable, *options, *arguments)
    with running(str(comfyui), folder / "log.txt", command=command, wait=False) as server:
        deadline = time.monotonic() + START_TIMEOUT_S
        with server.client(timeout=5) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/queue").status_code == 200:
                        break
                assert server.process.poll() is None and time.monotonic() < deadline, server.log()[-4000:]
                time.sleep(0.2)
        yield server


def prompt(number: int) -> dict[str, dict]:
    """Prompts that succeed, and prompts that are refused for a missing value or a link to no node."""
    graph: dict[str, dict] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": number}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    if number % 5 == 3:
        del graph["1"]["inputs"]["width"]
    if number % 5 == 4:
        graph["1"]["inputs"]["batch_size"] = ["3", 0]
    return graph


async def recorded(server: Server) -> dict[str, Any]:
    """What ComfyUI's own client sees of REQUESTS prompts: replies, events and history, without what always differs."""
    ids: dict[str, str] = {}
    replies, events = [], []
    async with aiohttp.ClientSession(server.url) as session, session.ws_connect("/ws?clientId=page") as socket:
        for number in range(REQUESTS):
            body = {"prompt": prompt(number), "client_id": "page", "extra_data": {"number": number}}
            async with session.post("/prompt", json=body) as reply:
                content = await reply.json()
                if "prompt_id" in content:
                    ids[content["prompt_id"]] = f"prompt {number}"
                replies.append((reply.status, content))
            while "prompt_id" in content:
                message = await asyncio.wait_for(socket.receive(), 60)
                if message.type == aiohttp.WSMsgType.BINARY:
                    events.append(("binary", message.data[:8].hex()))
                    continue
                event = json.loads(message.data)
                if event["type"] != "status":  # also sent at moments that depend on threads
                    events.append((event["type"], event["data"]))
                if event["type"] in ("execution_success", "execution_error"):
                    break
        async with session.post("/interrupt") as reply:  # of nothing: the next prompt runs all the same
            replies.append((reply.status, await reply.text()))
        async with session.get("/history") as reply:
            history = await reply.json()
        async with session.get("/queue") as reply:
            queue = await reply.json()
        nodes = {}
        for name in ("LoadImage", "PreviewImage", "KSampler"):
            async with session.get(f"/object_info/{name}") as reply:
                nodes[name] = await reply.json()
    found = {"replies": replies, "events": events, "history": history, "queue": queue, "nodes": nodes}
    text = json.dumps(found)
    for prompt_id, name in ids.items():
        text = text.replace(prompt_id, name)
    return without_times(json.loads(text))


def without_times(value: Any) -> Any:
    """Leaves out what differs between any two runs: times, and the random part of the names of previews."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in ("timestamp", "create_time")} | (
            {"filename": "preview"} if "filename" in value else {}
        )
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("comfyui", HOSTS)
def test_a_clone_adds_and_changes_nothing_else(comfyui, tmp_path, fields):
    before, clone, after = (tmp_path / name for name in ("before", "clone", "after"))
    for folder, taken in ((before, "CatVTON"), (after, "AutoMasker")):
        (folder / "other-pack").mkdir(parents=True)
        (folder / "other-pack/__init__.py").write_text(OTHER_PACK % taken)
    clone.mkdir()
    (clone / "my.try-on").symlink_to(ROOT)
    (after / "comfyui_tryon").symlink_to(ROOT / "custom_nodes/comfyui_tryon")
    (tmp_path / "alone").mkdir()
    with host(comfyui, tmp_path / "alone") as server:
        alone = asyncio.run(recorded(server))
    (tmp_path / "joined").mkdir()
    with host(comfyui, tmp_path / "joined", before, clone, after) as server:
        assert asyncio.run(recorded(server)) == alone
        assert len(alone["history"]) == [event for event, _ in alone["events"]].count("execution_success") == 12
        with server.client() as client:
            names = client.get("/object_info").json()
            assert {name: names[name]["description"] == "of another pack" for name in ("CatVTON", "AutoMasker")} == {
                "CatVTON": True, "AutoMasker": True
            }  # fmt: skip
            assert {"TryOnCatVTON", "TryOnAutoMasker", "LoadCatVTONPipeline", "LoadAutoMasker"} <= names.keys()
            templates = client.get("/api/workflow_templates").json()
            assert set(templates["my.try-on"]) == {path.stem for path in (ROOT / "workflows").glob("*.json")}
            assert len(templates["my.try-on"]) == len(set(templates["my.try-on"]))
            for name in templates["my.try-on"]:
                template = client.get(f"/api/workflow_templates/my.try-on/{name}.json").json()
                assert template["nodes"] and client.get(f"/api/workflow_templates/my.try-on/{name}.jpg").is_success
            reply = client.post("/api/v1/tryon", json=fields | {"workflow": "demo", "width": 128, "height": 192})
            assert picture(reply).shape == (256, 192, 3)
            assert [warning["code"] for warning in reply.json()["warnings"]] == ["demo_weights"]
            missing = client.post("/api/v1/tryon", json=fields | {"workflow": "catvton"})
            assert missing.json()["error"]["code"] == "not_ready"
            assert client.get("/queue").status_code == client.get("/ping").status_code == 200
    log = server.log()
    assert "Remove one of the two" in log and "Traceback" not in log.split("catvton", 1)[0]
    assert f"on port {server.url.rpartition(':')[2]}" in log


@pytest.mark.parametrize("comfyui", HOSTS)
def test_no_cache_of_comfyui_keeps_a_requests_images(comfyui, tmp_path, fields):
    packs = tmp_path / "packs"
    packs.mkdir()
    (packs / "tryon").symlink_to(ROOT / "custom_nodes/comfyui_tryon")
    (packs / "probe").symlink_to(ROOT / "tests/probe")
    (tmp_path / "host").mkdir()
    with host(comfyui, tmp_path / "host", packs, arguments=["--cache-lru=100"]) as server, server.client() as client:
        for seed in range(3):
            small = {"workflow": "demo", "width": 64, "height": 96, "num_inference_steps": 1, "seed": seed}
            picture(client.post("/api/v1/tryon", json=fields | small))
        assert client.get("/probe").json()["tensors"] == []
        graph = prompt(1)
        graph["1"]["inputs"] |= {"width": 640, "height": 640}
        client.post("/prompt", json={"prompt": graph})
        picture(client.post("/api/v1/tryon", json=fields | small))
        assert client.get("/probe").json()["tensors"], "what the page's prompts made was to stay cached"


@pytest.mark.parametrize("comfyui", HOSTS[:1])
def test_a_linked_folder_publishes_what_the_page_saves_in_app_mode(comfyui, tmp_path, fields):
    packs = tmp_path / "packs"
    (packs / "a-pack").mkdir(parents=True)
    (packs / "a-pack/__init__.py").write_text(OTHER_HOOKS)
    (packs / "tryon").symlink_to(ROOT / "custom_nodes/comfyui_tryon")
    graph = base(True, titles=("", ""))
    prompt = to_prompt(graph.document(), CLASSES)
    graph.extra = {"linearMode": True, "linearData": {"inputs": [[1, "image"], [2, "image"]], "outputs": [4]}}
    sent = {name: fields[name] for name in ("person_image", "garment_image")}
    (tmp_path / "host").mkdir()
    with host(comfyui, tmp_path / "host", packs) as server, server.client() as client:
        published = tmp_path / "host/user/default/tryon_workflows"
        names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
        assert {found["name"] for found in client.get("/api/v1/workflows").json()["workflows"]} == names
        reply = client.put("/api/v1/workflows/mine", json={"workflow": graph.document(), "prompt": prompt})
        assert reply.is_success, reply.text
        assert [path.name for path in published.iterdir()] == ["mine.json"]
        person, garment = (from_base64(sent[name])[..., :3].astype(int) for name in sent)
        answered = picture(client.post("/api/v1/tryon", json=sent | {"workflow": "mine"}))
        assert abs(answered - (person + garment) / 2).max() <= 1
        assert client.delete("/api/v1/workflows/mine").status_code == 204 and not [*published.iterdir()]
        assert client.delete("/api/v1/workflows/demo").status_code == 404
        picture(client.post("/api/v1/tryon", json=fields | {"workflow": "demo"}))
        missing = client.post("/api/v1/tryon", json=fields)
        assert missing.json()["error"]["code"] == "not_ready"
        assert client.get("/health").text == "of another pack" and client.get("/ping").json()["status"] == "healthy"
    log = server.log()
    assert "/health is answered by ComfyUI or another node pack" in log
    command = log.partition("Fetch them with:")[2].splitlines()[0]
    result = subprocess.run(["bash", "-c", f"{command} --help"], capture_output=True, text=True)
    assert result.returncode == 0 and "start.sh" not in command + result.stdout, result.stderr
    assert command.endswith(f"--to {Path(comfyui).resolve() / 'models'}")


@pytest.mark.parametrize("linked", [False, True])
def test_a_copy_looks_for_workflows_in_itself(tmp_path, linked):
    """In a process of its own that knows no ComfyUI, the folder alone."""
    from comfyui_tryon.settings import TEMPLATES

    copied = tmp_path / "ComfyUI/custom_nodes/tryon"
    if linked:
        copied.parent.mkdir(parents=True)
        copied.symlink_to(TEMPLATES.parent)
    else:
        shutil.copytree(TEMPLATES.parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ComfyUI/workflows").mkdir()  # somebody else's, and so is the script
    (tmp_path / "ComfyUI/start.sh").touch()
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("a-pack", {str(copied / "__init__.py")!r})
module = sys.modules["a-pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
settings = importlib.import_module("a-pack.settings")
print(settings.settings().workflows_dir)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=without_settings(), capture_output=True, text=True, cwd=tmp_path
    )
    assert result.stdout.strip() == str(copied.resolve() / "example_workflows"), result.stderr


def test_the_check_of_a_copy_advises_what_is_there(tmp_path):
    from comfyui_tryon.settings import PACK

    copied = tmp_path / "ComfyUI/custom_nodes/tryon"
    shutil.copytree(PACK, copied, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "ComfyUI/start.sh").touch()
    environment = without_settings() | {"PORT": str(free_port()), "HF_HOME": str(tmp_path / "hub")}
    check = [sys.executable, "-m", "tryon.check", "--table", ""]
    table = subprocess.run(check, cwd=copied.parent, env=environment, capture_output=True, text=True)
    assert table.returncode == 1 and "start.sh" not in table.stdout, table.stderr
    command = table.stdout.partition("-> cd ")[2].splitlines()[0]
    assert command.endswith(f"--to {tmp_path / 'ComfyUI/models'}"), table.stdout
    result = subprocess.run(["bash", "-c", f"cd {command} --help"], env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "Fetches the weight files." in result.stdout, result.stderr
