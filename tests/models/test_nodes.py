"""The nodes' interface: names, inputs and outputs of the published pack, and what ours promise."""

import inspect
import tracemalloc
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from comfyui_tryon import exchange, nodes
from comfyui_tryon.engine import current as engine
from comfyui_tryon.framing.window import Window
from comfyui_tryon.masker import GeometricMasker
from comfyui_tryon.masker.base import GarmentArea
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from comfyui_tryon.nodes.tensors import to_pixels, to_uint8
from PIL import Image

PUBLISHED = {
    "LoadCatVTONPipeline": (["sd15_inpaint_path", "catvton_path", "mixed_precision"], ["MODEL"], ["pipe"]),
    "CatVTON": (
        ["pipe", "target_image", "refer_image", "mask_image", "seed", "steps", "cfg"],
        ["IMAGE"],
        ["image"],
    ),
    "LoadAutoMasker": (["catvton_path"], ["MODEL"], ["pipe"]),
    "AutoMasker": (["pipe", "target_image", "cloth_type"], ["IMAGE", "IMAGE"], ["image", "image_masked"]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_nodes_keep_their_inputs_and_outputs(name):
    required, types, names = PUBLISHED[name]
    cls = NODE_CLASS_MAPPINGS[name]
    assert list(cls.INPUT_TYPES()["required"]) == required
    assert list(cls.RETURN_TYPES) == types and list(cls.RETURN_NAMES) == names


def test_an_absent_optional_input_has_the_value_that_the_web_page_shows():
    for cls in NODE_CLASS_MAPPINGS.values():
        parameters = inspect.signature(getattr(cls, cls.FUNCTION)).parameters
        for name, spec in cls.INPUT_TYPES().get("optional", {}).items():
            shown = spec[1].get("default") if len(spec) > 1 else None
            assert parameters[name].default == shown, f"{cls.__name__}.{name}"


def test_every_node_has_a_name_a_description_and_the_category():
    assert NODE_DISPLAY_NAME_MAPPINGS.keys() == NODE_CLASS_MAPPINGS.keys()
    for cls in NODE_CLASS_MAPPINGS.values():
        assert cls.DESCRIPTION and cls.CATEGORY == "try-on" and callable(getattr(cls, cls.FUNCTION))


@pytest.fixture
def delivered() -> list[np.ndarray]:
    return []


@pytest.fixture
def job(delivered):
    image = np.random.default_rng(0).integers(0, 255, (32, 24, 3), np.uint8)
    with exchange.opened(
        exchange.ImageExchange({"person_image": image}, lambda image, place: delivered.append(image))
    ) as job:
        yield job


def test_a_requests_image_comes_by_token_and_goes_out_unchanged(job, delivered):
    image, *_ = nodes.TryOnPersonImage().load(token=job.token)
    assert image.shape == (1, 32, 24, 3) and image.dtype == torch.float32
    nodes.TryOnOutput().deliver(image, token=job.token)
    assert np.array_equal(delivered[0], job.images["person_image"])


def test_a_token_is_worth_nothing_when_the_request_has_ended(job):
    with exchange.opened(exchange.ImageExchange({}, print)) as other:
        token = other.token
    with pytest.raises(LookupError):
        nodes.TryOnPersonImage().load(token=token)


def test_a_mask_is_not_asked_for_when_the_request_has_ended(job):
    """ComfyUI would log an error; the run itself is stopped before its next node."""
    with exchange.opened(exchange.ImageExchange({}, print)) as other:
        token = other.token
    assert nodes.TryOnMaskImage().check_lazy_status(token=token, automatic=None) == []


def test_an_input_without_an_image_says_what_to_do():
    with pytest.raises(ValueError, match="Choose one"):
        nodes.TryOnGarmentImage().load()
    assert nodes.TryOnGarmentImage.VALIDATE_INPUTS(image="") is True


def test_the_automatic_mask_is_asked_for_only_without_a_mask_of_the_request(job):
    node = nodes.TryOnMaskImage()
    assert node.check_lazy_status(token=job.token, automatic=None) == ["automatic"]
    automatic = torch.ones(1, 32, 24, 3)
    assert node.load(token=job.token, automatic=automatic)[0] is automatic
    job.images["mask_image"] = np.zeros((32, 24, 3), np.uint8)
    assert node.check_lazy_status(token=job.token, automatic=None) == []
    assert node.load(token=job.token)[0].max() == 0


def test_the_geometric_masker_needs_no_weights_and_spares_what_it_should():
    (pipe,) = nodes.LoadAutoMasker().load("zhengchong/CatVTON", "geometric")
    person = torch.full((1, 256, 192, 3), 0.9)
    person[:, 20:240, 70:120] = 0.3
    areas = {}
    for cloth_type in ("upper", "lower", "overall", "inner", "outer"):
        mask, masked = nodes.AutoMasker().generate(pipe, person, cloth_type)
        assert mask.shape == masked.shape == (1, 256, 192, 3)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        outside = mask == 0
        assert torch.equal(masked[outside], person[outside])
        areas[cloth_type] = mask[0, :, :, 0]
    assert areas["upper"][:128].sum() > areas["upper"][128:].sum()
    assert areas["lower"][128:].sum() > areas["lower"][:128].sum()
    assert areas["overall"].sum() > max(areas["upper"].sum(), areas["lower"].sum())
    assert not any(area[:24].any() for area in areas.values())


def test_a_mask_in_the_shape_of_a_box_is_the_square_one():
    (pipe,) = nodes.LoadAutoMasker().load("zhengchong/CatVTON", "geometric")
    person = torch.full((1, 256, 192, 3), 0.9)
    person[:, 20:240, 70:120] = 0.3
    outline, box, square = (
        nodes.AutoMasker().generate(pipe, person, "upper", **options)[0]
        for options in ({}, {"mask_shape": "box"}, {"square": True})
    )
    assert torch.equal(box, square) and (box >= outline).all() and box.sum() > outline.sum()


def test_several_people_are_told_to_the_request(job, monkeypatch):
    (pipe,) = nodes.LoadAutoMasker().load("zhengchong/CatVTON", "geometric")
    for people, warnings in ((1, []), (2, ["several_people"])):
        area = GarmentArea(np.zeros((64, 48), np.uint8), people)
        monkeypatch.setattr(GeometricMasker, "find", lambda *args, area=area, **options: area)
        nodes.AutoMasker().generate(pipe, torch.zeros(1, 64, 48, 3), "upper", token=job.token)
        assert job.warnings == warnings


def test_a_mask_goes_out_where_it_is_wanted_and_has_the_size_of_the_images(job):
    image, mask = torch.zeros(1, 32, 24, 3), torch.zeros(1, 32, 24, 3)
    mask[:, :10] = 0.6
    nodes.TryOnOutput().deliver(image, mask, token=job.token)
    assert job.mask is None
    job.wants_mask = True
    nodes.TryOnOutput().deliver(image, mask, token=job.token)
    assert job.mask[:10].all() and not job.mask[10:].any()
    with pytest.raises(ValueError, match="another size"):
        nodes.TryOnOutput().deliver(image, mask[:, :20], token=job.token)


def test_another_model_in_pipe_is_refused_by_name():
    (masker,) = nodes.LoadAutoMasker().load("zhengchong/CatVTON", "geometric")
    image = torch.zeros(1, 64, 64, 3)
    with pytest.raises(TypeError, match="Load CatVTON Pipeline"):
        nodes.CatVTON().generate(masker, image, image, image, 1, 1, 2.5)
    with pytest.raises(TypeError, match="Load AutoMask Generator"):
        nodes.AutoMasker().generate(object(), image, "upper")


def test_repaint_takes_the_persons_pixels_outside_the_mask():
    generator = torch.Generator().manual_seed(1)
    person = torch.randint(0, 256, (1, 64, 48, 3), generator=generator) / 255.0
    result = torch.rand(2, 64, 48, 3, generator=generator)
    mask = torch.zeros(1, 64, 48, 3)
    mask[:, 20:40, 10:30] = 1
    (painted,) = nodes.TryOnRepaint().repaint(person, result, mask)
    assert painted.shape == result.shape
    for image in painted:
        assert torch.equal(image[mask[0] == 0], person[0][mask[0] == 0])
        assert not torch.equal(image[mask[0] == 1], person[0][mask[0] == 1])


def test_repaint_fits_person_and_mask_as_the_sampler_did():
    """Each is cropped to the result's aspect ratio, of whatever size it is."""
    person, result = torch.zeros(1, 96, 64, 3), torch.ones(1, 64, 64, 3)
    mask = torch.zeros(1, 32, 48, 3)
    mask[:, :16] = 1
    (painted,) = nodes.TryOnRepaint().repaint(person, result, mask, feather=0)
    assert painted[0, :31].min() == 1 and painted[0, 33:].max() == 0


def test_paste_takes_no_mask_of_another_size():
    person, result = torch.zeros(1, 96, 64, 3), torch.ones(1, 96, 64, 3)
    with pytest.raises(ValueError, match=r"mask is \(32, 48\), person \(64, 96\); both must have one size"):
        nodes.TryOnPaste().paste(person, result, torch.ones(1, 48, 32, 3), Window(0, 0, 64, 96))


def test_transparent_inputs_are_flattened():
    """A person on white, a mask on black."""
    image = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]]])
    assert to_pixels(image, "person").tolist() == [[[255] * 3, [0] * 3, [255] * 3]]
    assert to_pixels(image[..., 2:], "person").tolist() == [[[255] * 3, [0] * 3, [255] * 3]]
    assert to_pixels(image, "mask", "L").tolist() == [[0, 0, 255]]
    assert to_pixels(image[..., 0], "mask", "L").tolist() == [[255, 0, 255]], "a MASK"
    (pipe,) = nodes.LoadAutoMasker().load("zhengchong/CatVTON", "geometric")
    mask, masked = nodes.AutoMasker().generate(pipe, torch.zeros(1, 64, 48, 4), "upper")
    assert masked.shape == mask.shape == (1, 64, 48, 3) and (masked[mask == 0] == 1).all()


