"""A locked process that cannot be locked: it ends with status 1, and no port of it was ever open."""

import contextlib
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.servers import (
    DEMO_MODELS,
    EMBEDDED,
    FOLDERS,
    ROOT,
    START_TIMEOUT_S,
    engines,
    free_port,
    running,
    wait_until_ready,
    without_settings,
)
from support.waiting import until

GUARD = ROOT / "custom_nodes/comfyui_tryon/guard.py"
REFUSED = "TRYON_LOCKED forbids ComfyUI"


# Stands in for ComfyUI where that is not the subject: loads the pack as ComfyUI does, goes on without it, and serves.
HOST = """
import os, sys, traceback, types
from aiohttp import web

for name in ("comfy", "comfy.cli_args", "comfy.model_management", "comfy.model_patcher", "comfy.utils", "execution",
             "folder_paths", "nodes", "server"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["comfy.cli_args"].args = types.SimpleNamespace(listen=os.environ["LISTEN"], port=int(os.environ["PORT"]))
sys.modules["nodes"].NODE_CLASS_MAPPINGS = {}
app = web.Application()
sys.modules["server"].PromptServer = types.SimpleNamespace(instance=types.SimpleNamespace(app=app))
try:
    import comfyui_tryon
except Exception:
    traceback.print_exc()
web.run_app(app, host=os.environ["LISTEN"], port=int(os.environ["PORT"]))
"""


@dataclass
class Cause:
    """What keeps the lock from being put in place.

    Attributes:
        broken: a package that raises this when it is imported.
        taken: whether another process has the port.
        told: what the log says.
        host: what --demo starts: "ComfyUI", or HOST; plain start.sh has its check look into a real ComfyUI.
    """

    told: str
    host: str = "ComfyUI"
    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    broken: str = ""
    taken: bool = False


