"""What plain `./start.sh` and `./start.sh --check` say of a machine that cannot serve."""

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from comfyui_tryon import check, needs, nodes
from comfyui_tryon.settings import TEMPLATES, Settings, settings
from comfyui_tryon.weights import files, integrity, loaders, search
from comfyui_tryon.weights.lock import LOCK, file_sha256
from safetensors.numpy import save_file
from support import tiny_fashn
from support.servers import ROOT, comfyui_folders, free_port, without_settings

UNET = "stable-diffusion-inpainting/unet/diffusion_pytorch_model.fp16.safetensors"
VAE = "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"
ATTENTION = "CatVTON/mix-48k-1024/attention/model.safetensors"
MASKERS = [f"CatVTON/{name}" for name in files.MASKER_NAMES]
CONFIGS = ["stable-diffusion-inpainting/unet/config.json", "sd-vae-ft-mse/config.json"]
ALL = [UNET, VAE, ATTENTION, *MASKERS, *CONFIGS]


def tensors(count: int) -> dict[str, np.ndarray]:
    return {f"{8 * index}.to_q.weight": np.ones((4, 4), np.float32) for index in range(count)}


@pytest.fixture
def models(tmp_path) -> Path:
    """Files that look like the published ones, with the lock file of their download."""
    folder = tmp_path / "models"
    for name in ALL:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    save_file({"conv_in.weight": np.ones((4, 9, 3, 3), np.float32)}, folder / UNET)
    save_file({"decoder.conv_out.weight": np.ones((4, 4), np.float32)}, folder / VAE)
    save_file(tensors(80), folder / ATTENTION)
    for name in MASKERS:
        (folder / name).write_bytes(pickle.dumps({"weight": bytes(1000)}))
    for name in CONFIGS:
        (folder / name).write_text('{"in_channels": 9}')
    lock_files(folder)
    return folder


def lock_files(folder: Path) -> None:
    lock: dict = {}
    for repository in (files.BASE, files.VAE, files.CATVTON):
        root = folder / repository.split("/")[1]
        entries = {
            str(path.relative_to(root)): {"size": path.stat().st_size, "sha256": file_sha256(path)}
            for path in root.rglob("*")
            if path.is_file()
        }
        lock[repository] = {"revision": "main", "commit": "a" * 40, "files": entries}
    (folder / LOCK).write_text(json.dumps({"repositories": lock}))


def environment(folder: Path | None, **variables: str) -> dict[str, str]:
    kept = without_settings("HF_", "PORT")
    chosen = {} if folder is None else {"TRYON_MODELS_DIR": str(folder)}
    empty = {"HF_HOME": "/nonexistent", "COMFYUI_DIR": "", "PYTHONPATH": str(ROOT / "custom_nodes")}
    return kept | empty | {"PORT": str(free_port())} | chosen | variables


