"""A person image of any shape keeps its frame: what the sampler is given of it, and what comes back."""

import itertools

import numpy as np
import pytest
import torch
from comfyui_tryon.framing.paste import cut, cut_mask
from comfyui_tryon.framing.window import SMALLEST_MASK, Window, around, centred
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS
from comfyui_tryon.nodes.results import BadResult
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

TARGET = (192, 256)
TryOnCrop, TryOnPaste = (NODE_CLASS_MAPPINGS[name]() for name in ("TryOnCrop", "TryOnPaste"))


def published_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """CatVTON's own crop for a person, as its `utils.py` computes it."""
    (w, h), (width, height) = image.size, size
    if w / h < width / height:
        new_w, new_h = w, w * height // width
    else:
        new_w, new_h = h * width // height, h
    return image.crop(((w - new_w) // 2, (h - new_h) // 2, (w + new_w) // 2, (h + new_h) // 2)).resize(
        size, Image.Resampling.LANCZOS
    )


def noise(width: int, height: int) -> torch.Tensor:
    pixels = np.random.default_rng(width * height).integers(0, 256, (1, height, width, 3))
    return torch.from_numpy((pixels / 255).astype(np.float32))


def rectangle(width: int, height: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    mask = torch.zeros(1, height, width, 3)
    mask[:, box[1] : box[3], box[0] : box[2]] = 1
    return mask


SIZES = [(180, 240), (360, 480), (135, 240), (270, 600), (90, 400), (400, 90), (320, 240), (600, 270), (256, 256)]
PLACES = [  # parts of the width and height
    (0.3, 0.2, 0.7, 0.5),  # the upper body in the middle
    (0.0, 0.1, 0.2, 0.6),  # at the left, cut off
    (0.8, 0.4, 1.0, 1.0),  # at the right, cut off below
    (0.1, 0.05, 0.9, 0.98),  # all of a body
    (0.45, 0.5, 0.5, 0.53),  # far away
    (0.0, 0.0, 1.0, 1.0),
]
SHAPES = list(itertools.product(SIZES, PLACES))


@pytest.mark.parametrize("size, place", SHAPES)
def test_a_person_keeps_the_image_and_only_the_mask_changes(size, place):
    width, height = size
    box = tuple(round(part * side) for part, side in zip(place, (width, height) * 2))
    person, mask = noise(width, height), rectangle(width, height, box)
    part, part_mask, window = TryOnCrop.crop(person, mask, *TARGET)
    assert part.shape == part_mask.shape == (1, TARGET[1], TARGET[0], 3)

    # the window holds the mask, in the sampler's aspect ratio to a pixel
    assert window.x <= box[0] and window.y <= box[1]
    assert window.x + window.width >= box[2] and window.y + window.height >= box[3]
    assert abs(window.width * TARGET[1] - window.height * TARGET[0]) <= max(TARGET)

    pasted, pasted_mask = TryOnPaste.paste(person, torch.zeros_like(part), mask, window)
    assert pasted.shape == person.shape
    assert torch.equal(pasted_mask, mask)
    outside = mask[0, :, :, 0] == 0
    assert torch.equal(pasted[0][outside], person[0][outside])
    middle = (box[1] + box[3]) // 2, (box[0] + box[2]) // 2
    assert pasted[0][middle].max() < person[0][middle].max()


@pytest.mark.parametrize("size", SIZES)
def test_what_the_sampler_returns_comes_back_where_it_was(size):
    """A sampler that changes nothing: the image that comes back is the one that was sent, but for resampling."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    smooth = np.stack([x / size[0], y / size[1], (x + y) / sum(size)], -1).astype(np.float32)
    person = torch.from_numpy(np.rint(smooth * 255) / 255).float()[None]
    mask = rectangle(*size, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    part, _, window = TryOnCrop.crop(person, mask, *TARGET)
    pasted, _ = TryOnPaste.paste(person, part, mask, window)
    assert (pasted - person).abs().max() < 3 / 255


@pytest.mark.parametrize("size", [(192, 256), (96, 128), (768, 1024)])
def test_an_image_of_the_aspect_ratio_is_given_whole_as_published(size):
    person = noise(*size)
    mask = rectangle(*size, (10, 10, size[0] - 10, size[1] - 10))
    part, part_mask, window = TryOnCrop.crop(person, mask, *TARGET)
    assert window == (0, 0, *size)
    for given_, cut_out in ((person, part), (mask, part_mask)):
        image = Image.fromarray((given_[0].numpy() * 255).round().astype(np.uint8))
        assert np.array_equal(np.asarray(published_crop(image, TARGET)), (cut_out[0].numpy() * 255).round())


def test_at_the_samplers_size_both_framings_are_the_published_repaint():
    person, mask, result = noise(192, 256), rectangle(192, 256, (50, 60, 140, 200)), noise(192, 256).flip(1)
    _, _, window = TryOnCrop.crop(person, mask, *TARGET)
    (repainted,) = NODE_CLASS_MAPPINGS["TryOnRepaint"]().repaint(person, result, mask)
    for framing in ("person", "model"):
        assert torch.equal(TryOnPaste.paste(person, result, mask, window, framing)[0], repainted)


@pytest.mark.parametrize("size", SIZES)
def test_framing_model_is_the_published_crop(size):
    person, mask = noise(*size), rectangle(*size, (0, 0, size[0] // 3, size[1] // 3))
    part, part_mask, window = TryOnCrop.crop(person, mask, *TARGET, framing="model")
    image = Image.fromarray((person[0].numpy() * 255).round().astype(np.uint8))
    published = np.asarray(published_crop(image, TARGET))
    assert np.array_equal(published, (part[0].numpy() * 255).round())
    pasted, pasted_mask = TryOnPaste.paste(person, torch.zeros_like(part), mask, window, "model")
    assert torch.equal(pasted_mask, part_mask)
    outside = part_mask[0, :, :, 0] < 0.5
    assert torch.equal(pasted[0][outside], part[0][outside])


def test_a_small_mask_gets_a_smaller_window_unless_zoom_is_off():
    box = (500, 700, 600, 760)
    near, far = (around((1200, 1600), box, TARGET, zoom) for zoom in (True, False))
    assert far == (0, 0, 1200, 1600)
    assert (box[3] - box[1]) / near.height >= SMALLEST_MASK - 0.01 and near.height < far.height
    assert near.x <= box[0] and near.x + near.width >= box[2]


def test_several_results_are_pasted_into_one_person():
    person, mask = noise(135, 240), rectangle(135, 240, (30, 40, 100, 150))
    part, _, window = TryOnCrop.crop(person, mask, *TARGET)
    both = torch.cat([torch.zeros_like(part), torch.ones_like(part)])
    pasted, _ = TryOnPaste.paste(person, both, mask, window)
    assert pasted.shape == (2, 240, 135, 3)
    assert pasted[0, 95, 65].max() == 0 and pasted[1, 95, 65].min() == 1


def test_an_empty_mask_changes_nothing():
    person, mask = noise(135, 240), torch.zeros(1, 240, 135, 3)
    part, _, window = TryOnCrop.crop(person, mask, *TARGET)
    assert window == centred((135, 240), TARGET)
    assert torch.equal(TryOnPaste.paste(person, 1 - part, mask, window)[0], person)


@pytest.mark.parametrize("edge", [(699, 0, 700, 932), (0, 931, 700, 932), (0, 0, 700, 932)])
def test_no_row_or_column_of_an_image_of_nearly_the_aspect_ratio_is_left_out(edge):
    person, mask = noise(700, 932), rectangle(700, 932, edge)
    part, _, window = TryOnCrop.crop(person, mask, 768, 1024)
    pasted = TryOnPaste.paste(person, 1 - part, mask, window, feather=0)[0]
    inside = mask[..., 0] > 0
    assert (pasted != person).any(-1)[inside].float().mean() > 0.99
    assert torch.equal(pasted[~inside], person[~inside])


def test_a_mask_that_the_sampler_was_not_given_changes_nothing():
    person, mask = noise(135, 240), rectangle(135, 240, (130, 0, 135, 240))
    pasted, _ = TryOnPaste.paste(person, noise(192, 256), mask, Window(0, 0, 100, 133))
    assert torch.equal(pasted, person)


@pytest.mark.parametrize("width", [1, 2, 5, 9, 14, 24, 40])
def test_what_is_narrower_than_the_seam_changes_too(width):
    """Straps: upright, alone, and on a wide part of the mask, which keeps its seam."""
    strap, wide = rectangle(192, 256, (60, 20, 60 + width, 236)), rectangle(192, 256, (20, 100, 172, 236))
    person, result = torch.zeros(1, 256, 192, 3), torch.ones(1, 256, 192, 3)
    window = Window(0, 0, 192, 256)
    for mask in (strap, torch.maximum(strap, wide)):
        taken = TryOnPaste.paste(person, result, mask, window)[0][0, ..., 0]
        assert taken[mask[0, ..., 0] == 0].max() == 0
        middle = taken[20:236, 60 + width // 2]
        assert middle[14:-14].min() > 0.85, "a gap"
        assert taken[30:90].diff(dim=1).abs().max() <= (1 if width < 5 else 0.5), "an edge without a seam"
    alone = TryOnPaste.paste(person, result, wide, window)[0][0, ..., 0]
    assert torch.equal(taken[130:, 110:], alone[130:, 110:])


NO_IMAGES = {"not a number": torch.nan, "from 0 to 255": 200.0, "infinite": torch.inf}


@pytest.mark.parametrize("size", [TARGET, (135, 180)])
@pytest.mark.parametrize("value", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image_is_not_pasted(value, size):
    person, mask = noise(135, 240), rectangle(135, 240, (30, 40, 100, 150))
    _, _, window = TryOnCrop.crop(person, mask, *TARGET)
    with pytest.raises(BadResult):
        TryOnPaste.paste(person, torch.full((1, size[1], size[0], 3), value), mask, window)


def test_grey_and_transparent_results_are_pasted_as_they_are_shown():
    person, mask = noise(135, 240), rectangle(135, 240, (30, 40, 100, 150))
    _, _, window = TryOnCrop.crop(person, mask, *TARGET)
    grey = noise(*TARGET)[..., :1].mul(255).round() / 255
    clear = torch.cat([grey.expand(-1, -1, -1, 3), torch.zeros_like(grey)], -1)
    pasted = [TryOnPaste.paste(person, result, mask, window)[0] for result in (grey, grey.expand(-1, -1, -1, 3))]
    assert torch.equal(*pasted)
    white = torch.ones(1, *TARGET[::-1], 3)
    assert torch.equal(*(TryOnPaste.paste(person, result, mask, window)[0] for result in (clear, white)))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="one size"):
        TryOnCrop.crop(noise(100, 200), torch.zeros(1, 100, 100, 3))


def test_what_lies_beyond_the_image_repeats_its_edge_and_is_not_masked():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    window = Window(-2, 0, 8, 3)
    assert cut(image, window, (8, 3))[1].tolist() == [4, 4, 4, 5, 6, 7, 7, 7]
    assert cut_mask(image, window, (8, 3))[1].tolist() == [0, 0, 4, 5, 6, 7, 0, 0]


@pytest.mark.parametrize("window", [Window(-30, -500, 200, 1600), Window(60, 90, 900, 120), Window(-9, -9, 138, 258)])
@pytest.mark.parametrize("size", [(16, 128), (240, 64), (96, 96)])
def test_only_what_the_image_reaches_of_a_window_is_computed_with_the_same_result(window, size):
    rows, columns = np.mgrid[0:240, 0:120]
    image = np.stack([255 * columns / 120, 255 * rows / 240, 90 + 60 * np.sin(rows / 20)], -1).astype(np.uint8)
    inside = window.within(Window(0, 0, 120, 240))
    before = inside.y - window.y, inside.x - window.x
    after = window.height - inside.height - before[0], window.width - inside.width - before[1]
    part = image[inside.y : inside.y + inside.height, inside.x : inside.x + inside.width]
    padded = np.pad(part, [*zip(before, after), (0, 0)], mode="edge")
    wanted = np.array(Image.fromarray(padded).resize(size, Image.Resampling.LANCZOS))
    assert np.abs(cut(image, window, size).astype(int) - wanted).max() <= 2  # Pillow rounds between its two passes


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(16, 4000), st.integers(16, 4000)),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from([(768, 1024), (576, 864), (1024, 768), (64, 2048)]),
    st.booleans(),
)
def test_every_window_holds_the_mask_in_the_samplers_aspect_ratio(size, place, target, zoom):
    left, right = sorted((int(place[0] * (size[0] - 1)), int(place[2] * (size[0] - 1))))
    top, bottom = sorted((int(place[1] * (size[1] - 1)), int(place[3] * (size[1] - 1))))
    box = (left, top, right + 1, bottom + 1)
    window = around(size, box, target, zoom)
    assert window.x <= left and window.y <= top
    assert window.x + window.width > right and window.y + window.height > bottom
    assert abs(window.width / target[0] - window.height / target[1]) <= 1 / min(target) + 1e-9
    largest = centred(size, target)
    if window.width <= size[0]:
        assert 0 <= window.x <= size[0] - window.width
    if window.height <= size[1]:
        assert 0 <= window.y <= size[1] - window.height
    if not zoom:
        assert window.height >= largest.height and window.width >= largest.width
    if window.height > largest.height and window != (0, 0, *size):  # because the mask and its margin would not fit
        assert 1.2 * (right + 1 - left) + 2 > largest.width or 1.2 * (bottom + 1 - top) + 2 > largest.height
