"""What an output layer says of tokens, some rows at a time in one buffer: logits are the largest thing of a step.

A vocabulary has tens of thousands of words, so every tensor of logits that is made anew costs about as much as the
products that fill it. Here one buffer holds them, they are changed in place, and the gradient of the weights is added
up where it lies. Backwards they are computed again from the hidden states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ROWS = 256  # positions scored at once: (256, V) float32 is the most that logits ever take


def is_plain(head: Any) -> bool:
    """Whether an output layer is its weights alone: no bias, no adapters, and not shared out over processes."""
    alone = type(head) is nn.Linear and [name for name, _ in head.named_parameters()] == ["weight"]
    return alone and type(head.weight.data) is torch.Tensor


def token_logps(
    weight: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return (M,) float32: log softmax(W h / temperature) at `targets` (M,) for hidden states (M, D).

    `weight` is (V, D), that of a plain output layer. Products are in the precision of autocast where that is on.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    arguments = (hidden.to(dtype), weight.to(dtype), targets, temperature)
    found: torch.Tensor = _TokenLogps.apply(*arguments)  # type: ignore[no-untyped-call]  # torch declares none
    return found


class _TokenLogps(torch.autograd.Function):
    """The same with its gradient: with p = softmax(z) and z = W h / temperature it is (one at the target) - p by z."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        chosen, normalisers = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(2))
        buffer = weight.new_empty(min(ROWS, len(hidden)), len(weight))
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            logits = _logits(hidden[rows], weight, temperature, buffer)
            chosen[rows] = logits.gather(1, targets[rows, None]).squeeze(1)
            top = logits.amax(dim=1)
            normalisers[rows] = logits.sub_(top[:, None]).exp_().sum(dim=1).log() + top
        ctx.save_for_backward(hidden, weight, targets, normalisers)
        ctx.temperature = temperature
        return chosen - normalisers

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, normalisers = ctx.saved_tensors
        scale = gradients[0] / ctx.temperature
        by_hidden = torch.empty_like(hidden)
        # In float32: in bfloat16 the sum would be rounded with every chunk.
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        buffer = weight.new_empty(min(ROWS, len(hidden)), len(weight))
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            logits = _logits(hidden[rows], weight, ctx.temperature, buffer)
            minus = logits.sub_(normalisers[rows, None]).exp_().mul_(-scale[rows, None])
            by_logits = minus.scatter_add_(1, targets[rows, None], scale[rows, None]).to(weight.dtype)
            torch.mm(by_logits, weight, out=by_hidden[rows])
            if by_weight is None:
                continue
            if weight.dtype is torch.float32:
                by_weight.addmm_(by_logits.T, hidden[rows])
            else:
                by_weight += torch.mm(by_logits.T, hidden[rows])
        return by_hidden, None if by_weight is None else by_weight.to(weight.dtype), None, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float, buffer: torch.Tensor) -> torch.Tensor:
    """Return float32 logits (rows, V), in the buffer where its precision allows."""
    logits = torch.mm(hidden, weight.T, out=buffer[: len(hidden)]).float()
    return logits if temperature == 1.0 else logits.div_(temperature)
