"""The mask logic: from label maps to the area where the garment goes."""

from pathlib import Path

import numpy as np
import pytest
from comfyui_tryon.masker import CLOTH_TYPES, LabelMaps
from comfyui_tryon.masker.agnostic import (
    ATR_LABELS,
    DENSEPOSE_PARTS,
    LIP_LABELS,
    agnostic_mask,
    dilate,
    fill_hulls,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy import ndimage
from scipy.spatial import Delaunay
from support.masker_figures import label_maps

# Label maps drawn by hand, and what the published code makes of them.
GOLDEN = np.load(Path(__file__).with_name("masker_golden.npz"))
PLANES = st_numpy.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))
SIZES = [(1, 1), (2, 3), (64, 64), (65, 203), (770, 1023), (1023, 98), (2048, 64)]

GARMENTS = {
    "upper": ("Upper-clothes",),
    "lower": ("Pants",),
    "overall": ("Upper-clothes", "Pants"),
    "inner": ("Upper-clothes",),
    "outer": (),
}
KEPT = {
    "upper": ("Hair", "Pants", "Left-shoe", "Right-shoe", "Left-leg", "Right-leg"),
    "lower": ("Hair", "Upper-clothes", "Left-arm", "Right-arm", "Left-shoe", "Right-shoe"),
    "overall": ("Hair", "Left-shoe", "Right-shoe"),
    "inner": ("Hair", "Pants", "Left-shoe", "Right-shoe", "Left-leg", "Right-leg"),
    "outer": ("Hair", "Upper-clothes", "Pants", "Left-leg", "Right-leg"),
}


def labelled(maps: LabelMaps, *labels: str) -> np.ndarray:
    atr = np.isin(maps.atr, [ATR_LABELS.index(label) for label in labels if label in ATR_LABELS])
    return atr | np.isin(maps.lip, [LIP_LABELS.index(label) for label in labels if label in LIP_LABELS])


def shrunk(plane: np.ndarray, pixels: int) -> np.ndarray:
    return ~dilate(~plane, 2 * pixels + 1)


def hands(maps: LabelMaps) -> np.ndarray:
    return np.isin(maps.densepose, (3, 4))


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
@pytest.mark.parametrize("case", ["drawn-dress", "drawn-coat"])
def test_agrees_with_the_published_masks(case, cloth_type):
    mask = agnostic_mask(LabelMaps(*GOLDEN[f"{case}/maps"]), cloth_type)
    assert np.mean(mask == GOLDEN[f"{case}/{cloth_type}"]) >= 0.999


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_any_size(size, cloth_type):
    width, height = size
    mask = agnostic_mask(label_maps(width, height), cloth_type)
    assert mask.shape == (height, width) and mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
def test_the_worn_garment_is_masked_and_the_rest_is_kept(cloth_type):
    maps = label_maps(601, 799)
    mask = agnostic_mask(maps, cloth_type) > 0
    assert mask[labelled(maps, *GARMENTS[cloth_type])].all()
    # At 799 pixels the published blur reaches 15 pixels over a protected part's edge, and the final dilation 1 more.
    kept = shrunk(labelled(maps, *KEPT[cloth_type]), 16)
    assert kept.any() or cloth_type == "overall"
    assert not mask[kept].any()
    safe = shrunk(labelled(maps, "Face"), 1) | shrunk(hands(maps), 1)
    assert safe.any() and not mask[safe].any()


def test_arms_are_masked_for_a_garment_with_sleeves_only():
    maps = label_maps(600, 800)
    arms = labelled(maps, "Left-arm", "Right-arm") & ~dilate(hands(maps), 9)
    assert (agnostic_mask(maps, "upper") > 0)[arms].all()
    assert not (agnostic_mask(maps, "lower") > 0)[shrunk(arms, 5)].any()


