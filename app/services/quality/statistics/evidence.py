"""How sure a figure is: intervals that respect clusters, p-values, and their correction for many labelers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from app.services.quality.statistics.pairs import Floats

RESAMPLES = 1000
MOST_CLUSTERS = 2000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, and how many observations (pairs, rankings …) it rests on."""

    value: float
    low: float
    high: float
    count: int


def resampled_sums(columns: Floats, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Return [B, F]: the column sums of `columns` [C, F] when its C clusters are drawn anew with replacement B times.

    One draw serves every figure that is a function of sums, so all of them are resampled in one pass over the data.
    Many clusters are first put together at random into `MOST_CLUSTERS`: the sums vary as before, at a bounded cost.
    """
    generator = np.random.default_rng(seed)
    if len(columns) > MOST_CLUSTERS:
        together = np.zeros((MOST_CLUSTERS, columns.shape[1]))
        np.add.at(together, generator.permutation(len(columns)) % MOST_CLUSTERS, columns)
        columns = together
    clusters = len(columns)
    sums = np.empty((resamples, columns.shape[1]))
    for row in range(resamples):
        weights = np.bincount(generator.integers(clusters, size=clusters), minlength=clusters)
        sums[row] = weights @ columns
    return sums


def percentile_interval(values: Floats) -> tuple[float, float]:
    """Return the central 95 % of resampled figures; those that are not defined in a resample are left out."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def cluster_share(hits: Floats, counts: Floats, z: float = 1.96) -> Estimate | None:
    """Return sum(hits) / sum(counts) with an interval that knows that the observations of one cluster are alike.

    Entry c holds one cluster's hits and observations. The variance is that of a ratio of cluster totals; Wilson's
    interval is then computed for as many independent observations as would give that variance (but never more than
    there are), so that it stays inside 0 … 1 and is not empty when all agree. None without observations.
    """
    total = float(counts.sum())
    if total == 0:
        return None
    share = float(hits.sum()) / total
    clusters = int(np.count_nonzero(counts))
    variance = float(((hits - share * counts) ** 2).sum()) / total**2
    if clusters > 1:
        variance *= clusters / (clusters - 1)
    effective = min(share * (1 - share) / variance, total) if variance > 0 and clusters > 1 else float(clusters)
    low, high = wilson(share, effective, z)
    return Estimate(share, low, high, int(total))


def wilson(share: float, observations: float, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927)."""
    centre = (share + z * z / (2 * observations)) / (1 + z * z / observations)
    half = (
        z / (1 + z * z / observations) * math.sqrt(share * (1 - share) / observations + z * z / (4 * observations**2))
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def two_sided(z: float) -> float:
    """Return the probability of a standard normal value at least as far from 0 as `z`."""
    return math.erfc(abs(z) / math.sqrt(2))


def critical(number_of_tests: int, level: float = 0.05) -> float:
    """Return how many standard errors an interval must reach so that all of `number_of_tests` hold together."""
    return _NORMAL.inv_cdf(1 - level / (2 * max(1, number_of_tests)))


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """Return the probability of at least `successes` among `trials` when each succeeds with probability `chance`."""
    if successes <= 0:
        return 1.0
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(chance)
        + (trials - k) * math.log1p(-chance)
        for k in range(successes, trials + 1)
    ]
    return min(1.0, math.fsum(math.exp(value) for value in logs))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number (Holm 1979); None, a test that was not made, stays None."""
    made = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for order, (p, place) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - order) * p))
        corrected[place] = largest
    return corrected


def median_interval(values: NDArray[np.float64]) -> Estimate | None:
    """Return the median with its 95 % interval by order statistics, which assumes no shape. None without values."""
    n = len(values)
    if n == 0:
        return None
    ordered = np.sort(values)
    half = 1.96 * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return Estimate(float(np.median(ordered)), float(ordered[low]), float(ordered[high]), n)
