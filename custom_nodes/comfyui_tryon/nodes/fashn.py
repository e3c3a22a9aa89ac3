"""Loads FASHN VTON's weights and dresses a person with them."""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine import current as engine
from ..fashn.pipeline import FashnPipeline, load_pipeline
from ..fashn.sampler import CANVAS, CLASSES, STEPS_MAX, preview, working_memory
from ..weights import search as weights
from ..weights.loaders import LOADERS
from ..weights.reading import reading
from .models import DTYPES, unwrap
from .tensors import from_uint8, to_pixels

DEFAULT_PATH = LOADERS["TryOnLoadFashn"].defaults["fashn_path"]
FASHN_PRECISIONS = ("auto", "fp32", "bf16")
SEEDS = 2**64


class TryOnLoadFashn:
    """Loads the network, the pose estimator and, if it is there, the human parser."""

    DISPLAY_NAME = "Load FASHN VTON"
    DESCRIPTION = (
        "Loads FASHN VTON v1.5, whose weights may be used commercially (Apache-2.0). A human-parser folder beside them "
        "is loaded too; its weights are not for commercial use."
    )
    CATEGORY = "try-on"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("pipe",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "fashn_path": (
                    "STRING",
                    {
                        "default": DEFAULT_PATH,
                        "tooltip": "A folder name under the models folders, an absolute path, or a Hugging Face "
                        "repository id.",
                    },
                ),
            },
            "optional": {
                "mixed_precision": (
                    list(FASHN_PRECISIONS),
                    {"default": FASHN_PRECISIONS[0], "tooltip": "auto: bf16 on a GPU that has it, else fp32."},
                ),
                "compile": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "torch.compile the network: faster steps on a GPU, after a minute."},
                ),
            },
        }

    def load(self, fashn_path: str, mixed_precision: str = FASHN_PRECISIONS[0], compile: bool = False) -> tuple[Any]:
        return (_pipeline(weights.fashn_folder(fashn_path), _dtype(mixed_precision), compile),)


class TryOnFashn:
    """Dresses the person in the garment, with or without a mask."""

    # Parameters of a request that cannot change what it makes: the weights are made for one size.
    FIXED = ("width", "height")

    DISPLAY_NAME = "TryOn by FASHN VTON"
    DESCRIPTION = "Dresses the person in the garment, without a mask, as FASHN VTON v1.5 does."
    CATEGORY = "try-on"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        side = {"min": 12, "max": 2048, "step": 12}
        return {
            "required": {
                "pipe": ("MODEL", {"tooltip": "From Load FASHN VTON."}),
                "person": ("IMAGE", {"tooltip": "The person; fitted whole into the canvas."}),
                "garment": ("IMAGE", {"tooltip": "The garment; fitted whole into the canvas."}),
                "category": (list(CLASSES), {"default": "tops", "tooltip": "What the garment is."}),
                "garment_photo": (
                    ["flat-lay", "model"],
                    {
                        "default": "flat-lay",
                        "tooltip": "model: somebody wears the garment in its image. Needs the human parser, or "
                        "garment_mask.",
                    },
                ),
                "segmentation_free": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "off: hides what the person wears. Needs the human parser, or mask.",
                    },
                ),
                "seed": ("INT", {"default": 42, "min": 0, "max": SEEDS - 1, "control_after_generate": True}),
                "steps": ("INT", {"default": 30, "min": 1, "max": STEPS_MAX, "tooltip": "20 is fast, 50 is best."}),
                "cfg": (
                    "FLOAT",
                    {"default": 1.5, "min": 0.0, "max": 20.0, "step": 0.1, "round": 0.01, "tooltip": "Guidance scale."},
                ),
            },
            "optional": {
                "unguided_last_steps": (
                    "INT",
                    {"default": 1, "min": 0, "max": STEPS_MAX, "tooltip": "Of all steps; each costs half."},
                ),
                "canvas_width": ("INT", {"default": CANVAS[1], **side, "tooltip": "What the weights were made for."}),
                "canvas_height": ("INT", {"default": CANVAS[0], **side, "tooltip": "What the weights were made for."}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4, "tooltip": "Images; their seeds count up."}),
                "mask": (
                    "IMAGE",
                    {"tooltip": "White where the person may change, in its frame. Hides what is worn there."},
                ),
                "garment_mask": (
                    "IMAGE",
                    {"tooltip": "White where the garment is, in its image; for garments that somebody wears."},
                ),
            },
        }

    def generate(
        self,
        pipe: Any,
        person: torch.Tensor,
        garment: torch.Tensor,
        category: str,
        garment_photo: str,
        segmentation_free: bool,
        seed: int,
        steps: int,
        cfg: float,
        unguided_last_steps: int = 1,
        canvas_width: int = CANVAS[1],
        canvas_height: int = CANVAS[0],
        batch_size: int = 1,
        mask: torch.Tensor | None = None,
        garment_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        model = unwrap(pipe, FashnPipeline, "pipe", TryOnLoadFashn.DISPLAY_NAME)
        canvas = (canvas_height, canvas_width)
        element_size = next(model.network.parameters()).element_size()
        engine().load(pipe, working_memory(model.network, canvas, element_size))
        report = engine().progress(steps * batch_size)

        def on_step(step: int, predicted: torch.Tensor | None) -> None:
            report(step, None if predicted is None else partial(preview, predicted))

        images = model(
            to_pixels(person, "person"),
            to_pixels(garment, "garment"),
            category=category,
            garment_photo=garment_photo,
            segmentation_free=segmentation_free,
            num_inference_steps=steps,
            guidance_scale=cfg,
            unguided_last_steps=unguided_last_steps,
            seeds=[(seed + index) % SEEDS for index in range(batch_size)],
            canvas=canvas,
            mask=_area(mask, person, "mask", "person"),
            garment_mask=_area(garment_mask, garment, "garment_mask", "garment"),
            callback=on_step,
        )
        return (from_uint8(images.numpy()),)


def _area(mask: torch.Tensor | None, image: torch.Tensor, name: str, of: str) -> np.ndarray | None:
    """Returns what is white in a mask as bool (H, W), or None without one."""
    if mask is None:
        return None
    white = to_pixels(mask, name, "L") >= 128
    if white.shape != image.shape[1:3]:
        raise ValueError(
            f"{name} is {white.shape[::-1]}, {of} {image.shape[2], image.shape[1]}; both must have one size."
        )
    return white


def _dtype(precision: str) -> torch.dtype:
    """Returns the dtype of one of `FASHN_PRECISIONS`: bfloat16, as published, where the GPU computes in it itself."""
    device = engine().device()
    if precision == "auto":
        has_it = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        precision = "bf16" if has_it else "fp32"
    return DTYPES[precision]


# Shared by all workflows, because ComfyUI's own cache forgets a loader's output as soon as another workflow runs.
@lru_cache(maxsize=2)
def _pipeline(folder: Path, dtype: torch.dtype, compile: bool) -> Any:
    with reading("fashn"):
        return engine().hold(load_pipeline(folder, dtype, compile))
