"""What `--demo` says to whoever started it: the page to open, and a command to paste."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_tryon.demo import __main__ as demo
from support.servers import ROOT, free_port, without_settings

SECRET = "secret-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the demo is written to; its name has all that shells and curl read as something else."""
    return tmp_path_factory.mktemp("demo") / """it's a "demo"; $HOME, \\too"""


def said(folder: Path, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    environment = without_settings("LISTEN") | {"PORT": "8123", "PYTHONPATH": str(ROOT / "custom_nodes")} | variables
    command = [sys.executable, "-m", "comfyui_tryon.demo", str(folder)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def sent(text: str, tmp_path: Path, cwd: Path = ROOT, **variables: str) -> tuple[str, dict[str, list[str]]]:
    """What a server would get from the command in `text`: the URL, and by option its values as curl reads them."""
    command = text[text.index("curl ") :]
    stub = tmp_path / "bin/curl"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))")
    stub.chmod(0o755)
    environment = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}"} | variables
    url, *words = json.loads(subprocess.check_output(["bash", "-c", command], cwd=cwd, env=environment))
    options: dict[str, list[str]] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        options.setdefault(name, []).append(value)
    return url, options


def path_of(field: str) -> Path:
    """The file that curl sends for a -F option."""
    name = field.partition("@")[2]
    return Path(re.sub(r"\\(.)", r"\1", name[1:-1]) if name.startswith('"') else name)


@pytest.mark.parametrize("playground", ["1", "0"])
def test_the_page_comes_before_the_command(folder, playground):
    text = said(folder, TRYON_PLAYGROUND=playground).stdout
    page, curl = text.find("http://127.0.0.1:8123/playground"), text.find("curl http://127.0.0.1:8123/api/v1/tryon")
    assert curl > page and (page > 0) is (playground == "1")


def test_the_command_sends_the_samples_from_where_it_was_printed(folder, tmp_path):
    for cwd in (ROOT, folder.parent, folder):
        _, options = sent(said(folder, cwd).stdout, tmp_path, cwd)
        for name, field in zip(("person", "garment"), options["-F"], strict=True):
            assert field.startswith(f"{name}_image=@") and (cwd / path_of(field)).samefile(folder / f"{name}.png")
        assert (options["-H"], options["-o"]) == (["Accept: image/png"], ["result.png"])


@pytest.mark.skipif(not shutil.which("curl"), reason="NO CURL HERE")
def test_curl_finds_the_files(folder):
    text = said(folder, PORT=str(free_port())).stdout
    result = subprocess.run(["bash", "-c", text[text.index("curl ") :]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 7, f"it should have found all but a server: {result.stderr}"


@pytest.mark.parametrize("listen, host", [("::1", "[::1]"), ("127.0.0.2", "127.0.0.2"), ("::", "[::1]")])
def test_the_command_goes_to_where_the_server_listens(folder, tmp_path, listen, host):
    text = said(folder, LISTEN=listen, PORT="8124", TRYON_PLAYGROUND="1").stdout
    assert sent(text, tmp_path)[0] == f"http://{host}:8124/api/v1/tryon"
    assert f"http://{host}:8124/playground" in text


@pytest.mark.parametrize(
    ("keys", "variable"), [(SECRET, "TRYON_API_KEY"), (f"shop:{SECRET}", "KEY"), (f"{SECRET},other", "KEY")]
)
def test_the_command_has_the_key_and_does_not_show_it(folder, tmp_path, keys, variable):
    text = said(folder, TRYON_API_KEY=keys).stdout
    assert SECRET not in text and f"where {variable} is" in text
    assert f"X-API-Key: {SECRET}" in sent(text, tmp_path, **{variable: SECRET})[1]["-H"]


def test_the_command_is_one_for_powershell_on_windows(monkeypatch):
    monkeypatch.setattr(demo, "FOR_POWERSHELL", True)
    command = demo._command("http://127.0.0.1:8000/api/v1/tryon", "", Path("a folder"))
    assert shlex.split(command.replace("\\", "/")) == [
        "curl.exe",
        "http://127.0.0.1:8000/api/v1/tryon",
        *("-H", "Accept: image/png"),
        *("-F", "person_image=@a folder/person.png", "-F", "garment_image=@a folder/garment.png"),
        *("-o", "result.png"),
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    result = said(tmp_path / "file/demo")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"{tmp_path / 'file/demo'} cannot be used for the demo" in result.stderr
