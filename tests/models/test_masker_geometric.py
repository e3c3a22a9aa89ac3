"""The masker without a model."""

import numpy as np
import pytest
from comfyui_tryon.masker import CLOTH_TYPES, GeometricMasker
from support.masker_figures import label_maps, person_image

SIZES = [(1, 1), (1, 2048), (2, 3), (7, 5), (64, 64), (65, 203), (770, 1023), (2048, 64), (2048, 2048)]
FACE, UPPER, PANTS = 11, 4, 6


def part(width: int, height: int, label: int) -> np.ndarray:
    return label_maps(width, height).atr == label


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
def test_any_size(size, cloth_type):
    width, height = size
    for pixels in (np.zeros((height, width, 3), np.uint8), person_image(width, height)):
        mask = GeometricMasker().mask(pixels, cloth_type)
        assert mask.shape == (height, width) and mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        if min(size) >= 64:
            assert mask.any()


@pytest.mark.parametrize("background", [(235, 235, 230), (120, 135, 120)])
@pytest.mark.parametrize("size", [(192, 256), (768, 1024), (300, 500)])
def test_covers_the_garment_and_not_the_face(size, background):
    masker, person = GeometricMasker(), person_image(*size, background)
    face, upper, pants = (part(*size, label) for label in (FACE, UPPER, PANTS))
    for cloth_type in CLOTH_TYPES:
        assert not masker.mask(person, cloth_type)[face].any()
        assert not masker.mask(person, cloth_type, mask_grow=size[1] // 20, square=True)[face].any()
    assert np.mean(masker.mask(person, "upper")[upper] > 0) > 0.9
    assert np.mean(masker.mask(person, "lower")[pants] > 0) > 0.85
    assert np.mean(masker.mask(person, "overall")[upper | pants] > 0) > 0.9
    assert np.mean(masker.mask(person, "upper")[pants] > 0) < 0.4
    assert np.mean(masker.mask(person, "lower")[upper] > 0) < 0.4


def test_follows_the_person():
    """A person half the image's height in its right half, in front of a plain wall."""
    canvas = np.full((800, 900, 3), 235, np.uint8)
    canvas[350:750, 550:850] = person_image(300, 400, (235, 235, 235))
    mask = GeometricMasker().mask(canvas, "upper")
    upper = np.zeros(mask.shape, bool)
    upper[350:750, 550:850] = part(300, 400, UPPER)
    assert np.mean(mask[upper] > 0) > 0.9
    assert not mask[:, :500].any()


def test_growing_and_shrinking():
    masker, person = GeometricMasker(), person_image(300, 400)
    shrunk, plain, grown = (masker.mask(person, "lower", mask_grow=pixels) > 0 for pixels in (-8, 0, 8))
    assert shrunk.sum() < plain.sum() < grown.sum()
    assert not (shrunk & ~plain).any() and not (plain & ~grown).any()


def test_refuses_what_is_no_request():
    masker, person = GeometricMasker(), person_image(60, 80)
    with pytest.raises(ValueError, match="upper, lower"):
        masker.mask(person, "hat")
    for wrong in (person.astype(np.float32), person[..., :1], person[..., 0], person[:0]):
        with pytest.raises(ValueError, match="uint8"):
            masker.mask(wrong, "upper")


def test_a_callback_can_stop_it():
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        GeometricMasker().mask(person_image(60, 80), "upper", callback=stop)