def start(folder: Path | None, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Plain `./start.sh`, or with an option; it must end by itself."""
    command = [str(ROOT / "start.sh"), *arguments]
    return subprocess.run(command, env=environment(folder, **variables), capture_output=True, text=True, timeout=60)


def run_check(folder: Path | None, *arguments: str, comfyui: str = "", **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "comfyui_tryon.check", *arguments, comfyui]
    return subprocess.run(
        command, env=environment(folder, **variables), cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def table(monkeypatch, capsys) -> Iterator[Callable[[Path], subprocess.CompletedProcess]]:
    """`--check`'s table in this process, which has imported torch already."""

    def run(folder: Path) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", ["check", "--table", ""])
        settings.cache_clear()
        with mock.patch.dict(os.environ, environment(folder), clear=True), pytest.raises(SystemExit) as left:
            check.main()
        return subprocess.CompletedProcess("check", left.value.code, *capsys.readouterr())

    yield run
    settings.cache_clear()


def failing_rows(result: subprocess.CompletedProcess) -> str:
    """The rows of a table that say FAIL, with their fix."""
    assert result.returncode == 1, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    first = [index for index, line in enumerate(lines) if line.startswith("FAIL")]
    found = []
    for index in first:
        rest = [line for line in lines[index + 1 :]]
        end = next((n for n, line in enumerate(rest) if not line.startswith(" ")), len(rest))
        found += [lines[index], *rest[:end]]
    return "\n".join(found)


def test_a_complete_machine_passes(models, table):
    result = run_check(models)
    assert (result.returncode, result.stderr) == (0, "")
    shown = table(models)
    assert shown.returncode == 0, shown.stdout
    assert shown.stdout.count("sha256 as downloaded") == len(ALL)
    for subject in ("Python", "packages", "ComfyUI", "settings", "GPU", "temporary folder"):
        assert subject in shown.stdout


@pytest.mark.parametrize("name", ALL)
def test_start_with_a_file_missing(models, name):
    (models / name).unlink()
    result = start(models)
    folder, relative = name.split("/", 1)
    assert result.returncode == 1
    assert f"/{folder}: {relative}\n" in result.stderr
    assert f"  {models}\n" in result.stderr
    assert "./start.sh --download\n" in result.stderr
    assert not any(f": {other.split('/', 1)[1]}\n" in result.stderr for other in ALL if other != name)


# Without a lock file nothing says how long a file in torch's old format is: the masker finds out when it loads it.
DAMAGES = [
    (name, damage, locked)
    for name in ALL
    for damage in ("truncated", "empty", "another file")
    for locked in (True, False)
    if (damage, locked, name.rpartition(".")[2]) != ("truncated", False, "pth")
]


@pytest.mark.parametrize(("name", "damage", "locked"), DAMAGES)
def test_quick_damage(models, name, damage, locked):
    path = models / name
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:-7], "empty": b"", "another file": b"<html>not found</html>"}[damage])
    if not locked:
        (models / LOCK).unlink()
    assert integrity.quick_damage(path), "the damage went unnoticed"


def test_start_with_damaged_files(models):
    for name in (UNET, MASKERS[0]):
        (models / name).write_bytes((models / name).read_bytes()[:-7])
    result = start(models)
    assert result.returncode == 1
    assert f"{models / UNET} has" in result.stderr and f"{models / MASKERS[0]} has" in result.stderr
    assert "Fix with:\n  ./start.sh --download\n" in result.stderr


def test_a_download_fixes_only_what_its_lock_file_records(models):
    unknown = models / "mine/unet/diffusion_pytorch_model.safetensors"
    unknown.parent.mkdir(parents=True)
    unknown.touch()
    assert integrity.fix_command(unknown).startswith(f"rm {unknown} && ")
    assert integrity.fix_command(models / UNET).endswith(f"--to {models}")


@pytest.mark.parametrize("arguments", [(), ("--table",)])
def test_a_damaged_lock_file_is_named(models, arguments):
    (models / LOCK).write_text('{"repositories": null}')
    result = run_check(models, *arguments)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"{models / LOCK} is damaged: restore it, or delete it" in result.stderr + result.stdout


def test_the_table_reads_every_byte(models):
    data = bytearray((models / VAE).read_bytes())
    data[-5] ^= 1
    (models / VAE).write_bytes(data)
    assert run_check(models).returncode == 0
    row = failing_rows(start(models, "--check"))
    assert f"{models / VAE} differs from the downloaded file (sha256)" in row
    assert "-> ./start.sh --download" in row


def test_the_table_knows_another_model(models, table):
    save_file({"conv_in.weight": np.ones((4, 4, 3, 3), np.float32)}, models / UNET)
    save_file(tensors(3), models / ATTENTION)
    lock_files(models)
    rows = failing_rows(table(models))
    assert "not an inpainting model" in rows and "3 tensors" in rows


def test_the_table_lists_missing_files_with_the_command(models):
    (models / ATTENTION).unlink()
    row = failing_rows(run_check(models, "--table"))
    assert ATTENTION.split("/", 1)[1] in row and "-> ./start.sh --download" in row


def test_a_workflow_without_automatic_mask_needs_no_masker(models):
    for name in MASKERS:
        (models / name).unlink()
    assert run_check(models, TRYON_WORKFLOW="catvton_mask").returncode == 0
    assert run_check(models).returncode == 1


