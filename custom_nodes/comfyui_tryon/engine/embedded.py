"""The engine for a machine without ComfyUI: one thread that executes a prompt's nodes one after the other.

It runs this pack's nodes and the few core nodes in `CORE_NODES`, with ComfyUI's calling conventions for them; it has no
web page, no third-party nodes and no cache.
"""

import gc
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .interface import EngineDead, GraphError, Interrupted, NodeFailed, Progress, Run, is_link

logger = logging.getLogger(__name__)


class EmbeddedEngine:
    name = "embedded engine"

    def __init__(self, node_classes: Mapping[str, type[Any]]) -> None:
        """`node_classes`: those a prompt may use, by `class_type`, besides `CORE_NODES`."""
        self._node_classes = node_classes
        self._waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._canceled: set[str] = set()
        self._runs: dict[str, Run] = {}
        self._running: Run | None = None
        self._node = ""
        self._held: list[Held] = []
        self._thread = threading.Thread(target=self._work, name="executor", daemon=True)
        self._thread.start()

    def watch_progress(self) -> None:
        pass

    def node_classes(self) -> Mapping[str, type[Any]]:
        return {**self._node_classes, **CORE_NODES}

    async def validate(self, prompt: dict[str, dict], outputs: Sequence[str]) -> None:
        classes = self.node_classes()
        for node in _with_dependencies(prompt, outputs):
            _check_node(node, prompt, classes)

    def queue(self, run: Run) -> None:
        self._runs[run.id] = run
        self._waiting.put(run)

    def cancel(self, run: Run) -> None:
        if run.id not in self._runs:
            return
        self._canceled.add(run.id)
        if run is not self._running:
            run.finish(Interrupted())
            run.release()

    def fault(self) -> str | None:
        if self._thread.is_alive():
            return None
        return "the executor thread has ended"

    def fail_all_runs(self) -> None:
        for run in self._runs.values():
            run.finish(EngineDead())
            run.release()
        self._runs.clear()

    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def hold(self, model: torch.nn.Module) -> "Held":
        handle = Held(model)
        self._held.append(handle)
        return handle

    def load(self, handle: "Held", working_memory: int = 0) -> None:
        handle.model.to(self.device())

    def device_memory(self) -> int:
        return torch.cuda.memory_reserved() if torch.cuda.is_available() else 0

    def progress(self, total: int) -> Callable[..., None]:
        run, node = self._running, self._node

        def report(step: int, preview: Callable[[], Any] | None = None) -> None:
            self._check_canceled()
            if run:
                image = preview() if preview and run.previews else None
                run.call(run.on_progress, Progress(step, total, node, image))

        return report

    def input_folder(self) -> Path | None:
        return None

    def temp_folder(self) -> Path | None:
        return None

    def _unload(self) -> None:
        for handle in self._held:
            handle.model.to("cpu")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _check_canceled(self) -> None:
        if self._running and self._running.id in self._canceled:
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
            except (Interrupted, NodeFailed) as caught:
                error = caught
                if getattr(caught, "error_type", "") == "OutOfMemoryError":
                    self._unload()
            self._canceled.discard(run.id)
            self._runs.pop(run.id, None)
            self._running = None
            run.call(run.finish, error)
            run.call(run.release)
            del run, error

    def _execute(self, run: Run) -> None:
        classes = self.node_classes()
        results: dict[str, tuple] = {}
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
                needed = _call(run, node, instance.check_lazy_status, {**literals, **known})
                wanted = [links[name][0] for name in needed or () if name in links and links[name][0] not in results]
            if wanted:
                pending.extend(wanted)
                continue
            arguments = {
                name: results[value[0]][value[1]] if name in links else value
                for name, value in inputs.items()
                if name not in links or value[0] in results
            }
            value = _call(run, node, getattr(instance, instance.FUNCTION), arguments)
            results[node] = value.get("result", ()) if isinstance(value, dict) else value
            pending.pop()


class Held:
    """A model under the engine's care."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model


def _call(run: Run, node: str, function: Callable, arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except (Interrupted, SystemExit):
        raise
    except Exception as error:
        logger.exception("Node %s (%s) raised", node, run.prompt[node]["class_type"])
        raise NodeFailed(node, run.prompt[node]["class_type"], type(error).__name__, str(error)) from None


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
                raise GraphError(f"{where}: {name} is {value!r}, not one of {', '.join(map(str, expected))}")
        elif expected in NUMBERS:
            try:
                inputs[name] = value = NUMBERS[expected](value)
            except (TypeError, ValueError):
                raise GraphError(f"{where}: {name} is {value!r}, not a number") from None
            if not options.get("min", value) <= value <= options.get("max", value):
                raise GraphError(f"{where}: {name} is {value}, not from {options.get('min')} to {options.get('max')}")
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
