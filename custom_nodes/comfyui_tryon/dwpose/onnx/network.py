"""Turns an ONNX file into a torch module."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from .arithmetic import ARITHMETIC, PLAIN
from .arrangement import ARRANGEMENT
from .calls import Call, Function, Operand, OperatorError, Step
from .file import DOWNLOAD_AGAIN, OnnxError, OnnxGraph, OnnxNode, read

_LARGEST_VALUE = 1 << 26  # elements; the published networks' largest has 2^23
_MOST_HELD = 1 << 28  # elements at one time
_BUILT = {**ARITHMETIC, **ARRANGEMENT}


class OnnxNetwork(nn.Module):
    """Computes what an ONNX file describes, with its weights as buffers, on whatever device it is moved to.

    All that depends on shapes alone is computed once, by running the network without data while it is loaded. What is
    left is a list of calls of torch, none of which waits for the device.

    Attributes:
        shapes: of the outputs by name, in the order of the file.
    """

    shapes: dict[str, tuple[int, ...]]

    @torch.inference_mode(False)  # a host may load inside and move outside inference mode
    def __init__(self, file: Path, shape: Sequence[int]) -> None:
        """Reads `file`, a network of one float32 input of `shape`, to the CPU.

        Raises:
            OnnxError: the file cannot be read, has another input, an unknown operator or a weight that is not finite,
                does not fit together, or would take more memory than networks for images do.
        """
        super().__init__()
        builder = _Builder(file, read(file), shape)
        self.shapes = {name: tuple(value.shape) for name, value in builder.outputs.items()}
        self._calls = builder.calls()
        self._constants = list(builder.constants)
        for slot, tensor in builder.constants.items():
            if tensor.is_floating_point() and not tensor.sum(dtype=torch.float64).isfinite():
                raise OnnxError(f"{file} is damaged: it holds values that are not finite. {DOWNLOAD_AGAIN}")
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"constant{slot}", tensor)
        self._input = builder.slot(builder.input)
        self._outputs = [builder.slot(value) for value in builder.outputs.values()]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Computes the outputs by name for `x`, float32 of the shape that was given on loading."""
        held: dict[int, torch.Tensor] = {slot: self.get_buffer(f"constant{slot}") for slot in self._constants}
        held[self._input] = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        for call in self._calls:
            results = call.function(*(held[slot] for slot in call.inputs))
            held.update(zip(call.results, _several(results)))
            for slot in call.done:
                del held[slot]
        return {name: held[slot] for name, slot in zip(self.shapes, self._outputs)}


class _Planned(NamedTuple):
    """One call of torch, from slots into slots."""

    function: Function
    inputs: tuple[int, ...]
    results: tuple[int, ...]
    done: tuple[int, ...] = ()  # slots that nothing reads any more


def _several(results: torch.Tensor | Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return (results,) if isinstance(results, torch.Tensor) else results


class _Builder:
    """Goes through a graph once, without data: finds a function for each node, and each value's shape."""

    def __init__(self, file: Path, graph: OnnxGraph, shape: Sequence[int]) -> None:
        self.file = file
        self.constants: dict[int, torch.Tensor] = {}
        self._slots: dict[Operand, int] = {}
        self._steps: list[tuple[Function, tuple[Operand, ...], list[Operand]]] = []
        self._folded = 0
        if not _fits(list(graph.inputs.values()), shape):
            raise self._error(f"takes inputs of {list(graph.inputs.values())}, not one of {list(shape)}")
        self.input = Operand(torch.empty(tuple(shape), device="meta"), False)
        values = {name: Operand(tensor, True) for name, tensor in graph.constants.items()}
        values |= {name: self.input for name in graph.inputs}
        for node in graph.nodes:
            lacking = [name for name in node.inputs if name and name not in values]
            if lacking:
                raise self._error(f"has an operation {node.kind} that reads {lacking[0]!r}, which nothing computes")
            inputs = [values[name] if name else None for name in node.inputs]
            values |= {name: value for name, value in zip(node.outputs, self._add(node, inputs, graph.opset)) if name}
        lacking = [name for name in graph.outputs if name not in values]
        if lacking:
            raise self._error(f"has an output {lacking[0]!r} that nothing computes")
        self.outputs = {name: values[name] for name in graph.outputs}

    def calls(self) -> list[_Planned]:
        """Lists the calls that the outputs need, in order; fills `constants`."""
        needed = {value for value in self.outputs.values()}
        kept = []
        for function, inputs, results in reversed(self._steps):
            if needed.intersection(results):
                needed.update(inputs)
                kept.append((function, inputs, results))
        self.constants = {self.slot(value): value.sample for value in needed if value.known}
        last = {value: place for place, (_, inputs, results) in enumerate(kept[::-1]) for value in (*inputs, *results)}
        forever = {value for value in needed if value.known} | set(self.outputs.values())
        planned, held = [], self.input.sample.numel()
        for place, (function, inputs, results) in enumerate(kept[::-1]):
            done = {value for value in (*inputs, *results) if last[value] == place} - forever
            held += sum(value.sample.numel() for value in results)
            if held > _MOST_HELD:
                raise self._error("would hold more numbers at one time than networks for images do")
            held -= sum(value.sample.numel() for value in done)
            slots = (tuple(self.slot(value) for value in group) for group in (inputs, results, done))
            planned.append(_Planned(function, *slots))
        return planned

    def slot(self, value: Operand) -> int:
        return self._slots.setdefault(value, len(self._slots))

    def _add(self, node: OnnxNode, inputs: list[Operand | None], opset: int) -> list[Operand]:
        try:
            function, used = _lower(node, inputs, opset)
            samples = _several(function(*(value.sample.to("meta") for value in used)))
            known = all(value.known for value in used)
            total = max((sample.numel() for sample in samples), default=0)
            self._folded += total if known else 0
            if max(total, self._folded) > _LARGEST_VALUE:
                raise OperatorError("makes more numbers than networks for images do")
            if known:
                samples = _several(function(*(value.sample for value in used)))
        except OperatorError as error:
            raise self._error(f"has an operation {node.kind} that {error}") from error
        except Exception as error:  # whatever torch says of shapes and types that do not fit
            reason = str(error).partition("\n")[0][:200]
            raise self._error(f"has an operation {node.kind} that does not fit its inputs ({reason})") from error
        results = [Operand(sample, known, (node.kind, used)) for sample in samples]
        if not known:
            self._steps.append((function, used, results))
        return results

    def _error(self, text: str) -> OnnxError:
        return OnnxError(f"{self.file} {text}. {DOWNLOAD_AGAIN}")


def _fits(declared: list[list[int | None]], shape: Sequence[int]) -> bool:
    """Tells whether a graph's inputs are one of `shape`; None is a side of any size."""
    sides = declared[0] if len(declared) == 1 else []
    return len(sides) == len(shape) and all(a in (None, b) for a, b in zip(sides, shape))


def _lower(node: OnnxNode, inputs: list[Operand | None], opset: int) -> Step:
    """Finds what computes `node` from `inputs`, None where one is left out."""
    if node.kind in PLAIN:
        return PLAIN[node.kind], tuple(value for value in inputs if value is not None)
    if node.kind not in _BUILT:
        raise OperatorError("this program does not know")
    return _BUILT[node.kind](Call(node, inputs, opset))
