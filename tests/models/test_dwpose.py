"""DWPose: the published files' layout in torch, the published program's poses and drawings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_tryon import dwpose
from comfyui_tryon.dwpose import OnnxError, Pose, Poses, detector, keypoints, raster
from support.fashn_cases import FASHN, WEIGHTS, grey, read, rgb, with_photographs

DRAWN = sorted((FASHN / "poses").iterdir())


@pytest.fixture(scope="module")
def estimator():
    with torch.inference_mode():  # as ComfyUI runs its nodes
        return dwpose.load(WEIGHTS / "dwpose")


def published(folder) -> Poses:
    saved = read(folder / "pose.json")
    boxes = np.array(saved["boxes_xyxy"], np.float32).reshape(-1, 4)
    return Poses(boxes, np.array(saved["keypoints"]), np.array(saved["scores"]))


@pytest.mark.parametrize("folder", [pytest.param(FASHN / "poses/flat", id="flat"), *with_photographs("poses/*")])
def test_people_and_poses_are_the_published_ones(estimator, folder):
    image, expected = rgb(folder / "picture.png"), published(folder)
    found = estimator.estimate(image)
    assert found.boxes.shape == expected.boxes.shape
    assert np.allclose(found.boxes, expected.boxes, atol=0.01)
    assert np.mean(np.abs(found.points - expected.points).max(-1) < 1) >= 0.99
    assert np.allclose(found.scores, expected.scores, atol=2e-3)
    assert found.chosen == read(folder / "pose.json")["chosen"]
    assert np.mean(dwpose.draw(found.pose, *image.shape[:2]) == grey(folder / "pose.png")) >= 0.999


@pytest.mark.parametrize("folder", DRAWN, ids=lambda folder: folder.name)
def test_a_published_pose_is_chosen_and_drawn_as_published(folder):
    poses, expected = published(folder), grey(folder / "pose.png")
    assert poses.chosen == read(folder / "pose.json")["chosen"]
    assert np.mean(dwpose.draw(poses.pose, *expected.shape) == expected) >= 0.9999


@pytest.mark.parametrize("shape", ["ellipse", "line"])
def test_shapes_are_opencvs(shape):
    """`raster_golden.npz` holds what OpenCV 4.14 painted: 20 shapes inside an image, 40 that reach beyond it."""
    with np.load(Path(__file__).with_name("raster_golden.npz")) as golden:
        shapes, images = golden[shape].tolist(), golden[f"{shape}_image"]
    different = 0
    for (x, y, a, b), packed in zip(shapes, images, strict=True):
        image = np.zeros((48, 48), np.uint8)
        if shape == "ellipse":
            raster.ellipse(image, (x, y), (a, 4), b, 1)
        else:
            raster.line(image, (x, y), (a, b), 1)
        different += np.count_nonzero(np.unpackbits(packed).reshape(48, 48) != image)
    assert len(shapes) == 60 and different <= 1


def test_nobody_is_a_pose_of_the_whole_image(estimator):
    image = np.full((90, 60, 3), 114, np.uint8)
    found = estimator.estimate(image)
    middle, size = keypoints.frame(np.array([0, 0, 60, 90]))
    assert found.boxes.shape == (0, 4) and found.points.shape == (1, 134, 2) and found.chosen == 0
    assert np.all(np.abs(found.points[0] - middle) <= size / 2 + 1)


def test_the_largest_person_is_chosen_and_not_the_first():
    points = np.zeros((2, 134, 2))
    points[0, :, 0], points[1, :, 0] = np.linspace(10, 20, 134), np.linspace(10, 300, 134)
    points[:, :, 1] = points[:, :, 0]
    assert Poses(np.zeros((2, 4), np.float32), points, np.ones((2, 134))).chosen == 1
    assert Poses(np.zeros((2, 4), np.float32), points[::-1], np.ones((2, 134))).chosen == 0


def test_networks_see_bgr_at_the_top_left(estimator, monkeypatch):
    seen = []
    monkeypatch.setattr(estimator.detector, "forward", lambda x: seen.append(x) or {"output": torch.zeros(1, 8400, 85)})
    image = np.zeros((320, 640, 3), np.uint8)
    image[..., 0] = 200  # red
    estimator.estimate(image)
    assert seen[0][0, :, 0, 0].tolist() == [0, 0, 200] and seen[0][0, :, 639, 639].tolist() == [114] * 3
    assert seen[0][0, :, 319, 639].tolist() == [0, 0, 200] and seen[0][0, :, 320, 0].tolist() == [114] * 3


def test_a_crop_keeps_the_aspect_ratio_and_enlarges_by_a_quarter():
    middle, size = keypoints.frame(np.array([10.0, 20.0, 110.0, 60.0]))
    assert middle.tolist() == [60, 40] and size.tolist() == pytest.approx([125, 125 / 0.75])
    assert keypoints.frame(np.array([0, 0, 10, 400]))[1].tolist() == pytest.approx([375, 500])


def test_the_pose_network_sees_bgr_with_rgbs_statistics():
    pixels = torch.zeros(1, 3, 8, 6)
    pixels[0, 0] = 200  # blue
    seen = keypoints.crop(pixels, np.array([3.0, 4.0]), np.array([3.0, 4.0]))
    expected = [(200 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375]
    assert seen.shape == (1, 3, 384, 288) and seen[0, :, 192, 144].tolist() == pytest.approx(expected)


def output(*rows) -> torch.Tensor:
    """A detector's output with `rows` of x, y, log width, log height, objectness and the person's score."""
    result = torch.zeros(1, 8400, 85)
    for cell, row in enumerate(rows):
        result[0, cell, :6] = torch.tensor(row)
    return result


def test_boxes_that_overlap_or_are_uncertain_are_dropped():
    rows = [[5.0 - cell, 5.0, 3.0, 3.0, score, 1.0] for cell, score in enumerate((0.5, 0.9, 0.6))]
    rows += [[50.0, 50.0, 2.0, 2.0, 0.25, 1.0], [60.0, 20.0, 2.0, 2.0, 0.5, 0.7]]
    found = detector.boxes(output(*rows), 0.5)
    assert len(found) == 2
    middles = (found[:, :2] + found[:, 2:]) / 2  # the cells are 8 pixels wide, in an image of half the size
    assert np.allclose(middles, [[5 * 8 / 0.5] * 2, [64 * 8 / 0.5, 20 * 8 / 0.5]])
    assert np.allclose(found[0, 2:] - found[0, :2], 8 * np.exp(3) / 0.5)


def test_boxes_of_a_hostile_network_are_dropped():
    hostile = [[float("nan")] * 6, [1.0, 1.0, 800.0, 3.0, 0.9, 1.0], [1e30, 1.0, 3.0, 3.0, 0.9, 1.0]]
    assert len(detector.boxes(output(*hostile), 1.0)) == 0
    crowd = torch.zeros(1, 8400, 85)
    crowd[0, :, 2:4], crowd[0, :, 4:6] = -3, 1
    assert len(detector.boxes(crowd, 1.0)) == 100


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1)])
def test_images_of_any_size_have_a_pose(estimator, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert dwpose.draw(estimator.estimate(image).pose, *size).shape == size


def test_a_pose_may_lie_outside_the_image():
    for places in ((-900.0, -5.0), (1e5, 40.0), (7.0, -1e5)):
        spread = np.add.outer(np.linspace(0, 50, 134), places)
        assert dwpose.draw(Pose(spread, np.ones(134)), 40, 30).shape == (40, 30)


def test_estimating_stops_when_asked(estimator):
    class Stop(Exception):
        pass

    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise Stop

    with pytest.raises(Stop):
        estimator.estimate(np.zeros((50, 40, 3), np.uint8), check)


def test_files_that_stand_for_each_other_are_named(tmp_path):
    for name, other in zip(detector_and_pose := ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"), reversed(detector_and_pose)):
        (tmp_path / name).write_bytes((WEIGHTS / "dwpose" / other).read_bytes())
    with pytest.raises(OnnxError, match=r"yolox_l.onnx takes inputs of .*384, 288.* not one of \[1, 3, 640, 640\]"):
        dwpose.load(tmp_path)


def test_a_folder_without_the_files_names_the_first(tmp_path):
    with pytest.raises(OnnxError, match=r"yolox_l.onnx is missing. Download"):
        dwpose.load(tmp_path)


def test_weights_move_and_count_as_a_modules(estimator):
    assert sum(buffer.numel() for buffer in estimator.buffers()) > 50_000
    assert {buffer.device.type for buffer in estimator.buffers()} == {"cpu"}
    moved = dwpose.load(WEIGHTS / "dwpose").to("meta")
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}
