"""Counts what a device would do, on tensors without data."""

import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counter(TorchDispatchMode):
    """While active: kernels, copies between host and device, and the peak of live bytes beside `model`'s parameters.

    `start` begins the count of a step; the figures are the last whole step's. The host waits for a copy of memory that
    is not pinned, and for a value that it reads. Fused attention is taken to need its result and nothing else.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self._live = self.peak = 0
        self._now, self.kernels, self.copies, self.reads = [0, 0, 0], 0, 0, 0

    def __enter__(self):
        self._attention, F.scaled_dot_product_attention = F.scaled_dot_product_attention, _attention
        return super().__enter__()

    def __exit__(self, *error):
        F.scaled_dot_product_attention = self._attention
        return super().__exit__(*error)

    def start(self, step: int) -> None:
        if step:
            self.kernels, self.copies, self.reads = self._now
        self._now = [0, 0, 0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func is torch.ops.aten._local_scalar_dense.default and inputs[0].is_meta:
            self._now[2] += 1
            return 1
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.is_meta]
        if outputs and not func.is_view:
            self._now["copy" in func.__name__ and not all(leaf.is_meta for leaf in inputs)] += 1
        for leaf in outputs:
            self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def _attention(query, key, value, **options):
    batch, heads, length, width = query.shape
    return query.new_empty(batch, length, heads, width).transpose(1, 2)
