"""What start.sh and `python -m comfyui_tryon` make of their arguments and of the environment."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from comfyui_tryon.launch import host, modes, packages
from support.servers import ROOT, free_port, without_settings

PACK = ROOT / "custom_nodes/comfyui_tryon"


@pytest.fixture
def machine(monkeypatch):
    """A machine without a GPU, whose quota gives it three cores."""
    monkeypatch.setattr(modes, "has_gpu", lambda *python: False)
    monkeypatch.setattr(modes.cpus, "limit", lambda: 3)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("serve", False, [], [])),
        (["--serve"], ("serve", False, [], [])),
        (["--", "--lowvram"], ("serve", False, [], ["--lowvram"])),
        (["--serve", "--", "--lowvram"], ("serve", False, [], ["--lowvram"])),
        (["serve"], ("serve", False, [], [])),
        (["--demo"], ("demo", True, [], [])),
        (["--demo", "--", "--cpu"], ("demo", True, [], ["--cpu"])),
        (["--dev"], ("dev", False, [], [])),
        (["--demo", "--dev"], ("dev", True, [], [])),
        (["--dev", "--demo", "--", "--x", "--"], ("dev", True, [], ["--x", "--"])),
        (["--download", "fashn", "a/b@main"], ("download", False, ["fashn", "a/b@main"], [])),
        (["--test", "tests/api", "-k", "x"], ("test", False, ["tests/api", "-k", "x"], [])),
        (["--check"], ("check", False, [], [])),
    ],
)
def test_arguments(words, expected):
    asked = modes.parse(words, {})
    assert (asked.mode, asked.demo, asked.arguments, asked.host) == expected


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--bogus"], 2, "--demo"),
        (["demo"], 2, "--demo"),
        (["--demo", "--lowvram"], 1, "unexpected arguments: --lowvram. Arguments for ComfyUI go after --"),
        (["--demo", "--demo"], 1, "unexpected arguments"),
        (["--serve", "x"], 1, "unexpected arguments: x"),
    ],
)
def test_other_arguments_are_refused(capsys, words, status, said):
    with pytest.raises(SystemExit) as left:
        modes.parse(words, {})
    assert left.value.code == status and said in capsys.readouterr().err


def test_modes_set_defaults_and_what_is_set_stays(machine):
    environment = {"PYTHONPATH": "/elsewhere", "TRYON_MODELS_DIR": "models", "LISTEN": ""}
    modes.prepare(modes.parse(["--dev"], environment), environment)
    assert environment == {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "custom_nodes"), "/elsewhere"]),
        "TRYON_MODELS_DIR": str(Path.cwd() / "models"),
        "TRYON_WORKFLOWS_DIR": str(ROOT / "workflows"),
        "PORT": "8000",
        "LISTEN": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "OMP_NUM_THREADS": "3",
        "TRYON_PLAYGROUND": "1",
    }
    chosen = dict.fromkeys(("PORT", "LISTEN", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "TRYON_PLAYGROUND"), "0")
    environment = chosen | {"TRYON_WORKFLOWS_DIR": "/workflows"}
    modes.prepare(modes.parse(["--demo"], environment), environment)
    assert chosen.items() <= environment.items() and environment["TRYON_WORKFLOWS_DIR"] == "/workflows"


def test_platforms_choose_the_port(machine):
    environment = {"SAGEMAKER_BIND_TO_PORT": "8123", "PORT": "8000", "PORT_HEALTH": "8000"}
    modes.prepare(modes.parse(["serve"], environment), environment)
    assert (environment["PORT"], environment["TRYON_SAGEMAKER"]) == ("8123", "1") and "PORT_HEALTH" not in environment
    environment = {"AIP_HTTP_PORT": "8124", "PORT": "8000", "PORT_HEALTH": "8000"}
    modes.prepare(modes.parse([], environment), environment)
    assert environment["PORT"] == "8124" and "PORT_HEALTH" not in environment
    assert "TRYON_PLAYGROUND" not in environment and environment["LISTEN"] == "0.0.0.0"


@pytest.mark.parametrize("names", ["--listen", "../x", "a,.hidden", "a/b"])
def test_packs_are_names_of_folders(capsys, names):
    with pytest.raises(SystemExit):
        modes.packs_of(names)
    assert "list folders of ComfyUI's custom_nodes by their names" in capsys.readouterr().err
    assert modes.packs_of(" one , two,") == ["comfyui_tryon", "one", "two"]


def test_comfyui_is_where_comfyui_dir_says(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COMFYUI_DIR", "")
    assert host.find_comfyui(may_clone=True) is None
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    with pytest.raises(SystemExit):
        host.find_comfyui(may_clone=True)
    assert f"COMFYUI_DIR={tmp_path} holds no ComfyUI" in capsys.readouterr().err
    (tmp_path / "main.py").touch()
    assert host.find_comfyui(may_clone=False) == tmp_path


def test_a_folder_that_cannot_be_looked_into_holds_no_comfyui(monkeypatch, capsys):
    monkeypatch.setenv("COMFYUI_DIR", "x" * 5000)
    with pytest.raises(SystemExit):
        host.find_comfyui(may_clone=True)
    assert "holds no ComfyUI" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="ONLY POSIX HAS USERS WITHOUT AN ENTRY")
def test_a_user_without_a_home_needs_none(monkeypatch, tmp_path):
    for name in ("COMFYUI_DIR", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", mock.Mock(side_effect=KeyError))
    monkeypatch.setattr(host, "REPOSITORY", tmp_path)
    assert host.find_comfyui(may_clone=False) in (None, Path("/comfyui"))


@pytest.mark.parametrize(
    "devices, nvidia_smi, torch, expected",
    [
        ({"/dev/nvidiactl"}, None, "2.10.0", True),
        ({"/dev/dxg"}, "/usr/bin/nvidia-smi", "2.10.0", True),  # Windows Subsystem for Linux
        ({"/dev/dxg"}, None, "2.10.0+cpu", False),
        ({"/dev/kfd"}, None, "2.10.0+rocm7.0", True),
        ({"/dev/kfd"}, None, "2.10.0+cu128", False),  # AMD's GPU, and PyTorch for NVIDIA's
        (set(), "/usr/bin/nvidia-smi", "2.10.0", False),
    ],
)
def test_a_gpu_counts_if_pytorch_finds_it(monkeypatch, devices, nvidia_smi, torch, expected):
    monkeypatch.setattr(host.platform, "system", lambda: "Linux")
    monkeypatch.setattr(host.os.path, "exists", lambda path: path in devices)
    monkeypatch.setattr(host.shutil, "which", lambda name: nvidia_smi)
    monkeypatch.setattr(host, "_version", lambda python, package: torch)
    assert host.has_gpu(Path("python")) == expected


def test_a_clone_in_custom_nodes_uses_the_comfyui_around_it(monkeypatch, tmp_path):
    monkeypatch.delenv("COMFYUI_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    comfyui, usual = tmp_path / "ComfyUI", tmp_path / "home/comfy/ComfyUI"
    for folder in (comfyui, usual):
        (folder / "custom_nodes").mkdir(parents=True)
        (folder / "main.py").touch()
    monkeypatch.setattr(host, "REPOSITORY", comfyui / "custom_nodes/comfyui-tryon")
    assert host.find_comfyui(may_clone=False) == comfyui
    monkeypatch.setattr(host, "REPOSITORY", comfyui / "packs/comfyui-tryon")
    assert host.find_comfyui(may_clone=False) in (Path("/comfyui"), usual)
    monkeypatch.setattr(host, "REPOSITORY", comfyui / "custom_nodes/comfyui-tryon")
    (comfyui / "main.py").unlink()
    assert host.find_comfyui(may_clone=False) in (Path("/comfyui"), usual)
    monkeypatch.setenv("COMFYUI_DIR", "")
    assert host.find_comfyui(may_clone=False) is None


def test_a_mode_needs_nothing_but_python():
    """It runs before anything is installed: -S leaves all packages out."""
    command = [sys.executable, "-S", "-m", "comfyui_tryon", "--help"]
    result = subprocess.run(command, cwd=PACK.parent, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert result.returncode == 0 and "--demo" in result.stdout, result.stderr


def test_start_sh_and_the_module_are_the_same(tmp_path):
    python = [sys.executable, "-m", "comfyui_tryon"]
    for words in (["--help"], ["--bogus"], ["--check", "x"]):
        module = subprocess.run([*python, *words], cwd=PACK.parent, capture_output=True, text=True)
        script = subprocess.run([str(ROOT / "start.sh"), *words], cwd=tmp_path, capture_output=True, text=True)
        assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NO /dev/full HERE: it stands for a full disk")
@pytest.mark.parametrize("arguments", [["comfyui_tryon", "--help"], ["comfyui_tryon.demo", "{folder}"]])
def test_a_start_goes_on_where_its_words_cannot_be_written(tmp_path, arguments):
    command = [sys.executable, "-m", *(argument.format(folder=tmp_path) for argument in arguments)]
    variables = without_settings() | {"PYTHONPATH": str(ROOT / "custom_nodes")}
    with open("/dev/full", "wb") as full:
        assert subprocess.run(command, env=variables, cwd=ROOT, stdout=full, stderr=full).returncode == 0


def start(*words: str, folder: Path = ROOT, script: str = f"{ROOT}/start.sh", **variables: str):
    """start.sh, called from a folder."""
    environment = without_settings() | {"COMFYUI_DIR": "", "PORT": str(free_port())} | variables
    return subprocess.run([script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_start_sh_may_be_a_link_and_called_from_anywhere(tmp_path):
    (tmp_path / "linked.sh").symlink_to(ROOT / "start.sh")
    (tmp_path / "again.sh").symlink_to("linked.sh")
    calls = [(f"{tmp_path}/again.sh", ROOT), ("./again.sh", tmp_path), (f"{ROOT.name}/start.sh", ROOT.parent)]
    for script, folder in calls:
        result = start("--help", script=script, folder=folder, CDPATH=f".:{ROOT.parent}")
        assert result.returncode == 0 and "--demo" in result.stdout, result.stderr


def test_modules_where_somebody_calls_start_sh_are_not_imported(tmp_path):
    for name in ("argparse", "importlib", "json", "re", "runpy", "secrets", "subprocess", "venv"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    result = start(folder=tmp_path, TRYON_WORKFLOW="nothing")
    assert result.returncode == 1 and "Available: catvton" in result.stderr and "imported" not in result.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_let_be(closed):
    command = ["bash", "-c", f'"$0" --help {closed}', str(ROOT / "start.sh")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr


def test_a_folder_that_was_deleted_is_named(tmp_path):
    command = ["bash", "-c", 'rmdir "$PWD" && exec "$0" --check', str(ROOT / "start.sh")]
    result = subprocess.run(command, cwd=tmp_path, env=without_settings(), capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "the current folder cannot be used" in result.stderr.splitlines()[-1]


# A module that each of them imports after Python's own.
IMPORTED = {"--demo": "aiohttp", "--check": "pydantic_settings", "--download": "filelock"}


@pytest.mark.skipif(os.name != "posix", reason="WINDOWS HAS NO SIGTERM")
@pytest.mark.parametrize(
    ("mode", "number", "status"),
    [
        *((mode, signal.SIGTERM, 128 + signal.SIGTERM) for mode in IMPORTED),
        ("--demo", signal.SIGINT, -signal.SIGINT),
        ("--check", signal.SIGINT, -signal.SIGINT),
    ],
)
def test_a_start_that_is_told_to_end_does_so_quietly(tmp_path, mode, number, status):
    """By a handler of its own: the first process of a container has no other way to end."""
    module = tmp_path / "modules" / f"{IMPORTED[mode]}.py"
    module.parent.mkdir()
    module.write_text(f"import os, time; os.kill(os.getpid(), {int(number)}); time.sleep(60)")
    result = start(mode, PYTHONPATH=str(module.parent), TRYON_MODELS_DIR=str(tmp_path / "models"))
    assert result.returncode == status and "Traceback" not in result.stderr, result.stderr


@pytest.mark.skipif(os.name != "posix", reason="WINDOWS HAS NO SIGTERM")
def test_what_a_start_waits_for_ends_with_it(tmp_path):
    """A pip or git that went on would be in the way of the next start."""
    child = tmp_path / "pid"
    code = f"""if True:
        import os, subprocess, sys
        from comfyui_tryon.launch import modes
        wait = f"import os, time; open({str(child)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        modes.find_comfyui = lambda may_clone: subprocess.run([sys.executable, "-c", wait])
        modes.main(["--demo"])
    """
    paths = os.environ | {"PYTHONPATH": str(ROOT / "custom_nodes")}
    starting = subprocess.Popen([sys.executable, "-c", code], env=paths, stderr=subprocess.PIPE, text=True)
    while not (child.exists() and child.read_text()):
        assert starting.poll() is None, starting.communicate()
        time.sleep(0.02)
    starting.terminate()
    _, said = starting.communicate(timeout=30)
    assert starting.returncode == 128 + signal.SIGTERM and "Traceback" not in said, said
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)


@pytest.mark.parametrize("words", [["--bogus"], ["--demo", "x"], ["--demo"]])
def test_what_a_start_says_is_json_where_the_log_is(words):
    result = start(*words, TRYON_LOG_FORMAT="json", TRYON_MAX_QUEUE="lots")
    assert result.returncode in (1, 2)
    entries = [json.loads(line) for line in result.stderr.splitlines()]
    assert entries and all(entry["message"] for entry in entries)


@pytest.fixture
def launched(monkeypatch, machine, tmp_path) -> Callable[..., list[list[str]]]:
    """Starts a mode in this process; returns the commands that it would execute. `.demo` and `.run` are in a folder."""
    commands: list[list[str]] = []

    def become(command: list) -> None:
        commands.append([str(word) for word in command])
        raise SystemExit

    def launch(*words: str, repository: Path = tmp_path) -> list[list[str]]:
        monkeypatch.setattr(modes, "REPOSITORY", repository)
        with pytest.raises(SystemExit):
            modes.main(words)
        return commands

    monkeypatch.setattr(modes.log, "keep_printing", lambda as_json: None)
    monkeypatch.setattr(modes, "find_comfyui", lambda may_clone: None)
    monkeypatch.setattr(modes, "set_up", lambda mode, comfyui: Path(sys.executable))
    monkeypatch.setattr(modes, "_must", lambda *command: commands.append([str(word) for word in command]))
    monkeypatch.setattr(modes, "_become", become)
    handler = signal.getsignal(signal.SIGTERM)
    with mock.patch.dict(os.environ, without_settings("PORT", "LISTEN"), clear=True):
        yield launch
    signal.signal(signal.SIGTERM, handler)


def test_the_demo_is_where_it_can_be_written(launched, tmp_path):
    (tmp_path / "file").touch()
    (writes, _) = launched("--demo", repository=tmp_path / "file")  # stands for a read-only root
    folder = Path(writes[-1])
    assert folder.is_dir() and os.environ["TRYON_MODELS_DIR"] == str(folder / "models")
    assert launched("--demo", repository=tmp_path)[2][-1] == str(tmp_path / ".demo")
    folder.rmdir()


def test_the_settings_follow_the_arguments_for_comfyui(launched, monkeypatch, capsys):
    launched("--dev", "--", "--port", "8123", "--listen")
    assert (os.environ["PORT"], os.environ["LISTEN"]) == ("8123", "0.0.0.0,::")
    assert "LISTEN=0.0.0.0,::" in capsys.readouterr().err


@pytest.fixture
def venv(monkeypatch, tmp_path) -> Path:
    """A `.venv` with this Python and the stamps of what was installed in it; `pip` records its arguments."""
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(sys.executable)
    (folder / ".installed-of-others").touch()
    monkeypatch.setattr(packages, "VENV", folder)
    monkeypatch.setattr(packages, "_choose_wheels", lambda: None)
    monkeypatch.setattr(packages, "_restore_pip", lambda python: None)
    monkeypatch.setattr(packages, "_pip", mock.Mock())
    return folder


@pytest.mark.skipif(os.name != "posix", reason="WINDOWS HAS OTHER NAMES FOR IT")
def test_packages_that_are_gone_are_installed_again(venv, monkeypatch):
    monkeypatch.setattr(packages, "has_packages", lambda *where: True)
    assert packages.set_up("demo", None) == venv / "bin/python"
    packages.set_up("demo", None)
    assert packages._pip.call_count == 1, "a stamp spares the second time"
    monkeypatch.setattr(packages, "has_packages", lambda *where: False)
    packages.set_up("demo", None)
    assert packages._pip.call_count == 2 and not (venv / ".installed-of-others").exists()


@pytest.mark.skipif(os.name != "posix", reason="WINDOWS HAS OTHER NAMES FOR IT")
def test_the_check_says_that_packages_are_gone(venv, monkeypatch, capsys):
    monkeypatch.setattr(packages, "has_packages", lambda *where: False)
    with pytest.raises(SystemExit):
        packages.set_up("check", None)
    assert f"{venv} lacks packages: ./start.sh --demo installs them" in capsys.readouterr().err
    assert not packages._pip.called


@pytest.mark.skipif(os.name != "posix", reason="WINDOWS HAS OTHER NAMES FOR IT")
@pytest.mark.parametrize("mode", ["demo", "check"])
@pytest.mark.parametrize("python", ["#!/bin/sh\nexit 1\n", "no program", ""])
def test_a_venv_of_another_python_or_one_that_is_gone_is_refused(venv, capsys, mode, python):
    (venv / "bin/python").unlink()
    if python:
        (venv / "bin/python").write_text(python)
        (venv / "bin/python").chmod(0o755)
    else:
        (venv / "bin/python").symlink_to(venv / "gone")
    with pytest.raises(SystemExit):
        packages.set_up(mode, None)
    assert "has no Python from 3.10 to 3.13 that runs: delete it" in capsys.readouterr().err


def test_a_venv_that_cannot_be_made_is_named(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(packages, "VENV", tmp_path / "file/.venv")
    with pytest.raises(SystemExit):
        packages._make_venv()
    assert f"{tmp_path / 'file/.venv'} cannot be made" in capsys.readouterr().err


def test_a_package_of_which_only_the_folder_is_left_is_missing(tmp_path):
    (tmp_path / "gone-1.0.dist-info").mkdir()
    (tmp_path / "requirements.txt").write_text("gone\n")
    with mock.patch.dict(os.environ, {"PYTHONPATH": str(tmp_path)}):
        assert not packages.has_packages(sys.executable, tmp_path / "requirements.txt")


def test_a_comfyui_without_its_requirements_is_not_whole(venv, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(packages, "has_packages", lambda *where: True)
    with pytest.raises(SystemExit):
        packages.set_up("demo", tmp_path)
    assert f"{tmp_path / 'requirements.txt'} cannot be read" in capsys.readouterr().err
