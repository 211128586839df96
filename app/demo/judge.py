"""Win rates by the simulated preference: how often a policy's answer is liked better than the base model's.

A tie counts half. The interval is a bootstrap over prompts, not over answers, since answers to one prompt are alike.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from app.demo.preference import prefers

RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def win_rate(
    questions: Mapping[str, str],
    policy: Mapping[str, Sequence[str]],
    baseline: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> Interval:
    """Return the policy's win rate over the baseline by the declared preference.

    All three map a prompt's id: to its last user turn, to the policy's answers, to the baseline's answers. Every answer
    of the one meets every answer of the other; prompts weigh alike.
    """
    shared = sorted(policy.keys() & baseline.keys())
    if not shared:
        raise ValueError("The policy and the baseline have answered no prompt in common.")
    by_prompt = [
        fmean(prefers(questions[key], ours, theirs) for ours in policy[key] for theirs in baseline[key])
        for key in shared
    ]
    return bootstrap_mean(by_prompt, seed)


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the mean of `values` and its percentile bootstrap interval."""
    generator = random.Random(seed)  # noqa: S311  # resampling, no secret
    means = sorted(fmean(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Interval(fmean(values), means[tail], means[RESAMPLES - 1 - tail])
