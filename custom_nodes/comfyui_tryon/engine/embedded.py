"""The engine for a machine without ComfyUI: one thread that executes a prompt's nodes one after the other.

It runs this pack's nodes and the few core nodes in `CORE_NODES`, with ComfyUI's calling conventions for them; it has no
web page, no third-party nodes and no cache.
"""

import gc
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .interface import EngineDead, GraphError, Interrupted, NodeFailed, Progress, Run, is_link, out_of_range
from .raised import let_go, trace_of, type_name

logger = logging.getLogger(__name__)


class EmbeddedEngine:
    name = "embedded engine"

    def __init__(self, node_classes: Mapping[str, type[Any]]) -> None:
        """`node_classes`: those a prompt may use, by `class_type`, besides `CORE_NODES`."""
        self._node_classes = node_classes
        self._waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._runs: dict[str, Run] = {}
        self._running: Run | None = None
        self._node = ""
        self._held: weakref.WeakSet[Held] = weakref.WeakSet()  # who has them else decides how long
        self._thread = threading.Thread(target=self._work, name="executor", daemon=True)
        self._thread.start()

    def watch_progress(self) -> None:
        pass

    def node_classes(self) -> Mapping[str, type[Any]]:
        return {**self._node_classes, **CORE_NODES}

    async def validate(self, prompt: dict[str, dict], outputs: Sequence[str]) -> None:
        classes = self.node_classes()
        for node in _with_dependencies(prompt, outputs):
            try:
                _check_node(node, prompt, classes)
            except GraphError:
                raise
            except BaseException as error:  # the node's definition may do anything
                logger.error("Node %s cannot be checked:\n%s", node, trace_of(error))
                raise GraphError(f"node {node}: checking it failed with {type_name(error)}") from None

    def queue(self, run: Run) -> None:
        self._runs[run.id] = run
        self._waiting.put(run)

    def cancel(self, run: Run) -> None:
        if run.id not in self._runs:
            return
        run.is_canceled = True
        if run is not self._running:
            run.finish(Interrupted())
            run.release()

    def fault(self) -> str | None:
        return None if self._thread.is_alive() else "the executor thread has ended"

    def take_over(self) -> None:
        pass  # whatever a node raises, the thread goes on

    def fail_all_runs(self) -> None:
        for run in self._runs.values():
            run.finish(EngineDead())
            run.release()
        self._runs.clear()

    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def hold(self, model: torch.nn.Module) -> "Held":
        self._held.add(handle := Held(model))
        return handle

    def load(self, handle: "Held", working_memory: int = 0) -> None:
        handle.model.to(self.device())

    def device_memory(self) -> tuple[int, int]:
        cuda = torch.cuda
        return (cuda.memory_reserved(), cuda.get_device_properties(0).total_memory) if cuda.is_available() else (0, 0)

    def progress(self, total: int) -> Callable[..., None]:
        run, node, reported = self._running, self._node, -1

        def report(step: int, preview: Callable[[], Any] | None = None) -> None:
            nonlocal reported
            self._check_canceled()
            if run and step != reported:
                reported = step
                image = preview() if preview and run.previews else None
                run.call(run.on_progress, Progress(step, total, node, image))

        return report

    def input_folder(self) -> Path | None:
        return None

    def saves_graphs(self) -> bool:
        return False

    user_folder = output_folder = temp_folder = input_folder

    def _unload(self) -> None:
        for handle in self._held:
            handle.model.to("cpu")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _check_canceled(self) -> None:
        if self._running and self._running.is_canceled:
            raise Interrupted

    def _work(self) -> None:
        while True:
            run = self._running = self._waiting.get()
            error: Exception | None = None
            try:
                self._check_canceled()
                run.call(run.on_start)
                with torch.inference_mode():
                    self._execute(run)
            except Interrupted as caught:
                error = caught.with_traceback(None)  # which would hold what the nodes have made
            except BaseException as caught:  # a node may raise anything, and the thread must outlive it
                error = self._failure(run, caught)
            self._runs.pop(run.id, None)
            self._running = None
            run.call(run.finish, error)
            run.call(run.release)
            del run, error

    def _failure(self, run: Run, error: BaseException) -> NodeFailed:
        node_type = str(run.prompt.get(self._node, {}).get("class_type"))
        let_go(error)  # before the models are unloaded, which returns the memory
        failure = NodeFailed.of(self._node, node_type, error)
        if not failure.is_requests_fault:
            logger.error("Node %s (%s) failed:\n%s", self._node, node_type, trace_of(error))
        if failure.is_out_of_memory:
            try:
                self._unload()
            except Exception as second:  # such as a GPU that has failed
                logger.error("The models could not be unloaded:\n%s", trace_of(second))
        return failure

    def _execute(self, run: Run) -> None:
        classes = self.node_classes()
        results: dict[str, Sequence] = {}
        pending = list(run.outputs)
        while pending:
            self._node = node = pending[-1]
            if node in results:
                pending.pop()
                continue
            self._check_canceled()
            cls = classes[run.prompt[node]["class_type"]]
            instance, declared = cls(), _declared(cls)
            inputs = {name: value for name, value in run.prompt[node]["inputs"].items() if name in declared}
            links = {name: value for name, value in inputs.items() if is_link(value)}
            lazy = {name for name in links if len(declared[name][1]) > 1 and declared[name][1][1].get("lazy")}
            wanted = [links[name][0] for name in links.keys() - lazy if links[name][0] not in results]
            if not wanted and lazy:
                known = {
                    name: results[value[0]][value[1]] if value[0] in results else None for name, value in links.items()
                }
                literals = {name: value for name, value in inputs.items() if name not in links}
                needed = instance.check_lazy_status(**{**literals, **known})
                wanted = [links[name][0] for name in needed or () if name in links and links[name][0] not in results]
            if wanted:
                pending.extend(wanted)
                continue
            arguments = {
                name: results[value[0]][value[1]] if name in links else value
                for name, value in inputs.items()
                if name not in links or value[0] in results
            }
            value = getattr(instance, instance.FUNCTION)(**arguments)
            results[node] = _results(cls, value)
            pending.pop()