SETTINGS = {
    "a bad setting": Cause("TRYON_MAX_QUEUE", variables={"TRYON_MAX_QUEUE": "lots"}),
    "a bad key": Cause("TRYON_API_KEY", HOST, {"TRYON_API_KEY": " "}),
    "an unclear lock": Cause("TRYON_LOCKED", HOST, {"TRYON_LOCKED": "perhaps"}),
    "a package that does not import": Cause("broken on purpose", HOST, broken="ImportError('broken on purpose')"),
    "a package that exits": Cause("ended on purpose", HOST, broken="SystemExit('ended on purpose')"),
    "a taken port": Cause("PORT", taken=True),
}
ARGUMENTS = {"a bad flag": Cause("--no-such-flag", arguments=("--no-such-flag",))}


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def ends_closed(tmp_path: Path, command: list[str], variables: dict[str, str], cause: Cause) -> None:
    port, other = free_port(), free_port()
    environment = without_settings()
    environment |= {"PORT": str(port), "LISTEN": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    environment |= {"TRYON_MODELS_DIR": str(DEMO_MODELS), "TRYON_WORKFLOW": "demo", **variables, **cause.variables}
    if cause.broken:
        (tmp_path / "pybase64.py").write_text(f"raise {cause.broken}")
        environment["PYTHONPATH"] = str(tmp_path)
    opened = False
    with contextlib.ExitStack() as stack:
        if cause.taken:
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        log = stack.enter_context(open(tmp_path / "log.txt", "wb"))
        command += [argument.format(other=other) for argument in cause.arguments]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=variables.get("PWD", ROOT)
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        try:
            while process.poll() is None and not opened and time.monotonic() < deadline:
                opened = is_open(other) or (not cause.taken and is_open(port))
                time.sleep(0.02)
        finally:
            process.kill()
    text = (tmp_path / "log.txt").read_text(errors="replace")
    assert not opened, text[-3000:]
    assert process.wait() == 1, text[-3000:]
    assert cause.told in text


def stand_in(folder: Path, comfyui: str) -> str:
    """A folder that start.sh takes for that ComfyUI."""
    folder.mkdir()
    (folder / "main.py").write_text(HOST)
    (folder / "requirements.txt").write_bytes(Path(comfyui, "requirements.txt").read_bytes())
    return str(folder)


# In plain start.sh a package that exits ends the check, as one that does not import does.
STARTS = {f"{name}-{mode}": (name, mode) for name in [*SETTINGS, *ARGUMENTS] for mode in ("demo", "plain")}
del STARTS["a package that exits-plain"]


@pytest.mark.parametrize(("name", "mode"), STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("engine", engines())
def test_start_sh_opens_no_port_without_the_lock(tmp_path, engine, name, mode):
    if engine == EMBEDDED and name in ARGUMENTS:
        pytest.skip("there is no ComfyUI to pass them to")
    cause = SETTINGS.get(name) or ARGUMENTS[name]
    is_demo = mode == "demo"
    command = [str(ROOT / "start.sh"), *(["--demo"] if is_demo else []), *(["--"] if cause.arguments else [])]
    folder = "" if engine == EMBEDDED else engine
    if folder and is_demo and cause.host == HOST:
        folder = stand_in(tmp_path / "host", engine)
    ends_closed(tmp_path, command, {"COMFYUI_DIR": folder}, cause)


@pytest.mark.parametrize("mode", ["--demo", "--dev"])
def test_a_bad_setting_ends_the_start_before_comfyui_is_loaded(tmp_path, mode):
    (tmp_path / "main.py").write_text("print('loaded')")
    (tmp_path / "requirements.txt").write_text("pillow\n")
    ends_closed(tmp_path, [str(ROOT / "start.sh"), mode], {"COMFYUI_DIR": str(tmp_path)}, SETTINGS["a bad setting"])
    assert "loaded" not in (tmp_path / "log.txt").read_text()


def test_the_stand_in_would_open_its_port(tmp_path):
    """Without a lock to be in place it serves, whatever becomes of the pack."""
    (tmp_path / "main.py").write_text(HOST)
    (tmp_path / "comfyui_tryon.py").write_text("raise ImportError('broken on purpose')")
    variables = {"TRYON_LOCKED": "0", "PYTHONPATH": str(tmp_path)}
    command = (sys.executable, str(GUARD), str(tmp_path / "main.py"))
    with running(EMBEDDED, tmp_path / "log.txt", variables, command=command, wait=False) as server:
        until(lambda: is_open(int(server.url.rsplit(":", 1)[1])), "the stand-in opened no port")
        assert "broken on purpose" in server.log()


@pytest.mark.parametrize("folder", FOLDERS[-1:], ids=lambda folder: folder.name)
def test_a_pack_that_is_not_there_fails_the_start(tmp_path, folder):
    cause = Cause("TRYON_PACKS names 'no_such_pack'", variables={"TRYON_PACKS": "no_such_pack"})
    ends_closed(tmp_path, [str(ROOT / "start.sh"), "--demo"], {"COMFYUI_DIR": str(folder)}, cause)


@pytest.mark.parametrize(
    ("packs", "told"),
    [("a_pack", "set COMFYUI_DIR, or unset TRYON_PACKS"), ("--listen", "list folders"), ("../x", "list")],
)
def test_packs_that_cannot_be_loaded_fail_the_start_before_anything_else(tmp_path, packs, told):
    cause = Cause(told, variables={"TRYON_PACKS": packs})
    ends_closed(tmp_path, [str(ROOT / "start.sh"), "--demo"], {"COMFYUI_DIR": ""}, cause)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_arguments_after_the_dashes_do_not_take_the_lock_away(tmp_path, folder):
    port = free_port()
    arguments = ("--", "--whitelist-custom-nodes", "my_pack", "--white", "another_pack")
    arguments += ("--port", str(port), "--listen", "127.0.0.1")
    environment = {"TRYON_WARMUP": "0"}
    with running(str(folder), tmp_path / "log.txt", environment, arguments=arguments, wait=False) as server:
        given, server.url = server.url, f"http://127.0.0.1:{port}"
        wait_until_ready(server)
        with server.client() as client:
            for path in ("/", "/prompt", "/object_info", "/ws", "/queue"):
                assert client.get(path).status_code == 404
        assert not is_open(int(given.rsplit(":", 1)[1]))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("more", [[], ["--disable-all-custom-nodes"]], ids=["no pack", "all disabled"])
def test_a_comfyui_that_does_not_load_the_pack_opens_no_port(tmp_path, folder, more):
    command = [sys.executable, str(GUARD), "main.py", "--cpu", "--base-directory", str(tmp_path)]
    command += [*more, "--port", "{other}", "--front-end-root", str(tmp_path)]
    command += ["--database-url", f"sqlite:///{tmp_path}/comfyui.db"]
    (tmp_path / "custom_nodes").mkdir()
    cause = Cause(REFUSED, arguments=tuple(command[3:]))
    ends_closed(tmp_path, command[:3], {"PWD": str(folder), "TRYON_LOCKED": "1"}, cause)
