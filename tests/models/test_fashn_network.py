"""The network and the sampler compute the published function, and refuse weights that are not FASHN VTON's."""

import json
import re

import numpy as np
import pytest
import torch
from comfyui_tryon.fashn import sampler
from comfyui_tryon.fashn.blocks import Sizes
from comfyui_tryon.fashn.checkpoint import load_network
from comfyui_tryon.fashn.network import FashnNetwork
from comfyui_tryon.masker.checkpoints import CheckpointError
from PIL import Image
from safetensors.torch import load_file, save_file
from support import tiny_fashn
from support.fashn_reference import PublishedFashn
from support.images import psnr
from support.parity import PHOTOGRAPHS

REFERENCE = PHOTOGRAPHS / "fashn"
CANVAS = 48, 36
CLOSE = 2e-5

published_results = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"NO PHOTOGRAPHS IN {REFERENCE}: the sampler is not compared with published results"
)


@pytest.fixture(scope="module")
def weights():
    return tiny_fashn.weights()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return load_network(tiny_fashn.write(tmp_path_factory.mktemp("fashn")))


@pytest.fixture(scope="module")
def conditions():
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(1, 4, *CANVAS, generator=generator) * 2 - 1 for _ in range(2)]


def sample(network, conditions, category=2, seed=5, **options):
    options = dict(steps=4, guidance_scale=1.5) | options
    with torch.inference_mode():
        return sampler.denoise(network, *conditions, category, sampler.noise(seed, CANVAS), **options)


def published(weights, conditions, steps=4, guidance=1.5, last=1, category=2, dtype=torch.float32):
    plain = PublishedFashn({name: tensor.to(dtype) for name, tensor in weights.items()}, 6, 32)
    return plain.sample(*conditions, category, sampler.noise(5, CANVAS), steps, guidance, last)


@pytest.mark.parametrize("guidance, last, steps", [(1.0, 1, 3), (1.5, 1, 4), (4.0, 0, 3), (1.5, 9, 2), (0.0, 0, 2)])
def test_it_is_the_published_function(network, weights, conditions, guidance, last, steps):
    expected = published(weights, conditions, steps, guidance, last)
    raw = sample(network, conditions, steps=steps, guidance_scale=guidance, unguided_last_steps=last)
    assert (raw - expected).abs().max() < CLOSE * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("mistake", [dict(guidance=2.5), dict(last=0), dict(category=1)])
def test_the_comparison_sees_a_mistake(network, weights, conditions, mistake):
    difference = sample(network, conditions) - published(weights, conditions, **mistake)
    assert difference.abs().max() > 50 * CLOSE


@published_results
@pytest.mark.parametrize("name", ["tops-worn", "bottoms-masked", "dress-flat"])
def test_results_of_the_published_code(name):
    network, folder = load_network(REFERENCE / "weights"), REFERENCE / "cases" / name
    case = json.loads((folder / "case.json").read_text())
    weight = next(network.parameters())
    images = {
        part: sampler.to_tensor(np.array(Image.open(folder / f"{part}_canvas.png").convert("RGB")), weight)
        for part in ("ca", "garment", "person_pose", "garment_pose")
    }
    generator = torch.Generator().manual_seed(case["seed"])
    noise = torch.randn(case.get("num_samples", 1), 3, *case["canvas"], generator=generator)
    results = np.load(folder / "output.npz")["raw"]
    assert torch.equal(noise[:1], sampler.noise(case["seed"], tuple(case["canvas"])))
    for number, expected in enumerate(results):
        with torch.inference_mode():
            raw = sampler.denoise(
                network,
                torch.cat([images["ca"], images["person_pose"][:, :1]], 1),
                torch.cat([images["garment"], images["garment_pose"][:, :1]], 1),
                sampler.CLASSES[case["category"]],
                noise[number : number + 1],
                steps=case["num_timesteps"],
                guidance_scale=case["guidance_scale"],
                unguided_last_steps=case["skip_cfg_last_n_steps"],
            )
        assert np.abs(raw[0].numpy() - expected).max() < CLOSE
        picture = np.array(Image.open(folder / ("output.png" if number == 0 else f"output-{number}.png")))
        top = (case["canvas"][0] - picture.shape[0]) // 2
        left = (case["canvas"][1] - picture.shape[1]) // 2
        pixels = sampler.to_pixels(raw)[0].numpy()
        cut = pixels[top : top + picture.shape[0], left : left + picture.shape[1]]
        assert psnr(cut, picture) >= 80


