r"""A mean that may be looked at after every answer: a confidence sequence by betting. Standard library only.

A win rate that is watched while answers come in, and stopped as soon as its interval leaves one half, is wrong far more
often than an interval for a fixed number of answers says. Here the interval holds at all times at once, so that one may
look and stop whenever one likes.

The method is betting (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
section 4). Who claims that observations x_1, x_2, … in [0, 1] have the mean m pays 1 - s + s x_t / m for each unit, of
which the share s was staked on "more". If the claim is true the wealth is a martingale that starts at 1, and by Ville's
inequality it ever reaches 2 / alpha with a chance of at most alpha / 2. So every m at which it did is excluded from
below, and every m at which the bets on "less" did, from above. The stake is not one but a mixture over `STAKES`, a
factor of two apart: none has to be chosen in advance, and the wealth does not depend on the order of the observations.

The mean is that of prompts like these; observations have to be of different prompts, as the answers to one are alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEVEL = 0.95
STAKES = tuple(0.8 / 2**power for power in range(7))
_HALVINGS = 40


@dataclass(frozen=True)
class Interval:
    """A mean with an interval that holds at all times at once, and how many observations it rests on."""

    value: float
    low: float
    high: float
    count: int


def interval(observations: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of observations in [0, 1] with its interval; without any, everything is possible."""
    if not observations:
        return Interval(0.5, 0.0, 1.0, 0)
    counts = Counter(observations)
    mirrored = Counter({1.0 - value: count for value, count in counts.items()})
    limit = math.log(2 / (1 - level))
    mean = sum(observations) / len(observations)
    return Interval(mean, _lowest(counts, limit), 1 - _lowest(mirrored, limit), len(observations))


def log_wealth(observations: Iterable[float], mean: float) -> list[float]:
    """Return, after each observation, the log of the wealth of who bets on more than this mean."""
    logs = [0.0] * len(STAKES)
    path = []
    for value in observations:
        logs = [log + math.log1p(stake * (value / mean - 1)) for log, stake in zip(logs, STAKES, strict=True)]
        path.append(_mixed(logs))
    return path


def _lowest(counts: Counter[float], limit: float) -> float:
    """Return the lowest mean that is not excluded; the wealth falls as the mean that is bet against rises."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _log_wealth_of(counts, middle) >= limit:
            low = middle
        else:
            high = middle
    return low


def _log_wealth_of(counts: Counter[float], mean: float) -> float:
    return _mixed(
        [sum(count * math.log1p(stake * (value / mean - 1)) for value, count in counts.items()) for stake in STAKES]
    )


def _mixed(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(log - top) for log in logs) / len(logs))
