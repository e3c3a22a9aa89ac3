"""Gives a sampler its part of the person image, and puts the result back."""

import numpy as np
import torch

from .. import exchange
from ..framing.paste import cut, cut_mask, paste
from ..framing.report import doubts
from ..framing.window import Window, around, bounds, centred
from .results import as_floats
from .tensors import from_uint8, to_pixels
from .token import TOKEN

FRAMINGS = ("person", "model")
FRAMING = (
    list(FRAMINGS),
    {
        "default": FRAMINGS[0],
        "tooltip": "person: the person image's own size, as it was sent outside the mask. model: the sampler's crop "
        "and size.",
    },
)
FEATHER = ("INT", {"default": 12, "min": 0, "max": 256, "tooltip": "Width in pixels of the seam, inside the mask."})
SIDE = {"min": 64, "max": 2048, "step": 8}


class TryOnCrop:
    """Cuts the part of the person image that a sampler is given."""

    DISPLAY_NAME = "Try-on Crop"
    DESCRIPTION = "The part of the person that holds the mask, in the sampler's size and undistorted."
    CATEGORY = "try-on"
    RETURN_TYPES = ("IMAGE", "IMAGE", "TRYON_WINDOW")
    RETURN_NAMES = ("person", "mask", "window")
    OUTPUT_TOOLTIPS = ("For the sampler.", "For the sampler.", "For Try-on Paste.")
    FUNCTION = "crop"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "person": ("IMAGE", {"tooltip": "The whole person image."}),
                "mask": (
                    "IMAGE",
                    {"tooltip": "White where the garment goes, in the person image's frame. Without one, the whole."},
                ),
            },
            "optional": {
                "width": ("INT", {"default": 768, **SIDE, "tooltip": "The sampler's."}),
                "height": ("INT", {"default": 1024, **SIDE, "tooltip": "The sampler's."}),
                "zoom": (
                    ["auto", "off"],
                    {"default": "auto", "tooltip": "auto: takes a smaller part where the mask is small."},
                ),
                "framing": FRAMING,
            },
        }

    def crop(
        self,
        person: torch.Tensor,
        mask: torch.Tensor | None,
        width: int = 768,
        height: int = 1024,
        zoom: str = "auto",
        framing: str = FRAMINGS[0],
    ) -> tuple[torch.Tensor, torch.Tensor | None, Window]:
        whole = to_pixels(person, "person")
        in_full = (whole.shape[1], whole.shape[0])
        if mask is None:  # of a request without one, for a sampler that needs none and fits the whole image itself
            return person, None, Window(0, 0, *in_full)
        white = _white(mask, whole)
        size = (width, height)
        if framing == "model":
            window = centred(in_full, size)
        else:
            window = around(in_full, bounds(white >= 128), size, zoom == "auto")
        seen = from_uint8(cut(whole, window, size))[None]
        area = from_uint8((cut if framing == "model" else cut_mask)(white, window, size))
        return seen, area[None, :, :, None].expand(-1, -1, -1, 3), window


class TryOnPaste:
    """Puts a sampler's result into the person image."""

    DISPLAY_NAME = "Try-on Paste"
    DESCRIPTION = "The result inside the mask, the person's own pixels outside it, in the person image's own frame."
    CATEGORY = "try-on"
    RETURN_TYPES = ("IMAGE", "IMAGE")
    RETURN_NAMES = ("image", "mask")
    FUNCTION = "paste"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "person": ("IMAGE", {"tooltip": "The whole person image."}),
                "result": ("IMAGE", {"tooltip": "What the sampler made of the part."}),
                "mask": ("IMAGE", {"tooltip": "The mask that Try-on Crop was given. Without one, the whole changes."}),
                "window": ("TRYON_WINDOW", {"tooltip": "From Try-on Crop."}),
            },
            "optional": {"framing": FRAMING, "feather": FEATHER},
            "hidden": {**TOKEN["hidden"], "node": ("STRING", {"default": ""})},
        }

    def paste(
        self,
        person: torch.Tensor,
        result: torch.Tensor,
        mask: torch.Tensor | None,
        window: Window,
        framing: str = FRAMINGS[0],
        feather: int = 12,
        token: str = "",
        node: str = "",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before, made = to_pixels(person, "person"), as_floats(result)
        size = (made.shape[2], made.shape[1])
        request = exchange.find(token) if token else None
        if mask is None:
            white, feather = np.full(before.shape[:2], 255, np.uint8), 0
        else:
            white = _white(mask, before)
        if request and mask is not None:
            request.warnings += doubts(white >= 128, window, size)
        seen = window
        if framing == "model":
            before, white = cut(before, window, size), cut(white, window, size)
            window = Window(0, 0, *size)
        if request:
            request.framed[node] = exchange.Framed(seen, before)
        is_given = framing != "model" and person.shape[-1] == 3
        untouched = person.cpu() if is_given else from_uint8(before)[None]
        inside = from_uint8(white)
        pasted = paste(untouched, made, inside, window, feather)
        return pasted, inside[None, :, :, None].expand(-1, -1, -1, 3)


class TryOnRepaint:
    """Puts the result into the untouched person image, at the sampler's crop and size."""

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
            "optional": {"feather": FEATHER},
        }

    def repaint(
        self, person: torch.Tensor, result: torch.Tensor, mask: torch.Tensor, feather: int = 12
    ) -> tuple[torch.Tensor]:
        size = (result.shape[2], result.shape[1])
        # cropped separately, as TryOnCatVTON does
        seen, white = (
            cut(pixels, centred((pixels.shape[1], pixels.shape[0]), size), size)
            for pixels in (to_pixels(person, "person"), to_pixels(mask, "mask", "L"))
        )
        before, area = from_uint8(seen)[None], from_uint8(white)[None, :, :, None]
        return (TryOnPaste().paste(before, result, area, Window(0, 0, *size), feather=feather)[0],)


def _white(mask: torch.Tensor, person: np.ndarray) -> np.ndarray:
    """Returns a mask as uint8 (H, W).

    Raises:
        ValueError: it has another size than `person`, uint8 (H, W, 3).
    """
    white = to_pixels(mask, "mask", "L")
    if white.shape != person.shape[:2]:
        raise ValueError(f"mask is {white.shape[::-1]}, person {person.shape[1::-1]}; both must have one size.")
    return white
