"""`./start.sh --download` against a stand-in for the hub: which files it fetches, locks, resumes and refuses."""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from comfyui_tryon.weights import exclusive, files, integrity
from comfyui_tryon.weights.lock import LOCK, DownloadError, file_sha256, read_lock
from support.hub import Hub, serving
from support.servers import ROOT

CHUNK = 10 * 1024 * 1024  # huggingface_hub writes as much at a time
LARGE = os.urandom(1_000) * 25_000
REPOSITORIES = {
    files.BASE: {
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.bin": b"not wanted",
        "unet/diffusion_pytorch_model.fp16.bin": b"not wanted",
        "unet/diffusion_pytorch_model.fp16.safetensors": LARGE,
        "scheduler/scheduler_config.json": b"{}",
        "text_encoder/model.safetensors": b"not wanted",
    },
    files.VAE: {
        "config.json": b"{}",
        "diffusion_pytorch_model.safetensors": b"vae",
        "diffusion_pytorch_model.bin": b"no",
    },
    files.CATVTON: {
        **{f"{folder}/attention/model.safetensors": folder.encode() for folder in files.ATTENTION_FOLDERS.values()},
        **{name: name.encode() for name in files.MASKER_NAMES},
        "flux-lora/pytorch_lora_weights.safetensors": b"not wanted",
    },
    files.SEGFORMER: {"config.json": b"{}", "model.safetensors": b"segformer"},
    files.FASHN: {"model.safetensors": b"fashn", "README.md": b"not wanted"},
    files.DWPOSE: {**{name: name.encode() for name in files.DWPOSE_NAMES}, "README.md": b"not wanted"},
    files.HUMAN_PARSER: {"config.json": b"{}", "model.safetensors": b"parser"},
}
FASHN_FETCHED = {
    "fashn-vton-1.5/model.safetensors",
    "fashn-vton-1.5/dwpose/yolox_l.onnx",
    "fashn-vton-1.5/dwpose/dw-ll_ucoco_384.onnx",
}
FETCHED = {
    "stable-diffusion-inpainting/unet/config.json",
    "stable-diffusion-inpainting/unet/diffusion_pytorch_model.fp16.safetensors",
    "stable-diffusion-inpainting/scheduler/scheduler_config.json",
    "sd-vae-ft-mse/config.json",
    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
    "CatVTON/mix-48k-1024/attention/model.safetensors",
    *(f"CatVTON/{name}" for name in files.MASKER_NAMES),
}
UNET = "stable-diffusion-inpainting/unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({name: dict(content) for name, content in REPOSITORIES.items()})) as served:
        yield served


