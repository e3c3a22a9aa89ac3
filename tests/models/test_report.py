"""The figures of a reply's report."""

import numpy as np
import pytest
from comfyui_tryon.framing.report import changed_share, colour_difference


def plain(colour: tuple[int, int, int], width: int = 60, height: int = 80) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def dressed(colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    before = plain((90, 120, 200))
    after = before.copy()
    after[20:60, 15:45] = colour
    return before, after


def flat_lay(colour: tuple[int, int, int], background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    garment = plain(background)
    garment[15:65, 10:50] = colour
    return garment


def test_changed_is_the_share_of_pixels_that_differ():
    assert changed_share(*dressed((1, 2, 3))) == pytest.approx(40 * 30 / (60 * 80))
    assert changed_share(plain((1, 2, 3)), plain((1, 2, 4))) == 1
    assert changed_share(plain((1, 2, 3)), plain((1, 2, 3))) == 0


@pytest.mark.parametrize("background", [(255, 255, 255), (30, 30, 30), (200, 190, 180)])
def test_the_garments_colour_is_compared_not_its_background(background):
    assert colour_difference(flat_lay((180, 20, 30), background), *dressed((180, 20, 30))) < 0.5
    assert colour_difference(flat_lay((180, 20, 30), background), *dressed((20, 160, 60))) > 40


def test_a_white_garment_on_white_is_still_compared():
    assert colour_difference(plain((250, 250, 250)), *dressed((250, 250, 250))) < 0.5
    assert colour_difference(plain((250, 250, 250)), *dressed((40, 40, 40))) > 40


def test_nothing_changed_has_no_colour():
    assert colour_difference(flat_lay((1, 2, 3)), plain((9, 9, 9)), plain((9, 9, 9))) is None


def test_the_measure_is_ciede2000():
    """Two pairs of Sharma, Wu and Dalal (2005), as the nearest 8-bit colours have them."""
    grey, darker = (119, 119, 119), (82, 82, 82)
    assert colour_difference(plain(grey), plain((0, 0, 0)), plain(grey)) == pytest.approx(0, abs=1e-6)
    assert colour_difference(plain(grey), plain((0, 0, 0)), plain(darker)) == pytest.approx(14.5, abs=1)
