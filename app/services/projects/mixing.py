"""What a ranking weighs in training: less with every round it is older, and by the policies whose answers it ranks.

    weight = (round_weight_percent / 100) ** rounds since, times the mean weight of the answers' policies

A policy that the project does not name weighs 1, as do answers that people wrote. With the defaults every ranking
weighs 1. A weight of 0 leaves a ranking in the snapshot, where it can be seen, and out of the losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.errors import InvalidInputError

MOST = 100.0
DIGITS = 6
"""Weights are rounded, so that the same answers give the same bytes on any machine."""


def weight(age: int, policies: Sequence[str], round_weight_percent: int, weights: Mapping[str, float]) -> float:
    """Return the weight of a ranking from `age` rounds ago, of answers by these policies ("" for a person's)."""
    decay = (round_weight_percent / 100) ** age
    mean = sum(weights.get(name, 1.0) for name in policies) / len(policies) if policies else 1.0
    return round(decay * mean, DIGITS)


def ages(rounds: Sequence[int]) -> dict[int, int]:
    """Return for each round that has tasks how many later ones have: a number that was never used ages nothing."""
    return {number: age for age, number in enumerate(sorted(set(rounds), reverse=True))}


def read_weights(typed: str) -> dict[str, float]:
    """Read lines such as `base 0.5`; raise `InvalidInputError` for a line that is no name and number from 0 to 100."""
    weights: dict[str, float] = {}
    for line in typed.splitlines():
        if not line.strip():
            continue
        name, _, number = line.strip().rpartition(" ")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name.strip() or not 0 <= value <= MOST:
            raise InvalidInputError(
                f"Give weights as lines of a model's name and a number, as in: base 0.5 ({line!r})."
            )
        if name.strip() in weights:
            raise InvalidInputError(f"{name.strip()} has two weights; leave one.")
        weights[name.strip()] = value
    return weights