class Held:
    """A model under the engine's care."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model


def _results(cls: type[Any], value: Any) -> Sequence:
    """Returns a node's results from what its function returned; raises TypeError if they are not there."""
    found = value.get("result", ()) if isinstance(value, dict) else value
    if not isinstance(found, (tuple, list)) or len(found) < len(cls.RETURN_TYPES):
        raise TypeError(f"It returned no {len(cls.RETURN_TYPES)} results.")
    return found


def _declared(cls: type[Any]) -> dict[str, tuple[str, tuple]]:
    """Each input's kind (required, optional, hidden) and type."""
    kinds = cls.INPUT_TYPES()
    return {name: (kind, spec) for kind, inputs in kinds.items() for name, spec in inputs.items()}


def _with_dependencies(prompt: dict[str, dict], outputs: Sequence[str]) -> list[str]:
    done: dict[str, bool] = {}
    pending = list(outputs)
    while pending:
        node = pending[-1]
        if node not in prompt:
            raise GraphError(f"node {node} is linked but not there")
        links = [value[0] for value in prompt[node].get("inputs", {}).values() if is_link(value)]
        if node not in done:
            done[node] = False
            if any(done.get(link) is False for link in links):
                raise GraphError(f"node {node} depends on itself")
            pending += [link for link in links if link not in done]
        else:
            done[node] = True
            pending.pop()
    return list(done)


def _check_node(node: str, prompt: dict[str, dict], classes: Mapping[str, type[Any]]) -> None:
    class_type = str(prompt[node].get("class_type"))
    where = f"node {node} ({class_type})"
    cls = classes.get(class_type)
    if cls is None:
        raise GraphError(
            f"{where}: the embedded engine has no such node. It runs {', '.join(sorted(classes))}; "
            "for other nodes start inside ComfyUI."
        )
    inputs = prompt[node].get("inputs", {})
    for name, (kind, spec) in _declared(cls).items():
        if kind == "hidden":
            continue
        if name not in inputs:
            if kind == "required":
                raise GraphError(f"{where}: input {name} is missing")
            continue
        value, expected = inputs[name], spec[0]
        options = spec[1] if len(spec) > 1 else {}
        if is_link(value):
            source = classes.get(str(prompt[value[0]].get("class_type")))
            returns = getattr(source, "RETURN_TYPES", ())
            if source is not None and (value[1] >= len(returns) or returns[value[1]] != expected):
                raise GraphError(f"{where}: input {name} is {expected}, but what is linked to it is not")
        elif isinstance(expected, list):
            if value not in expected and not hasattr(cls, "VALIDATE_INPUTS"):
                raise GraphError(f"{where}: {name} is not one of {', '.join(map(str, expected))}")
        elif expected in NUMBERS:
            try:
                inputs[name] = value = NUMBERS[expected](value)
            except (TypeError, ValueError):
                raise GraphError(f"{where}: {name} is not a number") from None
            if not options.get("min", value) <= value <= options.get("max", value):
                raise GraphError(f"{where}: {out_of_range(name, options)}")
        elif expected not in ("STRING", "BOOLEAN"):
            raise GraphError(f"{where}: input {name} must be linked to a {expected}")


NUMBERS = {"INT": int, "FLOAT": float}


class PreviewImage:
    """Ends a graph and shows nothing; in ComfyUI it shows images in the web page."""

    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"images": ("IMAGE",)}}

    def show(self, images: torch.Tensor) -> tuple:
        return ()


class SaveImage(PreviewImage):
    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})}}

    def show(self, images: torch.Tensor, filename_prefix: str = "") -> tuple:
        return ()


CORE_NODES: dict[str, type[Any]] = {"PreviewImage": PreviewImage, "SaveImage": SaveImage}
