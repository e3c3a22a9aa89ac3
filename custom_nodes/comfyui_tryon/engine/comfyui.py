"""ComfyUI as the engine: its queue, its executor thread, its model management.

Works from 0.3.44 to 0.3x by looking at what the host offers, never at its version number.
"""

import inspect
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import comfy.model_patcher
import comfy.utils
import execution
import folder_paths
import nodes
import torch
from server import PromptServer

from .interface import EngineDead, GraphError, Interrupted, NodeFailed, Progress, Run

logger = logging.getLogger(__name__)

# Progress and previews go to the websocket of this client, which never connects, instead of to all.
CLIENT_ID = "comfyui_tryon"


class ComfyUIEngine:
    def __init__(self) -> None:
        self._server = PromptServer.instance
        self._prompts = self._server.prompt_queue
        self._runs: dict[str, Run] = {}
        self._sweeps: dict[str, Run] = {}
        self._running: str | None = None
        self._worker: threading.Thread | None = None
        self._numbers = itertools.count()
        self._item_tail = ({},) if "process_item" in inspect.signature(self._prompts.task_done).parameters else ()
        self._get, self._prompts.get = self._prompts.get, self._on_get
        self._task_done, self._prompts.task_done = self._prompts.task_done, self._on_task_done
        self._send, self._server.send_sync = self._server.send_sync, self._on_send
        self._progress_hook: Callable | None = None

    @property
    def name(self) -> str:
        try:
            from comfyui_version import __version__
        except ImportError:
            return "ComfyUI"
        return f"ComfyUI {__version__}"

    def watch_progress(self) -> None:
        """Listens to every node's progress bar; call once ComfyUI has set its own hook."""
        self._progress_hook = comfy.utils.PROGRESS_BAR_HOOK
        comfy.utils.set_progress_bar_global_hook(self._on_progress)

    def node_classes(self) -> Mapping[str, type]:
        return nodes.NODE_CLASS_MAPPINGS

    async def validate(self, prompt: dict[str, dict], outputs: Sequence[str]) -> None:
        function = execution.validate_prompt
        arguments = {1: (prompt,), 2: ("", prompt), 3: ("", prompt, list(outputs))}
        result = function(*arguments[min(len(inspect.signature(function).parameters), 3)])
        valid, error, good_outputs, node_errors = await result if inspect.isawaitable(result) else result
        problems = [
            f"node {node} ({found['class_type']}): {problem['message']}: {problem['details']}"
            for node, found in node_errors.items()
            for problem in found["errors"]
        ]
        if not valid:
            raise GraphError("; ".join(problems) or f"{error['message']} {error['details']}".strip())
        if missing := sorted(set(outputs) - set(good_outputs)):
            raise GraphError("; ".join(problems) or f"nodes {', '.join(missing)} cannot be executed")

    def queue(self, run: Run) -> None:
        self._runs[run.id] = run
        self._put(next(self._numbers), run.id, run.prompt, run.outputs)

    def cancel(self, run: Run) -> None:
        if self._prompts.delete_queue_item(lambda item: item[1] == run.id):
            self._runs.pop(run.id, None)
            run.finish(Interrupted())
            run.forget()
            return
        with self._prompts.mutex:  # while it is held, the executor cannot go on to another prompt
            if any(item[1] == run.id for item in self._prompts.currently_running.values()):
                nodes.interrupt_processing()

    def fault(self) -> str | None:
        if self._worker is None:
            self._worker = next((t for t in threading.enumerate() if "prompt_worker" in t.name), None)
        if self._worker is None or self._worker.is_alive():
            return None
        for run in [*self._runs.values(), *self._sweeps.values()]:
            run.finish(EngineDead())
            run.forget()
        self._runs.clear()
        self._sweeps.clear()
        return "ComfyUI's executor thread has ended"

    def device(self) -> Any:
        return memory.get_torch_device()

    def hold(self, model: Any) -> Any:
        return comfy.model_patcher.ModelPatcher(model, memory.get_torch_device(), memory.unet_offload_device())

    def load(self, handle: Any, working_memory: int = 0) -> None:
        memory.load_models_gpu([handle], memory_required=working_memory, force_full_load=True)

    def device_memory(self) -> int:
        device = memory.get_torch_device()
        return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0

    def progress(self, total: int) -> Callable[..., None]:
        bar = comfy.utils.ProgressBar(total)
        run = self._runs.get(self._running or "")
        previews = run is None or run.previews

        def report(step: int, preview: Callable[[], Any] | None = None) -> None:
            memory.throw_exception_if_processing_interrupted()
            bar.update_absolute(step, total, ("JPEG", preview(), None) if preview and previews else None)

        return report

    def input_folder(self) -> Path | None:
        return Path(folder_paths.get_input_directory())

    def temp_folder(self) -> Path | None:
        return Path(folder_paths.get_temp_directory())

    def _put(self, number: int, prompt_id: str, prompt: dict, outputs: Sequence[str]) -> None:
        extra = {"client_id": CLIENT_ID, "create_time": int(time.time() * 1000)}
        self._prompts.put((number, prompt_id, prompt, extra, list(outputs), *self._item_tail))

    def _on_get(self, *args: Any, **kwargs: Any) -> Any:
        """In the executor thread, around PromptQueue.get: says that a run starts."""
        result = self._get(*args, **kwargs)
        if result is not None:
            self._running = result[0][1]
            if run := self._runs.get(self._running):
                run.call(run.on_start)
        return result

    def _on_task_done(self, item_id: Any, *args: Any, **kwargs: Any) -> Any:
        """In the executor thread, around PromptQueue.task_done: tells the run its outcome, leaves no history entry.

        What it raised would end the executor thread, so it catches everything.
        """
        item = self._prompts.currently_running.get(item_id)
        result = self._task_done(item_id, *args, **kwargs)
        try:
            prompt_id = item[1] if item else ""
            if swept := self._sweeps.pop(prompt_id, None):
                self._prompts.delete_history_item(prompt_id)
                swept.call(swept.forget)
            elif run := self._runs.pop(prompt_id, None):
                self._prompts.delete_history_item(prompt_id)
                status = kwargs.get("status") or (args[1] if len(args) > 1 else None)
                run.call(run.finish, _outcome(getattr(status, "messages", ())))
                self._sweep(run)
        except Exception:
            logger.exception("Could not report the end of a prompt")
        return result

    def _on_send(self, event: Any, data: Any, sid: str | None = None) -> None:
        """In any thread, around PromptServer.send_sync: drops what nobody hears, as each would wake the event loop."""
        if self._server.sockets if sid is None else sid != CLIENT_ID:
            self._send(event, data, sid)

    def _sweep(self, run: Run) -> None:
        """Has the executor drop what its cache holds of `run`.

        The cache keeps the outputs of the last prompt's nodes until another prompt lacks them. That other prompt is
        here one that executes nothing and has only the nodes that do not depend on the request, such as loaders.
        """
        if self._prompts.queue:  # the next prompt does it
            run.call(run.forget)
            return
        prompt_id = str(uuid.uuid4())
        self._sweeps[prompt_id] = run
        self._put(-1, prompt_id, {node: run.prompt[node] for node in run.lasting}, ())

    def _on_progress(self, value: float, total: float, preview: Any = None, *args: Any, **kwargs: Any) -> Any:
        if run := self._runs.get(self._running or ""):
            picture = preview[1] if isinstance(preview, tuple) and len(preview) > 1 else None
            node = kwargs.get("node_id") or (args[1] if len(args) > 1 else None) or self._server.last_node_id or ""
            run.call(run.on_progress, Progress(int(value), int(total), str(node), picture))
        if self._progress_hook is not None:
            return self._progress_hook(value, total, preview, *args, **kwargs)
        return None


def _outcome(messages: Sequence[tuple[str, dict]]) -> Exception | None:
    """What a prompt's status messages say of its end; the status itself calls an interruption an error too."""
    for event, data in messages:
        if event == "execution_interrupted":
            return Interrupted()
        if event == "execution_error":
            return NodeFailed(
                str(data.get("node_id")),
                str(data.get("node_type")),
                str(data.get("exception_type")).rsplit(".", 1)[-1],
                str(data.get("exception_message")).strip(),
            )
    return None