@published_results
def test_every_stage_is_the_published_one():
    network, golden = load_network(REFERENCE / "weights"), dict(np.load(REFERENCE / "forward.npz"))
    golden = {name: torch.from_numpy(values) for name, values in golden.items()}
    seen = {}
    for name, module in network.named_modules():
        if name in golden or name == "final_layer.linear":
            module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
    doubled = [
        torch.cat([golden[f"in_{name}"], torch.zeros_like(golden[f"in_{name}"])])
        for name in ("ca_images", "person_poses", "garment_images", "garment_poses")
    ]
    times = golden["in_t"]
    with torch.inference_mode():
        modulations = network.modulations(times, torch.tensor([int(golden["in_garment_categories"]), 0]))
        tokens = network.garment_tokens(torch.cat(doubled[2:], 1))
        person = torch.cat([golden["in_x"].expand(2, -1, -1, -1), *doubled[:2]], 1)
        velocity = network(person, tokens, modulations[0], network.rotary(*CANVAS))
    expected = golden["pe"][0, 0, :, :, 0, 0], golden["pe"][0, 0, :, :, 1, 0]
    assert torch.equal(network.rotary(*CANVAS), torch.stack(expected, dim=-1))
    close = lambda ours, theirs: torch.allclose(ours, theirs, rtol=1e-4, atol=CLOSE)  # noqa: E731
    assert close(network.t_embedder.features(times), golden["time_features"][:1])
    flat = lambda name: golden[name].flatten(2).transpose(1, 2)  # noqa: E731
    assert close(tokens, flat("garment_embedder")) and close(seen["x_embedder"], flat("x_embedder"))
    for number in range(2):
        assert close(seen[f"x_patch_mixer.{number}"], golden[f"x_patch_mixer.{number}"])
        assert close(seen[f"single_blocks.{number}"], golden[f"single_blocks.{number}"])
    assert close(seen["single_blocks.2"], golden["single_blocks.2"][:, 48:])
    assert close(seen["final_layer"], golden["final_layer"])
    assert close(velocity, torch.cat([golden["v_c"], golden["v_u"]]))


def test_bfloat16_rounds_as_published(network, weights, conditions, tmp_path):
    half = load_network(tiny_fashn.write(tmp_path), torch.bfloat16)
    exact, rounded = sample(network, conditions), sample(half, conditions)
    assert rounded.dtype == torch.bfloat16
    theirs = published(weights, conditions, dtype=torch.bfloat16)
    assert (rounded - exact).square().mean() < 1.2 * (theirs - exact).square().mean()
    # a time of bfloat16, whose thousandfold is rounded again
    assert (1000 * torch.tensor([0.866145], dtype=torch.bfloat16)).item() == 868


def test_without_complex_numbers_the_function_is_the_same(network, conditions, monkeypatch):
    expected = sample(network, conditions)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert (sample(network, conditions) - expected).abs().max() < CLOSE * expected.abs().max()


def test_times_start_slowly():
    expected = [0.0, 0.06922778487205505, 0.18242551386356354, 0.4009789526462555, 1.0]
    assert np.abs(np.subtract(sampler.schedule(4), expected)).max() < 1e-7
    assert sampler.schedule(1) == [0.0, 1.0]


def test_the_unguided_steps_and_the_last_block_do_half_the_work(network, conditions):
    rows, lengths = [], []
    hooks = [
        network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0]))),
        network.single_blocks[-1].register_forward_hook(lambda *given: lengths.append(given[2].shape[1])),
    ]
    sample(network, conditions)
    sample(network, conditions, guidance_scale=1.0)
    for hook in hooks:
        hook.remove()
    assert rows == [2, 2, 2, 1] + [1] * 4 and set(lengths) == {48}


def test_what_is_constant_is_computed_once(network, conditions):
    calls = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: calls.append(name))
        for name, module in network.named_modules()
        if name in ("t_embedder", "garment_embedder", "single_blocks.0.modulation.lin")
    ]
    sample(network, conditions, steps=4, guidance_scale=1.0)
    for hook in hooks:
        hook.remove()
    assert sorted(calls) == ["garment_embedder", "single_blocks.0.modulation.lin", "t_embedder"]


