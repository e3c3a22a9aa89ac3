"""Resampling by OpenCV's rules; `resampling_golden.npz` holds what OpenCV 4.14 makes of noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_tryon import resampling
from scipy import ndimage

GOLDEN = Path(__file__).with_name("resampling_golden.npz")
METHODS = ["area", "linear", "lanczos4", "nearest_exact"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("method", METHODS)
def test_resizing_gives_opencvs_bytes(golden, method):
    results = {name.partition("_")[0]: value for name, value in golden.items() if name.endswith(f"_{method}")}
    assert len(results) == 8
    for case, expected in results.items():
        mine = getattr(resampling, method)(golden[f"{case}_image"], *expected.shape[:2])
        assert mine.dtype == np.uint8
        difference = np.abs(mine.astype(int) - expected)
        # OpenCV computes Lanczos' kernel through a table of sines, whose last digits are its own.
        assert difference.max() <= (method == "lanczos4") and (difference > 0).mean() < 0.001, case


@pytest.mark.parametrize("method", METHODS)
def test_an_image_of_the_right_size_is_left_as_it_is(method):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(getattr(resampling, method)(image, 5, 7), image)


def test_positions_are_opencvs():
    """64 pixels seen as 16: every place is a multiple of 1/32 pixel."""
    places = resampling.warp_positions(16, 63 / 15, 0)
    assert np.array_equal(places * 32, np.round(places * 32))
    assert np.abs(places - np.linspace(0, 63, 16)).max() <= 1 / 32


def test_sampling_is_bilinear_with_zeros_around():
    random = np.random.default_rng(0)
    planes = random.random((1, 2, 9, 7), np.float32)
    rows, columns = random.uniform(-2, 10, 13).astype(np.float32), random.uniform(-2, 8, 11).astype(np.float32)
    sampled = resampling.sample(*(torch.from_numpy(array) for array in (planes, rows, columns)))
    grid = np.meshgrid(rows, columns, indexing="ij")
    for plane, result in zip(planes[0], sampled[0].numpy(), strict=True):
        expected = ndimage.map_coordinates(plane, grid, order=1, mode="grid-constant", cval=0)
        assert np.allclose(result, expected, atol=1e-5)
