"""Lets a callback end a network's work midway: on a CPU one call of a large image's networks takes up to minutes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

# Queries that each thread answers between two calls: with 131,072 keys and CatVTON's width some seconds' work
QUERIES_PER_THREAD = 1024


@contextlib.contextmanager
def before_blocks(vae: torch.nn.Module, tokens: int, function: Callable[[], None]) -> Iterator[None]:
    """Calls `function` before each residual block of the VAE, and within its attention as `within_attention` does."""
    blocks = [module for module in vae.modules() if type(module).__name__ == "ResnetBlock2D"]
    hooks = [block.register_forward_pre_hook(lambda module, inputs: function()) for block in blocks]
    try:
        with within_attention(next(vae.parameters()).device, tokens, function):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def within_attention(
    device: torch.device, tokens: int, function: Callable[[], None]
) -> contextlib.AbstractContextManager:
    """Calls `function` before each part of a CPU's attention over up to `tokens` positions, if that takes long.

    A GPU's is done in less than a second, and left whole. A small one is too: looking at every call of torch costs the
    demo's UNet 8 % of its time.
    """
    queries = QUERIES_PER_THREAD * torch.get_num_threads()
    is_long = device.type == "cpu" and tokens > queries
    return _SplitAttention(queries, function) if is_long else contextlib.nullcontext()


class _SplitAttention(TorchFunctionMode):
    """Computes attention for some queries after the others, which is the same attention: each looks at all keys."""

    def __init__(self, queries: int, function: Callable[[], None]) -> None:
        super().__init__()
        self.queries, self.function = queries, function

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_attention = func is F.scaled_dot_product_attention and not torch.compiler.is_compiling()
        if not is_attention or len(args) != 3 or kwargs.get("attn_mask") is not None:
            return func(*args, **kwargs)
        query, key, value = args
        parts = []
        for part in query.split(self.queries, dim=-2):
            self.function()
            parts.append(func(part, key, value, **kwargs))
        return torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]
