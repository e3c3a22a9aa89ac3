"""The published AutoMasker's results, fp32 on a CPU, on stand-in weights that a script beside them builds (0.8 GB)."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from comfyui_tryon.masker import CLOTH_TYPES, CheckpointError, LabelMaps, SchpDensePoseMasker
from comfyui_tryon.masker.agnostic import agnostic_mask
from comfyui_tryon.masker.schp import Schp
from PIL import Image
from support.parity import DATA, PHOTOGRAPHS

REFERENCE = PHOTOGRAPHS / "masker"
MAPS = ("densepose", "schp_atr", "schp_lip")
SPACE = 2 << 30  # bytes


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    if not (REFERENCE / "standin_weights.py").is_file():
        pytest.skip(f"NO PHOTOGRAPHS IN {REFERENCE}: the parsers are not compared with the published ones")
    folder = tmp_path_factory.mktemp("standin")
    if shutil.disk_usage(folder).free < SPACE:
        pytest.skip(f"LESS THAN 2 GB FREE IN {folder}: the parsers are not compared with the published ones")
    subprocess.run([sys.executable, REFERENCE / "standin_weights.py", folder], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def masker(weights) -> SchpDensePoseMasker:
    with torch.inference_mode():  # as ComfyUI runs its nodes
        return SchpDensePoseMasker.load(weights)


def remembered(function):
    """`function`, which takes seconds, but called once only."""
    answers = []

    def answer(*arguments):
        if not answers:
            answers.append(function(*arguments))
        return answers[0]

    return answer


@pytest.mark.parametrize("name", ["case0", "case1"])
def test_label_maps_and_masks(masker, monkeypatch, name):
    folder = REFERENCE / name
    person = np.array(Image.open(folder / "person.png").convert("RGB"))
    for parser in masker.children():
        monkeypatch.setattr(parser, "parse", remembered(parser.parse))
    for part, plane in zip(MAPS, masker.label_maps(person), strict=True):
        assert np.mean(plane == np.array(Image.open(folder / f"{part}.png"))) >= 0.99, part
    for cloth_type in CLOTH_TYPES:
        expected = np.array(Image.open(folder / f"mask_{cloth_type}.png"))
        assert np.mean(masker.mask(person, cloth_type) == expected) >= 0.995, cloth_type


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
@pytest.mark.parametrize("name", ["drawn-dress", "drawn-coat"])
def test_mask_logic(name, cloth_type):
    folder = DATA / "masker" / name
    maps = LabelMaps(*(np.array(Image.open(folder / f"{part}.png")) for part in MAPS))
    expected = np.array(Image.open(folder / f"mask_{cloth_type}.png"))
    assert np.mean(agnostic_mask(maps, cloth_type) == expected) >= 0.999


def test_an_extreme_size_repeatably(masker):
    """The same mask of the image's size each time, and the global random generators are left alone."""
    with Image.open(REFERENCE / "case0/person.png") as image:
        person = np.array(image.convert("RGB").resize((67, 1023)))
    state, before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, second = (masker.mask(person, "upper") for _ in range(2))
    assert torch.equal(before, torch.get_rng_state()) and np.array_equal(state, np.random.get_state()[1])
    assert first.shape == (1023, 67) and set(np.unique(first)) == {0, 255}
    assert np.array_equal(first, second)


def test_weights_loaded_in_inference_mode_can_be_moved_outside_it(masker):
    assert not any(parameter.is_inference() or parameter.requires_grad for parameter in masker.parameters())


def test_the_two_parsers_files_cannot_be_swapped(weights):
    with pytest.raises(CheckpointError, match=r"lip\.pth.*fushion"):
        Schp.load(next(weights.glob("SCHP/*lip.pth")), 18, 512, torch.float32)
