"""Loads CatVTON's weights and dresses a person with them."""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from ..catvton.checkpoint import load_pipeline
from ..catvton.pipeline import MOST_STEPS, SCHEDULERS, SEED_LIMIT, CatVTONPipeline, preview, working_memory
from ..engine import current as engine
from ..weights import search as weights
from ..weights.loaders import ATTENTION_VERSIONS, LOADERS, PRECISIONS
from ..weights.reading import reading
from .models import dtype, unwrap
from .tensors import from_uint8, to_pil

DEFAULTS = LOADERS["TryOnLoadCatVTON"].defaults


class TryOnLoadCatVTON:
    """Loads CatVTON's weights onto a base inpainting model."""

    DISPLAY_NAME = "Load CatVTON Pipeline"
    DESCRIPTION = "Loads CatVTON: a Stable Diffusion inpainting model with CatVTON's attention weights."
    CATEGORY = "try-on"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("pipe",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        path = "A folder name under the models folders, an absolute path, or a Hugging Face repository id."
        return {
            "required": {
                "sd15_inpaint_path": (
                    "STRING",
                    {"default": DEFAULTS["sd15_inpaint_path"], "tooltip": f"The base model. {path}"},
                ),
                "catvton_path": (
                    "STRING",
                    {"default": DEFAULTS["catvton_path"], "tooltip": f"CatVTON's weights. {path}"},
                ),
                "mixed_precision": (
                    list(PRECISIONS),
                    {"default": PRECISIONS[0], "tooltip": "auto: fp16 on a CUDA GPU, else fp32."},
                ),
            },
            "optional": {
                "attention_version": (
                    list(ATTENTION_VERSIONS),
                    {
                        "default": ATTENTION_VERSIONS[0],
                        "tooltip": "mix dresses everything; the others are trained on one data set.",
                    },
                ),
                "vae_path": ("STRING", {"default": DEFAULTS["vae_path"], "tooltip": f"The VAE. {path}"}),
                "compile": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "torch.compile the UNet: faster steps on a GPU, after minutes for each new size.",
                    },
                ),
            },
        }

    def load(
        self,
        sd15_inpaint_path: str,
        catvton_path: str,
        mixed_precision: str = PRECISIONS[0],
        attention_version: str = ATTENTION_VERSIONS[0],
        vae_path: str = DEFAULTS["vae_path"],
        compile: bool = False,
    ) -> tuple[Any]:
        folders = weights.pipeline_folders(sd15_inpaint_path, vae_path, catvton_path, attention_version)
        return (_pipeline(*folders, attention_version, dtype(mixed_precision), compile),)


class TryOnCatVTON:
    """Dresses the person in the garment, inside the mask."""

    DISPLAY_NAME = "TryOn by CatVTON"
    DESCRIPTION = "Dresses the person of target_image in the garment of refer_image where mask_image is white."
    CATEGORY = "try-on"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        side = {"min": 64, "max": 2048, "step": 8}
        share = {"min": 0.0, "max": 1.0, "step": 0.05, "round": 0.001}
        return {
            "required": {
                "pipe": ("MODEL", {"tooltip": "From Load CatVTON Pipeline."}),
                "target_image": ("IMAGE", {"tooltip": "The person; cropped to the result's aspect ratio."}),
                "refer_image": ("IMAGE", {"tooltip": "The garment; fitted whole on white."}),
                "mask_image": ("IMAGE", {"tooltip": "White where the garment goes, in the person image's frame."}),
                "seed": ("INT", {"default": 42, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
                "steps": ("INT", {"default": 50, "min": 1, "max": MOST_STEPS, "tooltip": "Denoising steps."}),
                "cfg": (
                    "FLOAT",
                    {"default": 2.5, "min": 0.0, "max": 20.0, "step": 0.1, "round": 0.01, "tooltip": "Guidance scale."},
                ),
            },
            "optional": {
                "width": ("INT", {"default": 768, **side}),
                "height": ("INT", {"default": 1024, **side}),
                "mask_blur": (
                    "INT",
                    {"default": 9, "min": 0, "max": 64, "tooltip": "Rounds the mask's outline; 9 as published."},
                ),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4, "tooltip": "Images; their seeds count up."}),
                "scheduler": (
                    list(SCHEDULERS),
                    {
                        "default": "ddim",
                        "tooltip": "ddim: as published. The others need fewer steps; their image differs.",
                    },
                ),
                "guidance_start": (
                    "FLOAT",
                    {**share, "default": 0.0, "tooltip": "Steps before this part of all go unguided, for half."},
                ),
                "guidance_end": (
                    "FLOAT",
                    {**share, "default": 1.0, "tooltip": "Steps from this part of all on go unguided."},
                ),
            },
        }

    def generate(
        self,
        pipe: Any,
        target_image: torch.Tensor,
        refer_image: torch.Tensor,
        mask_image: torch.Tensor,
        seed: int,
        steps: int,
        cfg: float,
        width: int = 768,
        height: int = 1024,
        mask_blur: int = 9,
        batch_size: int = 1,
        scheduler: str = "ddim",
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
    ) -> tuple[torch.Tensor]:
        model = unwrap(pipe, CatVTONPipeline, "pipe", TryOnLoadCatVTON.DISPLAY_NAME)
        element_size = next(model.unet.parameters()).element_size()
        engine().load(pipe, working_memory(width, height, element_size, engine().device(), batch_size))
        report = engine().progress(steps * batch_size)

        def on_step(step: int, latents: torch.Tensor | None) -> None:
            report(step, None if latents is None else partial(preview, latents))

        images = model(
            to_pil(target_image, "target_image"),
            to_pil(refer_image, "refer_image"),
            to_pil(mask_image, "mask_image"),
            num_inference_steps=steps,
            guidance_scale=cfg,
            seeds=[(seed + index) % SEED_LIMIT for index in range(batch_size)],
            width=width,
            height=height,
            mask_blur=mask_blur,
            scheduler=scheduler,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
            callback=on_step,
        )
        return (from_uint8(images.numpy()),)


# Shared by all workflows, because ComfyUI's own cache forgets a loader's output as soon as another workflow runs.
@lru_cache(maxsize=2)
def _pipeline(base: Path, vae: Path, catvton: Path, attention_version: str, dtype: torch.dtype, compile: bool) -> Any:
    with reading("catvton"):
        return engine().hold(load_pipeline(base, vae, catvton, attention_version, dtype, compile))