@pytest.mark.parametrize(
    "image, reason",
    [
        (torch.zeros(1, 64, 48), r"has the shape \(1, 64, 48\); link an IMAGE"),
        (torch.zeros(1, 64, 48, 16), "has the shape .* link an IMAGE"),
        (torch.zeros(2, 64, 48, 3), "has 2 images"),
        (torch.full((1, 64, 48, 3), torch.nan), "has values that are not numbers"),
    ],
)
def test_what_is_no_image_is_refused_by_the_name_of_its_input(image, reason):
    (pipe,) = nodes.LoadAutoMasker().load("zhengchong/CatVTON", "geometric")
    with pytest.raises((ValueError, FloatingPointError), match=f"^target_image {reason}"):
        nodes.AutoMasker().generate(pipe, image, "upper")


def test_a_conversion_to_pixels_takes_little_more_memory_than_the_pixels():
    """The floats of 50 megapixels take 600 MB, which a second copy would double."""
    image = torch.rand(1, 1000, 1000, 3)
    expected = np.rint(image.numpy() * np.float32(255)).astype(np.uint8)
    tracemalloc.start()
    try:
        pixels = to_uint8(image, "image")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(pixels, expected)
    assert peak < pixels.nbytes + 3e6


def test_the_choices_of_an_input_node_follow_its_folder(inputs):
    def choices() -> list[str]:
        return nodes.TryOnPersonImage.INPUT_TYPES()["required"]["image"][0]

    assert "new.PNG" not in choices()
    for name in ("new.PNG", "notes.txt"):
        (inputs / name).write_bytes(b"")
    assert choices()[:2] == ["", "new.PNG"] and "notes.txt" not in choices()
    (inputs / "new.PNG").unlink()
    assert "new.PNG" not in choices()


