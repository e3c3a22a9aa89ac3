"""A node pack for the tests: nodes that misbehave on demand, and a look at what the process still holds."""

import gc
import json
import os
import time
from pathlib import Path

import torch


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
                    ["none", "error", "nobody", "exit", "cuda", "memory", "pause", "sleep", "hang"],
                    {"default": "none"},
                ),
            }
        }

    def run(self, image: torch.Tensor, fault: str) -> tuple[torch.Tensor]:
        if fault == "error":
            raise ValueError("secret /path/of/the/server in a message")
        if fault == "nobody":
            raise NoPersonFound("nobody here")
        if fault == "exit":
            raise SystemExit(3)
        if fault == "cuda":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if fault == "memory":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB")
        if fault in ("pause", "sleep"):  # a second, half a minute
            for _ in range(20 if fault == "pause" else 600):
                time.sleep(0.05)
                _interrupt_point()
        if fault == "hang":
            time.sleep(30)
        return (image,)


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


NODE_CLASS_MAPPINGS = {"ProbeFault": ProbeFault}

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
