"""What the models' benchmarks share: weights of the published sizes, images, and what the figures depend on."""

import os
import platform
import re
from pathlib import Path
from typing import Any

from common import ROOT  # puts this project on the path

# isort: split

import numpy as np
import torch
from comfyui_tryon.catvton import ATTENTION_FOLDERS, CatVTONPipeline, load_pipeline
from comfyui_tryon.demo import checkpoint
from comfyui_tryon.masker import SegformerMasker
from drawing import draw_pair
from PIL import Image

DEMO = ROOT / ".demo/models"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNET = {"in_channels": 9, "cross_attention_dim": 768}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.is_file() else []
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def pictures(width: int, height: int, seed: int = 0) -> tuple[Image.Image, Image.Image, Image.Image]:
    """A drawn person, a garment, and where it goes."""
    pair = draw_pair(seed, width, height)
    return pair.person, pair.garment, pair.mask


def folders(models: Path) -> tuple[Path, Path, Path]:
    """Where `write_published` and the demo keep the base model, the VAE and CatVTON's weights."""
    return models / checkpoint.BASE, models / checkpoint.VAE, models / checkpoint.CATVTON


def demo_pipeline() -> CatVTONPipeline:
    """The sampler with the demo's trained weights."""
    return load_pipeline(*folders(checkpoint.write(DEMO)))


def demo_masker() -> SegformerMasker:
    """The demo's clothes parser."""
    return SegformerMasker.load(checkpoint.write(DEMO) / checkpoint.PARSER)


def write_published(models: Path) -> Path:
    """Random weights with the published names and sizes, in the published files: UNet and VAE fp16, attention fp32."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file

    torch.manual_seed(0)
    base, vae, catvton = folders(models)
    with torch.device(DEVICE):  # a GPU draws them in no time
        unet = UNet2DConditionModel(**UNET)
        keys = checkpoint.attention_keys(list(unet.state_dict()))
        attention = {key: torch.randn(unet.get_parameter(name).shape) * 0.02 for key, name in keys.items()}
    path = catvton / ATTENTION_FOLDERS["mix"] / "attention/model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(attention, path)
    unet.half().save_pretrained(base / "unet", variant="fp16")
    del unet
    with torch.device(DEVICE):
        autoencoder = AutoencoderKL(**VAE)
    with torch.no_grad():  # a posterior without spread: its sample is its mean
        autoencoder.quant_conv.weight[4:] = 0
        autoencoder.quant_conv.bias[4:] = -60
    autoencoder.half().save_pretrained(vae, variant="fp16")
    return models


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB between uint8 images."""
    error = ((a.astype(float) - b) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of uint8 (H, W, 3) images (Wang et al., 2004): Gaussian window, sigma 1.5."""
    from skimage.metrics import structural_similarity

    return structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
