"""FASHN VTON's nodes, and the graph that they stand in."""

import json
import shutil

import numpy as np
import pytest
import torch
from comfyui_tryon.engine import current as engine
from comfyui_tryon.fashn.parser import ParserMissing
from comfyui_tryon.nodes import NODE_CLASS_MAPPINGS, TryOnCatVTON, TryOnCrop, TryOnFashn, TryOnLoadFashn, TryOnPaste
from comfyui_tryon.nodes.tensors import to_uint8
from comfyui_tryon.weights.search import WeightsMissing
from comfyui_tryon.workflows.binding import bind
from comfyui_tryon.workflows.licences import licence_of
from PIL import Image
from support import tiny_fashn
from support.images import psnr
from support.parity import PHOTOGRAPHS
from support.servers import ROOT

REFERENCE = PHOTOGRAPHS / "fashn"
HEIGHT, WIDTH = tiny_fashn.CANVAS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_fashn.write_all(tmp_path_factory.mktemp("fashn"))


@pytest.fixture(scope="module")
def pipe(folder):
    return TryOnLoadFashn().load(str(folder))[0]


@pytest.fixture(scope="module")
def images(pair):
    return [torch.from_numpy(np.array(image) / np.float32(255))[None] for image in (pair.person, pair.garment)]


def dress(pipe, images, category="tops", garment_photo="flat-lay", free=True, **options):
    options = dict(seed=7, steps=1, cfg=1.5, canvas_width=WIDTH, canvas_height=HEIGHT) | options
    return TryOnFashn().generate(pipe, *images, category, garment_photo, free, **options)[0]


def test_the_nodes_have_the_inputs_of_their_contract():
    declared = TryOnFashn.INPUT_TYPES()
    names = "pipe person garment category garment_photo segmentation_free seed steps cfg".split()
    assert list(declared["required"]) == names
    optional = "unguided_last_steps canvas_width canvas_height batch_size mask".split()
    assert list(declared["optional"])[: len(optional)] == optional
    defaults = {key: spec[1].get("default") for kind in declared.values() for key, spec in kind.items()}
    assert {key: defaults[key] for key in ("seed", "steps", "cfg", "canvas_width", "canvas_height")} == {
        "seed": 42, "steps": 30, "cfg": 1.5, "canvas_width": 576, "canvas_height": 864
    }  # fmt: skip
    assert declared["required"]["category"][0] == ["tops", "bottoms", "one-pieces"]


@pytest.mark.parametrize(
    "content", [{}, {"config.json": "{}"}, {"config.json": "{}", "model.safetensors": "version https://git"}]
)
def test_a_human_parser_that_is_not_all_there_is_none(tmp_path, images, caplog, content):
    folder = tiny_fashn.write_all(tmp_path)
    (folder / "human-parser").mkdir()
    for name, text in content.items():
        (folder / "human-parser" / name).write_text(text)
    half = TryOnLoadFashn().load(str(folder))[0]
    assert "human-parser" in caplog.text and "not loaded" in caplog.text
    assert dress(half, images).shape[0] == 1
    with pytest.raises(ParserMissing):
        dress(half, images, garment_photo="model")


@pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"NO PHOTOGRAPHS IN {REFERENCE}: no published results to compare with"
)
@pytest.mark.parametrize("name", ["tops-worn", "bottoms-masked", "dress-flat"])
def test_from_person_and_garment_to_the_published_image(name):
    case, settings = REFERENCE / "cases" / name, json.loads((REFERENCE / "cases" / name / "case.json").read_text())
    read = lambda name: torch.from_numpy(np.array(Image.open(case / name).convert("RGB")) / np.float32(255))[None]  # noqa: E731
    image = dress(
        TryOnLoadFashn().load(str(REFERENCE / "weights"))[0],
        [read("person.png"), read("garment.png")],
        settings["category"],
        settings["garment_photo_type"],
        settings["segmentation_free"],
        seed=settings["seed"],
        steps=settings["num_timesteps"],
        cfg=settings["guidance_scale"],
        unguided_last_steps=settings["skip_cfg_last_n_steps"],
        canvas_width=settings["canvas"][1],
        canvas_height=settings["canvas"][0],
    )
    assert psnr(to_uint8(image[0], "image"), np.array(Image.open(case / "output.png"))) >= 60


def test_the_result_has_the_size_in_which_the_person_fits(pipe, images):
    assert dress(pipe, images).shape == (1, 128, 96, 3)  # of 192 x 256 on a canvas of 96 x 144


def test_several_images_count_their_seeds_up_and_each_is_the_one_its_seed_gives(pipe, images):
    several = dress(pipe, images, seed=2**64 - 1, batch_size=2)
    assert torch.equal(several[1:], dress(pipe, images, seed=0))
    assert not torch.equal(several[0], several[1])


def test_a_mask_hides_what_is_worn_there(pipe, images):
    mask = torch.zeros_like(images[0])
    free = dress(pipe, images, mask=mask)
    assert torch.equal(free, dress(pipe, images))
    mask[:, 80:160, 40:150] = 1
    assert not torch.equal(dress(pipe, images, mask=mask), free)
    assert dress(pipe, images, free=False, mask=mask).shape == free.shape
    with pytest.raises(ValueError, match="one size"):
        dress(pipe, images, mask=mask[:, :100])


