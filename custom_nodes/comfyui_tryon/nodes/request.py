"""Takes a request's images into a graph, by token, and hands the results back."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from .. import exchange, images
from ..decoding import mask
from ..demo import SAMPLES, SAMPLES_FOLDER
from ..engine import current as engine
from .results import BadResult, results
from .tensors import from_uint8
from .token import TOKEN

# Which of the graph's outputs a node is.
PLACE = {"place": ("INT", {"default": 0})}
# What the page's mask editor calls the files that hold what was painted: older releases use the first name only. Alpha
# in any other file is a background that was removed.
PAINTED = ("clipspace-mask-", "clipspace-painted-masked-")
NO_LIMIT = 2**31  # pixels: the author's own file is no upload


class _InputImage:
    """Gives an image of the request; in the web page, one from ComfyUI's input folder."""

    CATEGORY = "try-on"
    RETURN_TYPES: tuple[str, ...] = ("IMAGE",)
    OUTPUT_TOOLTIPS: tuple[str, ...] = ("The image of the request; in the page, the chosen one.",)
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

    def load(self, image: str = "", token: str = "") -> tuple[Any, ...]:
        pixels = self._pixels(image, token)
        if pixels is None:
            raise _no_image(self)
        return (from_uint8(pixels)[None],)

    def _pixels(self, image: str, token: str) -> np.ndarray | None:
        if token:
            return exchange.find(token).images.get(self.FIELD)
        path = _input_path(image)
        return self.DECODE(path.read_bytes(), image, NO_LIMIT) if path else None


class TryOnPersonImage(_InputImage):
    """Gives the person and, as LoadImage does, what was painted on it in the page's mask editor."""

    DISPLAY_NAME = "Try-on Person Image"
    DESCRIPTION = "The person of the request (person_image)."
    RETURN_TYPES = ("IMAGE", "MASK")
    OUTPUT_TOOLTIPS = (
        "The person of the request; in the page, the chosen image.",
        "What is painted on the chosen image in the mask editor; empty in a request, which sends mask_image.",
    )
    FIELD = "person_image"

    def load(self, image: str = "", token: str = "") -> tuple[torch.Tensor, ...]:
        path = None if token else _input_path(image)
        if path and path.name.startswith(PAINTED):
            return _painted(path)
        (person,) = super().load(image, token)
        return person, torch.from_numpy(np.zeros(person.shape[:3], np.float32))  # which costs nothing until it is read


class TryOnGarmentImage(_InputImage):
    DISPLAY_NAME = "Try-on Garment Image"
    DESCRIPTION = "The garment of the request (garment_image)."
    FIELD = "garment_image"


class TryOnMaskImage(_InputImage):
    """Gives the mask of the request, else the one painted in the page, else the automatic one, computed only then."""

    DISPLAY_NAME = "Try-on Mask Image"
    DESCRIPTION = (
        "The mask of the request (mask_image) or the chosen one; without one, what is painted on the person; without "
        "that, what is linked to automatic, which runs only then. Without any, an error, or no mask if required is off."
    )
    OUTPUT_TOOLTIPS = ("White where the garment goes.",)
    FIELD = "mask_image"
    DECODE = staticmethod(mask.decode)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        automatic = ("IMAGE", {"lazy": True, "tooltip": "From Auto Mask Generation."})
        painted = ("MASK", {"tooltip": "From Try-on Person Image: what is painted on it."})
        required = ("BOOLEAN", {"default": True, "tooltip": "off: for samplers that need no mask."})
        return {**super().INPUT_TYPES(), "optional": {"automatic": automatic, "painted": painted, "required": required}}

    def check_lazy_status(
        self,
        image: str = "",
        token: str = "",
        painted: torch.Tensor | None = None,
        required: bool = True,
        **linked: Any,
    ) -> list[str]:
        """Asks the host for `automatic` where it is linked (`linked` then has it) and there is no other mask."""
        try:
            given = self.FIELD in exchange.find(token).images if token else _input_path(image) is not None
        except LookupError:  # the request was canceled, and so is its run before `load`; an error here would be logged
            return []
        return [] if given or _is_painted(painted) else list(linked)

    def load(
        self,
        image: str = "",
        token: str = "",
        automatic: torch.Tensor | None = None,
        painted: torch.Tensor | None = None,
        required: bool = True,
    ) -> tuple[Any, ...]:
        pixels = self._pixels(image, token)
        if pixels is not None:
            return (from_uint8(pixels)[None],)
        if painted is not None and _is_painted(painted):
            return (_strokes(painted)[..., None].expand(-1, -1, -1, 3),)
        if automatic is None and required:
            raise _no_image(self)
        return (automatic,)


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
        graph = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
        return {
            "required": {"images": ("IMAGE",)},
            "optional": {"mask": mask},
            "hidden": TOKEN["hidden"] | PLACE | graph,
        }

    def deliver(
        self,
        images: Any,
        mask: Any = None,
        token: str = "",
        place: int = 0,
        prompt: Any = None,
        extra_pnginfo: dict[str, Any] | None = None,
    ) -> dict:
        pixels = results(images)
        if token:
            request = exchange.find(token)
            for image in pixels:
                request.deliver(image, place)
            if request.wants_mask and mask is not None and place == 0:
                request.mask = _mask(mask, pixels[0].shape)
            return {"ui": {}}  # which the host keeps: nothing of a request may be in it
        graph = {"prompt": prompt, **(extra_pnginfo or {})} if engine().saves_graphs() else {}
        return {"ui": {"images": [_preview(image, graph) for image in pixels]}}