def cut_out() -> Image.Image:
    """A person whose transparent pixels keep their colours."""
    pixels = np.full((32, 24, 4), (200, 10, 30, 255), np.uint8)
    pixels[8:16, 4:12, 3] = 0
    return Image.fromarray(pixels)


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    (tmp_path / "clipspace").mkdir()
    monkeypatch.setattr(type(engine()), "input_folder", lambda self: tmp_path)
    return tmp_path


# What the mask editors of ComfyUI 0.3.44, 0.3.64 and 0.33 save.
PAINTED = (
    "clipspace/clipspace-mask-184223.5.png",
    "clipspace/clipspace-painted-masked-1764201600000.png",
    "clipspace-painted-masked-1764201600000 (1).png",
)


@pytest.fixture(params=PAINTED)
def painted(request, inputs) -> str:
    """What the page's mask editor saves: the painted pixels are transparent."""
    cut_out().save(inputs / request.param)
    return f"{request.param} [input]"


def test_a_person_without_a_background_is_on_white_and_unpainted(inputs):
    cut_out().save(inputs / "clipspace/person.png")
    person, mask = nodes.TryOnPersonImage().load("clipspace/person.png")
    assert (person[:, 8:16, 4:12] == 1).all() and (person[:, :8] * 255).round().unique().tolist() == [10, 30, 200]
    assert mask.shape == (1, 32, 24) and not mask.any()


