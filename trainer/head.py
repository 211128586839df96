"""What an output layer says of tokens, some at a time in one buffer: logits are the largest thing of a step.

A vocabulary has tens of thousands of words, so every tensor of logits that is made anew costs about as much as the
products that fill it. Here they are changed in place, and the gradient of the weights is added up where it lies. As
many positions as `KEPT` bytes hold keep theirs for the backward pass; the others share one buffer, and backwards theirs
are computed again from the hidden states. A position is a column: with so few of them that product is the faster one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

ROWS = 256  # positions scored at once of those that are not kept
KEPT = 2**28  # bytes of float32 logits that are kept


def is_plain(head: Any) -> bool:
    """Whether an output layer is its weights alone: no bias, no adapters, and not shared out over processes."""
    alone = type(head) is nn.Linear and [name for name, _ in head.named_parameters()] == ["weight"]
    return alone and type(head.weight.data) is torch.Tensor


def token_logps(
    weight: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return (M,) float32: log softmax(W h / temperature) at `targets` (M,) for hidden states (M, D).

    `weight` is (V, D), that of a plain output layer. Products are in the precision of autocast where that is on. The
    same positions get the same values to the last bit whether or not a gradient is wanted: PPO's ratios begin at 1.
    Only one backward pass is possible: it changes what was kept.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    kept = min(len(hidden), KEPT // (4 * len(weight)))  # also where nothing learns: other products round otherwise
    arguments = (hidden.to(dtype), weight.to(dtype), targets, temperature, kept)
    found: torch.Tensor = _TokenLogps.apply(*arguments)  # type: ignore[no-untyped-call]  # torch declares none
    return found


class _TokenLogps(torch.autograd.Function):
    """The same with its gradient: with p = softmax(z) and z = W h / temperature it is (one at the target) - p by z.

    Of the first `kept` positions the numerators of p are kept, which is exp(z - max z).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, kept: int
    ) -> torch.Tensor:
        chosen, tops, sums = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(3))
        numerators = torch.empty(0)
        buffer = _buffer(weight, min(ROWS, len(hidden) - kept))
        for part in _parts(len(hidden), kept):
            keeps = part.start < kept
            logits = _logits(hidden[part], weight, temperature, _buffer(weight, kept) if keeps else buffer)
            chosen[part] = logits.gather(0, targets[None, part]).squeeze(0)
            tops[part] = logits.amax(dim=0)
            sums[part] = logits.sub_(tops[part]).exp_().sum(dim=0)
            if keeps:
                numerators = logits
        ctx.save_for_backward(hidden, weight, targets, tops, sums, numerators)
        ctx.temperature, ctx.kept = temperature, kept
        return chosen - tops - sums.log()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, tops, sums, numerators = ctx.saved_tensors
        scale = gradients[0] / ctx.temperature
        by_hidden = torch.empty_like(hidden)
        by_weight: torch.Tensor | None = None
        buffer = _buffer(weight, min(ROWS, len(hidden) - ctx.kept))
        for part in _parts(len(hidden), ctx.kept):
            if part.start >= ctx.kept:
                numerators = _logits(hidden[part], weight, ctx.temperature, buffer).sub_(tops[part]).exp_()
            minus = numerators.mul_(-scale[part] / sums[part])
            by_logits = minus.scatter_add_(0, targets[None, part], scale[None, part]).to(weight.dtype)
            torch.mm(by_logits.T, weight, out=by_hidden[part])
            if ctx.needs_input_grad[1]:
                by_weight = _add_product(by_weight, by_logits, hidden[part])
        if by_weight is None and ctx.needs_input_grad[1]:
            by_weight = torch.zeros_like(weight)
        return by_hidden, None if by_weight is None else by_weight.to(weight.dtype), None, None, None


def _parts(count: int, kept: int) -> Iterator[slice]:
    """Yield the positions that are kept, then `ROWS` of the others at a time."""
    if kept:
        yield slice(0, kept)
    for start in range(kept, count, ROWS):
        yield slice(start, min(start + ROWS, count))


def _buffer(weight: torch.Tensor, positions: int) -> torch.Tensor:
    """Return room for the logits of so many positions."""
    return weight.new_empty(len(weight) * positions)


def _logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float, buffer: torch.Tensor) -> torch.Tensor:
    """Return float32 logits (V, positions), in the buffer where its precision allows."""
    room = buffer[: len(weight) * len(hidden)].view(len(weight), len(hidden))
    logits = torch.mm(weight, hidden.T, out=room).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def _add_product(total: torch.Tensor | None, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return total + one @ other, in float32: in bfloat16 the sum would be rounded with every part."""
    if total is None:
        return torch.mm(one, other).float()
    if one.dtype is torch.float32:
        return total.addmm_(one, other)
    return total.add_(torch.mm(one, other))
