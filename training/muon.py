"""Muon (Jordan et al., 2024), an optimizer for matrices and convolutions; everything else is left to Adam.

It takes the direction of a matrix's momentum with all singular values made equal, so that no few directions decide
how far a step goes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

Tensor = torch.Tensor
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
SMALLEST = 8  # rows and columns of a matrix that is worth it
MOMENTUM = 0.95
BETAS, EPSILON = (0.9, 0.99), 1e-8


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Returns (n, rows, columns) whose singular values are about 1, with the singular vectors of `matrices`."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Steps `matrix_rate` for the spectral norm of a matrix, and Adam's `rate` for all else.

    Parameters whose names contain one of `plain` are Adam's, too. A schedule changes each group's "lr".
    """

    def __init__(
        self, named: Iterable[tuple[str, Tensor]], matrix_rate: float, rate: float, plain: tuple[str, ...]
    ) -> None:
        matrices, others = [], []
        for name, tensor in named:
            small = tensor.ndim < 2 or min(tensor.shape[0], tensor[0].numel()) < SMALLEST
            (others if small or any(part in name for part in plain) else matrices).append(tensor)
        super().__init__([{"params": matrices, "lr": matrix_rate}, {"params": others, "lr": rate}], {})
        self.count = torch.zeros((), device=others[0].device)  # a tensor, for graphs of a GPU
        for tensor in (*matrices, *others):
            self.state[tensor]["momentum"] = torch.zeros_like(tensor)
        for tensor in others:
            self.state[tensor]["square"] = torch.zeros_like(tensor)

    def state_dict(self) -> dict:
        return super().state_dict() | {"count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.count.copy_(state["count"])
        super().load_state_dict({name: value for name, value in state.items() if name != "count"})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Changes every parameter by its gradient; all of them must have one."""
        matrices, others = self.param_groups
        self._step_matrices(matrices["params"], matrices["lr"])
        self._step_others(others["params"], others["lr"])

    def _step_matrices(self, parameters: list[Tensor], rate: float) -> None:
        gradients = [tensor.grad for tensor in parameters]
        momenta = [self.state[tensor]["momentum"] for tensor in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        alike: dict[tuple[int, int], list[int]] = {}
        for index, tensor in enumerate(parameters):
            alike.setdefault((tensor.shape[0], tensor[0].numel()), []).append(index)
        for (rows, columns), indices in alike.items():
            direction = orthogonal(torch.stack([ahead[index].flatten(1) for index in indices]))
            direction *= rate * max(1, rows / columns) ** 0.5
            torch._foreach_sub_(
                [parameters[index] for index in indices],
                [change.view_as(parameters[index]) for index, change in zip(indices, direction, strict=True)],
            )

    def _step_others(self, parameters: list[Tensor], rate: float) -> None:
        self.count += 1
        first, second = 1 - BETAS[0] ** self.count, 1 - BETAS[1] ** self.count
        gradients = [tensor.grad for tensor in parameters]
        means = [self.state[tensor]["momentum"] for tensor in parameters]
        squares = [self.state[tensor]["square"] for tensor in parameters]
        torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
        torch._foreach_mul_(squares, BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETAS[1])
        spreads = torch._foreach_div(squares, second)
        torch._foreach_sqrt_(spreads)
        torch._foreach_add_(spreads, EPSILON)
        changes = torch._foreach_div(means, spreads)
        torch._foreach_mul_(changes, rate / first)
        torch._foreach_sub_(parameters, changes)
