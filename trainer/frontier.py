"""Reward as a function of the distance from the start, d = sqrt(KL): how it has grown and where it would turn.

Bai et al. 2022 found the reward about linear in d. Gao et al. 2022 fitted R(d) = d (alpha - beta log d) to what
reinforcement learning reaches on a *gold* reward, whose peak is at d* = exp(alpha / beta - 1). Here both are fitted to
one run's own points, with the reward at d = 0 as one number more. On a proxy a predicted peak is a warning at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST_POINTS = 5
LEAST_DISTANCE = 1e-6  # nearer to the start than this is at it

Point = tuple[float, float]


class Line(NamedTuple):
    """R = start + slope * d, and the share of the variance that it explains."""

    start: float
    slope: float
    r_squared: float

    def at(self, d: float) -> float:
        """Return the reward at a distance."""
        return self.start + self.slope * d


class Curve(NamedTuple):
    """R = start + d (alpha - beta log d); `peak` is where it turns (None: it never does), `peak_reward` is R there."""

    start: float
    alpha: float
    beta: float
    r_squared: float
    peak: float | None
    peak_reward: float | None

    def at(self, d: float) -> float:
        """Return the reward at a distance."""
        return self.start + d * (self.alpha - self.beta * math.log(max(d, LEAST_DISTANCE)))


def distance(kl: float) -> float:
    """Return d of a KL (nats a sequence); an estimate below 0 counts as 0."""
    return math.sqrt(max(kl, 0.0))


def points(rows: Sequence[dict[str, float]]) -> list[Point]:
    """Return (d, reward) of a run's metrics."""
    return [(distance(row["kl"]), row["reward"]) for row in rows]


def fit_line(found: Sequence[Point], least: int = LEAST_POINTS) -> Line | None:
    """Return the least-squares line, or None where fewer than `least` distances are known."""
    if _distances(found) < least:
        return None
    d, reward = np.array(found).T
    coefficients, explained = _solve(np.stack([np.ones_like(d), d], axis=1), reward)
    return Line(float(coefficients[0]), float(coefficients[1]), explained)


def fit_curve(found: Sequence[Point]) -> Curve | None:
    """Return the least-squares curve of Gao et al., or None where fewer than `LEAST_POINTS` distances are known."""
    if _distances(found) < LEAST_POINTS:
        return None
    d, reward = np.array(found).T
    bent = -d * np.log(np.maximum(d, LEAST_DISTANCE))
    (start, alpha, beta), explained = _solve(np.stack([np.ones_like(d), d, bent], axis=1), reward)
    if beta <= 0 or alpha / beta > 20:
        return Curve(float(start), float(alpha), float(beta), explained, None, None)
    peak = math.exp(alpha / beta - 1)
    return Curve(float(start), float(alpha), float(beta), explained, peak, float(start) + float(beta) * peak)


def summarise(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Return both fits of a run's metrics as figures for its report; nothing where there is too little to fit."""
    found = points(rows)
    line, curve = fit_line(found), fit_curve(found)
    if line is None or curve is None:
        return {}
    return {
        "linear": {"start": line.start, "slope": line.slope, "r_squared": line.r_squared},
        "gao": dict(curve._asdict()),
    }


def _distances(found: Sequence[Point]) -> int:
    return len({round(d, 6) for d, _ in found})


def _solve(design: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    coefficients, *_ = np.linalg.lstsq(design, values, rcond=None)
    residual = float(((values - design @ coefficients) ** 2).sum())
    total = float(((values - values.mean()) ** 2).sum())
    return coefficients, 1 - residual / total if total > 0 else 0.0