def test_the_published_workflow_is_understood(models, tmp_path):
    published = ROOT.parent / "shared/workflows/catvton_workflow.json"
    if not published.is_file():
        pytest.skip("../shared/workflows/catvton_workflow.json is not here")
    (tmp_path / "published.json").write_bytes(published.read_bytes())
    variables = {"TRYON_WORKFLOWS_DIR": str(tmp_path), "TRYON_WORKFLOW": "published"}
    assert run_check(models, **variables).returncode == 0
    (models / ATTENTION).unlink()
    assert ATTENTION.split("/", 1)[1] in run_check(models, **variables).stderr


@pytest.mark.parametrize(
    ("inputs", "command"),
    [
        ({"attention_version": "vitonhd"}, "./start.sh --download --attention vitonhd"),
        ({"catvton_path": "my/own"}, "under one of these folders yourself"),
    ],
)
def test_the_command_fetches_what_the_workflow_asks_for(models, tmp_path, inputs, command):
    workflow = {
        "1": {"class_type": "LoadCatVTONPipeline", "inputs": inputs},
        "2": {"class_type": "CatVTON", "inputs": {"pipe": ["1", 0]}},
    }
    (tmp_path / "own.json").write_text(json.dumps(workflow))
    result = run_check(models, TRYON_WORKFLOWS_DIR=str(tmp_path), TRYON_WORKFLOW="own")
    assert result.returncode == 1 and command in result.stderr


FASHN = ["model.safetensors", *(f"dwpose/{name}" for name in files.DWPOSE_NAMES)]


def test_fashn_needs_its_own_files_only(tmp_path):
    folder = tiny_fashn.write_all(tmp_path / "models/fashn-vton-1.5")
    result = run_check(tmp_path / "models", TRYON_WORKFLOW="fashn")
    assert (result.returncode, result.stderr) == (0, "")
    (folder / FASHN[1]).unlink()
    result = run_check(tmp_path / "models", TRYON_WORKFLOW="fashn")
    assert result.returncode == 1 and f"fashn-ai/fashn-vton-1.5: {FASHN[1]}" in result.stderr
    assert "--download fashn\n" in result.stderr + "\n" or "download fashn --to" in result.stderr
    assert "parser" not in result.stderr


@pytest.mark.parametrize("name", FASHN)
def test_damaged_files_of_fashn_are_found_with_the_command(tmp_path, name):
    path = tiny_fashn.write_all(tmp_path / "fashn-vton-1.5") / name
    whole = path.read_bytes()
    assert integrity.damage(path) is None
    for content in (whole[:-7], b"", b"<html>not found</html>", whole[:1]):
        path.write_bytes(content)
        assert integrity.quick_damage(path), content[:20]
    assert "download" in integrity.fix_command(path) and "fashn" in integrity.fix_command(path).split("download", 1)[1]


