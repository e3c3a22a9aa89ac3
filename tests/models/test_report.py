"""The figures of a reply's report."""

import numpy as np
import pytest
import torch
from comfyui_tryon import exchange
from comfyui_tryon.framing.report import changed_pixels, colour_difference, doubts
from comfyui_tryon.framing.window import Window
from comfyui_tryon.nodes import TryOnCrop, TryOnPaste


def plain(colour: tuple[int, int, int], width: int = 60, height: int = 80) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def share(before: np.ndarray, after: np.ndarray) -> float:
    return changed_pixels(before, after).mean()


def difference(garment: np.ndarray, before: np.ndarray, after: np.ndarray) -> float | None:
    return colour_difference(garment, after[changed_pixels(before, after)])


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
    assert share(*dressed((1, 2, 3))) == pytest.approx(40 * 30 / (60 * 80))
    assert share(plain((1, 2, 3)), plain((1, 2, 4))) == 1
    assert share(plain((1, 2, 3)), plain((1, 2, 3))) == 0


@pytest.mark.parametrize("background", [(255, 255, 255), (30, 30, 30), (200, 190, 180)])
def test_the_garments_colour_is_compared_not_its_background(background):
    assert difference(flat_lay((180, 20, 30), background), *dressed((180, 20, 30))) < 0.5
    assert difference(flat_lay((180, 20, 30), background), *dressed((20, 160, 60))) > 40


def test_a_white_garment_on_white_is_still_compared():
    assert difference(plain((250, 250, 250)), *dressed((250, 250, 250))) < 0.5
    assert difference(plain((250, 250, 250)), *dressed((40, 40, 40))) > 40


def test_nothing_changed_has_no_colour():
    assert difference(flat_lay((1, 2, 3)), plain((9, 9, 9)), plain((9, 9, 9))) is None


def test_the_measure_is_ciede2000():
    """Two pairs of Sharma, Wu and Dalal (2005), as the nearest 8-bit colours have them."""
    grey, darker = (119, 119, 119), (82, 82, 82)
    assert difference(plain(grey), plain((0, 0, 0)), plain(grey)) == pytest.approx(0, abs=1e-6)
    assert difference(plain(grey), plain((0, 0, 0)), plain(darker)) == pytest.approx(14.5, abs=1)


@pytest.mark.parametrize(
    "box, window, size, codes",
    [
        ((100, 100, 300, 300), (0, 0, 768, 1024), (768, 1024), []),
        ((100, 100, 163, 164), (0, 0, 768, 1024), (768, 1024), ["garment_area_small"]),
        ((100, 100, 164, 164), (0, 0, 768, 1024), (768, 1024), []),
        ((100, 100, 163, 164), (90, 90, 96, 128), (768, 1024), ["garment_area_small"]),  # enlarged is not more detail
        ((100, 100, 300, 300), (0, 0, 768, 1024), (96, 128), ["garment_area_small"]),
        ((0, 100, 300, 300), (0, 0, 768, 1024), (768, 1024), ["person_cut"]),
        ((100, 0, 300, 300), (0, 0, 768, 1024), (768, 1024), ["person_cut"]),
        ((100, 100, 768, 300), (0, 0, 768, 1024), (768, 1024), ["person_cut"]),
        ((100, 100, 300, 1024), (0, 0, 768, 1024), (768, 1024), ["person_cut"]),
        ((0, 0, 10, 10), (0, 0, 768, 1024), (768, 1024), ["garment_area_small", "person_cut"]),
        ((0, 0, 0, 0), (0, 0, 768, 1024), (768, 1024), ["garment_area_small"]),
    ],
)
def test_doubts_about_a_mask_are_told_by_their_rules(box, window, size, codes):
    mask = np.zeros((1024, 768), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    assert doubts(mask, Window(*window), size) == codes


def test_pasting_tells_the_request_what_it_was_pasted_into():
    person, mask = torch.full((1, 240, 135, 3), 0.5), torch.zeros(1, 240, 135, 3)
    mask[:, 40:150, :100] = 1
    part, _, window = TryOnCrop().crop(person, mask, 192, 256)
    job = exchange.ImageExchange({}, lambda pixels, place: None)
    with exchange.opened(job):
        pasted, _ = TryOnPaste().paste(person, part, mask, window, token=job.token, node="8")
    assert job.warnings == ["person_cut"]
    assert job.framed["8"].window == window and job.framed["8"].before.shape == (240, 135, 3)
    with exchange.opened(job):
        pasted, _ = TryOnPaste().paste(person, part, mask, window, "model", token=job.token, node="8")
    assert job.framed["8"].window == window and job.framed["8"].before.shape == pasted.shape[1:]
