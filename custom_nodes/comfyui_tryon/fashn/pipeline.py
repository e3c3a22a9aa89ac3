"""Puts FASHN VTON v1.5 together: from the images of a person and a garment to the person who wears it."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import dwpose
from ..masker.checkpoints import CheckpointError
from . import parser as human_parser
from .checkpoint import load_network
from .network import FashnNetwork
from .parser import HumanParser
from .preparation import prepare
from .sampler import CANVAS, CLASSES, STEPS_MAX, Callback, denoise, noise, to_pixels, to_tensor

logger = logging.getLogger(__name__)


def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32, compile: bool = False) -> "FashnPipeline":
    """Builds the pipeline from a folder in the published layout, on the CPU.

    Args:
        folder: with `model.safetensors`, `dwpose/` and, if worn garments are to be parsed, `human-parser/`.
        dtype: of the network, float32 or bfloat16.
        compile: compile the network's blocks with torch.compile, once for every canvas.

    Raises:
        CheckpointError, OnnxError: a file is missing or damaged, or does not fit; the message names it. Not of the
            human parser: without it the pipeline can do less.
    """
    network, pose = load_network(folder, dtype, compile), dwpose.load(folder / "dwpose")
    return FashnPipeline(network, pose, _parser(folder / "human-parser")).requires_grad_(False)


def _parser(folder: Path) -> HumanParser | None:
    """Loads the human parser, if it is there: most requests do not need it, and one that does says so."""
    if not folder.is_dir():
        return None
    try:
        return human_parser.load(folder)
    except CheckpointError as error:
        logger.warning("FASHN's human parser was not loaded, and garments that somebody wears are refused: %s", error)
        return None


class FashnPipeline(nn.Module):
    """Dresses a person in a garment (published as `TryOnPipeline`).

    Differs from the published class in two things that leave its function as it is: noise comes from a CPU generator in
    float32, so that a seed means the same image on every device; every image of a call has its own seed, and is sampled
    by itself, since one guided image already fills a device.
    """

    def __init__(self, network: FashnNetwork, pose: dwpose.PoseEstimator, parser: HumanParser | None = None) -> None:
        super().__init__()
        self.network = network
        self.pose = pose
        self.parser = parser

    @torch.inference_mode()
    def forward(
        self,
        person: np.ndarray,
        garment: np.ndarray,
        *,
        category: str,
        garment_photo: str = "flat-lay",
        segmentation_free: bool = True,
        num_inference_steps: int = 30,
        guidance_scale: float = 1.5,
        unguided_last_steps: int = 1,
        seeds: Sequence[int] = (42,),
        canvas: tuple[int, int] = CANVAS,
        mask: np.ndarray | None = None,
        garment_mask: np.ndarray | None = None,
        callback: Callback = lambda step, predicted: None,
    ) -> torch.Tensor:
        """Samples one image per seed.

        Args:
            person, garment: uint8 (H, W, 3) RGB, any size.
            category: tops, bottoms or one-pieces.
            garment_photo: flat-lay, or model where somebody wears the garment, which needs `garment_mask` or the human
                parser.
            segmentation_free: leaves what is worn for the network to see; if False, it is masked, which needs `mask`
                or the human parser.
            num_inference_steps: 1 to 100.
            guidance_scale: classifier-free guidance; 1 turns it off and halves the work.
            unguided_last_steps: so many steps at the end go unguided, for half.
            seeds: one for each image, 0 to 2^64-1.
            canvas: height and width in pixels, multiples of the network's patch; others than the published ones are
                what no weights were made for.
            mask: bool (H, W), where the person may change; masks the person in place of the parser.
            garment_mask: bool (H, W), where the garment is in its image; in place of the parser.
            callback: called before every step and at the end with the number of steps done, those of all images
                together, and the image predicted by the last one, (1, 3, H, W) in [-1, 1], or None; also within a step
                and while the images are prepared; what it raises ends the call.

        Returns:
            uint8 (len(seeds), H, W, 3) on the CPU: the person's image as it fits the canvas.

        Raises:
            ParserMissing: the human parser is needed, and its weights are not there.
            ValueError: an argument is out of range.
            FloatingPointError: the model returned values that are not numbers.
        """
        self._check(canvas, num_inference_steps)
        conditions = prepare(
            person,
            garment,
            category=category,
            garment_photo=garment_photo,
            segmentation_free=segmentation_free,
            canvas=canvas,
            pose=self.pose,
            parser=self.parser,
            mask=mask,
            garment_mask=garment_mask,
            check=lambda: callback(0, None),
        )
        weight = next(self.network.parameters())
        dressed, worn = (
            to_tensor(np.concatenate([image, pose[..., :1]], axis=2), weight)
            for image, pose in (
                (conditions.agnostic, conditions.person_pose),
                (conditions.garment, conditions.garment_pose),
            )
        )
        left, top, width, height = conditions.crop
        made = []
        for number, seed in enumerate(seeds):
            raw = denoise(
                self.network,
                dressed,
                worn,
                CLASSES[category],
                noise(seed, canvas),
                steps=num_inference_steps,
                guidance_scale=guidance_scale,
                unguided_last_steps=unguided_last_steps,
                callback=_counting(callback, number * num_inference_steps),
            )
            made.append(to_pixels(raw[..., top : top + height, left : left + width]))
        return torch.cat(made)

    def _check(self, canvas: tuple[int, int], steps: int) -> None:
        patch = self.network.sizes.patch
        for name, side in zip(("canvas_height", "canvas_width"), canvas):
            if side < patch or side % patch:
                raise ValueError(
                    f"{name} must be a multiple of {patch}, which is the patch of these weights, not {side}."
                )
        if not 1 <= steps <= STEPS_MAX:
            raise ValueError(f"num_inference_steps must be from 1 to {STEPS_MAX}, not {steps}.")


def _counting(callback: Callback, done: int) -> Callback:
    """Returns a callback for an image that adds its steps to those `done` before."""
    return lambda step, predicted: callback(done + step, predicted)
