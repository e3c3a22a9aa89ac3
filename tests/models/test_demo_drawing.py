"""The drawn pairs: the same on every run, and true."""

import numpy as np
import pytest
from comfyui_tryon.demo import SAMPLES
from drawing import ARMS, CLOTH_TYPES, DRESS, PANTS, SKIRT, UPPER, Pair, draw_pair
from PIL import Image

SEEDS = range(24)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [draw_pair(seed, 96, 128) for seed in SEEDS]


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_a_seed_gives_the_same_pixels_again(pairs):
    again = draw_pair(SEEDS[3], 96, 128)
    for name in ("person", "garment", "worn", "mask", "labels", "dressed"):
        assert getattr(again, name).tobytes() == getattr(pairs[3], name).tobytes(), name


def test_seeds_differ_and_cover_all_cloth_types(pairs):
    assert len({pair.person.tobytes() for pair in pairs}) == len(pairs)
    assert {pair.cloth_type for pair in pairs} == set(CLOTH_TYPES)


@pytest.mark.parametrize("seed", SEEDS)
def test_worn_differs_from_person_inside_the_mask_only(pairs, seed):
    pair = pairs[seed]
    changed = (pixels(pair.worn) != pixels(pair.person)).any(-1)
    mask = pixels(pair.mask)
    assert set(np.unique(mask)) == {0, 255}
    assert not (changed & (mask == 0)).any()
    assert changed[mask == 255].mean() > 0.1
    assert (mask[pixels(pair.dressed) > 0] == 255).all()
    assert (pixels(pair.dressed) > 0).sum() > 100


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_are_atr_classes_and_name_what_is_replaced(pairs, seed):
    pair = pairs[seed]
    labels = pixels(pair.labels)
    assert labels.min() >= 0 and labels.max() <= 17
    replaced = {"upper": [UPPER], "lower": [SKIRT, PANTS], "overall": [UPPER, DRESS]}[pair.cloth_type]
    there = np.isin(labels, replaced)
    assert there.any()
    assert (pixels(pair.mask)[there] > 0).mean() > 0.85


def test_faces_hair_and_the_background_far_off_are_never_masked(pairs):
    for pair in pairs:
        hair = pixels(pair.labels) == 2
        assert (pixels(pair.mask)[hair] > 0).sum() <= 0.1 * hair.sum()
        assert not pixels(pair.mask)[:8, :8].any()


def test_a_left_arm_is_on_the_right_of_the_picture(pairs):
    for pair in pairs:
        labels = pixels(pair.labels)
        right, left = (np.nonzero(labels == arm)[1] for arm in ARMS)
        if len(right) and len(left):
            assert right.mean() < left.mean()


def test_the_same_seed_at_another_size_is_the_same_picture(pairs):
    large = draw_pair(5, 192, 256).person.reduce(2)
    assert np.abs(pixels(large) - pixels(pairs[5].person)).mean() < 3


def test_garments_lie_on_white(pairs):
    for pair in pairs:
        garment = pixels(pair.garment)
        assert (garment[:4] == 255).all() and (garment[:, :2] == 255).all()
        assert (garment.min(-1) < 250).mean() > 0.1


def test_sources_are_the_cells_with_the_same_cloth(pairs):
    """Their colours agree; those of two cells of the same garment that were picked at random do not."""
    same, other = [], []
    for pair in pairs:
        assert pair.sources.shape == (16, 12)
        worn, garment = (pixels(picture.reduce(8)).reshape(-1, 3) for picture in (pair.beyond, pair.garment))
        sources = pair.sources.ravel()
        shown = sources >= 0
        assert shown.sum() >= 8
        assert (garment[sources[shown]].min(-1) < 250).all()
        differences = [np.abs(worn[shown] - garment[to]) for to in (sources[shown], np.roll(sources[shown], 5))]
        for differing, found in zip((same, other), differences, strict=True):
            differing.append(found.mean())
    assert np.mean(same) < 0.8 * np.mean(other)


def test_letters_fill_their_box_and_the_cloth_below_is_plain():
    pairs = [draw_pair(seed, 192, 256) for seed in range(60)]
    printed = [pair for pair in pairs if pair.print_box]
    assert len(printed) >= 3 and not any(pair.cloth_type == "lower" for pair in printed)
    contrasts = []
    for pair in printed:
        left, top, right, bottom = pair.print_box
        below = left, bottom + 2, right, bottom + 2 + (bottom - top) // 2
        inside, plain = (
            pixels(pair.worn.crop(box))[pixels(pair.dressed.crop(box)) > 0].std(0).mean()
            for box in (pair.print_box, below)
        )
        contrasts.append(inside / plain)
    assert np.median(contrasts) > 2


def test_beyond_the_mask_is_what_worn_shows_inside(pairs):
    for pair in pairs:
        limited = Image.composite(pair.beyond, pair.person, pair.mask)
        assert limited.tobytes() == pair.worn.tobytes()


def test_the_quick_start_has_its_images():
    opened = {path.stem: Image.open(path) for path in SAMPLES.glob("*.png")}
    drawn = draw_pair(500_004, 384, 512)  # held out
    for name in ("person", "garment", "mask"):
        assert np.array_equal(np.array(opened.pop(name)), np.array(getattr(drawn, name))), name
    assert not opened