def test_the_page_reads_a_person_in_formats_that_pillow_alone_cannot(inputs):
    pillow_heif.from_pillow(cut_out().convert("RGB")).save(inputs / "person.heic")
    person, mask = nodes.TryOnPersonImage().load("person.heic")
    assert person.shape == (1, 32, 24, 3) and not mask.any()


def test_a_painted_mask_leaves_the_colours_and_is_used(painted):
    person, mask = nodes.TryOnPersonImage().load(painted)
    assert (person * 255).round().unique(dim=1).flatten().unique().tolist() == [10, 30, 200]
    assert mask.shape == (1, 32, 24) and mask[0, 8:16, 4:12].all() and mask.sum() == 64
    node = nodes.TryOnMaskImage()
    assert node.check_lazy_status(painted=mask, automatic=None) == []
    (used,) = node.load(painted=mask)
    assert used.shape == (1, 32, 24, 3) and torch.equal(used[..., 0], mask)


def test_strokes_of_the_mask_editors_half_transparent_brush_are_the_mask():
    brush = torch.tensor([[[0.0, 0.1, 0.7, 0.9, 0.0]]])  # its edge, one stroke, and two that overlap
    (used,) = nodes.TryOnMaskImage().load(painted=brush)
    assert used[0, 0, :, 0].tolist() == pytest.approx([0, 2 / 9, 1, 1, 0])


@pytest.mark.parametrize("folder", ["output", "temp"])
def test_a_result_is_chosen_as_the_page_names_it(folder, tmp_path, monkeypatch):
    for number, kind in enumerate(("input", "output", "temp")):
        place = tmp_path / kind
        place.mkdir()
        Image.new("RGB", (16, 16), (number, 0, 0)).save(place / "same.png")
        monkeypatch.setattr(type(engine()), f"{kind}_folder", lambda self, place=place: place)
    Image.new("RGB", (16, 16), (9, 0, 0)).save(tmp_path / "temp/preview.png")
    chosen = nodes.TryOnGarmentImage()
    (image,) = chosen.load(f"same.png [{folder}]")
    assert (image[..., 0] * 255).round().unique().tolist() == [["input", "output", "temp"].index(folder)]
    (preview,) = chosen.load(f"preview.png [{folder}]")
    assert (preview[..., 0] * 255).round().unique().tolist() == [9]
    with pytest.raises(ValueError, match="has no image"):
        chosen.load(f"../input/same.png [{folder}]")


def test_without_paint_the_automatic_mask_is_used(job):
    person, mask = nodes.TryOnPersonImage().load(token=job.token)
    assert mask.shape == person.shape[:3] and not mask.any()
    node, automatic = nodes.TryOnMaskImage(), torch.ones(1, 32, 24, 3)
    assert node.check_lazy_status(token=job.token, painted=mask, automatic=None) == ["automatic"]
    assert node.load(token=job.token, painted=mask, automatic=automatic) == (automatic,)
