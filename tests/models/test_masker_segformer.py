"""SegFormer parsers."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_tryon.masker import CLOTH_TYPES, CheckpointError, NoPersonFound, SegformerMasker, base
from comfyui_tryon.masker.agnostic import ATR_LABELS
from support.masker_figures import label_maps, person_image
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

FASHN_LABELS = (
    "background", "face", "hair", "top", "dress", "skirt", "pants", "belt", "bag", "hat", "scarf", "glasses", "arms",
    "hands", "legs", "feet", "torso", "jewelry",
)  # fmt: skip


def save_network(folder, labels=ATR_LABELS):
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 96, "width": 64}}))
    return folder


@pytest.fixture(scope="module")
def atr_folder(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("atr"))


@pytest.fixture
def folder(atr_folder, tmp_path):
    for file in atr_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


class Says(nn.Module):
    """Answers with the given label map, whatever it is shown."""

    def __init__(self, labels: np.ndarray, classes: int = 18) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.logits = nn.functional.one_hot(torch.from_numpy(labels).long(), classes).permute(2, 0, 1)[None].float()

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.logits)


def masker_that_sees(labels: np.ndarray, names=ATR_LABELS) -> SegformerMasker:
    from comfyui_tryon.masker.segformer import _ATR, _FASHN

    known = _ATR if names is ATR_LABELS else _FASHN
    return SegformerMasker(Says(labels), [known[name.lower()] for name in names], (64, 64))


@pytest.mark.parametrize("labels", [ATR_LABELS, FASHN_LABELS], ids=["atr", "fashn"])
@pytest.mark.parametrize("size", [(1, 1), (65, 203), (770, 1023), (2048, 64)])
def test_a_saved_parser_masks_any_size(tmp_path, labels, size):
    masker = SegformerMasker.load(save_network(tmp_path, labels))
    width, height = size
    face = labels.index("Face" if labels is ATR_LABELS else "face")  # an untrained network sees nobody by itself
    with torch.no_grad():
        masker.network.decode_head.classifier.bias[face] += 100
    for cloth_type in CLOTH_TYPES:
        mask = masker.mask(person_image(width, height), cloth_type)
        assert mask.shape == (height, width) and mask.dtype == np.uint8


def test_the_network_sees_the_size_it_was_trained_with(folder):
    masker, seen = SegformerMasker.load(folder), []
    masker.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    with torch.no_grad():
        masker.network.decode_head.classifier.bias[ATR_LABELS.index("Face")] += 100
    masker.mask(np.full((300, 200, 3), 255, np.uint8), "upper")
    assert seen[0].shape == (1, 3, 96, 64)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), white)


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
def test_a_large_image_is_masked_reduced_with_the_outline_of_its_full_size(cloth_type, monkeypatch):
    masker, person = masker_that_sees(label_maps(768, 1024).atr), person_image(1500, 2000)
    reduced = masker.find(person, cloth_type, mask_grow=20).mask
    monkeypatch.setattr(base, "PARSED_SIDE", 2000)
    full = masker.find(person, cloth_type, mask_grow=20).mask
    assert set(np.unique(reduced)) == {0, 255} and reduced.shape == full.shape
    assert ((reduced & full) > 0).sum() / ((reduced | full) > 0).sum() > 0.98


def test_loading_leaves_the_global_generator_alone(folder):
    state = torch.get_rng_state()
    masker = SegformerMasker.load(folder, torch.bfloat16)
    assert torch.equal(state, torch.get_rng_state())
    assert {parameter.dtype for parameter in masker.parameters()} == {torch.bfloat16}


def test_weights_loaded_in_inference_mode_can_be_moved_outside_it(folder):
    with torch.inference_mode():
        masker = SegformerMasker.load(folder)
    assert not any(parameter.is_inference() or parameter.requires_grad for parameter in masker.parameters())


def test_a_bin_file_serves_too(folder):
    weights = SegformerForSemanticSegmentation.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert SegformerMasker.missing_files(folder) == []
    loaded = SegformerMasker.load(folder).network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


class MakeFolder:
    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_bin_file_does_not_run(folder, tmp_path_factory, zipped):
    witness, file = tmp_path_factory.mktemp("witness") / "it-ran", folder / "pytorch_model.bin"
    torch.save({"decode_head.classifier.bias": MakeFolder(witness)}, file, _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="pytorch_model.bin"):
        SegformerMasker.load(folder)
    file.write_bytes(pickle.dumps(MakeFolder(witness)))
    with pytest.raises(CheckpointError, match="pytorch_model.bin"):
        SegformerMasker.load(folder)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", lambda data: data[: len(data) // 2]),
        ("model.safetensors", lambda data: b"not weights at all"),
        ("config.json", lambda data: data[:20]),
        ("config.json", lambda data: b"[]"),
        ("config.json", lambda data: data.replace(b'"segformer"', b'"bert"')),
        ("config.json", lambda data: data.replace(b'"Upper-clothes"', b'"cardigan"')),
        ("config.json", lambda data: data.replace(b'"decoder_hidden_size": 8', b'"decoder_hidden_size": 16')),
        ("preprocessor_config.json", lambda data: b'{"size": {"shortest_edge": 5}}'),
    ],
)
def test_damaged_files_and_other_models(folder, name, change):
    file = folder / name
    before = file.read_bytes()
    file.write_bytes(change(before))
    assert file.read_bytes() != before
    with pytest.raises(CheckpointError) as caught:
        SegformerMasker.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_listed(folder, name):
    (folder / name).unlink()
    assert SegformerMasker.missing_files(folder) == [folder / name]
    with pytest.raises(CheckpointError, match=name):
        SegformerMasker.load(folder)


def test_a_network_with_other_weights_is_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("classifier.weight")))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="classifier.weight"):
        SegformerMasker.load(folder)


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
def test_hands_and_face_are_kept(cloth_type):
    maps = label_maps(300, 400)
    masker = masker_that_sees(maps.atr)
    for options in ({}, {"mask_grow": 20}, {"square": True}):
        mask = masker.mask(person_image(300, 400), cloth_type, **options) > 0
        inner = np.zeros_like(mask)
        inner[2:-2, 2:-2] = True
        # The far half of each hand: how far a hand reaches is an estimate with these labels.
        fingers = np.isin(maps.densepose, (3, 4)) & (np.arange(400)[:, None] > 400 * 0.5) & inner
        face = maps.atr == ATR_LABELS.index("Face")
        assert np.mean(mask[fingers]) < 0.1 and np.mean(mask[face]) < 0.1


def test_a_speck_of_arm_at_the_hem_is_no_hand():
    maps = label_maps(300, 400)
    clean = masker_that_sees(maps.atr).mask(person_image(300, 400), "lower", mask_grow=4)
    atr = maps.atr.copy()
    atr[280:288, 125:133] = ATR_LABELS.index("Right-arm")  # below the hand, farther from the shoulder
    speck = masker_that_sees(atr).mask(person_image(300, 400), "lower", mask_grow=4)
    assert np.array_equal(speck, clean)


def test_arms_and_garment_are_masked():
    maps = label_maps(300, 400)
    mask = masker_that_sees(maps.atr).mask(person_image(300, 400), "upper") > 0
    assert mask[maps.atr == ATR_LABELS.index("Upper-clothes")].all()
    upper_arms = np.isin(maps.densepose, (15, 16)) & np.isin(maps.atr, (14, 15))
    assert np.mean(mask[upper_arms]) > 0.9
    outer = masker_that_sees(maps.atr).mask(person_image(300, 400), "outer") > 0
    assert outer[maps.atr == ATR_LABELS.index("Upper-clothes")].all()


def fashn_map(width: int, height: int) -> np.ndarray:
    """The drawn person in fashn-human-parser's labels."""
    maps = label_maps(width, height)
    names = {"Upper-clothes": "top", "Pants": "pants", "Face": "face", "Hair": "hair"}
    names |= {
        f"{side}-{part}": word
        for side in ("Left", "Right")
        for part, word in (("arm", "arms"), ("leg", "legs"), ("shoe", "feet"))
    }
    table = np.array([FASHN_LABELS.index(names.get(label, "background")) for label in ATR_LABELS], np.uint8)
    labels = table[maps.atr]
    labels[np.isin(maps.densepose, (3, 4)) & (labels == FASHN_LABELS.index("arms"))] = FASHN_LABELS.index("hands")
    return labels