def test_segformer_is_fetched_by_its_name(models, tmp_path):
    workflow = {
        "1": {"class_type": "LoadAutoMasker", "inputs": {"catvton_path": files.SEGFORMER, "parser": "segformer"}},
        "2": {"class_type": "AutoMasker", "inputs": {"pipe": ["1", 0]}},
    }
    (tmp_path / "own.json").write_text(json.dumps(workflow))
    result = run_check(models, TRYON_WORKFLOWS_DIR=str(tmp_path), TRYON_WORKFLOW="own")
    assert f"./start.sh --download {files.SEGFORMER}" in result.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PORT": "port"}, "PORT: "),
        ({"TRYON_TIMEOUT_S": "-1"}, "TRYON_TIMEOUT_S: "),
        ({"TRYON_WORKFLOW": "nothing"}, "Available: catvton, catvton_mask, demo, fashn."),
    ],
)
def test_bad_settings(models, variables, said):
    result = start(models, **variables)
    assert result.returncode == 1 and said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_port_in_use(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = start(models, PORT=port, LISTEN="127.0.0.1")
        assert result.returncode == 1 and f"Cannot listen on 127.0.0.1 port {port}" in result.stderr
        health = run_check(models, PORT_HEALTH=port, LISTEN="127.0.0.1")
        assert health.returncode == 1 and f"port {port}" in health.stderr and "set PORT_HEALTH and" in health.stderr
        other = run_check(models, "", "--port", str(free_port()), PORT=port, LISTEN="127.0.0.1")
        assert other.returncode == 0
    assert run_check(models, PORT=port, LISTEN="127.0.0.1").returncode == 0


def test_a_workflow_that_is_no_json(models, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    result = run_check(models, TRYON_WORKFLOWS_DIR=str(tmp_path), TRYON_WORKFLOW="broken")
    assert result.returncode == 1 and "is not JSON" in result.stderr


@pytest.mark.skipif(not comfyui_folders(), reason="NO COMFYUI HERE")
def test_the_weights_may_lie_where_comfyui_looks(models, tmp_path):
    paths = tmp_path / "paths.yaml"
    paths.write_text(f"mine:\n  CatVTON: {models}\n")
    folder = str(comfyui_folders()[0])
    command = [sys.executable, "-m", "comfyui_tryon.check", folder, "--extra-model-paths-config", str(paths)]
    result = subprocess.run(command, env=environment(None), capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_weights_may_lie_in_the_hubs_cache(models, tmp_path):
    cache = tmp_path / "hf/hub"
    for repository in (files.BASE, files.VAE, files.CATVTON):
        snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
        snapshots.mkdir(parents=True)
        (models / repository.split("/")[1]).rename(snapshots / ("a" * 40))
    assert run_check(None, HF_HOME=str(tmp_path / "hf")).returncode == 0


def test_a_malformed_graph_is_refused_by_name(models, tmp_path):
    (tmp_path / "broken.json").write_text('{"nodes": [{"id": 1}]}')
    result = run_check(models, TRYON_WORKFLOWS_DIR=str(tmp_path), TRYON_WORKFLOW="broken")
    assert result.returncode == 1 and "broken.json: the workflow: node 1 has no type" in result.stderr
    assert "Traceback" not in result.stderr


def page(**changes: object) -> dict:
    """A workflow in the page's format, whose loader has an attention version that does not exist."""
    workflow = json.loads((TEMPLATES / "catvton.json").read_text())
    loader = next(node for node in workflow["nodes"] if node["type"] == "TryOnLoadCatVTON")
    loader["widgets_values"][3] = "bogus"
    return workflow | changes


def loading(class_type: object, inputs: object) -> dict:
    """A workflow in the API format with one loader, "1"."""
    return {
        "1": {"class_type": class_type, "inputs": inputs},
        "2": {"class_type": "CatVTON", "inputs": {"pipe": ["1", 0]}},
    }


@pytest.mark.parametrize(
    ("workflow", "said"),
    [
        (loading("LoadCatVTONPipeline", {"attention_version": "bogus"}), "node 1 (LoadCatVTONPipeline): attention_ver"),
        (loading("LoadCatVTONPipeline", {"attention_version": 5}), "is 5, not one of mix, vitonhd, dresscode"),
        (loading("LoadCatVTONPipeline", {"attention_version": None}), "attention_version is None, not one of mix"),
        (loading("TryOnLoadAutoMasker", {"parser": "bogus"}), "parser is 'bogus', not one of schp_densepose"),
        (loading("TryOnLoadAutoMasker", {"parser": {}}), "node 1 (TryOnLoadAutoMasker): parser is {}"),
        (loading("LoadAutoMasker", None), "node 1 (LoadAutoMasker): inputs must be an object"),
        (loading("LoadAutoMasker", []), "node 1 (LoadAutoMasker): inputs must be an object"),
        (loading(["LoadAutoMasker"], {}), "node 1: class_type must be a string"),
        (page(), "(TryOnLoadCatVTON 'Load CatVTON Pipeline'): attention_version is 'bogus'"),
        (page(version="x", definitions=[]), "`definitions` must be an object"),
        ([], "must hold a JSON object"),
        ({}, "the workflow is empty"),
    ],
)
def test_a_workflow_that_cannot_serve_is_refused_with_its_file_and_node(tmp_path, workflow, said):
    (tmp_path / "own.json").write_text(json.dumps(workflow))
    with pytest.raises(needs.Problem) as refused:
        needs.read_needs(Settings(workflows_dir=tmp_path, workflow="own"))
    assert str(refused.value).startswith(f"{tmp_path / 'own.json'}: ") and said in str(refused.value)


@pytest.mark.parametrize("name", ["catvton_path", "attention_version"])
def test_a_loader_that_another_node_chooses_for_is_left_to_the_server(tmp_path, name):
    (tmp_path / "own.json").write_text(json.dumps(loading("LoadCatVTONPipeline", {name: ["2", 0]})))
    assert needs.read_needs(Settings(workflows_dir=tmp_path, workflow="own")) == []


@pytest.mark.parametrize(("name", "count"), [("catvton", 4), ("catvton_mask", 3), ("demo", 4), ("fashn", 1)])
def test_both_formats_need_the_same_files(name, count):
    folders = (ROOT / "workflows", TEMPLATES)
    api, page = (sorted(needs.read_needs(Settings(workflows_dir=folder, workflow=name))) for folder in folders)
    assert len(api) == count and page == api


def test_loaders_that_the_result_does_not_depend_on_need_nothing(tmp_path):
    """They may feed a preview, or a sampler that is muted."""
    served = json.loads((ROOT / "workflows" / "catvton_mask.json").read_text())
    beside = {
        "20": {"class_type": "TryOnLoadAutoMasker", "inputs": {}},
        "21": {"class_type": "TryOnAutoMasker", "inputs": {"pipe": ["20", 0], "target_image": ["1", 0]}},
        "22": {"class_type": "PreviewImage", "inputs": {"images": ["21", 0]}},
    }
    assert needed(tmp_path, served | beside) == needed(tmp_path, served) != []

    plain = json.loads((TEMPLATES / "catvton.json").read_text())
    ids = {node["type"]: node["id"] for node in plain["nodes"]}
    for link in plain["links"]:
        if link[3] == ids["TryOnOutput"]:
            link[1:3] = ids["TryOnPersonImage"], 0
    assert needed(tmp_path, plain) == []
    plain["nodes"][0]["type"] = "SetNode"
    assert len(needed(tmp_path, plain)) == 4, "values may arrive without links"


def test_a_torch_or_a_gpu_that_does_not_work_is_a_row_like_others(monkeypatch):
    import torch

    def busy() -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    row = check._gpu()
    assert (row.state, row.subject) == ("FAIL", "GPU") and "busy or unavailable)" in row.found and row.fix
    monkeypatch.setitem(sys.modules, "torch", None)
    row = check._gpu()
    assert (row.state, row.subject) == ("FAIL", "torch") and "cannot be imported" in row.found and row.fix


def needed(folder: Path, workflow: dict) -> list:
    (folder / "own.json").write_text(json.dumps(workflow))
    return needs.read_needs(Settings(workflows_dir=folder, workflow="own"))


def test_nothing_heavy_is_imported():
    code = "import sys; from comfyui_tryon import check; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], env=environment(None), capture_output=True, text=True)
    assert "comfyui_tryon.weights.search" in result.stdout.split(), result.stderr
    assert not {"torch", "diffusers", "transformers", "scipy", "PIL", "aiohttp"} & set(result.stdout.split())


def test_loaders_are_the_nodes():
    for name, loader in loaders.LOADERS.items():
        declared = nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
        expected = {
            key: spec[1]["default"] for kind in ("required", "optional") for key, spec in declared[kind].items()
        }
        assert list(loader.defaults.items()) == list(expected.items())[: len(loader.defaults)]


def test_only_a_graph_that_loads_weights_is_said_to_use_the_demos(monkeypatch):
    def loading(path: str) -> dict:
        return {"1": {"class_type": "TryOnLoadAutoMasker", "inputs": {"catvton_path": path}}}

    others = {"1": {"class_type": "ImageBlend", "inputs": {"blend_factor": 0.5}}}
    monkeypatch.setattr(search, "_has_demo_models", lambda: True)
    assert search.demo_notice() and search.demo_notice(loading("CatVTON")) and not search.demo_notice(others)
    monkeypatch.setattr(search, "_has_demo_models", lambda: False)
    assert search.demo_notice(loading("tryon-demo/CatVTON")) and not search.demo_notice(loading("CatVTON"))


def test_a_start_that_fails_says_so_in_json_where_the_log_is_json(tmp_path):
    result = start(tmp_path, TRYON_LOG_FORMAT="json")
    entry = json.loads(result.stderr)
    assert result.returncode == 1 and entry["level"] == "CRITICAL"
    assert entry["message"].startswith("Missing weight files:") and "./start.sh --download" in entry["message"]
