"""Puts DWPose's two networks together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .detector import CELLS, SQUARE, boxes, letterbox
from .keypoints import BINS, HEIGHT, POINTS, WIDTH, crop, frame, locate
from .onnx import OnnxError, OnnxNetwork
from .poses import Poses

POSE_FILES = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")


@torch.inference_mode(False)  # a host may load inside and move outside inference mode
def load(folder: Path, device: torch.device | str = "cpu") -> "PoseEstimator":
    """Loads DWPose from the folder that holds `yolox_l.onnx` and `dw-ll_ucoco_384.onnx`.

    Raises:
        OnnxError: a file is missing, damaged, unsafe or of another network.
    """
    detector, pose = (Path(folder) / name for name in POSE_FILES)
    return PoseEstimator(detector, pose).to(device)


class PoseEstimator(nn.Module):
    """Finds people and their poses, on the device of its weights and in float32."""

    def __init__(self, detector: Path, pose: Path) -> None:
        super().__init__()
        self.detector = OnnxNetwork(detector, (1, 3, SQUARE, SQUARE))
        self.pose = OnnxNetwork(pose, (1, 3, HEIGHT, WIDTH))
        shapes = list(self.detector.shapes.values())
        if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][:2] != (1, CELLS) or shapes[0][2] < 6:
            raise OnnxError(f"{detector} is of another network: it gives {shapes}, not [(1, {CELLS}, 85)].")
        wanted = {name: (1, POINTS, bins) for name, bins in BINS.items()}
        if self.pose.shapes != wanted:
            raise OnnxError(f"{pose} is of another network: it gives {self.pose.shapes}, not {wanted}.")

    @torch.inference_mode()
    def estimate(self, image: np.ndarray, check: Callable[[], None] = lambda: None) -> Poses:
        """Finds everybody in `image`, uint8 (H, W, 3) RGB.

        `check` is called before each run of a network; what it raises ends the call.
        """
        check()
        device = next(self.buffers()).device
        square, scale = letterbox(image)
        (output,) = self.detector(_planes(square, device)).values()
        found = boxes(output, scale)
        whole = np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
        frames = [frame(box) for box in (found if len(found) else whole)]
        pixels = _planes(image[..., ::-1], device)
        outputs = []
        for middle, size in frames:
            check()
            outputs.append(self.pose(crop(pixels, middle, size)))
        # Fetched together, so that the device is waited for once.
        x, y = (torch.cat([output[name] for output in outputs]).float().cpu().numpy() for name in BINS)
        located = [locate(*values) for values in zip(x, y, *zip(*frames))]
        return Poses(found, *(np.stack(part) for part in zip(*located)))


def _planes(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """Converts uint8 (H, W, 3) to float32 (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(2, 0, 1)[None].float()
