"""Reads published checkpoint files: tensors only, nothing in a file is ever run, every name and shape is checked."""

import collections
import contextlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

_EPSILON = 1e-5  # of every batch norm in the published networks
REMEDY = "Delete it and download the published file again."


class CheckpointError(ValueError):
    """A checkpoint file is missing, damaged, unsafe or of another network. The message names it and says what to do."""


def missing(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Lists those of `names` (paths in `folder`) that are missing or empty."""
    return [file for name in names if not (file := Path(folder) / name).is_file() or not file.stat().st_size]


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns whatever goes wrong while `file` is read into a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing. Download the published file to this place.") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file} was not loaded, because it is damaged or unsafe. {REMEDY}") from error
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}: {error}). {REMEDY}") from error


def read_torch(file: Path) -> object:
    """Returns the content of a `.pth` file, on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged, or holds more than tensors and plain containers.
    """
    with reading(file):
        return torch.load(file, map_location="cpu", weights_only=True)


def read_array_pickle(file: Path) -> object:
    """Returns the content of a `.pkl` file of numpy arrays (detectron2's model zoo format).

    Raises:
        CheckpointError: the file is missing or damaged, or holds more than arrays and plain containers.
    """
    with reading(file), open(file, "rb") as stream:
        return _ArrayUnpickler(stream, encoding="latin1").load()


def as_weights(entries: object, file: Path) -> dict[str, torch.Tensor]:
    """Converts `entries`, read from `file`, to float32 tensors by name.

    Raises:
        CheckpointError: `entries` is not a mapping from names to tensors or arrays of floats.
    """
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file} holds no weights where the published file has them. {REMEDY}")
    weights = {}
    for name, value in entries.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = torch.from_numpy(np.require(value, np.float32, ["C", "W"]))
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{file} holds {type(value).__name__} for weights under {name!r}. {REMEDY}")
        weights[name] = value.float()
    return weights


def fold_norms(weights: dict[str, torch.Tensor], conv_of: Callable[[str], str], file: Path) -> dict[str, torch.Tensor]:
    """Folds every batch norm of `weights` into the convolution before it.

    Args:
        weights: float32 tensors by name; a norm N has N.weight, N.bias, N.running_mean and N.running_var.
        conv_of: maps a norm's name to its convolution's.
        file: where they are from, for the error.

    Raises:
        CheckpointError: a norm or its convolution is incomplete or of another width.
    """
    folded = dict(weights)
    for norm in [name.removesuffix(".running_var") for name in weights if name.endswith(".running_var")]:
        parts = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        conv = f"{conv_of(norm)}.weight"
        absent = [name for name in (*parts, conv) if name not in weights]
        if absent:
            raise CheckpointError(f"{file} is of another network: it lacks {absent[0]!r}. {REMEDY}")
        if any(weights[name].shape != weights[conv].shape[:1] for name in parts):
            raise CheckpointError(f"{file} is of another network: {norm!r} does not fit {conv!r}. {REMEDY}")
        gamma, beta, mean, variance = (folded.pop(name) for name in parts)
        scale = gamma / (variance + _EPSILON).sqrt()
        folded[conv] = weights[conv] * scale.view(-1, *[1] * (weights[conv].ndim - 1))
        folded[conv.removesuffix("weight") + "bias"] = beta - mean * scale
    return folded


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], file: Path, dtype: torch.dtype) -> None:
    """Puts `weights`, read from `file`, into `module` as `dtype`, replacing its parameters (which may be meta tensors).

    Raises:
        CheckpointError: a name is missing or unknown, a shape differs, or a value is not finite.
    """
    expected = module.state_dict()
    for verb, names in (("lacks", expected.keys() - weights.keys()), ("has", weights.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{file} is of another network: it {verb} {min(names)!r}{more}. {REMEDY}")
    for name, parameter in expected.items():
        shape, wanted = tuple(weights[name].shape), tuple(parameter.shape)
        if shape != wanted:
            raise CheckpointError(f"{file} is of another network: {name!r} is {shape}, not {wanted}. {REMEDY}")
        if not weights[name].isfinite().all():
            raise CheckpointError(f"{file} is damaged: {name!r} holds values that are not finite. {REMEDY}")
    module.load_state_dict({name: weights[name].to(dtype) for name in expected}, assign=True)
    module.requires_grad_(False).to(memory_format=torch.channels_last)


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed in a checkpoint")
    return text.encode("latin1")


def _array_callables() -> dict[tuple[str, str], object]:
    """Maps all that a pickle of arrays may name; numpy 1 and 2 keep three of them under different modules."""
    array = np.zeros(1, np.float32)  # whose pickles give away the private functions
    reconstruct, scalar, from_buffer = array.__reduce__()[0], array[0].__reduce__()[0], array.__reduce_ex__(5)[0]
    allowed = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _encode_latin1}
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = reconstruct
        allowed[f"{core}.multiarray", "scalar"] = scalar
        allowed[f"{core}.numeric", "_frombuffer"] = from_buffer
    allowed["collections", "OrderedDict"] = collections.OrderedDict
    for kind in (dict, list, tuple, set, frozenset, int, float, complex, bool, str, bytes, bytearray):
        allowed["builtins", kind.__name__] = allowed["__builtin__", kind.__name__] = kind
    return allowed


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers; any other name in the stream is refused before it is imported."""

    _ALLOWED = _array_callables()

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a checkpoint") from None