def test_the_loop_never_waits_for_the_device():
    """On tensors without data: whatever read a value of one would raise."""
    with torch.device("meta"):
        network = FashnNetwork(tiny_fashn.SIZES)
    conditions = [torch.empty(1, 4, *CANVAS, device="meta")] * 2
    assert sample(network, conditions).shape == (1, 3, *CANVAS)


def test_a_run_ends_within_a_step(network, conditions):
    calls = []

    def stop(step, predicted):
        calls.append(step)
        if calls.count(1) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(network, conditions, steps=50, callback=stop)
    assert set(calls) == {0, 1}


def test_the_last_prediction_is_the_result(network, conditions):
    seen = []
    raw = sample(network, conditions, callback=lambda step, predicted: seen.append((step, predicted)))
    shown = [(step, predicted) for step, predicted in seen if predicted is not None]
    assert [step for step, _ in shown] == [1, 2, 3, 4]
    assert torch.allclose(shown[-1][1], raw, atol=1e-5)
    assert sampler.preview(raw).size == (18, 24)


def test_the_global_generator_is_neither_used_nor_moved(network, conditions):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sample(network, conditions)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, sample(network, conditions))


def test_pixels_are_truncated_and_never_of_no_number():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert sampler.to_pixels(values)[0, 0, :, 0].tolist() == [0, 0, 127, 191, 255, 255]
    with pytest.raises(FloatingPointError, match="mixed_precision"):
        sampler.to_pixels(torch.full((1, 3, 2, 2), torch.nan))


def test_the_published_sizes():
    with torch.device("meta"):
        network = FashnNetwork(Sizes())
    assert sum(parameter.numel() for parameter in network.parameters()) == 971_813_808
    if (REFERENCE / "keys.json").is_file():
        shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        assert shapes | {"patch_mixer_token": [1, 1, 432]} == json.loads((REFERENCE / "keys.json").read_text())


@pytest.fixture
def file(tmp_path):
    return tiny_fashn.write(tmp_path) / "model.safetensors"


def test_the_unused_token_may_be_absent(file, network, conditions):
    weights = load_file(file)
    del weights["patch_mixer_token"]
    save_file(weights, file)
    assert torch.equal(sample(load_network(file.parent), conditions), sample(network, conditions))


def test_missing_and_cut_files_are_refused_by_name(file):
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:7], b"", b"\xff" * 16, b"version https://git-lfs.github.com/spec"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(str(file))):
            load_network(file.parent)
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_network(file.parent)


LAST = "single_blocks.2.linear2.weight"
CHANGES = {
    "missing": (lambda w: w.pop(LAST), LAST),
    "missing number": (lambda w: w.pop("y_embedder.weight"), "y_embedder.weight"),
    "missing block": (
        lambda w: [w.pop(name) for name in list(w) if ".1." in name and name.startswith("single")],
        "lacks",
    ),
    "renamed": (lambda w: w.update({f"model.{LAST}": w.pop(LAST)}), LAST),
    "unknown": (lambda w: w.update({"guidance_in.weight": torch.zeros(2)}), "guidance_in.weight"),
    "another shape": (lambda w: w.update({LAST: torch.zeros(64, 64)}), LAST),
    "another head": (lambda w: w.update({"single_blocks.0.norm.query_norm.scale": torch.zeros(48)}), "heads of 48"),
    "no shape": (lambda w: w.update({"x_embedder.proj.weight": torch.zeros(())}), "x_embedder.proj.weight"),
    "empty": (lambda w: w.update({"x_embedder.proj.weight": torch.zeros(0, 7, 6, 6)}), "x_embedder.proj.weight"),
    "too few classes": (lambda w: w.update({"y_embedder.weight": torch.zeros(2, 64)}), "2 classes"),
    "not a number": (lambda w: w.update({LAST: w[LAST] * torch.nan}), LAST),
    "a distant block": (lambda w: w.update({"double_blocks.99999999999.x": torch.zeros(1)}), "double_blocks"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_are_refused_by_file_and_name(file, change):
    alter, named = CHANGES[change]
    weights = load_file(file)
    alter(weights)
    save_file(weights, file)
    with pytest.raises(CheckpointError) as caught:
        load_network(file.parent)
    assert str(file) in str(caught.value) and named in str(caught.value)
