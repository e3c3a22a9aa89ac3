"""What the demo's models are shown while they are trained."""

import dataclasses
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attention import LAYERS, MANY, TAUGHT, Taught, Watched, attend
from camera import photographed
from data import ahead, automatic_mask, sources_path
from decoder import DecoderStage, train_decoder
from drawing import UPPER, draw_pair
from latents import Latents, encode_shards, mirrored, reduced
from PIL import Image
from run import Machine, Run
from torch import nn
from unet import leaning_on_pass_through, new_unet
from vae import keep, new_vae

HEIGHT, WIDTH = 4, 3


class Attentive(nn.Module):
    """Layers whose every token has a query and a key of its own, all over the person and then the garment."""

    def __init__(self, looks_at: torch.Tensor) -> None:
        super().__init__()
        self.looks_at = looks_at  # for each token the one whose key is like its query
        for layer in LAYERS:
            holder: nn.Module = self
            for name in (*layer.split("."), "transformer_blocks", "0", "attn1"):
                if not hasattr(holder, name):
                    holder.add_module(name, nn.Module())
                holder = getattr(holder, name)
            holder.to_q, holder.to_k = nn.Identity(), nn.Identity()

    def forward(self) -> None:
        keys = 20.0 * torch.eye(len(self.looks_at))
        for layer in LAYERS:
            attention = self.get_submodule(f"{layer}.transformer_blocks.0.attn1")
            attention.to_q(keys[self.looks_at][None])
            attention.to_k(keys[None])


def test_attention_is_shown_the_garment_and_left_alone_elsewhere():
    cells = HEIGHT * WIDTH
    sources = torch.full((1, HEIGHT, WIDTH), -1)
    sources[0, 1] = torch.tensor([7, 3, 11])
    right = torch.arange(2 * cells)
    right[WIDTH : 2 * WIDTH] = cells + sources[0, 1]
    losses = []
    for looks_at in (right, right.roll(1), torch.arange(2 * cells)):
        unet = Attentive(looks_at)
        watched = Watched(unet)
        unet()
        losses.append(watched.loss(sources).item())
        assert watched.loss(torch.full_like(sources, -1)) == 0
    assert losses[0] < 0.2 * min(losses[1:])


def test_some_queries_teach_and_the_result_is_that_of_all():
    torch.manual_seed(0)
    side = int((MANY / 2) ** 0.5) + 1
    tokens, width = 2 * side * side, 8
    mask = torch.zeros(2, 1, side, side)
    mask[:, :, 4:12, 5:20] = 1
    hidden = torch.randn(2, tokens, width)
    taught, attention = Taught(), SelfAttention(width)
    taught.choose(mask)
    learned = hidden.clone().requires_grad_()
    result = taught(attention, learned)
    expected = attend(attention.to_q(hidden), attention.to_k(hidden), attention.to_v(hidden))
    assert torch.allclose(result, expected, atol=1e-5)

    queries = attention.to_q(hidden).detach().requires_grad_()
    attention.to_q.register_forward_hook(lambda *_: queries)
    taught(attention, hidden).square().sum().backward()
    reached = queries.grad.abs().sum(-1) > 0
    assert reached.sum(1).tolist() == [round(TAUGHT * tokens)] * 2
    assert reached[:, : side * side][mask.flatten(1) > 0].float().mean() > 0.8


