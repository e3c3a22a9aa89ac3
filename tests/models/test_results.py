"""What nodes of any pack may deliver: an image of the right look, or an error that says what came."""

import numpy as np
import pytest
import torch
from comfyui_tryon.nodes.results import BadResult, results

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
IMAGE = torch.from_numpy(PIXELS.astype(np.float32) / 255)[None]
GREY = IMAGE[..., :1]
HALF = torch.full_like(GREY, 0.5)


def flattened(pixels: np.ndarray, alpha: float) -> np.ndarray:
    return np.rint(pixels * alpha + 255 * (1 - alpha))


GREYS = np.repeat(PIXELS[..., :1], 3, 2)
GOOD = {
    "three channels": (IMAGE, PIXELS, 0),
    "one channel": (GREY, GREYS, 0),
    "grey with alpha": (torch.cat([GREY, HALF], -1), flattened(GREYS, 0.5), 1),
    "alpha": (torch.cat([IMAGE, HALF], -1), flattened(PIXELS, 0.5), 1),
    "opaque": (torch.cat([IMAGE, torch.ones_like(GREY)], -1), PIXELS, 0),
    "clear": (torch.cat([IMAGE * 0, torch.zeros_like(GREY)], -1), np.full_like(PIXELS, 255), 0),
    "no batch": (IMAGE[0], PIXELS, 0),
    "no batch, alpha": (torch.cat([IMAGE, HALF], -1)[0], flattened(PIXELS, 0.5), 1),
    "half": (IMAGE.half(), PIXELS, 1),
    "bfloat16": (IMAGE.bfloat16(), PIXELS, 1),
    "float64": (IMAGE.double(), PIXELS, 0),
    "uint8": (torch.from_numpy(PIXELS)[None], PIXELS, 0),
    "bool": (IMAGE > 0.5, (PIXELS > 127) * 255, 0),
    "NumPy": (IMAGE.numpy(), PIXELS, 0),
    "NumPy uint8": (PIXELS[None], PIXELS, 0),
    "with a gradient": (IMAGE.clone().requires_grad_(), PIXELS, 0),
    "not contiguous": (IMAGE.flip(2), PIXELS[:, ::-1], 0),
    "a view of channels first": (IMAGE.movedim(-1, 1).contiguous().movedim(1, -1), PIXELS, 0),
    "a list": ([IMAGE], PIXELS, 0),
    "a little out of range": ((IMAGE * 1.1 - 0.05), np.clip(np.rint(PIXELS * 1.1 - 12.75), 0, 255), 1),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_image_has_its_right_look(name):
    delivered, expected, tolerance = GOOD[name]
    (image,) = results(delivered)
    assert image.dtype == np.uint8 and image.shape == (12, 9, 3)
    assert np.abs(image.astype(int) - expected).max() <= tolerance


def test_images_of_different_sizes_come_in_their_order():
    small, batch = torch.zeros(1, 4, 5, 3), torch.ones(2, 6, 7, 3)
    assert [image.shape for image in results([small, batch, small[0]])] == [(4, 5, 3), (6, 7, 3), (6, 7, 3), (4, 5, 3)]


def test_few_values_far_out_of_range_are_clipped():
    image = IMAGE.clone()
    image[0, 0, 0] = torch.tensor([7.0, -3.0, 1.0])
    assert results(image)[0][0, 0].tolist() == [255, 0, 255]


BAD = {
    "nothing": (None, "no tensor"),
    "text": ("an image", "no tensor"),
    "no list of tensors": ([None], "no tensor"),
    "an empty list": ([], "no images"),
    "an empty batch": (IMAGE[:0], "no images"),
    "five channels": (IMAGE[..., [0, 1, 2, 0, 1]], r"\(1, 12, 9, 5\)"),
    "no channels": (IMAGE[..., :0], r"\(1, 12, 9, 0\)"),
    "no rows": (IMAGE[:, :0], r"\(1, 0, 9, 3\)"),
    "channels first": (IMAGE.movedim(-1, 1), r"\(1, 3, 12, 9\)"),
    "a video": (IMAGE[None], r"\(1, 1, 12, 9, 3\)"),
    "a mask": (IMAGE[..., 0], r"\(1, 12, 9\)"),
    "one row": (IMAGE[0, :, 0], r"\(12, 3\)"),
    "one number": (torch.tensor(1.0), r"\(\)"),
    "integers": (IMAGE.int(), "int32"),
    "complex": (IMAGE.to(torch.complex64), "complex64"),
    "objects": (np.full((1, 4, 4, 3), None), "object"),
    "not a number": (IMAGE * float("nan"), "not numbers"),
    "one that is not a number": (torch.where(IMAGE == IMAGE.max(), float("nan"), IMAGE), "not numbers"),
    "infinite": (torch.where(IMAGE == IMAGE.max(), float("inf"), IMAGE), "infinite"),
    "0 to 255": (IMAGE * 255, "from 0 to 255"),
    "-1 to 1": (IMAGE * 2 - 1, "from -1 to 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_said(name):
    delivered, words = BAD[name]
    with pytest.raises(BadResult, match=words):
        results(delivered)
