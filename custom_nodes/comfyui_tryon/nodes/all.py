"""The nodes of the pack, thin: each reads its inputs, calls the model code and hands the picture on."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .. import exchange, metrics
from ..engine import current as engine
from ..masker import CLOTH_TYPES
from ..weights import search as weights

CATEGORY = "try-on"
PARSERS = ["schp_densepose", "segformer", "geometric"]
SCHEDULERS = ["ddim", "dpmpp_2m", "unipc"]
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Set by the server in a prompt it queues; absent in the web page's own runs.
JOB = {"hidden": {"token": ("STRING", {"default": ""})}}


class LoadCatVTONPipeline:
    """Loads CatVTON's weights onto a base inpainting model."""

    DESCRIPTION = "Loads CatVTON: a Stable Diffusion inpainting model with CatVTON's attention weights."
    CATEGORY = CATEGORY
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("pipe",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        path = "A folder name under the models folders, an absolute path, or a Hugging Face repository id."
        return {
            "required": {
                "sd15_inpaint_path": ("STRING", {"default": weights.BASE, "tooltip": f"The base model. {path}"}),
                "catvton_path": ("STRING", {"default": weights.CATVTON, "tooltip": f"CatVTON's weights. {path}"}),
                "mixed_precision": (
                    ["auto", *PRECISIONS],
                    {"default": "auto", "tooltip": "auto: fp16 on a CUDA GPU, else fp32."},
                ),
            },
            "optional": {
                "attention_version": (
                    ["mix", "vitonhd", "dresscode"],
                    {"default": "mix", "tooltip": "mix dresses everything; the others are trained on one data set."},
                ),
                "vae_path": ("STRING", {"default": weights.VAE, "tooltip": f"The VAE. {path}"}),
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
        mixed_precision: str = "auto",
        attention_version: str = "mix",
        vae_path: str = weights.VAE,
        compile: bool = False,
    ) -> tuple[Any]:
        folders = weights.pipeline_folders(sd15_inpaint_path, vae_path, catvton_path, attention_version)
        return (_pipeline(*folders, attention_version, _dtype(mixed_precision), compile),)


class CatVTON:
    """Dresses the person in the garment, inside the mask."""

    DESCRIPTION = "Dresses the person of target_image in the garment of refer_image where mask_image is white."
    CATEGORY = CATEGORY
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
                "mask_image": ("IMAGE", {"tooltip": "White where the garment goes, in the person picture's frame."}),
                "seed": ("INT", {"default": 42, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
                "steps": ("INT", {"default": 50, "min": 1, "max": 1000, "tooltip": "Denoising steps."}),
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
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4, "tooltip": "Pictures, seeds counting up."}),
                "scheduler": (
                    SCHEDULERS,
                    {
                        "default": SCHEDULERS[0],
                        "tooltip": "ddim: as published. The others take fewer steps, to another picture.",
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
        scheduler: str = SCHEDULERS[0],
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
    ) -> tuple[torch.Tensor]:
        from ..catvton.pipeline import SEED_LIMIT, CatVTONPipeline, preview, working_memory

        model = _held_model(pipe, CatVTONPipeline, "pipe", "Load CatVTON Pipeline")
        element_size = next(model.unet.parameters()).element_size()
        engine().load(pipe, working_memory(width, height, element_size, engine().device(), batch_size))
        report = engine().progress(steps * batch_size)
        images = model(
            _to_pil(target_image, "target_image"),
            _to_pil(refer_image, "refer_image"),
            _to_pil(mask_image, "mask_image"),
            num_inference_steps=steps,
            guidance_scale=cfg,
            seeds=[(seed + index) % SEED_LIMIT for index in range(batch_size)],
            width=width,
            height=height,
            mask_blur=mask_blur,
            scheduler=scheduler,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
            callback=lambda step, latents: report(step, None if latents is None else lambda: preview(latents)),
        )
        return (images.float() / 255.0,)


class LoadAutoMasker:
    """Loads what finds the area that a garment covers."""

    DESCRIPTION = "Loads the parsers that find where a garment goes."
    CATEGORY = CATEGORY
    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("pipe",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "catvton_path": (
                    "STRING",
                    {"default": weights.CATVTON, "tooltip": "Folder with SCHP and DensePose, or of a SegFormer."},
                )
            },
            "optional": {
                "parser": (
                    PARSERS,
                    {
                        "default": PARSERS[0],
                        "tooltip": "schp_densepose: as published. segformer: a SegFormer with clothes labels. "
                        "geometric: body proportions, no weights.",
                    },
                )
            },
        }

    def load(self, catvton_path: str, parser: str = PARSERS[0]) -> tuple[Any]:
        folder = None if parser == "geometric" else weights.parser_folder(catvton_path, parser)
        return (_masker(parser, folder, _dtype("auto")),)


class AutoMasker:
    """Finds where a garment goes on a person."""

    DESCRIPTION = "White where a garment of the given type goes on the person; the person with that area greyed."
    CATEGORY = CATEGORY
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
            },
        }

    def generate(
        self,
        pipe: Any,
        target_image: torch.Tensor,
        cloth_type: str,
        mask_grow: int = 0,
        square: bool = False,
        largest_person: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        masker = _held_model(pipe, torch.nn.Module, "pipe", "Load AutoMask Generator", method="mask")
        engine().load(pipe)
        report = engine().progress(1)
        person = np.array(_to_pil(target_image, "target_image"))
        mask = masker.mask(
            person, cloth_type, mask_grow=mask_grow, square=square, largest=largest_person, callback=lambda: report(0)
        )
        report(1)
        white = torch.from_numpy(mask).float()[None, :, :, None] / 255.0
        masked = torch.where(white >= 0.5, 0.5, target_image[:1])
        return white.expand(-1, -1, -1, 3), masked


class _InputImage:
    """A picture that the request brings; in the web page, one from ComfyUI's input folder."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load"
    FIELD: str

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        choice = (
            _input_files(),
            {"image_upload": True, "tooltip": "For trying the graph here; a request brings its own."},
        )
        return {"required": {"image": choice}, **JOB}

    @classmethod
    def VALIDATE_INPUTS(cls, image: str = "") -> bool | str:
        return True if isinstance(image, str) else "Choose a picture."

    @classmethod
    def IS_CHANGED(cls, image: str = "", token: str = "", **others: Any) -> str:
        path = None if token else _input_path(image)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""

    def load(self, image: str = "", token: str = "") -> tuple[torch.Tensor]:
        pixels = self._picture(image, token)
        if pixels is None:
            raise ValueError(
                f"{type(self).__name__} has no picture. Choose one in the node, or send it in the request."
            )
        return (torch.from_numpy(np.divide(pixels, 255.0, dtype=np.float32))[None],)

    def _picture(self, image: str, token: str) -> np.ndarray | None:
        if token:
            return exchange.find(token).images.get(self.FIELD)
        path = _input_path(image)
        if path is None:
            return None
        from .. import images

        return images.decode(path.read_bytes(), image, max_pixels=2**31)


class TryOnPersonImage(_InputImage):
    DESCRIPTION = "The person of the request (person_image)."
    FIELD = "person_image"


class TryOnGarmentImage(_InputImage):
    DESCRIPTION = "The garment of the request (garment_image)."
    FIELD = "garment_image"


class TryOnMaskImage(_InputImage):
    """The mask of the request or, when it has none, the automatic one, computed only then."""

    DESCRIPTION = "The mask of the request (mask_image); without one, what is linked to automatic, run only then."
    FIELD = "mask_image"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        automatic = ("IMAGE", {"lazy": True, "tooltip": "From Auto Mask Generation."})
        return {**super().INPUT_TYPES(), "optional": {"automatic": automatic}}

    def check_lazy_status(self, image: str = "", token: str = "", **linked: Any) -> list[str]:
        has_picture = "mask_image" in exchange.find(token).images if token else _input_path(image) is not None
        return [] if has_picture else list(linked)

    def load(self, image: str = "", token: str = "", automatic: torch.Tensor | None = None) -> tuple[torch.Tensor]:
        return super().load(image, token) if automatic is None else (automatic,)


class TryOnRepaint:
    """Puts the result into the untouched person picture."""

    DESCRIPTION = "The result inside the mask, the person's own pixels outside it."
    CATEGORY = CATEGORY
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
        from ..catvton.processing import mask_to_tensor, repaint, resize_and_crop

        size = (result.shape[2], result.shape[1])
        person_pixels = np.array(resize_and_crop(_to_pil(person, "person"), size))
        inside = mask_to_tensor(resize_and_crop(_to_pil(mask, "mask").convert("L"), size))[0, 0]
        person = torch.from_numpy(person_pixels).float()[None] / 255.0
        return (repaint(person, result.cpu(), inside, feather),)


class TryOnOutput:
    """The pictures of the answer; a preview in the web page."""

    DESCRIPTION = "The pictures that the request is answered with."
    CATEGORY = CATEGORY
    RETURN_TYPES = ()
    FUNCTION = "deliver"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"images": ("IMAGE",)}, **JOB}

    def deliver(self, images: torch.Tensor, token: str = "") -> dict:
        pixels = _to_uint8(images)
        if token:
            job = exchange.find(token)
            for picture in pixels[..., :3]:
                job.deliver(picture)
            return {"ui": {}}
        return {"ui": {"images": [_preview(picture) for picture in pixels]}}


NODE_CLASS_MAPPINGS = {
    cls.__name__: cls
    for cls in (
        LoadCatVTONPipeline,
        CatVTON,
        LoadAutoMasker,
        AutoMasker,
        TryOnPersonImage,
        TryOnGarmentImage,
        TryOnMaskImage,
        TryOnRepaint,
        TryOnOutput,
    )
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LoadCatVTONPipeline": "Load CatVTON Pipeline",
    "CatVTON": "TryOn by CatVTON",
    "LoadAutoMasker": "Load AutoMask Generator",
    "AutoMasker": "Auto Mask Generation",
    "TryOnPersonImage": "Try-on Person Image",
    "TryOnGarmentImage": "Try-on Garment Image",
    "TryOnMaskImage": "Try-on Mask Image",
    "TryOnRepaint": "Try-on Repaint",
    "TryOnOutput": "Try-on Output",
}


def _dtype(precision: str) -> torch.dtype:
    if precision == "auto":
        precision = "fp16" if engine().device().type == "cuda" else "fp32"
    return PRECISIONS[precision]


# Shared by all workflows: ComfyUI's own cache forgets a loader's output as soon as another workflow runs.
@lru_cache(maxsize=2)
def _pipeline(base: Path, vae: Path, catvton: Path, attention_version: str, dtype: torch.dtype, compile: bool) -> Any:
    from ..catvton import load_pipeline

    with metrics.model_load.labels("catvton").time():
        return engine().hold(load_pipeline(base, vae, catvton, attention_version, dtype, compile))


@lru_cache(maxsize=2)
def _masker(parser: str, folder: Path | None, dtype: torch.dtype) -> Any:
    from .. import masker

    if parser == "geometric":
        return engine().hold(masker.GeometricMasker())
    cls = {"schp_densepose": masker.SchpDensePoseMasker, "segformer": masker.SegformerMasker}[parser]
    with metrics.model_load.labels(parser).time():
        return engine().hold(cls.load(folder, dtype))


def _held_model(handle: Any, cls: type, name: str, source: str, method: str = "__call__") -> Any:
    model = getattr(handle, "model", None)
    if not isinstance(model, cls) or not hasattr(model, method):
        raise TypeError(f"Link {name} to {source}; what is linked to it is another model.")
    return model


def _to_uint8(images: torch.Tensor) -> np.ndarray:
    """uint8 for float in [0, 1], of any shape; by NumPy, because torch's threads cost more than so little work.

    Raises FloatingPointError for values that are not numbers, which would become black pixels.
    """
    scaled = np.multiply(images.float().cpu().numpy(), 255.0)
    with np.errstate(invalid="raise"):
        return np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8)


def _to_pil(images: torch.Tensor, name: str) -> Image.Image:
    """The picture of an IMAGE, float (1, H, W, C) in [0, 1], as RGB."""
    if len(images) != 1:
        raise ValueError(f"{name} has {len(images)} pictures; send them one at a time.")
    pixels = _to_uint8(images[0])
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(pixels).convert("RGB")


def _input_files() -> list[str]:
    folder = engine().input_folder()
    if folder is None or not folder.is_dir():
        return [""]
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif")
    return ["", *sorted(path.name for path in folder.iterdir() if path.suffix.lower() in suffixes)]


def _input_path(image: str) -> Path | None:
    """The file in ComfyUI's input folder that a node's widget names, if it is one."""
    folder = engine().input_folder()
    if not image or folder is None:
        return None
    path = (folder / image.removesuffix(" [input]")).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def _preview(pixels: np.ndarray) -> dict[str, str]:
    folder = engine().temp_folder()
    if folder is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    name = f"tryon-{hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}.png"
    Image.fromarray(pixels).save(folder / name, compress_level=1)
    return {"filename": name, "subfolder": "", "type": "temp"}
