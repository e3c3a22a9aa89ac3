"""A node pack for the tests: nodes that misbehave on demand, and a look at what the process still holds."""

import asyncio
import gc
import json
import os
import time
from pathlib import Path

import numpy as np
import torch


class Untold(Exception):
    def __str__(self) -> str:
        raise ValueError("there is no text")


RAISED = {
    "error": lambda: ValueError("secret /path/of/the/server in a message"),
    "exit": lambda: SystemExit(3),
    "keyboard": KeyboardInterrupt,
    "canceled": asyncio.CancelledError,
    "generator": GeneratorExit,
    "iteration": StopIteration,
    "untold": Untold,
    "surrogate": lambda: ValueError("half a character \ud800"),
    "huge": lambda: ValueError("megabytes " * 500_000),
    "nobody": lambda: NoPersonFound("nobody here"),
    "cuda": lambda: RuntimeError("CUDA error: an illegal memory access was encountered"),
    "memory": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB"),
    "memory_python": MemoryError,
}
RETURNED = {
    "nothing": lambda: None,
    "list": lambda: ([],),
    "text": lambda: ("an image",),
    "flat": lambda: (torch.zeros(64, 64),),
    "empty": lambda: (torch.zeros(1, 0, 64, 3),),
    "no_numbers": lambda: (torch.full((1, 64, 64, 3), float("nan")),),
    "memory_numpy": lambda: (np.empty(1 << 50),),
    "memory_torch": lambda: (torch.empty(1 << 50),),
    "recursion": lambda: recurse(),
    "no_batch": lambda: (torch.zeros(0, 64, 64, 3),),
    "video": lambda: (torch.zeros(1, 1, 64, 64, 3),),
    "channels_first": lambda: (torch.zeros(1, 3, 64, 64),),
    "large_values": lambda: (torch.full((1, 64, 64, 3), 200.0),),
}
# What nodes return that is an image, if not always as ComfyUI has them.
SHOWN = {
    "grey": lambda: (torch.full((1, 64, 64, 1), 0.5),),
    "grey_alpha": lambda: (torch.full((1, 64, 64, 2), 1.0),),
    "alpha": lambda: (torch.zeros(1, 64, 64, 4),),
    "unbatched": lambda: (torch.zeros(64, 64, 3),),
    "half": lambda: (torch.zeros(1, 64, 64, 3, dtype=torch.bfloat16),),
    "bytes": lambda: (torch.full((1, 64, 64, 3), 9, dtype=torch.uint8),),
    "sizes": lambda: ([torch.zeros(1, 64, 64, 3), torch.ones(1, 32, 48, 3)],),
}


def recurse() -> None:
    recurse()


class NoPersonFound(ValueError):
    """What the pack's masker raises, under whatever name the host imported it."""


class ProbeFault:
    """Passes a picture on, or fails in the way that `fault` says."""

    CATEGORY = "test"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "image": ("IMAGE",),
                "fault": (
                    ["none", "pause", "sleep", "hang", *RAISED, *RETURNED, *SHOWN],
                    {"default": "none"},
                ),
            }
        }

    def run(self, image: torch.Tensor, fault: str) -> tuple[torch.Tensor]:
        if fault in RAISED:
            raise RAISED[fault]()
        if fault in RETURNED or fault in SHOWN:
            return (RETURNED | SHOWN)[fault]()
        if fault in ("pause", "sleep"):  # a second, half a minute
            for _ in range(20 if fault == "pause" else 600):
                time.sleep(0.05)
                _interrupt_point()
        if fault == "hang":
            time.sleep(30)
        return (image,)


class ProbeConstructor(ProbeFault):
    """Cannot even be made, which no guard around a node's work covers."""

    def __init__(self) -> None:
        raise SystemExit(3)


class ProbeValidation(ProbeFault):
    """Raises, or takes a second, where its inputs are checked."""

    @classmethod
    def VALIDATE_INPUTS(cls, fault: str) -> bool:
        if fault == "error":
            raise RAISED["error"]()
        if fault == "pause":
            time.sleep(1)
        return True


def held_tensors() -> list[list[int]]:
    """Shapes of the live tensors that look like pictures, (B, H, W, 3)."""
    gc.collect()
    tensors = (o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.ndim == 4)
    return [list(o.shape) for o in tensors if o.shape[-1] == 3 and min(o.shape[1:3]) >= 64]


def _interrupt_point() -> None:
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
    except ImportError:
        from comfyui_tryon.engine import current

        current().progress(1)(0)
    else:
        throw_exception_if_processing_interrupted()


NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (ProbeFault, ProbeConstructor, ProbeValidation)}

try:
    from aiohttp import web
    from server import PromptServer

    async def write_routes(app: web.Application) -> None:
        """Every (method, path) that ComfyUI and its packs serve, into the file that PROBE_ROUTES names."""
        if "PROBE_ROUTES" in os.environ:
            routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
            Path(os.environ["PROBE_ROUTES"]).write_text(json.dumps(sorted(routes)))

    PromptServer.instance.app.on_startup.append(write_routes)

    @PromptServer.instance.routes.get("/probe")
    async def probe(request: web.Request) -> web.Response:
        return web.json_response(
            {"tensors": held_tensors(), "history": len(PromptServer.instance.prompt_queue.get_history())}
        )
except ImportError:
    pass
