"""DWPose (Yang et al., 2023): finds people and the 134 points of their poses, from the published ONNX files."""

from .drawing import draw
from .estimator import PoseEstimator, load
from .onnx import OnnxError
from .poses import Pose, Poses

__all__ = ["OnnxError", "Poses", "Pose", "PoseEstimator", "draw", "load"]
