"""guard.py around a stand-in for ComfyUI: no port opens in a locked process without the lock, whatever happens."""

import json
import os
import signal
import subprocess
import sys

import pytest
from comfyui_tryon.guard import combined
from support.servers import ROOT, free_port

GUARD = ROOT / "custom_nodes/comfyui_tryon/guard.py"
REFUSED = "TRYON_LOCKED forbids ComfyUI to serve without it"
LISTEN = "sock = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))"
WAYS = {
    "a socket": f"{LISTEN}; print('OPEN')",
    "asyncio": "asyncio.run(asyncio.start_server(print, '127.0.0.1', int(os.environ['PORT']))); print('OPEN')",
    "IPv6": "sock = socket.socket(socket.AF_INET6); sock.bind(('::1', 0)); sock.listen(); print('OPEN')",
    "somebody catches it": f"""
try:
    {LISTEN}
except BaseException:
    pass
print('OPEN')""",
    "another thread": f"""
def serve():
    {LISTEN}
    print('OPEN')
thread = threading.Thread(target=serve); thread.start(); thread.join(); print('OPEN')""",
    "aiohttp": """
from aiohttp import web
web.run_app(web.Application(), host='127.0.0.1', port=int(os.environ['PORT']), print=lambda *a: print('OPEN'))""",
}


def run(folder, code: str, *arguments: str, locked: str | None = "1", **variables: str) -> subprocess.CompletedProcess:
    """Runs `code` as main.py under the guard."""
    main = folder / "main.py"
    main.write_text(f"import asyncio, json, os, signal, socket, sys, threading\n{code}\n")
    environment = {name: value for name, value in os.environ.items() if name != "TRYON_LOCKED"}
    environment |= {"PORT": str(free_port())} | ({"TRYON_LOCKED": locked} if locked is not None else {}) | variables
    command = [sys.executable, str(GUARD), "main.py", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("way", WAYS)
def test_without_the_lock_no_port_opens(tmp_path, way):
    result = run(tmp_path, WAYS[way])
    assert (result.returncode, result.stdout) == (1, "")
    assert REFUSED in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("locked", ["1", "true", "yes", "maybe", " 1 "])
def test_what_is_unclear_is_locked(tmp_path, locked):
    assert run(tmp_path, WAYS["a socket"], locked=locked).returncode == 1


def test_the_case_of_the_variable_does_not_unlock(tmp_path):
    assert run(tmp_path, WAYS["a socket"], locked=None, tryon_locked="1").returncode == 1


@pytest.mark.parametrize("locked", [None, "", "0", "false", "no", "off"])
def test_unlocked_it_stays_out_of_the_way(tmp_path, locked):
    result = run(tmp_path, WAYS["a socket"], locked=locked)
    assert (result.returncode, result.stdout) == (0, "OPEN\n")


def test_with_the_lock_the_port_opens(tmp_path):
    """The pack, which ComfyUI loads under a name made of its path, opens it."""
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("/some/path/comfyui_tryon.guard", {str(GUARD)!r})
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); module.open_ports()
{LISTEN}; print('OPEN')"""
    result = run(tmp_path, code)
    assert (result.returncode, result.stdout) == (0, "OPEN\n"), result.stderr


@pytest.mark.parametrize(
    "code, status, told",
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(1)", 1, ""),
        ("sys.exit('told')", 1, "told"),
        ("import argparse; argparse.ArgumentParser().parse_args()", 1, "--bad"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import no_such_package", 1, "no_such_package"),
        ("raise OSError(98, 'address already in use')", 1, "Cannot start: address already in use. PORT and LISTEN"),
        ("threading.Thread(target=threading.Event().wait).start()", 0, ""),
    ],
)
def test_it_ends_at_once_with_0_or_1(tmp_path, code, status, told):
    arguments = ["--bad"] if "argparse" in code else []
    result = run(tmp_path, f"print('written', flush=False)\n{code}", *arguments)
    assert result.returncode == status and result.stdout == "written\n"
    assert told in result.stderr and ("Cannot start" not in told or "Traceback" not in result.stderr)


@pytest.mark.parametrize("locked", ["0", "1"])
def test_a_start_that_is_told_to_end_does(tmp_path, locked):
    """Also as the first process of a container, which has no handler of its own."""
    code = "assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL; os.kill(os.getpid(), signal.SIGTERM)"
    result = run(tmp_path, f"{code}; threading.Event().wait(30)", locked=locked)
    assert result.returncode == 128 + 15, result.stderr


@pytest.mark.parametrize("locked", ["0", "1"])
def test_ctrl_c_while_comfyui_loads_ends_it_quietly(tmp_path, locked):
    result = run(tmp_path, "os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(30)", locked=locked)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("place", ["custom_nodes/pack", "../elsewhere/pack"])
def test_a_pack_that_opens_a_port_is_named(tmp_path, place):
    comfyui = tmp_path / "ComfyUI"
    pack = comfyui / place / "__init__.py"
    pack.parent.mkdir(parents=True)
    pack.write_text("import http.server; http.server.HTTPServer(('127.0.0.1', 0), None)")
    result = run(comfyui, f"sys.path.insert(0, {str(pack.parents[1])!r}); import pack")
    assert result.returncode == 1 and result.stderr.splitlines()[-1].endswith("out of TRYON_PACKS.")
    assert f"{pack.resolve()} opens a port before comfyui_tryon is loaded" in result.stderr


def test_main_py_sees_what_it_would_see_without_the_guard(tmp_path):
    (tmp_path / "beside.py").write_text("")
    code = """
import beside
packs = [folder for folder in sys.path if folder.endswith("comfyui_tryon")]
is_main = sys.modules["__main__"].__dict__ is globals()
print(json.dumps([sys.argv, __name__, sys.path[0], packs, is_main, "torch" in sys.modules]))"""
    found = json.loads(run(tmp_path, code, "--cpu", "x").stdout)
    assert found == [["main.py", "--cpu", "x"], "__main__", str(tmp_path.resolve()), [], True, False]


@pytest.mark.parametrize(
    "given, expected",
    [
        ("--cpu", "--cpu"),
        ("--whitelist-custom-nodes ours", "--whitelist-custom-nodes ours"),
        (
            "--disable-all-custom-nodes --whitelist-custom-nodes ours --cpu --whitelist-custom-nodes a b ours",
            "--disable-all-custom-nodes --cpu --whitelist-custom-nodes ours a b",
        ),
        ("--port 1 --listen a --port 2 --preview-method auto", "--preview-method auto --port 2 --listen a"),
        ("--whitelist-custom-nodes ours --white a", "--whitelist-custom-nodes ours a"),
        ("--listen a --listen", "--listen 0.0.0.0,::"),
    ],
)
def test_arguments_that_are_given_twice(monkeypatch, given, expected):
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("LISTEN", "a")
    assert combined(given.split()) == expected.split()
    words = expected.split()
    for name in ("port", "listen"):
        assert f"--{name}" not in words or os.environ[name.upper()] == words[words.index(f"--{name}") + 1]