@pytest.mark.parametrize(
    "options", [{"mask_grow": 25}, {"mask_grow": -6}, {"square": True}, {"mask_grow": 9, "square": True}]
)
@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
def test_options_leave_face_hair_hands_feet_and_shoes_to_the_pixel(cloth_type, options):
    maps = label_maps(301, 402)
    mask = agnostic_mask(maps, cloth_type, **options) > 0
    feet = np.isin(maps.densepose, DENSEPOSE_PARTS["feet"])
    spared = labelled(maps, "Face", "Hair", "Left-shoe", "Right-shoe") | hands(maps) | feet
    assert not mask[spared].any() and (feet | labelled(maps, "Left-shoe")).any()


def test_growing_and_shrinking_by_pixels():
    maps = label_maps(300, 400)
    plain, grown, shrunk = (agnostic_mask(maps, "lower", mask_grow=pixels) > 0 for pixels in (0, 12, -5))
    rows = [np.flatnonzero(mask.any(1)) for mask in (plain, grown, shrunk)]
    assert rows[1][-1] - rows[0][-1] == 12
    assert rows[0][-1] - rows[2][-1] == 5
    distance = ndimage.distance_transform_edt(~plain)
    assert distance[grown].max() == 12
    assert shrunk.sum() < plain.sum() and not (shrunk & ~plain).any()


def test_shrinking_away_leaves_nothing():
    assert not agnostic_mask(label_maps(64, 64), "upper", mask_grow=-64).any()


def test_square_hides_the_outline():
    maps = label_maps(300, 400)
    plain, square = (agnostic_mask(maps, "upper", square=flag) > 0 for flag in (False, True))
    rows, columns = np.flatnonzero(plain.any(1)), np.flatnonzero(plain.any(0))
    box = np.zeros_like(plain)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    left = box & ~square
    assert not (square & ~box).any()
    assert not left[~dilate(labelled(maps, "Face", "Hair", "Left-arm", "Right-arm", "Left-leg", "Right-leg"), 3)].any()


def test_nothing_to_mask_is_an_empty_mask():
    empty = LabelMaps(*(np.zeros((50, 40), np.uint8) for _ in range(3)))
    for options in ({}, {"mask_grow": 5}, {"mask_grow": -5}, {"square": True}):
        assert not agnostic_mask(empty, "upper", **options).any()


def test_a_gap_in_the_figure_is_bridged_by_its_hull():
    """Arms akimbo: the background between arm and body belongs to the area where a wider garment may go."""
    maps = label_maps(600, 800)
    between = (slice(250, 270), slice(int(600 * 0.36) - 8, int(600 * 0.36)))
    for plane in maps[1:]:
        plane[between] = 0
    assert (agnostic_mask(maps, "upper") > 0)[between].all()


@given(plane=PLANES, size=st.sampled_from([1, 3, 5, 9]))
@settings(max_examples=60, deadline=None)
def test_dilation_is_the_textbook_one(plane, size):
    expected = ndimage.binary_dilation(plane, np.ones((size, size)))
    assert np.array_equal(dilate(plane, size), expected)


@given(plane=PLANES)
@settings(max_examples=60, deadline=None)
def test_hulls_hold_every_pixel_inside_and_none_far_outside(plane):
    filled = fill_hulls(plane)
    assert filled[plane].all()
    allowed = np.zeros_like(plane)
    parts, count = ndimage.label(plane, np.ones((3, 3)))
    pixels = np.argwhere(np.ones_like(plane))
    for index in range(1, count + 1):
        points = np.argwhere(parts == index)
        spread = np.concatenate([points + offset for offset in ([-1, -1], [-1, 1], [1, -1], [1, 1])])
        allowed[tuple(pixels[Delaunay(spread).find_simplex(pixels) >= 0].T)] = True
        if np.linalg.matrix_rank(points - points[0]) == 2:
            inside = pixels[Delaunay(points).find_simplex(pixels) >= 0]
            assert filled[tuple(inside.T)].all()
    assert not (filled & ~allowed).any()


def test_labels_beyond_the_tables_are_ignored():
    maps = LabelMaps(*(np.full((20, 20), 200, np.uint8) for _ in range(3)))
    assert agnostic_mask(maps, "upper").shape == (20, 20)
