"""Confidence intervals by the bootstrap over prompts: what a figure would have been with other prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def ratio_interval(
    sums: Sequence[float], counts: Sequence[float], seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of sum(sums) / sum(counts), resampling prompts with replacement.

    Entry b holds one prompt's sum (of hits, of differences) and the weight it is a sum over. The outcomes of one prompt
    stay together: they are alike, and counting them one by one would make the interval too narrow.
    """
    generator = np.random.default_rng(seed)
    picks = generator.integers(len(sums), size=(RESAMPLES, len(sums)))
    values = np.asarray(sums, dtype=float)[picks].sum(axis=1) / np.asarray(counts, dtype=float)[picks].sum(axis=1)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
