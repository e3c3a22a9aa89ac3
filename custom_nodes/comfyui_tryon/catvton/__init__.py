"""CatVTON (Chong et al., "CatVTON: Concatenation Is All You Need for Virtual Try-On with Diffusion Models", ICLR 2025).

Plain torch and diffusers; this package knows nothing of HTTP or of ComfyUI.
"""

from .checkpoint import ATTENTION_FOLDERS, CheckpointError, load_pipeline
from .pipeline import CatVTONPipeline

__all__ = ["ATTENTION_FOLDERS", "CatVTONPipeline", "CheckpointError", "load_pipeline"]