@pytest.mark.parametrize("cloth_type", CLOTH_TYPES)
def test_fashn_labels(cloth_type):
    labels = fashn_map(300, 400)
    mask = masker_that_sees(labels, FASHN_LABELS).mask(person_image(300, 400), cloth_type, mask_grow=1) > 0
    assert not mask[np.isin(labels, [FASHN_LABELS.index(name) for name in ("hands", "face", "hair")])].any()
    worn = {"upper": "top", "lower": "pants", "overall": "pants", "inner": "top", "outer": "top"}[cloth_type]
    assert mask[labels == FASHN_LABELS.index(worn)].all()


@pytest.mark.parametrize(
    "labels", [np.zeros((80, 60), np.uint8), np.full((80, 60), ATR_LABELS.index("Dress"), np.uint8)]
)
def test_an_image_without_a_body_has_nobody(labels):
    with pytest.raises(NoPersonFound, match="no person"):
        masker_that_sees(labels).mask(person_image(60, 80), "upper")


def test_the_largest_figure_on_request():
    one = label_maps(150, 200).atr
    both = np.zeros((200, 350), np.uint8)
    both[:, :150] = one
    both[:100, 250:325] = label_maps(75, 100).atr
    masker, person = masker_that_sees(both), np.zeros((200, 350, 3), np.uint8)
    assert masker.mask(person, "upper")[:, 230:].any()
    assert not masker.mask(person, "upper", largest=True)[:, 200:].any()
    assert masker.mask(person, "upper", largest=True)[:, :150].any()


@pytest.mark.parametrize(
    "other, gap, people",
    [((300, 400), 40, 2), ((180, 240), 40, 2), ((100, 130), 40, 1), ((300, 400), -80, 2), (None, 40, 1)],
    ids=["beside", "smaller", "in the background", "arm in arm", "alone"],
)
def test_people_are_counted_by_their_heads(other, gap, people):
    labels = np.zeros((400, 700), np.uint8)
    labels[:, :300] = label_maps(300, 400).atr
    if other:
        width, height = other
        part = labels[:height, 300 + gap : 300 + gap + width]
        part[:] = np.maximum(part, label_maps(width, height).atr)
    assert masker_that_sees(labels).find(np.zeros((400, 700, 3), np.uint8), "upper").people == people


def test_a_wig_is_nobody():
    labels = np.zeros((400, 700), np.uint8)
    labels[:, :300] = label_maps(300, 400).atr
    labels[:60, 450:550] = ATR_LABELS.index("Hair")
    assert masker_that_sees(labels).find(np.zeros((400, 700, 3), np.uint8), "upper").people == 1


def test_refuses_what_is_no_request():
    masker = masker_that_sees(label_maps(60, 80).atr)
    with pytest.raises(ValueError, match="upper, lower"):
        masker.mask(person_image(60, 80), "tops")
    with pytest.raises(ValueError, match="uint8"):
        masker.mask(person_image(60, 80)[..., 0], "upper")


def test_a_callback_can_stop_it():
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        masker_that_sees(label_maps(60, 80).atr).mask(person_image(60, 80), "upper", callback=stop)
