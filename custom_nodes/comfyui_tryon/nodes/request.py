"""Takes a request's images into a graph, by token, and hands the results back."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .. import exchange, images
from ..decoding import mask
from ..engine import current as engine
from .results import BadResult, results
from .tensors import from_uint8
from .token import TOKEN

# Which of the graph's outputs a node is.
PLACE = {"place": ("INT", {"default": 0})}
NO_LIMIT = 2**31  # pixels: the author's own file is no upload


class _InputImage:
    """Gives an image of the request; in the web page, one from ComfyUI's input folder."""

    CATEGORY = "try-on"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load"
    FIELD: str
    DECODE = staticmethod(images.decode)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        choice = (
            _input_files(),
            {"image_upload": True, "tooltip": "For trying the graph here; a request brings its own."},
        )
        return {"required": {"image": choice}, **TOKEN}

    @classmethod
    def VALIDATE_INPUTS(cls, image: str = "") -> bool | str:
        # Naming `image` turns the host's own check off: a served graph may hold a file name that is only on the
        # author's machine.
        return True if isinstance(image, str) else "Choose an image."

    @classmethod
    def IS_CHANGED(cls, image: str = "", token: str = "", **others: Any) -> str:
        # Every request has another token, which is change enough; a file may be replaced under its name.
        path = None if token else _input_path(image)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""

    def load(self, image: str = "", token: str = "") -> tuple[torch.Tensor]:
        pixels = self._pixels(image, token)
        if pixels is None:
            raise ValueError(f"{type(self).__name__} has no image. Choose one in the node, or send it in the request.")
        return (from_uint8(pixels)[None],)

    def _pixels(self, image: str, token: str) -> np.ndarray | None:
        if token:
            return exchange.find(token).images.get(self.FIELD)
        path = _input_path(image)
        return self.DECODE(path.read_bytes(), image, NO_LIMIT) if path else None


class TryOnPersonImage(_InputImage):
    DISPLAY_NAME = "Try-on Person Image"
    DESCRIPTION = "The person of the request (person_image)."
    FIELD = "person_image"


class TryOnGarmentImage(_InputImage):
    DISPLAY_NAME = "Try-on Garment Image"
    DESCRIPTION = "The garment of the request (garment_image)."
    FIELD = "garment_image"


class TryOnMaskImage(_InputImage):
    """Gives the mask of the request or, when it has none, the automatic one, computed only then."""

    DISPLAY_NAME = "Try-on Mask Image"
    DESCRIPTION = "The mask of the request (mask_image); without one, what is linked to automatic, run only then."
    FIELD = "mask_image"
    DECODE = staticmethod(mask.decode)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        automatic = ("IMAGE", {"lazy": True, "tooltip": "From Auto Mask Generation."})
        return {**super().INPUT_TYPES(), "optional": {"automatic": automatic}}

    def check_lazy_status(self, image: str = "", token: str = "", **linked: Any) -> list[str]:
        """Asks the host for `automatic` where it is linked (`linked` then has it) and no mask was given."""
        given = self.FIELD in exchange.find(token).images if token else _input_path(image) is not None
        return [] if given else list(linked)

    def load(self, image: str = "", token: str = "", automatic: torch.Tensor | None = None) -> tuple[torch.Tensor]:
        return super().load(image, token) if automatic is None else (automatic,)


class TryOnOutput:
    """Hands the images to the request; in the web page, previews them."""

    DISPLAY_NAME = "Try-on Output"
    DESCRIPTION = "The images that the request is answered with."
    CATEGORY = "try-on"
    RETURN_TYPES = ()
    FUNCTION = "deliver"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        mask = ("IMAGE", {"tooltip": "White where the images may differ from the person, in their frame."})
        return {
            "required": {"images": ("IMAGE",)},
            "optional": {"mask": mask},
            "hidden": {**TOKEN["hidden"], **PLACE},
        }

    def deliver(self, images: Any, mask: Any = None, token: str = "", place: int = 0) -> dict:
        pixels = results(images)
        if token:
            request = exchange.find(token)
            for image in pixels:
                request.deliver(image, place)
            if request.wants_mask and mask is not None and place == 0:
                request.mask = _mask(mask, pixels[0].shape)
            return {"ui": {}}  # which the host keeps: nothing of a request may be in it
        return {"ui": {"images": [_preview(image) for image in pixels]}}


def _mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns what is linked to mask as bool (H, W).

    Raises:
        BadResult: it is no image, or has another size than the images, whose shape is (H, W, 3).
    """
    pixels = results(mask)[0]
    if pixels.shape != shape:
        raise BadResult("Its mask has another size than its images.")
    return pixels[..., 0] >= 128


def _input_files() -> list[str]:
    """Lists the images in ComfyUI's input folder, after the empty choice."""
    folder = engine().input_folder()
    if folder is None or not folder.is_dir():
        return [""]
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif")
    return ["", *sorted(path.name for path in folder.iterdir() if path.suffix.lower() in suffixes)]


def _input_path(image: str) -> Path | None:
    """Returns the file in ComfyUI's input folder that a node's widget names, or None where there is none."""
    folder = engine().input_folder()
    if not image or folder is None:
        return None
    path = (folder / image.removesuffix(" [input]")).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def _preview(pixels: np.ndarray) -> dict[str, str]:
    """Saves an image where the web page finds it; returns how the page asks for it."""
    folder = engine().temp_folder()
    if folder is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    name = f"tryon-{hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}.png"
    Image.fromarray(pixels).save(folder / name, compress_level=1)
    return {"filename": name, "subfolder": "", "type": "temp"}
