"""The scores of the demo's weights: each tells what it is there for, and the sheets show what was scored."""

import dataclasses

import evaluate
import numpy as np
import pytest
from drawing import draw_pair
from PIL import Image, ImageFilter
from scores import EDGE, scores
from sheets import GAP, sheet


@pytest.fixture(scope="module")
def pairs():
    return [draw_pair(seed, 96, 128) for seed in range(6)]


def where(pairs, condition, then, otherwise) -> list[Image.Image]:
    """One image's pixels for each pair where a mask (L) is not 0, and another's elsewhere."""
    return [Image.composite(then(pair), otherwise(pair), condition(pair)) for pair in pairs]


def test_the_truth_is_right_and_the_unchanged_person_is_not(pairs):
    truth = scores(pairs, [pair.worn for pair in pairs])
    assert (truth["ssim"], truth["psnr"], truth["nearest"], truth["halo"]) == (pytest.approx(1), 99, 1, 1)
    person = scores(pairs, [pair.person for pair in pairs])
    assert person["ssim"] < 0.7
    assert person["psnr"] < 15
    assert person["ciede2000"] > truth["ciede2000"] + 10
    assert person["nearest"] <= 0.5


def test_what_is_outside_the_garment_changes_no_score_of_it(pairs):
    grey = Image.new("RGB", pairs[0].worn.size, "grey")
    made = where(pairs, lambda pair: pair.dressed, lambda pair: pair.worn, lambda pair: grey)
    truth = scores(pairs, [pair.worn for pair in pairs])
    for name in ("psnr", "ciede2000", "nearest"):
        assert scores(pairs, made)[name] == truth[name], name


def test_softness_costs_similarity(pairs):
    blurred = [[pair.worn.filter(ImageFilter.GaussianBlur(radius)) for pair in pairs] for radius in (1, 2, 4)]
    got = [scores(pairs, made)["ssim"] for made in blurred]
    assert 1 > got[0] > got[1] > got[2]


def test_old_clothes_at_the_edge_of_the_mask_are_a_halo(pairs):
    def rim(pair):
        inner = np.asarray(pair.mask.filter(ImageFilter.MinFilter(2 * EDGE - 1)))
        return Image.fromarray(np.where(inner == 0, np.asarray(pair.mask), 0).astype(np.uint8))

    made = where(pairs, rim, lambda pair: pair.person, lambda pair: pair.worn.filter(ImageFilter.GaussianBlur(1)))
    assert scores(pairs, made)["halo"] > 2


def test_pairs_without_an_image_are_only_choices(pairs):
    another = np.median(np.asarray(pairs[3].worn)[np.asarray(pairs[3].dressed) > 0], axis=0)
    assert scores(pairs, [pairs[0].worn])["nearest"] == 1
    assert scores(pairs, [Image.new("RGB", pairs[0].worn.size, tuple(map(int, another)))])["nearest"] == 0


def test_results_are_pasted_inside_the_mask(pairs):
    black = np.zeros((128, 96, 3), np.uint8)
    for pair, made in zip(pairs, evaluate.results(lambda *images, **options: [black], pairs, 0), strict=True):
        assert made.tobytes() == Image.composite(Image.fromarray(black), pair.person, pair.mask).tobytes()


def test_every_print_is_shown_beside_the_true_one(pairs):
    box = (30, 40, 62, 56)
    with_print = [dataclasses.replace(pair) for pair in pairs[:2]]
    object.__setattr__(with_print[1], "print_box", box)
    shown = [*evaluate.prints(with_print, [pair.person for pair in with_print])]
    assert [image.size for image in shown[0]] == [(40, 24), (40, 24)]
    assert shown[0][1].tobytes() == with_print[1].worn.crop((26, 36, 66, 60)).tobytes()
    assert len(shown) == 1


def test_a_sheet_has_a_cell_for_every_image():
    red, blue = (Image.new("RGB", (10, 30), name) for name in ("red", "blue"))
    made = sheet([(red, blue)] * 3, (40, 60), columns=2, gap=4)
    assert made.size == (2 * 84 + GAP, 2 * 60 + GAP)
    assert [made.getpixel(at) for at in ((20, 30), (2, 30), (64, 30), (116, 30), (116, 100))] == [
        (255, 0, 0),
        (255, 255, 255),
        (0, 0, 255),
        (255, 0, 0),
        (255, 255, 255),
    ]
