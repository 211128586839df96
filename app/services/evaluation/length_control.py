r"""A win rate as it would be if both policies' answers were of the same length. Pure functions.

Labelers and judges tend to prefer longer answers, so that a policy can win by writing more. As in AlpacaEval 2 (Dubois
et al. 2024, "Length-controlled AlpacaEval", section 3) the outcome is explained by a logistic regression on a constant
and on the difference in length, here without that paper's terms for the difficulty of each prompt:

    P(win) = sigma(a + b · tanh((l_own - l_other) / s))        s: the standard deviation of the differences

and the length-controlled win rate is what the regression says at no difference, sigma(a). A tie is half a win. A weak
prior N(0, 3²) on both keeps them finite where all outcomes are the same.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from app.services.evaluation.linear import inverse, product, times

PRIOR = 3.0
_STEPS, _ENOUGH = 60, 1e-10


@dataclass(frozen=True)
class Outcome:
    """1 for a win, one half for a tie, 0 for a loss, and by how many characters the own answer was longer."""

    prompt: Hashable
    won: float
    longer: float


@dataclass(frozen=True)
class Controlled:
    """The win rate at equal length with its 95 % interval; `length_effect` is b, above 0 where length wins."""

    win_rate: float
    low: float
    high: float
    length_effect: float


def controlled(outcomes: Sequence[Outcome], z: float = 1.96) -> Controlled | None:
    """Return the length-controlled win rate; None without outcomes. Prompts are clusters, as in Bradley-Terry."""
    if not outcomes:
        return None
    features = _features([outcome.longer for outcome in outcomes])
    a = b = 0.0
    for _ in range(_STEPS):
        gradient = [-a / PRIOR**2, -b / PRIOR**2]
        curvature = [[1 / PRIOR**2, 0.0], [0.0, 1 / PRIOR**2]]
        for outcome, x in zip(outcomes, features, strict=True):
            p = _sigma(a + b * x)
            miss, weight = outcome.won - p, p * (1 - p)
            gradient[0] += miss
            gradient[1] += miss * x
            curvature[0][0] += weight
            curvature[0][1] += weight * x
            curvature[1][1] += weight * x * x
        curvature[1][0] = curvature[0][1]
        bread = inverse(curvature)
        step = times(bread, gradient)
        scale = min(1.0, 2 / max(1e-12, *map(abs, step)))
        a, b = a + scale * step[0], b + scale * step[1]
        if max(map(abs, step)) < _ENOUGH:
            break
    gradients: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for outcome, x in zip(outcomes, features, strict=True):
        miss = outcome.won - _sigma(a + b * x)
        gradients[outcome.prompt][0] += miss
        gradients[outcome.prompt][1] += miss * x
    meat = [
        [sum(row[i] * row[j] for row in gradients.values()) + float(i == j) / PRIOR**2 for j in (0, 1)] for i in (0, 1)
    ]
    error = math.sqrt(product(product(bread, meat), bread)[0][0])
    return Controlled(_sigma(a), _sigma(a - z * error), _sigma(a + z * error), b)


def _features(differences: Sequence[float]) -> list[float]:
    mean = sum(differences) / len(differences)
    spread = math.sqrt(sum((value - mean) ** 2 for value in differences) / len(differences))
    scale = spread or max(1.0, abs(mean))  # all differences alike: they are the scale themselves
    return [math.tanh(value / scale) for value in differences]


def _sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
