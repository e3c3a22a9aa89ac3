"""The UNet's blocks compute what diffusers' compute: the same bits as they are called on a CPU, nearly so on a GPU."""

import copy

import pytest
import torch
import torch.nn.functional as F
from comfyui_tryon.catvton import blocks
from comfyui_tryon.catvton.checkpoint import fuse_projections, remove_cross_attention
from diffusers import AutoencoderKL, UNet2DConditionModel

CHANNELS = 32, 64, 64, 64


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(in_channels=9, block_out_channels=CHANNELS, cross_attention_dim=8).eval()
    remove_cross_attention(unet)
    fuse_projections(unet)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith("bias") or "norm" in name:  # which would otherwise do nothing
                parameter += torch.randn_like(parameter) / 4
    return unet.requires_grad_(False)


@pytest.fixture
def fast(monkeypatch):
    """Has a CPU take the way of a GPU."""
    monkeypatch.setattr(
        blocks, "is_fast", lambda x: x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )


def run(unet, layout=torch.contiguous_format):
    model_input = torch.randn(2, 9, 32, 16, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    return unet(model_input, torch.tensor(500), encoder_hidden_states=None, return_dict=False)[0]


def with_blocks(unet):
    unet = copy.deepcopy(unet)
    blocks.replace_blocks(unet)
    return unet


def decibels(result, expected):
    error = (result.double() - expected.double()).square().mean()
    return 10 * torch.log10((expected.max() - expected.min()).double() ** 2 / error).item()


def test_on_a_cpu_they_give_diffusers_bits(unet):
    replaced = with_blocks(unet)
    kinds = {type(module).__name__ for module in replaced.modules()}
    assert not kinds & {"ResnetBlock2D", "Transformer2DModel", "GEGLU"}
    assert {"ResidualBlock", "ImageTransformer", "GatedLinear", "PointwiseConv"} <= kinds
    assert set(replaced.state_dict()) == set(unet.state_dict())
    assert torch.equal(run(replaced), run(unet))


def test_in_channels_last_they_compute_the_same_function_and_stay_in_it(unet, fast, monkeypatch):
    replaced = with_blocks(unet).to(memory_format=torch.channels_last)
    copies = []
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda self, **kw: copies.append(1) or contiguous(self, **kw))
    result = run(replaced, torch.channels_last)
    assert result.is_contiguous(memory_format=torch.channels_last) and not copies
    assert decibels(result, run(unet)) > 110


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 130), (torch.float16, 80), (torch.bfloat16, 65)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("is_offset", [False, True])
def test_group_norm_is_torchs(dtype, limit, layout, is_offset):
    generator = torch.Generator().manual_seed(2)
    random = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    # means of channels above the spread within them, and squares above what half precision holds
    x = ((random(2, 64, 24, 16) + 3 * random(2, 64, 1, 1)) * 100).to(dtype).to(memory_format=layout)
    weight, bias = random(64).to(dtype), random(64).to(dtype)
    offset = (random(2, 64) * 100).to(dtype) if is_offset else None
    whole = x.double() if offset is None else x.double() + offset.double()[:, :, None, None]
    expected = F.group_norm(whole, 32, weight.double(), bias.double(), 1e-5)
    result = blocks.group_norm(x, 32, weight, bias, 1e-5, offset)
    assert result.dtype == dtype and result.is_contiguous(memory_format=layout)
    assert decibels(result, expected) > limit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mean_far_from_zero_costs_less_than_the_rounding_of_the_input(dtype):
    generator = torch.Generator().manual_seed(3)
    exact = torch.randn((2, 64, 24, 16), generator=generator, dtype=torch.float64) + 30
    weight, bias = torch.ones(64), torch.zeros(64)
    expected = F.group_norm(exact, 32, weight.double(), bias.double(), 1e-5)
    rounded = F.group_norm(exact.to(dtype).double(), 32, weight.double(), bias.double(), 1e-5)
    result = blocks.group_norm(exact.to(dtype), 32, weight.to(dtype), bias.to(dtype), 1e-5)
    assert decibels(result, rounded) > decibels(rounded, expected)


def test_group_norm_of_a_constant_is_its_bias():
    x, weight, bias = torch.full((1, 8, 4, 4), 3.1), torch.ones(8), torch.arange(8.0)
    result = blocks.group_norm(x, 2, weight, bias, 1e-6)
    assert torch.allclose(result.mean((0, 2, 3)), bias, atol=1e-2) and torch.isfinite(result).all()


def test_the_gated_linear_layer_is_the_same_in_halves():
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 32)
    x = torch.randn(2, 5, 8)
    hidden, gate = layer(x).chunk(2, -1)
    assert torch.allclose(blocks.in_halves(layer, x), hidden * F.gelu(gate), atol=1e-6)


def test_the_vae_is_the_same_with_its_layers_replaced(request):
    torch.manual_seed(0)
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(**kinds, block_out_channels=[16, 32], norm_num_groups=4).eval().requires_grad_(False)
    replaced = copy.deepcopy(vae)
    blocks.replace_layers(replaced)
    assert "PointwiseConv" in {type(module).__name__ for module in replaced.modules()}
    image = torch.rand(1, 3, 32, 16)
    expected = vae.decode(vae.encode(image).latent_dist.mean).sample
    assert torch.equal(replaced.decode(replaced.encode(image).latent_dist.mean).sample, expected)
    request.getfixturevalue("fast")
    replaced.to(memory_format=torch.channels_last)
    mean = replaced.encode(image.to(memory_format=torch.channels_last)).latent_dist.mean
    assert decibels(replaced.decode(mean).sample, expected) > 90


@pytest.mark.parametrize("device, layout", [("cpu", torch.contiguous_format), ("cuda", torch.channels_last)])
def test_the_layout_is_chosen_for_a_gpu_alone(device, layout):
    conv = torch.nn.Conv2d(8, 8, 3).requires_grad_(False)
    with torch.inference_mode():
        assert blocks.take_layout(conv, torch.device(device)) == layout
    assert not conv.weight.is_inference()
    assert conv.weight.is_contiguous(memory_format=layout)


def test_without_cudnn_the_layout_stays(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert blocks.take_layout(torch.nn.Conv2d(8, 8, 3), torch.device("cuda")) == torch.contiguous_format
    monkeypatch.setattr(torch.version, "hip", None)
    with torch.backends.cudnn.flags(enabled=False):
        assert blocks.take_layout(torch.nn.Conv2d(8, 8, 3), torch.device("cuda")) == torch.contiguous_format
