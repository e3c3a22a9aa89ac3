"""A node pack whose nodes break the GPU, or fill it: what a worker must notice, and outlive where it can."""

import torch

CUDA = torch.cuda.is_available()


class _Fault:
    CATEGORY = "faults"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"image": ("IMAGE",)}}


class BreakGpu(_Fault):
    """Makes a kernel assert, after which the process can use its GPU no more."""

    def run(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        if not CUDA:
            raise RuntimeError("CUDA error: device-side assert triggered")  # the same text, for a rehearsal
        found = torch.zeros(4, device="cuda")[torch.full((4,), 10**6, device="cuda")]
        torch.cuda.synchronize()
        return (image + found.sum().cpu(),)


class FillGpu(_Fault):
    """Takes all of the GPU's memory until there is no more."""

    def run(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        if not CUDA:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        taken = []
        while True:
            taken.append(torch.empty(2**30, dtype=torch.uint8, device="cuda"))


NODE_CLASS_MAPPINGS = {"BreakGpu": BreakGpu, "FillGpu": FillGpu}
