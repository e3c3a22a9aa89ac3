"""SCHP, DensePose and the masker made of them, without published weights."""

import copy

import numpy as np
import pytest
import torch
from comfyui_tryon.masker import CLOTH_TYPES, NoPersonFound, SchpDensePoseMasker, densepose
from comfyui_tryon.masker.agnostic import agnostic_mask
from comfyui_tryon.masker.densepose import DensePose, People
from comfyui_tryon.masker.schp import Schp
from support.masker_figures import label_maps, person_image
from torch import nn

SIZES = [(64, 64), (65, 203), (770, 1023), (2048, 64), (1, 300)]


class Says(nn.Module):
    """A parser that always gives the same answer."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(1))

    def parse(self, person, largest=False):
        return self.answer(largest) if callable(self.answer) else self.answer


def masker_that_sees(maps, boxes=((0, 0, 1, 1),), chosen=0) -> SchpDensePoseMasker:
    people = People(np.array(boxes, np.float32), chosen, maps.densepose)
    return SchpDensePoseMasker(Says(torch.from_numpy(maps.atr)), Says(torch.from_numpy(maps.lip)), Says(people))


def no_weights(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def eager_densepose() -> DensePose:
    """Sees a person in every proposal, all of part 7."""
    with torch.device("meta"):
        network = DensePose()
    no_weights(network.to_empty(device="cpu"))
    network.roi_heads.box_predictor["cls_score"].bias[0] = 10
    network.roi_heads.densepose_predictor["ann_index_lowres"].bias[1] = 1
    network.roi_heads.densepose_predictor["index_uv_lowres"].bias[7] = 1
    return network


@pytest.mark.parametrize("size", [(64, 2048), (2048, 64), (33, 1201)])
def test_densepose_labels_the_inside_of_the_chosen_box(eager_densepose, size):
    width, height = size
    people = eager_densepose.parse(person_image(width, height))
    assert people.labels.shape == (height, width) and people.labels.dtype == np.uint8
    x0, y0, x1, y1 = people.boxes[people.chosen]
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    rows, columns = np.flatnonzero(people.labels.any(1)), np.flatnonzero(people.labels.any(0))
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    # Whole pixels of the image that is parsed, which is at most 1024 long.
    assert np.abs(found - [x0, y0, x1, y1]).max() <= 2 * max(1, max(size) / 1024)
    assert set(np.unique(people.labels)) == {0, 7}


@pytest.mark.parametrize("size", [(64, 2048), (30, 600)])
def test_densepose_boxes_are_in_pixels_of_the_image(eager_densepose, size):
    """Its boxes are the anchors here: squares of 32 pixels and up, and 1:2, of an image that is 1333 pixels long."""
    width, height = size
    y0, y1 = eager_densepose.parse(person_image(width, height)).boxes[:, [1, 3]].T
    whole = (y0 > 1) & (y1 < height - 1)
    lengths = (y1 - y0)[whole] * 1333 / height
    anchors = np.array([side * ratio**0.5 for side in (32, 64, 128, 256, 512) for ratio in (0.5, 1, 2)])
    assert whole.any()
    assert np.abs(lengths[:, None] / anchors - 1).min(1).max() < 0.01


def test_densepose_chooses_the_largest_on_request(eager_densepose):
    boxes, chosen, _ = eager_densepose.parse(person_image(64, 2048), largest=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert len(boxes) > 1 and chosen == areas.argmax()
    assert eager_densepose.parse(person_image(64, 2048)).chosen == 0


def test_densepose_computes_in_its_own_dtype(eager_densepose, monkeypatch):
    """With fewer layers of a kind, proposals and pixels: many CPUs take half a minute for the others in bfloat16."""
    monkeypatch.setattr(densepose, "_PROPOSALS", 20)
    monkeypatch.setattr(densepose, "_LONG_SIDE", 300)
    low = copy.deepcopy(eager_densepose).to(torch.bfloat16)
    for name in list(low.roi_heads.densepose_head)[1:]:
        low.roi_heads.densepose_head[name] = nn.Identity()
    people = low.parse(person_image(64, 2048))
    assert len(people.boxes) and set(np.unique(people.labels)) == {0, 7}


def test_densepose_sees_nobody(eager_densepose):
    bias = eager_densepose.roi_heads.box_predictor["cls_score"].bias
    bias[0] = 0  # scores of 0.5
    try:
        assert eager_densepose.parse(person_image(64, 1024)) is None
    finally:
        bias[0] = 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_schp_labels_every_pixel(size, dtype):
    width, height = size
    with torch.device("meta"):
        network = Schp(3, 65)
    no_weights(network.to_empty(device="cpu").to(dtype))
    network.fushion[-1].bias[2] = 1
    labels = network.parse(torch.from_numpy(person_image(width, height)))
    assert labels.shape == (height, width) and labels.dtype == torch.uint8
    assert (labels == 2).all()


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
def test_the_masker_applies_the_mask_logic(cloth_type):
    maps, person = label_maps(150, 200), person_image(150, 200)
    masker = masker_that_sees(maps)
    assert np.array_equal(masker.mask(person, cloth_type), agnostic_mask(maps, cloth_type))
    grown = masker.mask(person[:, ::-1][:, ::-1], cloth_type, mask_grow=7, square=True)
    assert np.array_equal(grown, agnostic_mask(maps, cloth_type, mask_grow=7, square=True))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(masker.label_maps(person), maps, strict=True))


def test_nobody_to_dress():
    maps = label_maps(150, 200)
    masker = SchpDensePoseMasker(Says(torch.from_numpy(maps.atr)), Says(torch.from_numpy(maps.lip)), Says(None))
    with pytest.raises(NoPersonFound, match="no person"):
        masker.mask(person_image(150, 200), "upper")


def side_by_side(gap: int):
    one = label_maps(150, 200)
    pair = [np.hstack([plane, np.zeros((200, gap), np.uint8), plane]) for plane in one]
    pair[0][:, 150:] = 0  # DensePose looks at the left person
    boxes = [(40, 5, 105, 198), (40 + 150 + gap, 5, 105 + 150 + gap, 198)]
    return one, type(one)(*pair), boxes


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
def test_people_beside_the_one_to_dress_are_left_alone(cloth_type):
    one, pair, boxes = side_by_side(50)
    mask, people = masker_that_sees(pair, boxes).find(np.zeros((200, 350, 3), np.uint8), cloth_type)
    assert people == 2
    assert mask[:, :150].any() and not mask[:, 170:].any()


def test_what_is_apart_but_no_other_person_is_masked_as_published():
    _, pair, boxes = side_by_side(50)
    person, published = np.zeros((200, 350, 3), np.uint8), agnostic_mask(pair, "upper")
    for seen in (boxes[:1], [boxes[0], (150, 0, 170, 200)]):
        assert np.array_equal(masker_that_sees(pair, seen).mask(person, "upper"), published)


def test_the_largest_person_on_request():
    asked = []
    maps = label_maps(150, 200)
    people = People(np.array([[0, 0, 1, 1]], np.float32), 0, maps.densepose)
    masker = masker_that_sees(maps)
    masker.densepose = Says(lambda largest: asked.append(largest) or people)
    masker.mask(person_image(150, 200), "upper", largest=True)
    masker.mask(person_image(150, 200), "upper")
    assert asked == [True, False]


def test_a_callback_runs_between_the_stages_and_can_stop_them():
    maps, person, calls = label_maps(150, 200), person_image(150, 200), []
    masker = masker_that_sees(maps)
    masker.mask(person, "upper", callback=lambda: calls.append(1))
    assert len(calls) == 4

    def stop() -> None:
        calls.pop()
        if not calls:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        masker.mask(person, "upper", callback=stop)


def test_refuses_what_is_no_request():
    masker = masker_that_sees(label_maps(60, 80))
    with pytest.raises(ValueError, match="upper, lower"):
        masker.mask(person_image(60, 80), "tops")
    with pytest.raises(ValueError, match="uint8"):
        masker.mask(person_image(60, 80).astype(np.float32), "upper")


def test_a_host_may_note_the_device_on_the_module():
    masker = masker_that_sees(label_maps(60, 80))
    masker.device = torch.device("cpu")
    assert masker.device == torch.device("cpu")
