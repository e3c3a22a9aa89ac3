"""What the demo's models are shown while they are trained."""

import numpy as np
import torch
from attention import LAYERS, Watched
from data import automatic_mask
from drawing import UPPER, draw_pair
from torch import nn
from train import mirrored, reduced

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


def test_the_automatic_mask_covers_what_is_worn_and_spares_the_head():
    pair = draw_pair(3, 192, 256)
    assert pair.cloth_type == "upper"
    mask, labels = np.asarray(automatic_mask(pair, 4)), np.asarray(pair.labels)
    assert (mask[labels == UPPER] > 0).mean() > 0.97
    assert not (mask[labels == 2] > 0).any()
