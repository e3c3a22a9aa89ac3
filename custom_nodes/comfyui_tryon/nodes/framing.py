"""Fits the sampler's result into the person image."""

import numpy as np
import torch

from ..catvton.processing import mask_to_tensor, repaint, resize_and_crop
from .tensors import from_uint8, to_pil


class TryOnRepaint:
    """Puts the result into the untouched person image."""

    DISPLAY_NAME = "Try-on Repaint"
    DESCRIPTION = "The result inside the mask, the person's own pixels outside it."
    CATEGORY = "try-on"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "repaint"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "person": ("IMAGE", {"tooltip": "The person as given to TryOn by CatVTON."}),
                "result": ("IMAGE", {"tooltip": "What TryOn by CatVTON made of it."}),
                "mask": ("IMAGE", {"tooltip": "The mask it was given."}),
            },
            "optional": {
                "feather": (
                    "INT",
                    {"default": 12, "min": 0, "max": 256, "tooltip": "Width in pixels of the seam, inside the mask."},
                )
            },
        }

    def repaint(
        self, person: torch.Tensor, result: torch.Tensor, mask: torch.Tensor, feather: int = 12
    ) -> tuple[torch.Tensor]:
        # cropped as the sampler crops them, so that pixels outside the mask are those it saw
        size = (result.shape[2], result.shape[1])
        untouched = from_uint8(np.array(resize_and_crop(to_pil(person, "person"), size)))[None]
        inside = mask_to_tensor(resize_and_crop(to_pil(mask, "mask").convert("L"), size))[0, 0]
        return (repaint(untouched, result.cpu(), inside, feather),)