class SelfAttention(nn.Module):
    """The parts of diffusers' attention that a processor uses, with one head and nothing at the end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in "qkv")
        self.to_out = nn.ModuleList([nn.Identity(), nn.Identity()])


def test_mirrored_and_reduced_sources_are_those_of_such_images():
    sources = torch.full((1, HEIGHT, WIDTH), -1)
    sources[0, 1, 0] = 2 * WIDTH  # row 1, column 0 has its source in row 2, column 0
    assert mirrored(sources)[0, 1].tolist() == [-1, -1, 2 * WIDTH + WIDTH - 1]
    assert torch.equal(mirrored(mirrored(sources)), sources)
    pair = draw_pair(2, 192, 256)
    half = reduced(torch.from_numpy(pair.sources)[None], 2)[0].numpy()
    smaller = draw_pair(2, 96, 128).sources
    both = (half >= 0) & (smaller >= 0)
    assert both.sum() > 10
    far = [np.abs(half[both] // 12 - smaller[both] // 12), np.abs(half[both] % 12 - smaller[both] % 12)]
    assert np.max(far) <= 1


def test_latents_grow_by_shards_and_are_encoded_once(machine, shards, monkeypatch):
    vae = new_vae().eval().requires_grad_(False)
    keep(machine, vae)
    encode_shards(dataclasses.replace(machine, shards=1))
    latents = Latents(machine, vae.config.scaling_factor, 2)
    first = latents.tensors
    encode_shards(machine)
    latents.extend()
    latents.extend()
    assert {name: tensor.shape for name, tensor in latents.tensors.items()} == {
        **dict.fromkeys(("masked", "garment", "worn"), (8, 4, 4, 3)),
        "mask": (8, 1, 4, 3),
        "sources": (8, 4, 3),
    }
    assert all(torch.equal(latents.tensors[name][:4], tensor) for name, tensor in first.items())
    monkeypatch.setattr("latents.encoded", None)  # is not asked again
    encode_shards(machine)
    again = Latents(machine, vae.config.scaling_factor, 2)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in latents.tensors.items())
    batch = latents.batch(3)
    assert batch["worn"].dtype == torch.float32 and batch["sources"].dtype == torch.int64
    reached = (latents.tensors["worn"].float() * vae.config.scaling_factor)[:, None] == batch["worn"]
    assert reached.flatten(2).all(2).any(0).all()


def test_pairs_that_nobody_encodes_are_not_waited_for(machine):
    with pytest.raises(RuntimeError, match="encodes"):
        Latents(machine, 1.0, 1)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    (tmp_path / "pairs").mkdir()
    return Machine(tmp_path / "pairs", tmp_path, torch.device("cpu"), bfloat16=False, shards=2)


@pytest.fixture
def shards(machine):
    """Two of four pairs of 48 x 64 pixels."""
    rng = np.random.default_rng(0)
    for shard in range(2):
        np.save(machine.pairs / f"{shard:03}.npy", rng.integers(0, 256, (4, 64, 48, 11), np.uint8))
        np.save(sources_path(machine.pairs, shard), np.full((4, 8, 6), shard, np.int16))


def test_the_decoder_learns_from_what_the_unet_makes_and_the_encoder_stays(machine, shards, monkeypatch):
    vae, unet = new_vae().eval().requires_grad_(False), new_unet().eval().requires_grad_(False)
    keep(machine, vae)
    encode_shards(machine)
    monkeypatch.setattr("decoder.ON_CPU", DecoderStage(steps=2, batch=4, shards=2, rate=1e-3))
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    train_decoder(machine, vae, unet)
    after = vae.state_dict()
    changed = {name.split(".")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_a_camera_takes_person_and_worn_alike():
    rng = np.random.default_rng(1)
    person = Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8))
    worn = person.copy()
    worn.paste((200, 30, 30), (16, 16, 32, 32))
    taken, garment, worn_taken = (np.asarray(one, int) for one in photographed(rng, person, person, worn))
    difference = np.abs(taken - worn_taken).max(-1)
    assert not difference[56:].any() and not difference[:, 56:].any()  # JPEG's blocks and the blur reach no further
    assert np.abs(taken - garment).mean() > 3 and np.abs(taken - np.asarray(person, int)).mean() > 3


def test_a_run_ends_when_its_minutes_are_over(machine, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("run.time", SimpleNamespace(monotonic=lambda: next(clock), strftime=time.strftime))
    run = Run(machine, "line", nn.Linear(3, 1), 200, 0.1, 0.9, minutes=0.1)
    while not run.is_over:
        run.update(lambda points: run.model(points).square().mean(), torch.randn(8, 3))
    assert run.step == 6  # of a second each, from the first one's start
    assert Run(machine, "line", nn.Linear(3, 1), 200, 0.1, 0.9, minutes=0.1).is_over


def test_a_run_goes_on_where_it_stopped(machine, tmp_path, monkeypatch):
    monkeypatch.setattr("run.SAVE_EVERY_S", 0)

    def trained(output, *stops: int) -> nn.Module:
        for stop in stops:
            torch.manual_seed(0)
            run = Run(dataclasses.replace(machine, output=output), "line", nn.Linear(3, 1), 200, 0.1, 0.9)
            assert run.step == (120 if stop != stops[0] else 0)
            while run.step < stop:
                torch.manual_seed(machine.seed(run.step))
                run.update(partial(missed, run.model), torch.randn(8, 3))
        assert run.losses[-1] < 0.01 < run.losses[0]
        return run.averaged()

    def missed(model: nn.Module, points: torch.Tensor) -> torch.Tensor:
        return (model(points) - points.sum(1, keepdim=True)).square().mean()

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, parts = trained(tmp_path / "whole", 200), trained(tmp_path / "parts", 130, 200)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], tensor)


def test_batches_are_made_ahead_and_in_order():
    asked = []

    def make(step: int) -> int:
        asked.append(step)
        return step * step

    made = ahead(make, range(5, 8))
    assert next(made) == 25
    assert [*made] == [36, 49]
    assert asked == [5, 6, 7]
    assert [*ahead(make, range(3, 3))] == []
    assert [*ahead(make, range(5, 8), workers=2)] == [25, 36, 49]
    assert [*ahead(make, range(5, 8), workers=9)] == [25, 36, 49]


def test_leaning_on_the_pass_through_changes_no_result_and_happens_once():
    unet, latents = new_unet().eval(), torch.randn(1, 9, 16, 8)
    with torch.inference_mode():
        for parameter in unet.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        before = unet(latents, 500, None).sample
        weights = leaning_on_pass_through(unet.state_dict())
        changed = [name for name, tensor in unet.state_dict().items() if not torch.equal(tensor, weights[name])]
        again = leaning_on_pass_through(weights)
        unet.load_state_dict(weights)
        assert torch.allclose(unet(latents, 500, None).sample, before, atol=1e-3 * before.abs().max())
    assert len(changed) == 2 * 18
    assert all(torch.allclose(tensor, again[name], atol=1e-5) for name, tensor in weights.items())


def test_the_automatic_mask_covers_what_is_worn_and_spares_the_head():
    pair = draw_pair(3, 192, 256)
    assert pair.cloth_type == "upper"
    mask, labels = np.asarray(automatic_mask(pair, 4)), np.asarray(pair.labels)
    assert (mask[labels == UPPER] > 0).mean() > 0.97
    assert not (mask[labels == 2] > 0).any()