def _no_image(node: _InputImage) -> ValueError:
    paint = ", paint it on the person" if node.FIELD == "mask_image" else ""
    return ValueError(f"{type(node).__name__} has no image. Choose one in the node{paint}, or send it in the request.")


def _is_painted(mask: torch.Tensor | None) -> bool:
    return mask is not None and bool(mask.any())


def _strokes(painted: torch.Tensor) -> torch.Tensor:
    """Returns the mask that strokes mean, float: 1 from half of the most opaque on, less at soft edges.

    The mask editor's brush is half transparent, and more opaque where its strokes overlap. As a mask that would leave
    some of the old garment in the result.
    """
    return (painted * 2 / painted.max()).clamp(max=1)


def _painted(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads a file of the mask editor as LoadImage does: the editor saves what is painted as transparent.

    Returns:
        The colours, transparent ones too, float (1, H, W, 3); and the mask, float (1, H, W), 1 where nothing shows.
    """
    with Image.open(path) as file:
        pixels = np.array(ImageOps.exif_transpose(file).convert("RGBA"))
    return from_uint8(pixels[None, ..., :3]), 1 - from_uint8(pixels[None, ..., 3])


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
    """Lists the images in ComfyUI's input folder and the samples, after the empty choice."""
    folder = engine().input_folder()
    if folder is None or not folder.is_dir():
        return [""]
    samples = (f"{SAMPLES_FOLDER}/{path.name}" for path in sorted(SAMPLES.glob("*.png")))
    return ["", *_images_in(folder, folder.stat().st_mtime_ns), *samples]


@lru_cache(maxsize=1)
def _images_in(folder: Path, changed_ns: int) -> list[str]:
    """Lists a folder's images once for each of its states: it may have thousands, and each check of a prompt asks."""
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif")
    return sorted(name for name in os.listdir(folder) if name.lower().endswith(suffixes))


def _input_path(image: str) -> Path | None:
    """Returns the file that a node's widget names, or None where there is none.

    It is in the input folder unless the name ends in " [output]" or " [temp]", as the page writes for results.
    """
    match = re.fullmatch(r"(.+) \[(input|output|temp)\]", image)
    name, kind = match.groups() if match else (image, "input")
    host = engine()
    folders = {
        "input": (host.input_folder(),),
        "output": (host.output_folder(), host.temp_folder()),  # ComfyUI's page writes output for previews too
        "temp": (host.temp_folder(),),
    }
    for folder in filter(None, folders[kind]):
        path = (folder / name).resolve()
        if name and path.is_relative_to(folder.resolve()) and path.is_file():
            return path
    return None


def _preview(pixels: np.ndarray, graph: Mapping[str, Any]) -> dict[str, str]:
    """Saves an image where the web page finds it, with the graph that it opens; returns how the page asks for it."""
    folder = engine().temp_folder()
    if folder is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    texts = {key: json.dumps(value) for key, value in graph.items()}
    content = hashlib.sha256(pixels.tobytes() + json.dumps(texts).encode())
    name = f"tryon-{content.hexdigest()[:16]}.png"
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.fromarray(pixels).save(folder / name, pnginfo=info, compress_level=1)
    return {"filename": name, "subfolder": "", "type": "temp"}
