"""Runs ONNX files in torch: no second runtime to install, on the device that the other models use.

Knows the operators of exported networks for images. An operator is looked up once, when its file is loaded; all that it
needs besides tensors, such as a shape or an axis, must be known then.
"""

from .file import OnnxError
from .network import OnnxNetwork

__all__ = ["OnnxError", "OnnxNetwork"]
