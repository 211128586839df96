"""Root-mean-square norms (Zhang and Sennrich 2019) with fewer passes over memory, forwards and backwards.

transformers writes one as five operations, which autograd follows with seven, and two of their results are kept. Here
the reciprocal root of each token is kept, and the rest is computed again. On a CPU, where each operation is a pass over
memory; a GPU has compiled layers for that (`layers`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn


def install(trunk: nn.Module) -> int:
    """Let the norms of a model be computed so, where that gives what they give now; return how many."""
    found = [module for module in trunk.modules() if _is_one(module)]
    for module in found:
        module.forward = partial(_forward, module, module.forward)  # an own attribute stands before the class's
    return len(found)


def _is_one(module: nn.Module) -> bool:
    """Whether a module is such a norm: what it says of a state decides. One that is spread over processes is left."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, nn.Parameter) or type(weight.data) is not torch.Tensor or epsilon is None:
        return False
    probe = torch.linspace(-1, 1, weight.numel(), device=weight.device)[None]
    with torch.no_grad():
        return torch.allclose(module(probe), _computed(probe, weight, epsilon))


def _forward(module: Any, plain: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    if hidden_states.dtype is not torch.float32 or module.weight.dtype is not torch.float32:
        said: torch.Tensor = plain(hidden_states)
        return said
    return _computed(hidden_states, module.weight, module.variance_epsilon)


def _computed(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the norms (…, D) of states (…, D) with a weight (D,), all float32."""
    found: torch.Tensor = _RootMeanSquare.apply(states, weight, epsilon)  # type: ignore[no-untyped-call]  # torch's own
    return found


class _RootMeanSquare(torch.autograd.Function):
    """With r = 1 / sqrt(mean x^2 + e) and n = r x it is w n; backwards (g w - n mean(g w n)) r, and the sum of g n."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        lengths = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        factors = lengths.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(states, weight, factors)
        normed: torch.Tensor = states * factors
        return normed.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight, factors = ctx.saved_tensors
        (gradient,) = gradients
        normed = states * factors
        by_weight = (gradient * normed).flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None
        weighted = gradient * weight
        along = (weighted * normed).mean(dim=-1, keepdim=True)
        return weighted.sub_(normed.mul_(along)).mul_(factors), by_weight, None
