"""Chooses the dtype that models are loaded in, and takes them out of MODEL inputs."""

from typing import Any, TypeVar

import torch

from ..engine import current as engine

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Model = TypeVar("Model", bound=torch.nn.Module)


def dtype(precision: str) -> torch.dtype:
    """Returns the dtype of one of `loaders.PRECISIONS`; of "auto" float16 on a CUDA GPU, else float32."""
    if precision == "auto":
        precision = "fp16" if engine().device().type == "cuda" else "fp32"
    return DTYPES[precision]


def unwrap(handle: Any, cls: type[Model], name: str, source: str) -> Model:
    """Returns the model of a MODEL input.

    Args:
        handle: what is linked to the input: a handle from `Engine.hold`, unless the author linked something else.
        cls: the class that the model must have.
        name: the input's name, for the error.
        source: the display name of the node to link, for the error.

    Raises:
        TypeError: another model is linked.
    """
    model = getattr(handle, "model", None)
    if not isinstance(model, cls):
        raise TypeError(f"Link {name} to {source}; another model is linked to it.")
    return model
