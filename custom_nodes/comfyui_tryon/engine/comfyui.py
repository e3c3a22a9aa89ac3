"""ComfyUI as the engine: its queue, its executor thread, its model management.

Works from 0.3.44 to 0.3x by looking at what the host offers, never at its version number.
"""

import asyncio
import inspect
import logging
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
from comfy.cli_args import args
from server import PromptServer

from . import aside
from .comfyui_caches import Caches
from .comfyui_problems import problems_of
from .comfyui_queue import watch
from .comfyui_worker import ExecutorThread, guard_nodes
from .interface import EngineDead, GraphError, Interrupted, NodeFailed, Progress, Run
from .raised import trace_of, type_name

logger = logging.getLogger(__name__)

# This pack's nodes and ComfyUI's basic ones check their inputs in no time; what others do is not known.
QUICK_MODULES = (__name__.removesuffix("engine.comfyui"), "nodes.")
VALIDATE_LIMIT_S = 10.0

# Progress and previews go to the websocket of this client, which never connects, instead of to all.
CLIENT_ID = "comfyui_tryon"


class ComfyUIEngine:
    def __init__(self) -> None:
        self._server = PromptServer.instance
        self._queue = self._server.prompt_queue
        self._runs: dict[str, Run] = {}
        self._sweeps: dict[str, Run] = {}
        self._running: str | None = None
        self._thread = ExecutorThread(self._on_death)
        # From 0.3.68 on an item ends in the prompt's secrets, and the worker fails without them. Only the source tells:
        # other packs replace the queue's methods, on its class too, and theirs may have other parameters.
        takes_secrets = "process_item" in inspect.getsource(execution)
        self._item_tail: tuple[dict, ...] = ({},) if takes_secrets else ()
        watch(self._queue, self)
        self._requests_fault: BaseException | None = None
        guard_nodes(
            execution,
            memory.InterruptProcessingException,
            lambda: self._runs.get(self._running or ""),
            self._on_requests_fault,
        )
        self._progress_hook: Callable | None = None
        self._caches = Caches(execution.PromptExecutor)

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

    def node_classes(self) -> Mapping[str, type[Any]]:
        return nodes.NODE_CLASS_MAPPINGS

    async def validate(self, prompt: dict[str, dict], outputs: Sequence[str]) -> None:
        classes = (nodes.NODE_CLASS_MAPPINGS.get(str(node.get("class_type"))) for node in prompt.values())
        if all(f"{getattr(cls, '__module__', 'nodes')}.".startswith(QUICK_MODULES) for cls in classes):
            await self._validate(prompt, outputs)
            return
        try:
            await aside.call(lambda: asyncio.run(self._validate(prompt, outputs)), VALIDATE_LIMIT_S)
        except aside.TooSlow:
            raise GraphError(f"its nodes did not finish checking their inputs within {VALIDATE_LIMIT_S:g} s") from None

    async def _validate(self, prompt: dict[str, dict], outputs: Sequence[str]) -> None:
        arity = len(inspect.signature(execution.validate_prompt).parameters)
        # 0.3.44 takes the prompt alone; later ones take an id before it, and then the outputs to execute.
        arguments = (prompt,) if arity == 1 else ("", prompt, list(outputs))[:arity]
        try:
            result = execution.validate_prompt(*arguments)
            valid, error, good_outputs, node_errors = await result if inspect.isawaitable(result) else result
        except BaseException as raised:  # a node's definition may do anything
            logger.error("A prompt cannot be checked:\n%s", trace_of(raised))
            raise GraphError(f"checking it failed with {type_name(raised)}") from None
        problems = problems_of(node_errors)
        if not valid:
            raise GraphError("; ".join(problems) or f"{error['message']} {error['details']}".strip())
        if missing := sorted(set(outputs) - set(good_outputs)):
            raise GraphError("; ".join(problems) or f"nodes {', '.join(missing)} cannot be executed")

    def queue(self, run: Run) -> None:
        self._runs[run.id] = run
        # ComfyUI's own counter, so that its page's prompts and these are executed in the order in which they came.
        number, self._server.number = self._server.number, self._server.number + 1
        self._put(number, run.id, run.prompt, run.outputs)

    def cancel(self, run: Run) -> None:
        run.is_canceled = True
        if self._queue.delete_queue_item(lambda item: item[1] == run.id):
            return  # on_removed has ended it
        if hasattr(self._queue, "interrupt_if_running"):
            self._queue.interrupt_if_running(run.id)
        else:
            with self._queue.mutex:  # while it is held, the executor cannot go on to another prompt
                if any(item[1] == run.id for item in self._queue.currently_running.values()):
                    nodes.interrupt_processing()

    def fault(self) -> str | None:
        return self._thread.fault

    def take_over(self) -> None:
        self._thread.replaces = True
        # No hook of ComfyUI's can drop a message, and each one wakes the event loop, even if nobody receives it.
        self._send, self._server.send_sync = self._server.send_sync, self._on_send

    def fail_all_runs(self) -> None:
        for run in [*self._runs.values(), *self._sweeps.values()]:
            run.finish(EngineDead())
            run.release()
        self._runs.clear()
        self._sweeps.clear()

    def device(self) -> torch.device:
        return memory.get_torch_device()

    def hold(self, model: torch.nn.Module) -> Any:
        return comfy.model_patcher.ModelPatcher(model, memory.get_torch_device(), memory.unet_offload_device())

    def load(self, handle: Any, working_memory: int = 0) -> None:
        memory.load_models_gpu([handle], memory_required=working_memory, force_full_load=True)

    def device_memory(self) -> tuple[int, int]:
        device = memory.get_torch_device()
        if device.type != "cuda":
            return 0, 0
        return torch.cuda.memory_reserved(device), torch.cuda.get_device_properties(device).total_memory

    def progress(self, total: int) -> Callable[..., None]:
        bar = comfy.utils.ProgressBar(total)
        run = self._runs.get(self._running or "")
        previews = run is None or run.previews
        reported = -1

        def report(step: int, preview: Callable[[], Any] | None = None) -> None:
            nonlocal reported
            memory.throw_exception_if_processing_interrupted()
            if step == reported:
                return
            reported = step
            bar.update_absolute(step, total, ("JPEG", preview(), None) if preview and previews else None)

        return report

    def input_folder(self) -> Path:
        return Path(folder_paths.get_input_directory())

    def saves_graphs(self) -> bool:
        return not args.disable_metadata

    def user_folder(self) -> Path:
        return Path(folder_paths.get_user_directory()) / "default"

    def output_folder(self) -> Path:
        return Path(folder_paths.get_output_directory())

    def temp_folder(self) -> Path | None:
        return Path(folder_paths.get_temp_directory())

    def on_get(self) -> None:
        """Called in the executor thread before it waits for a prompt."""
        self._thread.on_get()

    def on_start(self, prompt_id: str) -> None:
        """Called in the executor thread when it has taken a prompt."""
        self._running = prompt_id
        self._requests_fault = None
        if run := self._runs.get(prompt_id):
            run.call(run.on_start)

    def on_end(self, prompt_id: str, messages: Sequence[tuple[str, dict]]) -> None:
        """Called in the executor thread when a prompt has ended: reports a run's outcome, leaves no history entry."""
        self._thread.on_end()
        if swept := self._sweeps.pop(prompt_id, None):
            self._queue.delete_history_item(prompt_id)
            swept.call(swept.release)
        elif run := self._runs.pop(prompt_id, None):
            self._queue.delete_history_item(prompt_id)
            run.call(run.finish, _outcome(messages, self._requests_fault))
            self._requests_fault = None
            self._caches.forget(run.request_independent)
            self._sweep(run)

    def on_removed(self, prompt_id: str) -> None:
        """Called in any thread when a waiting prompt has left the queue, by `cancel` or by ComfyUI's own API."""
        self._end(prompt_id, Interrupted("The operator removed this request from ComfyUI's queue."))

    def _on_death(self) -> None:
        """Ends the prompts that the executor thread was at when it ended, and which ComfyUI still counts as running."""
        with self._queue.mutex:
            ended = [item[1] for item in self._queue.currently_running.values()]
            self._queue.currently_running.clear()
        node, self._server.last_node_id = str(self._server.last_node_id or "unknown"), None
        for prompt_id in ended:
            run = self._runs.get(prompt_id)
            node_type = str(run.prompt.get(node, {}).get("class_type", "unknown")) if run else ""
            self._end(prompt_id, NodeFailed(node, node_type, "BaseException", "It ended ComfyUI's executor thread."))

    def _on_requests_fault(self, error: BaseException) -> None:
        """Called in the executor thread when a node has raised something of which the request is the cause."""
        self._requests_fault = error.with_traceback(None)  # which would hold the request's images

    def _end(self, prompt_id: str, error: Exception) -> None:
        """Ends a run of which the executor holds nothing, or will hold nothing once it takes the next prompt."""
        run = self._runs.pop(prompt_id, None)
        if run:
            run.call(run.finish, error)
        if run := run or self._sweeps.pop(prompt_id, None):
            run.call(run.release)

    def _put(self, number: int, prompt_id: str, prompt: dict, outputs: Sequence[str]) -> None:
        extra = {"client_id": CLIENT_ID, "create_time": int(time.time() * 1000)}
        self._queue.put((number, prompt_id, prompt, extra, list(outputs), *self._item_tail))

    def _sweep(self, run: Run) -> None:
        """Has the executor drop what its cache holds of `run`.

        The cache keeps the outputs of the last prompt's nodes until a prompt comes that lacks these nodes. The one
        queued here executes nothing and has only the nodes that do not depend on the request, such as loaders.
        """
        if self._queue.queue:  # the next prompt does it
            run.call(run.release)
            return
        prompt_id = str(uuid.uuid4())
        self._sweeps[prompt_id] = run
        self._put(-1, prompt_id, {node: run.prompt[node] for node in run.request_independent}, ())

    def _on_send(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Takes the place of PromptServer.send_sync, in any thread: drops messages that nobody would receive."""
        received = bool(self._server.sockets) if sid is None else sid != CLIENT_ID
        if received:
            self._send(event, data, sid)

    def _on_progress(self, value: float, total: float, preview: Any = None, *args: Any, **kwargs: Any) -> Any:
        if run := self._runs.get(self._running or ""):
            image = preview[1] if isinstance(preview, tuple) and len(preview) > 1 else None
            node = kwargs.get("node_id") or (args[1] if len(args) > 1 else None) or self._server.last_node_id or ""
            run.call(run.on_progress, Progress(int(value), int(total), str(node), image))
        if self._progress_hook is not None:
            return self._progress_hook(value, total, preview, *args, **kwargs)
        return None


def _outcome(messages: Sequence[tuple[str, dict]], requests_fault: BaseException | None) -> Exception | None:
    """Reads from a prompt's status messages how it ended; the status itself calls an interruption an error too.

    `requests_fault` is what a node raised if that ended the prompt as an interruption does.
    """
    for event, data in messages:
        if event == "execution_interrupted" and requests_fault is not None:
            return NodeFailed.of(str(data.get("node_id")), str(data.get("node_type")), requests_fault)
        if event == "execution_interrupted":
            return Interrupted("The operator interrupted this request in ComfyUI.")
        if event == "execution_error":
            return NodeFailed(
                str(data.get("node_id")),
                str(data.get("node_type")),
                str(data.get("exception_type")).rsplit(".", 1)[-1],
                str(data.get("exception_message")).strip(),
            )
    return None
