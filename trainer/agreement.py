"""How often scores rank two answers as the labelers did."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer.rankings import Group
from trainer.records import Message


def hits(groups: Sequence[Group], scores: Sequence[torch.Tensor]) -> tuple[list[float], list[float]]:
    """Return, per prompt, the weight of pairs ranked right (equal scores count half) and of all pairs."""
    right: dict[tuple[Message, ...], float] = {}
    counted: dict[tuple[Message, ...], float] = {}
    for group, values in zip(groups, scores, strict=True):
        for (better, worse), weight in group.pairs.items():
            difference = float(values[better] - values[worse])
            hit = 0.5 if difference == 0 else float(difference > 0)
            right[group.messages] = right.get(group.messages, 0.0) + weight * hit
            counted[group.messages] = counted.get(group.messages, 0.0) + weight
    return list(right.values()), list(counted.values())


def length_only(train: Sequence[Group], held_out: Sequence[Group]) -> float:
    """Return the held-out accuracy of preferring the longer answer, or the shorter if the training pairs do."""

    def accuracy(groups: Sequence[Group], sign: int) -> float:
        lengths = [torch.tensor([sign * len(completion) for completion in group.tree.completions]) for group in groups]
        right, counted = hits(groups, lengths)
        return sum(right) / sum(counted)

    return accuracy(held_out, 1 if accuracy(train, 1) >= 0.5 else -1)
