"""Loads maskers and finds with them where a garment goes on a person."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .. import exchange
from ..engine import current as engine
from ..masker import CLOTH_TYPES, GeometricMasker, Masker, SchpDensePoseMasker, SegformerMasker
from ..weights import search as weights
from ..weights.loaders import LOADERS, PARSERS
from ..weights.reading import reading
from .models import dtype, unwrap
from .tensors import from_uint8, to_pixels
from .token import TOKEN

# Those that are loaded from files, by the name that the node has for each.
LOADED: dict[str, type[SchpDensePoseMasker] | type[SegformerMasker]] = {
    "schp_densepose": SchpDensePoseMasker,
    "segformer": SegformerMasker,
}


class TryOnLoadAutoMasker:
    """Loads a masker."""

    DISPLAY_NAME = "Load AutoMask Generator"
    DESCRIPTION = "Loads the parsers that find where a garment goes."
    CATEGORY = "try-on"
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("pipe",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "catvton_path": (
                    "STRING",
                    {
                        "default": LOADERS["TryOnLoadAutoMasker"].defaults["catvton_path"],
                        "tooltip": "Folder with SCHP and DensePose, or of a SegFormer.",
                    },
                )
            },
            "optional": {
                "parser": (
                    list(PARSERS),
                    {
                        "default": PARSERS[0],
                        "tooltip": "schp_densepose: as published. segformer: a SegFormer with clothes labels. "
                        "geometric: body proportions, no weights.",
                    },
                )
            },
        }

    def load(self, catvton_path: str, parser: str = PARSERS[0]) -> tuple[Any]:
        folder = weights.parser_folder(catvton_path, parser) if parser in LOADED else None
        return (_masker(parser, folder, dtype("auto")),)


class TryOnAutoMasker:
    """Finds where a garment goes on a person."""

    DISPLAY_NAME = "Auto Mask Generation"
    DESCRIPTION = "White where a garment of the given type goes on the person; the person with that area greyed."
    CATEGORY = "try-on"
    RETURN_TYPES = ("IMAGE", "IMAGE")
    RETURN_NAMES = ("image", "image_masked")
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "pipe": ("MODEL", {"tooltip": "From Load AutoMask Generator."}),
                "target_image": ("IMAGE", {"tooltip": "The person."}),
                "cloth_type": (list(CLOTH_TYPES), {"default": "upper"}),
            },
            "optional": {
                "mask_grow": (
                    "INT",
                    {
                        "default": 0,
                        "min": -256,
                        "max": 256,
                        "tooltip": "Pixels to widen the mask by; negative narrows it.",
                    },
                ),
                "square": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "The mask's bounding box, so that the old garment's outline is hidden.",
                    },
                ),
                "largest_person": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Of several people, the largest instead of the most certain."},
                ),
                "mask_shape": (
                    ["outline", "box"],
                    {"default": "outline", "tooltip": "box: the same as square."},
                ),
            },
            **TOKEN,
        }

    def generate(
        self,
        pipe: Any,
        target_image: torch.Tensor,
        cloth_type: str,
        mask_grow: int = 0,
        square: bool = False,
        largest_person: bool = False,
        mask_shape: str = "outline",
        token: str = "",
    ) -> tuple[torch.Tensor, torch.Tensor]:
        masker = unwrap(pipe, Masker, "pipe", TryOnLoadAutoMasker.DISPLAY_NAME)
        engine().load(pipe)
        report = engine().progress(1)
        person = to_pixels(target_image, "target_image")
        found = masker.find(
            person,
            cloth_type,
            mask_grow=mask_grow,
            square=square or mask_shape == "box",
            largest=largest_person,
            callback=lambda: report(0),
        )
        mask = found.mask
        if token and found.people > 1:
            exchange.find(token).warnings.append("several_people")
        report(1)
        white = from_uint8(mask)[None, :, :, None].to(target_image.device)
        shown = target_image if target_image.shape[-1] == 3 else from_uint8(person)[None].to(target_image.device)
        masked = torch.where(white >= 0.5, 0.5, shown)
        return white.expand(-1, -1, -1, 3), masked


# Shared by all workflows, because ComfyUI's own cache forgets a loader's output as soon as another workflow runs.
@lru_cache(maxsize=2)
def _masker(parser: str, folder: Path | None, dtype: torch.dtype) -> Any:
    if folder is None:
        return engine().hold(GeometricMasker())
    with reading(parser):
        return engine().hold(LOADED[parser].load(folder, dtype))
