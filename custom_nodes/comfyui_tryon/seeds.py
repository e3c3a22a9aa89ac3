"""Makes generators of noise from seeds of 64 bits."""

import torch

BITS = 32
SPREAD = 0x9E3779B1  # odd, so that no two seeds with equal lower bits become one


def generator(seed: int) -> torch.Generator:
    """Returns a generator on the CPU for `seed`, 0 to 2^64-1.

    torch takes the lower 32 bits alone there. Seeds of up to 32 bits are torch's own, as the published code has them.
    """
    low = 2**BITS - 1
    return torch.Generator().manual_seed((seed & low) ^ ((seed >> BITS) * SPREAD & low))
