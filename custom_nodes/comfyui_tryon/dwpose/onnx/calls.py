"""Holds what torch functions for ONNX operators are chosen by: values, and the arguments of a node."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .file import OnnxNode


@dataclass(eq=False)
class Operand:
    """Stands for a tensor of a network.

    Attributes:
        sample: the tensor if it is known, or else a meta tensor with its shape and dtype.
        known: whether it is the same in every run.
        origin: the operator that computes it and that one's inputs.
    """

    sample: torch.Tensor
    known: bool
    origin: "tuple[str, tuple[Operand, ...]] | None" = None

    @property
    def shape(self) -> list[int]:
        return list(self.sample.shape)


Function = Callable[..., Any]
Step = tuple[Function, tuple[Operand, ...]]
"""What to call, and with which tensors."""


class OperatorError(ValueError):
    """The rest of a sentence that begins with the file and the operator."""


class Call:
    """Reads the arguments of a node."""

    def __init__(self, node: OnnxNode, inputs: list[Operand | None], opset: int) -> None:
        self.kind, self.options, self.opset = node.kind, node.attributes, opset
        self.count = len(node.outputs)
        self.inputs = inputs

    def has(self, place: int) -> bool:
        return place < len(self.inputs) and self.inputs[place] is not None

    def __getitem__(self, place: int) -> Operand:
        value = self.inputs[place] if place < len(self.inputs) else None
        if value is None:
            raise OperatorError(f"lacks its input {place}")
        return value

    def known(self, place: int) -> torch.Tensor:
        if not self[place].known:
            raise OperatorError(f"has an input {place} that is not a constant")
        return self[place].sample

    def numbers(self, place: int | None, option: str = "", default: Any = None) -> Any:
        """Returns the list that an option holds or, in later versions of the operator, an input."""
        if option in self.options:
            return self.options[option]
        if place is None or not self.has(place):
            return default
        return self.known(place).flatten().tolist()

    def option(self, name: str, default: Any) -> Any:
        value = self.options.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def require(self, name: str, *allowed: Any) -> None:
        if (value := self.option(name, allowed[0])) not in allowed:
            raise OperatorError(f"has {name} {value!r}, which this program does not compute")

    def expect(self, fits: bool, what: str) -> None:
        if not fits:
            raise OperatorError(what)