def test_what_needs_the_parser_says_so_and_takes_masks_instead(pipe, images):
    white = torch.ones_like(images[1])
    with pytest.raises(ParserMissing, match="garment_photo"):
        dress(pipe, images, garment_photo="model")
    with pytest.raises(ParserMissing, match="segmentation_free"):
        dress(pipe, images, free=False)
    worn = dress(pipe, images, garment_photo="model", garment_mask=white)
    assert not torch.equal(worn, dress(pipe, images)), "the pose of who wears the garment counts"


def test_the_parser_is_used_where_its_folder_is(images, tmp_path):
    (pipe,) = TryOnLoadFashn().load(str(tiny_fashn.write_all(tmp_path / "all", parser=True)))
    assert dress(pipe, images, garment_photo="model", free=False).shape == (1, 128, 96, 3)


def test_a_canvas_of_half_patches_and_too_many_steps_are_refused(pipe, images):
    for options, named in (({"canvas_width": 100}, "canvas_width"), ({"steps": 101}, "num_inference_steps")):
        with pytest.raises(ValueError, match=named):
            dress(pipe, images, **options)


def test_another_model_in_pipe_is_refused_by_name(pipe, images):
    with pytest.raises(TypeError, match="Load FASHN VTON"):
        dress(engine().hold(torch.nn.Identity()), images)
    with pytest.raises(TypeError, match="Load CatVTON"):
        TryOnCatVTON().generate(pipe, *images, images[0], 1, 1, 1.0)


@pytest.mark.parametrize("name", ["model.safetensors", "dwpose/yolox_l.onnx", "dwpose/dw-ll_ucoco_384.onnx"])
def test_missing_and_damaged_files_are_named(folder, tmp_path, name):
    copied = shutil.copytree(folder, tmp_path / "copied")
    whole = (copied / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>not found</html>"):
        (copied / name).write_bytes(content)
        with pytest.raises(ValueError) as caught:
            TryOnLoadFashn().load(str(copied))
        assert str(copied / name) in str(caught.value)
    (copied / name).unlink()
    with pytest.raises(WeightsMissing, match=name):
        TryOnLoadFashn().load(str(copied))


def test_missing_published_weights_come_with_their_command():
    with pytest.raises(WeightsMissing) as caught:
        TryOnLoadFashn().load("fashn-ai/fashn-vton-1.5")
    assert any("--download fashn" in command or "download fashn" in command for command in caught.value.commands)


def test_crop_and_paste_without_a_mask_keep_the_whole_person(images):
    person, result = images[0], torch.rand(1, 128, 96, 3)
    whole, mask, window = TryOnCrop().crop(person, None, 96, 144)
    assert whole is person and mask is None and window == (0, 0, 192, 256)
    pasted, white = TryOnPaste().paste(person, result, None, window)
    assert pasted.shape == person.shape and white.shape == person.shape and white.min() == 1
    own, _ = TryOnPaste().paste(person, result, None, window, framing="model")
    assert torch.equal(own, result)


def graph(**inputs):
    return tiny_fashn.workflow("fashn", **inputs)


def test_a_request_binds_category_and_garment_photo_and_no_size():
    bound = bind("fashn", "1", graph())
    assert not bound.mask_required and bound.gives_mask
    assert bound.parameters["cloth_type"] == [("6", "category")]
    assert bound.parameters["garment_photo"] == [("6", "garment_photo")]
    assert set(bound.parameters["framing"]) == {("5", "framing"), ("7", "framing")}
    assert not {"width", "height", "mask_shape"} & set(bound.parameters)
    for cloth_type, category in (
        ("upper", "tops"),
        ("inner", "tops"),
        ("outer", "tops"),
        ("lower", "bottoms"),
        ("overall", "one-pieces"),
    ):
        assert bound.prompt("t", {"cloth_type": cloth_type})["6"]["inputs"]["category"] == category


@pytest.mark.parametrize(
    "name, licence, commercial",
    [
        ("fashn", "Apache-2.0", True),
        ("catvton", "CC BY-NC-SA 4.0", False),
        ("catvton_mask", "CC BY-NC-SA 4.0", False),
        ("demo", "GPL-3.0-or-later", True),
    ],
)
def test_every_bundled_workflow_states_its_licence(name, licence, commercial):
    described = bind(name, "1", json.loads((ROOT / f"workflows/{name}.json").read_text())).description(False)
    assert licence in described.licence and described.commercial_use is commercial
    assert ("not for commercial use" in described.licence) is not commercial


def test_a_graph_is_commercial_only_if_all_its_models_are():
    class Foreign:
        RETURN_TYPES = ("MODEL", "CLIP")

    classes = NODE_CLASS_MAPPINGS | {"TheirLoader": Foreign}
    assert not licence_of(graph(segmentation_free=False, mask=None), classes).commercial_use
    assert not licence_of(graph(garment_photo="model"), classes).commercial_use
    foreign = licence_of(graph() | {"20": {"class_type": "TheirLoader", "inputs": {"name": "x"}}}, classes)
    assert not foreign.commercial_use and "TheirLoader" in foreign.name
    assert licence_of({"1": {"class_type": "TryOnPersonImage", "inputs": {}}}, classes) is None
    masker = {"class_type": "TryOnLoadAutoMasker", "inputs": {"parser": "schp_densepose"}}
    assert not licence_of(graph() | {"20": masker}, classes).commercial_use
    masker["inputs"]["parser"] = "geometric"
    assert licence_of(graph() | {"20": masker}, classes).commercial_use
