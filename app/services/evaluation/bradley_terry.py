r"""Strengths of policies from who beat whom: Bradley and Terry's model, its intervals, and Elo. Pure functions.

A policy i has a strength theta_i, and P(i beats j) = 1 / (1 + exp(theta_j - theta_i)); a tie counts as half a win of
each. The strengths maximise the likelihood with a weak prior N(0, `PRIOR`²): without it a policy that won every time
would be infinitely strong, and policies that never met could not be placed. One policy, the anchor, stands at 0.

Outcomes on one prompt are alike, whoever judged it and whichever policies met there; so the covariance is the sandwich
H^-1 J H^-1 with prompts as clusters, J being the sum over prompts of the outer products of their gradients. The prior
counts in both, so that a policy that never met anybody has the prior's variance. On the Elo scale 400 points are odds
of ten to one: Elo_i = 400 / ln 10 · theta_i, as Bai et al. 2022 turn win rates into Elo.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from app.services.evaluation.linear import Matrix, inverse, product, times

ELO = 400 / math.log(10)
PRIOR = 3.0
"""Standard deviation of the prior: about 520 points of Elo, so that a few dozen outcomes speak louder."""

_STEPS, _ENOUGH = 60, 1e-10


@dataclass(frozen=True)
class Meeting:
    """What came of policy `first` against `second` on a prompt: 1 a win, one half a tie, 0 a loss."""

    prompt: Hashable
    first: int
    second: int
    outcome: float


@dataclass(frozen=True)
class Strength:
    """A policy's Elo with its 95 % interval, relative to the anchor, and how many outcomes it was in."""

    elo: float
    low: float
    high: float
    meetings: int


def strengths(meetings: Sequence[Meeting], policies: int, anchor: int = 0, z: float = 1.96) -> list[Strength]:
    """Return the strength of each of the policies, the anchor at 0 without an interval."""
    theta, bread = _fit(meetings, policies)
    covariance = product(product(bread, _meat(meetings, theta)), bread)
    count = [0] * policies
    for meeting in meetings:
        count[meeting.first] += 1
        count[meeting.second] += 1
    found = []
    for own in range(policies):
        variance = covariance[own][own] + covariance[anchor][anchor] - 2 * covariance[own][anchor]
        half = z * math.sqrt(max(variance, 0.0)) * ELO if own != anchor else 0.0
        elo = ELO * (theta[own] - theta[anchor])
        found.append(Strength(elo, elo - half, elo + half, count[own]))
    return found


def chance(elo_difference: float) -> float:
    """Return the chance of winning that a lead in Elo means."""
    return 1 / (1 + 10 ** (-elo_difference / 400))


def _fit(meetings: Iterable[Meeting], policies: int) -> tuple[list[float], Matrix]:
    """Return the strengths by Newton's method, and the inverse of the curvature there. The likelihood is concave."""
    totals: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for meeting in meetings:
        entry = totals[meeting.first, meeting.second]
        entry[0] += meeting.outcome
        entry[1] += 1
    theta = [0.0] * policies
    for _ in range(_STEPS):
        gradient = [-value / PRIOR**2 for value in theta]
        curvature = [[float(a == b) / PRIOR**2 for b in range(policies)] for a in range(policies)]
        for (first, second), (won, count) in totals.items():
            p = _sigma(theta[first] - theta[second])
            gradient[first] += won - count * p
            gradient[second] -= won - count * p
            weight = count * p * (1 - p)
            for a, b, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
                curvature[a][b] += sign * weight
        bread = inverse(curvature)
        step = times(bread, gradient)
        # A step of more than two is a jump over the top of a flat likelihood.
        scale = min(1.0, 2 / max(1e-12, *map(abs, step)))
        theta = [value + scale * move for value, move in zip(theta, step, strict=True)]
        if max(map(abs, step)) < _ENOUGH:
            break
    return theta, bread


def _meat(meetings: Iterable[Meeting], theta: Sequence[float]) -> Matrix:
    gradients: dict[Hashable, list[float]] = defaultdict(lambda: [0.0] * len(theta))
    for meeting in meetings:
        miss = meeting.outcome - _sigma(theta[meeting.first] - theta[meeting.second])
        gradients[meeting.prompt][meeting.first] += miss
        gradients[meeting.prompt][meeting.second] -= miss
    size = len(theta)
    meat = [[float(a == b) / PRIOR**2 for b in range(size)] for a in range(size)]
    for row in gradients.values():
        touched = [place for place, value in enumerate(row) if value]
        for a in touched:
            for b in touched:
                meat[a][b] += row[a] * row[b]
    return meat


def _sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
