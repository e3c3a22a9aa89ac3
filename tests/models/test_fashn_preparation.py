"""The images that FASHN's network is given: sizes, masks, labels, and all of it together, as published."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_tryon import dwpose, resampling
from comfyui_tryon.dwpose import Poses
from comfyui_tryon.fashn import agnostic, geometry, parser
from comfyui_tryon.fashn.preparation import ParserMissing, prepare
from comfyui_tryon.masker.checkpoints import CheckpointError
from PIL import Image
from support.fashn_cases import FASHN, WEIGHTS, grey, read, rgb, with_photographs

OPTIONS = {"category": "tops", "garment_photo": "flat-lay", "segmentation_free": True, "canvas": (96, 64)}


@pytest.fixture(scope="module")
def networks():
    with torch.inference_mode():  # as ComfyUI runs its nodes
        return {"pose": dwpose.load(WEIGHTS / "dwpose"), "parser": parser.load(WEIGHTS / "human-parser")}


class Standing:
    """Finds one person in every image, from corner to corner, at once."""

    def estimate(self, image, check=lambda: None) -> Poses:
        check()
        points = np.linspace((1, 1), image.shape[1::-1], 134)
        return Poses(np.zeros((0, 4), np.float32), points[None], np.ones((1, 134)))


class Dressed:
    """Labels the upper half of every image as a top."""

    def labels(self, image) -> np.ndarray:
        labels = np.zeros(image.shape[:2], np.uint8)
        labels[: -(-len(labels) // 2)] = agnostic.LABELS.index("top")
        return labels


@pytest.fixture
def pose():
    return Standing()


def noise(height, width) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("folder", with_photographs("cases/*", "prepare/*"))
def test_all_images_are_the_published_ones(networks, folder):
    case = read(folder / "case.json")
    options = {name: case[name] for name in ("category", "segmentation_free")}
    made = prepare(
        rgb(folder / "person.png"),
        rgb(folder / "garment.png"),
        garment_photo=case["garment_photo_type"],
        canvas=tuple(case["canvas"]),
        **options,
        **networks,
    )
    assert [made.crop.width, made.crop.height] == case["output_size"]
    assert np.array_equal(made.person_pose, rgb(folder / "person_pose_canvas.png"))
    assert np.array_equal(made.garment_pose, rgb(folder / "garment_pose_canvas.png"))
    for name, image in (("ca", made.agnostic), ("garment", made.garment)):
        difference = np.abs(rgb(folder / f"{name}_canvas.png").astype(int) - image)
        # A level, and that rarely: the last digits of OpenCV's Lanczos kernel are its own.
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-4, name


@pytest.mark.parametrize("case", read(FASHN / "geometry.json")["sizes"], ids=lambda c: f"{c['size']} on {c['canvas']}")
def test_sizes_are_the_published_ones(case):
    size, canvas = tuple(case["size"][::-1]), tuple(case["canvas"])
    if "error" in case:
        with pytest.raises(geometry.TooNarrow, match="1 x 500 pixels .* send an image"):
            geometry.reduced(size, canvas)
        return
    first = geometry.reduced(size, canvas)
    second, enlarged = geometry.fitted(first, canvas)
    left, top, width, height = geometry.centred(second, canvas)
    assert [first[::-1], second[::-1]] == [tuple(case["pre"]), tuple(case["fit"])]
    assert [left, top, canvas[1] - left - width, canvas[0] - top - height] == case["padding_ltrb"]
    assert [width, height] == case["output"]
    assert enlarged == (canvas[1] / first[1] > 1 and canvas[0] / first[0] > 1)


@pytest.mark.parametrize("category", agnostic.CATEGORIES)
@pytest.mark.parametrize("folder", sorted((FASHN / "masks").iterdir()), ids=lambda folder: folder.name)
def test_masks_are_the_published_ones(folder, category):
    labels = grey(folder / "labels.png")
    assert np.array_equal(agnostic.agnostic_area(labels, category), grey(folder / f"agnostic_{category}.png") > 127)
    assert np.array_equal(agnostic.garment_area(labels, category), grey(folder / f"garment_{category}.png") > 127)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (864, 9)])
def test_masks_of_any_size(size):
    labels = np.full(size, agnostic.LABELS.index("top"), np.uint8)
    assert agnostic.agnostic_area(labels, "tops").all()
    assert not agnostic.agnostic_area(np.zeros_like(labels), "tops").any()


def test_a_mask_is_filled_in_the_image_that_is_resized(pose):
    """127 where it may change, in both modes, without the parser."""
    person, mask = np.full((96, 64, 3), 200, np.uint8), np.zeros((96, 64), bool)
    mask[10:20, 30:50] = True
    for free in (True, False):
        made = prepare(person, noise(50, 50), **OPTIONS | {"segmentation_free": free}, pose=pose, mask=mask)
        assert np.array_equal(made.agnostic, np.where(mask[..., None], 127, person))
    smaller = prepare(
        person.repeat(2, 0).repeat(2, 1), person, **OPTIONS, pose=pose, mask=mask.repeat(2, 0).repeat(2, 1)
    )
    assert np.array_equal(smaller.agnostic, np.where(mask[..., None], 127, person))


def test_a_flat_garment_has_no_pose_and_margins_are_black(pose):
    made = prepare(noise(96, 64), np.full((50, 50, 3), 255, np.uint8), **OPTIONS, pose=pose)
    assert not made.garment_pose.any() and made.person_pose.any()
    assert not made.garment[:16].any() and (made.garment[16:80] == 255).all() and not made.garment[80:].any()
    assert made.crop == (0, 0, 64, 96)


def test_images_are_resized_twice(pose):
    """By Pillow's LANCZOS to the canvas's longest side, and by AREA or LANCZOS4 from there."""
    large, small = noise(150, 200), noise(30, 20)
    made = prepare(large, small, **OPTIONS, pose=pose)
    between = np.array(Image.fromarray(large).resize((96, 72), Image.Resampling.LANCZOS))
    assert made.crop == (0, 24, 64, 48)
    assert np.array_equal(made.agnostic[24:72], resampling.area(between, 48, 64))
    assert np.array_equal(made.garment, resampling.lanczos4(small, 96, 64))
    drawn = dwpose.draw(pose.estimate(between).pose, 72, 96)
    assert np.array_equal(made.person_pose[24:72], resampling.nearest_exact(drawn, 48, 64)[..., None].repeat(3, 2))


def test_the_parser_sees_the_whole_image_stretched(networks, monkeypatch):
    """By AREA; what lies in the middle of its labels is in the middle of the image."""
    image, seen = noise(700, 1000), []

    def network(pixel_values):
        seen.append(pixel_values)
        logits = torch.zeros(1, 18, 144, 96)
        logits[0, 3, 36:108, 24:72] = 1
        return SimpleNamespace(logits=logits)

    monkeypatch.setattr(networks["parser"].network, "forward", network)
    labels = networks["parser"].labels(image)
    pixels = seen[0][0].permute(1, 2, 0).numpy() * (0.229, 0.224, 0.225) + (0.485, 0.456, 0.406)
    assert np.allclose(pixels * 255, resampling.area(image, 576, 384), atol=1e-3)
    assert labels.shape == (700, 1000) and (labels[180:520, 260:740] == 3).all() and not labels[:170].any()


def test_nothing_is_masked_without_segmentation(pose):
    person = noise(96, 64)
    assert np.array_equal(prepare(person, person, **OPTIONS, pose=pose).agnostic, person)


def test_a_worn_garment_is_cut_out_and_has_a_pose(pose):
    image = noise(96, 64)
    made = prepare(image, image, **OPTIONS | {"garment_photo": "model"}, pose=pose, parser=Dressed())
    assert np.array_equal(made.garment[:48], image[:48]) and (made.garment[48:] == 127).all()
    assert np.array_equal(made.garment_pose, made.person_pose) and made.person_pose.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"garment_photo": "model"}, "garment_photo: model.* needs the human parser.*garment_photo: flat-lay"),
        ({"segmentation_free": False}, "segmentation_free: false needs the human parser.*send a mask"),
    ],
)
def test_what_needs_the_parser_says_so(pose, options, message):
    with pytest.raises(ParserMissing, match=message):
        prepare(noise(9, 9), noise(9, 9), **OPTIONS | options, pose=pose)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"category": "shoes"}, "category is 'shoes'; give one of tops, bottoms, one-pieces"),
        ({"garment_photo": "worn"}, "garment_photo is 'worn'; give one of flat-lay, model"),
        ({"mask": np.zeros((9, 8), bool)}, r"mask must be a bool \(9, 9\)"),
    ],
)
def test_other_arguments_are_rejected(pose, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(noise(9, 9), noise(9, 9), **OPTIONS | options, pose=pose)


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (300, 5)])
def test_images_of_any_size_are_prepared(networks, pose, size):
    options = OPTIONS | {"garment_photo": "model", "segmentation_free": False}
    made = prepare(noise(*size), noise(*size), **options, pose=pose, parser=networks["parser"])
    assert made.agnostic.shape == made.garment.shape == made.person_pose.shape == (96, 64, 3)


def test_a_side_that_would_vanish_is_rejected_before_any_work(pose, monkeypatch):
    monkeypatch.setattr(pose, "estimate", None)
    for images in ((noise(1, 500), noise(9, 9)), (noise(9, 9), noise(500, 1))):
        with pytest.raises(geometry.TooNarrow, match="send an image whose sides differ less"):
            prepare(*images, **OPTIONS, pose=pose)


def test_preparing_stops_at_every_stage(pose):
    """However late the caller asks to stop, nothing is returned."""

    class Stop(Exception):
        pass

    def prepared(stop_at):
        calls = []

        def check():
            calls.append(1)
            if len(calls) == stop_at:
                raise Stop

        options = OPTIONS | {"garment_photo": "model", "segmentation_free": False}
        prepare(noise(9, 9), noise(9, 9), **options, pose=pose, parser=Dressed(), check=check)
        return len(calls)

    stages = prepared(0)
    assert stages >= 7
    for stage in range(1, stages + 1):
        with pytest.raises(Stop):
            prepared(stage)


def test_a_parser_with_other_labels_is_rejected(tmp_path):
    for file in (WEIGHTS / "human-parser").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes().replace(b'"torso"', b'"shirt"'))
    with pytest.raises(CheckpointError, match="config.json has other labels than fashn-human-parser"):
        parser.load(tmp_path)


def test_a_parser_with_labels_in_another_order_gives_the_same(networks, tmp_path):
    image = noise(30, 20)
    for file in (WEIGHTS / "human-parser").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = read(tmp_path / "config.json")
    names = list(config["id2label"].values())
    config["id2label"] = {str(index): name for index, name in enumerate([*names[1:], names[0]])}
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = (networks["parser"].labels(image) + 1) % len(agnostic.LABELS)
    assert np.array_equal(parser.load(tmp_path).labels(image), expected)


def test_a_parser_that_is_missing_or_cut_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="config.json is missing. Download the whole repository"):
        parser.load(tmp_path)
    for file in (WEIGHTS / "human-parser").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="model.safetensors cannot be read"):
        parser.load(tmp_path)