def run(hub: Hub | str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """What `./start.sh --download` executes, once it has a Python."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRYON_"))}
    variables |= {
        "HF_ENDPOINT": hub if isinstance(hub, str) else hub.url,
        "HF_HOME": str(folder.parent / "hf-home"),
        "TRYON_MODELS_DIR": str(folder),
        "PYTHONPATH": str(ROOT / "custom_nodes"),
    }
    command = [sys.executable, "-m", "comfyui_tryon.weights.download", *arguments]
    return subprocess.run(command, env=variables | environment, capture_output=True, text=True, timeout=120)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {
        LOCK,
        exclusive.BUSY,
    }


def refusal(result: subprocess.CompletedProcess) -> str:
    """The last line of a command that failed; it must not be a traceback's."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture
def complete(hub, tmp_path) -> Path:
    folder = tmp_path / "models"
    result = run(hub, folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_fetches_the_needed_files_only_and_locks_them(hub, complete):
    assert names(complete) == FETCHED
    assert (complete / UNET).read_bytes() == LARGE
    lock = json.loads((complete / LOCK).read_text())["repositories"]
    assert set(lock) == {files.BASE, files.VAE, files.CATVTON}
    for repository, entry in lock.items():
        assert (entry["revision"], entry["commit"]) == ("main", "a" * 40)
        for name, recorded in entry["files"].items():
            path = complete / repository.split("/")[1] / name
            assert recorded == {"size": path.stat().st_size, "sha256": file_sha256(path)}


def test_what_is_complete_needs_no_network(complete):
    result = run("http://127.0.0.1:9", complete)
    assert result.returncode == 0, result.stderr


def test_a_later_download_keeps_to_the_commit_of_the_lock(hub, complete):
    hub.commits["main"] = "b" * 40
    hub.commits["v1"] = "a" * 40
    (complete / UNET).unlink()
    hub.requests.clear()
    assert run(hub, complete).returncode == 0
    assert hub.fetched() == ["unet/diffusion_pytorch_model.fp16.safetensors"]
    assert not any("main" in request or "b" * 40 in request for request in hub.requests), hub.requests


def test_a_named_revision_moves_the_lock(hub, complete):
    hub.commits["next"] = "b" * 40
    hub.repositories[files.VAE]["diffusion_pytorch_model.safetensors"] = b"another vae"
    hub.requests.clear()
    assert run(hub, complete, f"{files.VAE}@next").returncode == 0
    assert (complete / "sd-vae-ft-mse/diffusion_pytorch_model.safetensors").read_bytes() == b"another vae"
    lock = read_lock(complete)
    assert (lock[files.VAE]["revision"], lock[files.VAE]["commit"]) == ("next", "b" * 40)
    assert lock[files.BASE]["commit"] == "a" * 40
    assert UNET.split("/", 1)[1] not in hub.fetched()


def test_files_stay_until_those_that_take_their_places_are_complete(hub, complete):
    model, another = complete / UNET, LARGE[::-1]
    hub.commits["next"] = "b" * 40
    hub.repositories[files.BASE] |= {"unet/config.json": b"[]", UNET.split("/", 1)[1]: another}
    hub.cuts = [0] * 20
    assert "broke off" in refusal(run(hub, complete, f"{files.BASE}@next"))
    assert (model.read_bytes(), model.with_name("config.json").read_bytes()) == (LARGE, b"{}")
    hub.cuts = []
    assert run(hub, complete, f"{files.BASE}@next").returncode == 0
    assert (model.read_bytes(), model.with_name("config.json").read_bytes()) == (another, b"[]")
    assert names(complete) == FETCHED


@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_a_damaged_file_is_fetched_again(hub, complete, damage):
    data = bytearray(LARGE)
    data[1000] ^= 1
    (complete / UNET).write_bytes(data if damage == "changed" else LARGE[:-1])
    assert run(hub, complete).returncode == 0
    assert (complete / UNET).read_bytes() == LARGE


def test_a_file_that_differs_from_the_lock_is_refused_and_not_left(hub, complete):
    hub.repositories[files.VAE]["config.json"] = b'{"evil": true}'
    (complete / "sd-vae-ft-mse/config.json").unlink()
    line = refusal(run(hub, complete))
    assert "config.json" in line and "sha256" in line and "the lock file has" in line
    assert not (complete / "sd-vae-ft-mse/config.json").exists()


def test_other_attention_versions_and_segformer_come_when_asked_for(hub, complete):
    assert run(hub, complete, "--attention", "vitonhd,dresscode", files.SEGFORMER).returncode == 0
    assert names(complete) - FETCHED == {
        "CatVTON/vitonhd-16k-512/attention/model.safetensors",
        "CatVTON/dresscode-16k-512/attention/model.safetensors",
        "segformer_b2_clothes/config.json",
        "segformer_b2_clothes/model.safetensors",
    }


def test_fashn_is_fetched_in_the_published_layout_and_locked(hub, tmp_path):
    folder = tmp_path / "models"
    result = run(hub, folder, "fashn")
    assert result.returncode == 0, result.stderr
    assert names(folder) == FASHN_FETCHED
    assert set(read_lock(folder)) == {files.FASHN, files.DWPOSE}
    assert "licence Apache-2.0" in result.stderr and "not for commercial use" not in result.stderr
    assert run("http://127.0.0.1:9", folder, "fashn").returncode == 0
    for name in FASHN_FETCHED:
        recorded = integrity.lock_entry(folder / name)
        assert recorded and recorded["sha256"] == file_sha256(folder / name)
        assert integrity.fix_command(folder / name).endswith(f"fashn --to {folder}")


def test_nothing_non_commercial_is_fetched_for_fashn_unless_it_is_named(hub, tmp_path):
    folder = tmp_path / "models"
    assert run(hub, folder, "fashn").returncode == 0
    assert not any("parser" in request or "CatVTON" in request for request in hub.requests)
    result = run(hub, folder, "fashn-human-parser")
    assert result.returncode == 0 and "not for commercial use" in result.stderr
    parser = {"fashn-vton-1.5/human-parser/config.json", "fashn-vton-1.5/human-parser/model.safetensors"}
    assert names(folder) - FASHN_FETCHED == parser


def test_several_models_and_a_revision_of_one(hub, tmp_path):
    hub.commits["v2"] = "b" * 40
    result = run(hub, tmp_path / "models", "catvton,fashn", f"{files.FASHN}@v2")
    assert result.returncode == 0, result.stderr
    assert names(tmp_path / "models") == FETCHED | FASHN_FETCHED
    assert read_lock(tmp_path / "models")[files.FASHN]["commit"] == "b" * 40


def test_a_cut_connection_is_resumed(hub, tmp_path):
    hub.cuts = [CHUNK + 1, CHUNK + 1]
    result = run(hub, tmp_path / "models")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "models" / UNET).read_bytes() == LARGE
    resumed = [request.split(" from ")[1] for request in hub.requests if " from " in request]
    assert resumed == [str(CHUNK), str(2 * CHUNK)]


def test_two_downloads_into_one_folder_wait_for_each_other(hub, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = [*pool.map(lambda number: run(hub, tmp_path / "models"), range(2))]
    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
    assert names(tmp_path / "models") == FETCHED
    assert (tmp_path / "models" / UNET).read_bytes() == LARGE


def test_where_the_connection_stays_cut_the_next_command_resumes(hub, tmp_path):
    hub.cuts = [CHUNK + 1] + [0] * 20
    line = refusal(run(hub, tmp_path / "models"))
    assert "broke off during unet/diffusion_pytorch_model.fp16.safetensors" in line
    assert "resumes where it stopped" in line
    assert not (tmp_path / "models" / UNET).exists()
    hub.cuts = []
    hub.requests.clear()
    assert run(hub, tmp_path / "models").returncode == 0
    assert names(tmp_path / "models") == FETCHED
    assert (tmp_path / "models" / UNET).read_bytes() == LARGE
    asked = next(request for request in hub.requests if request.startswith("GET") and "fp16" in request)
    assert asked.endswith(f" from {CHUNK}")


def test_no_network(tmp_path):
    line = refusal(run("http://127.0.0.1:9", tmp_path / "models"))
    assert "http://127.0.0.1:9 cannot be reached" in line and "network" in line


@pytest.mark.parametrize("token", ["", "hf_other"])
def test_a_gated_repository(hub, tmp_path, token):
    hub.gated.add(files.CATVTON)
    line = refusal(run(hub, tmp_path / "models", HF_TOKEN=token))
    assert f"{files.CATVTON} is gated" in line and f"{hub.url}/{files.CATVTON}" in line and "HF_TOKEN" in line
    assert ("not set" in line) == (token == "")


def test_a_private_repository_takes_a_token(hub, tmp_path):
    hub.private.add(files.BASE)
    line = refusal(run(hub, tmp_path / "models"))
    assert files.BASE in line and "HF_TOKEN is not set" in line
    assert "may not read it" in refusal(run(hub, tmp_path / "models", HF_TOKEN="hf_wrong"))
    assert run(hub, tmp_path / "models", HF_TOKEN=hub.token).returncode == 0


def test_an_unknown_revision(hub, tmp_path):
    line = refusal(run(hub, tmp_path / "models", f"{files.VAE}@nothing"))
    assert f"{files.VAE} has no revision nothing" in line


def test_a_revision_without_a_needed_file(hub, tmp_path):
    del hub.repositories[files.CATVTON]["DensePose/model_final_162be9.pkl"]
    line = refusal(run(hub, tmp_path / "models"))
    assert f"{files.CATVTON} has no file DensePose/model_final_162be9.pkl" in line


def test_an_unknown_repository_or_attention_version(hub, tmp_path):
    for argument, named in (("somebody/else", files.CATVTON), ("--attention=best", "dresscode")):
        result = run(hub, tmp_path / "models", argument)
        assert result.returncode == 2 and named in result.stderr.splitlines()[-1], result.stderr


def test_too_little_disk_is_said_before_anything_is_fetched(hub, tmp_path):
    hub.sizes["unet/diffusion_pytorch_model.fp16.safetensors"] = 10**18
    line = refusal(run(hub, tmp_path / "models"))
    assert "The disk is full" in line and "1000000000.00 GB" in line
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_dir()], "half a model would be left"
    assert hub.fetched() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NO /dev/full HERE")
def test_a_disk_that_fills_up_on_the_way(hub, tmp_path):
    part = tmp_path / f"models/{UNET}.{hashlib.sha256(LARGE).hexdigest()[:16]}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    line = refusal(run(hub, tmp_path / "models"))
    assert line.startswith(f"The disk is full: {tmp_path / 'models'} has no room left.") and "resumes there" in line
    part.unlink()
    assert run(hub, tmp_path / "models").returncode == 0


def test_a_folder_that_cannot_be_written(hub, tmp_path):
    (tmp_path / "models").write_text("a file in the folder's place")
    line = refusal(run(hub, tmp_path / "models"))
    assert str(tmp_path / "models") in line


FILE = {"size": 1, "sha256": "0"}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "[]",
        "{}",
        '{"repositories": null}',
        '{"repositories": []}',
        '{"repositories": {"a/b": null}}',
        '{"repositories": {"a/b": {"commit": "c"}}}',
        *(
            json.dumps({"repositories": {"a/b": entry}})
            for entry in (
                {"files": {}},
                {"commit": None, "files": {}},
                {"commit": "c", "files": []},
                {"commit": "c", "files": {"f": {}}},
                {"commit": "c", "files": {"f": FILE | {"size": "1"}}},
                {"commit": "c", "files": {"f": FILE | {"sha256": None}}},
            )
        ),
    ],
    ids=str.__len__,
)
def test_a_damaged_lock_file_is_named(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(DownloadError, match=f"{tmp_path / LOCK} is damaged: restore it, or delete it"):
        read_lock(tmp_path)


def test_a_folder_in_the_lock_files_place_is_named(hub, tmp_path):
    (tmp_path / LOCK).mkdir()
    assert f"{tmp_path / LOCK} is damaged" in refusal(run(hub, tmp_path))
    assert hub.requests == []


def test_a_hub_that_fails(hub, tmp_path):
    hub.broken = True
    assert "answers 500" in refusal(run(hub, tmp_path / "models"))


def test_catvton_reads_the_attention_files_that_are_fetched():
    from comfyui_tryon.catvton import ATTENTION_FOLDERS

    assert ATTENTION_FOLDERS == files.ATTENTION_FOLDERS


def test_the_masker_reads_the_files_that_are_fetched(tmp_path, monkeypatch):
    from comfyui_tryon.masker import SchpDensePoseMasker, densepose, schp

    read = []

    def load(path: Path, *options: object) -> torch.nn.Module:
        read.append(str(path.relative_to(tmp_path)))
        return torch.nn.Identity()

    monkeypatch.setattr(schp.Schp, "load", load)
    monkeypatch.setattr(densepose.DensePose, "load", load)
    SchpDensePoseMasker.load(tmp_path)
    assert read == files.MASKER_NAMES
