"""What the pack needs of an engine: the prompts it is given, how they end, and the `Engine` protocol itself."""

import asyncio
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from .raised import MAX_NAME, bounded, text_of, type_name

# What allocators of the CPU and the GPU say: torch, NumPy, cuBLAS, cuDNN, onnxruntime, OpenCV.
OUT_OF_MEMORY = re.compile(
    r"out of memory|(can't|cannot|unable to|failed to) allocate|insufficient memory|bad[_ ]alloc|_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
DEVICE_FAULT = re.compile(r"(CUDA|HIP) error|CUBLAS_STATUS|CUDNN_STATUS|cuDNN error")

# Classes, by name, of what nodes raise where the request is at fault and not this worker: nothing to trouble its
# operator with.
REQUEST_FAULTS = {"NoPersonFound", "ParserMissing", "TooNarrow"}


@dataclass(frozen=True)
class Progress:
    """Says how far a node is; `preview` is a small PIL image of its result so far, or None."""

    value: int
    max: int
    node: str
    preview: Any = None

    def overall(self, before: int, count: int, total: int) -> "Progress":
        """Returns a run's progress as that of its request, which makes `total` images, `count` of them in this run and
        `before` earlier."""
        done = self.max * before // count
        return replace(self, value=done + self.value, max=self.max * total // count)


@dataclass(eq=False)
class Run:
    """One prompt on its way through an engine.

    Attributes:
        prompt: in ComfyUI's API format; the engine may change it.
        outputs: ids of the nodes to execute, with all that they depend on.
        request_independent: ids of the nodes whose outputs do not depend on the request, and so may outlive it.
        previews: whether to make previews.
        is_canceled: whether `Engine.cancel` has been called.
        finished: resolved with None, or fails with NodeFailed, Interrupted or EngineDead.
        released: resolved when the engine holds nothing of the request any more.
    """

    prompt: dict[str, dict]
    outputs: Sequence[str]
    request_independent: frozenset[str] = frozenset()
    previews: bool = False
    on_start: Callable[[], None] = lambda: None
    on_progress: Callable[[Progress], None] = lambda progress: None
    is_canceled: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def __post_init__(self) -> None:
        self.finished: asyncio.Future[None] = self.loop.create_future()
        self.released: asyncio.Future[None] = self.loop.create_future()
        self.finished.add_done_callback(lambda future: future.cancelled() or future.exception())

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Calls `function` on the event loop, from any thread."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def finish(self, error: Exception | None = None) -> None:
        """Resolves `finished`; call it on the event loop."""
        if self.finished.done():
            return
        if error is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(error)

    def release(self) -> None:
        """Resolves `released`; call it on the event loop."""
        if not self.released.done():
            self.released.set_result(None)


class GraphError(ValueError):
    """The engine cannot execute a prompt; the message names the node and says what is wrong with it.

    It goes to clients, and so has nothing of the text of an exception of a node.
    """

    def __init__(self, message: str) -> None:
        super().__init__(bounded(message))


class NodeFailed(Exception):
    """A node raised, or returned what is none of its results.

    Attributes:
        node: id of the node.
        node_type: its class name.
        error_type: name of the exception's class, without its module.
        message: the exception's text, bounded, for the log.
    """

    def __init__(self, node: str, node_type: str, error_type: str, message: str) -> None:
        self.node = node
        self.node_type = node_type
        self.error_type = bounded(error_type, MAX_NAME)
        self.message = bounded(message)
        super().__init__(f"node {node} ({node_type}) raised {self.error_type}: {self.message}")

    @classmethod
    def of(cls, node: str, node_type: str, error: BaseException) -> "NodeFailed":
        return cls(node, node_type, type_name(error), text_of(error))

    @property
    def is_requests_fault(self) -> bool:
        return self.error_type in REQUEST_FAULTS

    @property
    def is_out_of_memory(self) -> bool:
        return self.error_type.endswith("MemoryError") or bool(OUT_OF_MEMORY.search(self.message))

    @property
    def is_device_fault(self) -> bool:
        """Whether the device has failed in a way that only another process recovers from."""
        if self.is_out_of_memory:
            return False
        return self.error_type == "AcceleratorError" or bool(DEVICE_FAULT.search(self.message))


class Interrupted(Exception):
    """The run was canceled; the message, if there is one, says by whom instead of by this pack."""


class EngineDead(Exception):
    """The thread that executes prompts has ended; this process cannot make images any more."""


class Engine(Protocol):
    """What the pack needs of a host."""

    @property
    def name(self) -> str:
        """Which engine this is, with its version, for logs."""

    def node_classes(self) -> Mapping[str, type[Any]]:
        """The classes that a prompt may use, by `class_type`."""

    async def validate(self, prompt: dict[str, dict], outputs: Sequence[str]) -> None:
        """Raises GraphError unless `outputs` and all that they depend on can be executed; may normalise `prompt`."""

    def queue(self, run: Run) -> None:
        """Puts a validated run behind those that wait. Call on the event loop."""

    def cancel(self, run: Run) -> None:
        """Takes a waiting run out of the queue or interrupts it within a step; no other run is touched."""

    def fault(self) -> str | None:
        """Why no run can ever finish again, or None. Takes no lock that execution holds."""

    def take_over(self) -> None:
        """Makes the host serve this pack alone: replaces the executor thread whenever a node ends it, and drops
        messages that nobody would receive. Call it only where the process is the API's."""

    def fail_all_runs(self) -> None:
        """Fails every run with EngineDead, after `fault` has given a reason. Call on the event loop."""

    def device(self) -> Any:
        """The torch device that models run on."""

    def hold(self, model: Any) -> Any:
        """Puts a torch module under the engine's memory management; returns a handle with the module as `.model`."""

    def load(self, handle: Any, working_memory: int = 0) -> None:
        """Brings a held model onto the device, with `working_memory` bytes free next to it."""

    def device_memory(self) -> tuple[int, int]:
        """How many bytes of the device's memory this process uses, and how many there are; zeros for a CPU."""

    def watch_progress(self) -> None:
        """Starts reporting progress; call once the host has started."""

    def progress(self, total: int) -> Callable[..., None]:
        """A function that reports steps done of `total`, and raises where the run has been canceled.

        It takes the number of steps and, optionally, a function that makes a preview, called only if it will be shown.
        The same number again reports nothing and still raises, so that long work within a step can be canceled.
        """

    def input_folder(self) -> Path | None:
        """Where the web page uploads images; None where there is no web page."""

    def saves_graphs(self) -> bool:
        """Whether the web page's images hold the graph that made them."""

    def user_folder(self) -> Path | None:
        """Where the web page keeps what its users save; None where there is no web page."""

    def output_folder(self) -> Path | None:
        """Where ComfyUI saves results; None where there is no web page."""

    def temp_folder(self) -> Path | None:
        """Where the web page looks for previews; None where there is no web page."""


def out_of_range(name: str, options: Mapping[str, Any]) -> str:
    """Says that an input's number is not in the range of its options, without the number, which is not for clients."""
    low, high = options.get("min"), options.get("max")
    if low is None or high is None:
        return f"{name} is more than {high}" if low is None else f"{name} is less than {low}"
    return f"{name} is not from {low} to {high}"


def is_link(value: Any) -> bool:
    """Whether an input's value in a prompt is a link, [node id, output index], instead of a literal."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
