"""Habits of single labelers that have nothing to do with the answers' quality: position, length, haste.

Each comes with an interval and a p-value, corrected by Holm's method for the number of labelers tested, and is flagged
only where the evidence holds after that and the effect is large enough to matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.services.quality.statistics.evidence import (
    Estimate,
    binomial_tail,
    cluster_share,
    holm,
    median_interval,
    two_sided,
    wilson,
)
from app.services.quality.statistics.pairs import (
    MISSING,
    Bools,
    Floats,
    RankingTable,
    pair_places,
    pair_values,
    rows_of,
)

LEAST_RANKINGS = 10
"""With fewer rankings a labeler is not tested: a normal approximation would promise more than it can hold."""
LEVEL = 0.05
SMALLEST_EFFECT = 0.05
"""A share must differ from what is expected by this much to be flagged, however sure the difference is."""

CHARACTERS_A_SECOND = 100.0
"""Faster than this nobody reads: five times the usual 238 words a minute (Brysbaert 2019) at five letters a word."""
LEAST_SECONDS = 2.0
HASTY_SHARE = 0.05
"""The share of rankings that may be implausibly fast by accident (a repeated prompt, a tab left open and restarted)."""


@dataclass(frozen=True)
class Habit:
    """One labeler's share, what it should be, and how surprising the difference is (None: too little to test)."""

    share: Estimate
    expected: float
    p_value: float | None
    flagged: bool = False


@dataclass(frozen=True)
class Pace:
    """How fast a labeler is. `ratio` is their seconds per 1,000 characters over the project's."""

    seconds: Estimate
    seconds_per_1000: Estimate
    ratio: float
    hasty: Habit


def positions(table: RankingTable) -> list[Habit | None]:
    """Return, per labeler, how often they prefer the answer shown earlier; one half without a bias.

    The order of showing is random, so quality cannot explain a difference from one half.
    """
    values = pair_values(table.ranks)
    first, second = pair_places(table.ranks.shape[1])
    earlier = np.sign(table.shown[:, second].astype(np.int16) - table.shown[:, first])
    usable = (values != MISSING) & (values != 0) & (table.shown[:, first] > 0) & (table.shown[:, second] > 0)
    hits, counts = _per_ranking(values == earlier, usable)
    habits: list[Habit | None] = []
    for rows in rows_of(table.labeler, table.number_of_labelers):
        share = cluster_share(hits[rows], counts[rows])
        habits.append(None if share is None else Habit(share, 0.5, _sign_flip(hits[rows] - counts[rows] / 2)))
    return _corrected(habits)


def lengths(table: RankingTable) -> list[Habit | None]:
    """Return, per labeler, how often they prefer the longer answer, against the median share of the others.

    Longer answers may well be better, so a labeler is compared with the others and not with one half; with their
    median, so that one who goes by length alone does not make the honest ones look odd.
    """
    values = pair_values(table.ranks)
    first, second = pair_places(table.ranks.shape[1])
    longer = np.sign(table.lengths[:, first] - table.lengths[:, second])[table.task]
    usable = (values != MISSING) & (values != 0) & (longer != 0)
    hits, counts = _per_ranking(values == longer, usable)
    rows = rows_of(table.labeler, table.number_of_labelers)
    shares = [cluster_share(hits[row], counts[row]) for row in rows]
    tested = [place for place, row in enumerate(rows) if shares[place] and len(row) >= LEAST_RANKINGS]
    variances = {place: _variance(hits[rows[place]], counts[rows[place]]) for place in tested}
    habits: list[Habit | None] = []
    for place, share in enumerate(shares):
        others = [other for other in tested if other != place]
        if share is None or not others:
            habits.append(None)
            continue
        expected = float(np.median([shares[other].value for other in others]))  # type: ignore[union-attr]
        p_value = None
        if place in variances:
            # A median varies by pi / 2 more than a mean.
            variance = variances[place] + math.pi / 2 * sum(variances[other] for other in others) / len(others) ** 2
            p_value = two_sided((share.value - expected) / math.sqrt(variance)) if variance > 0 else 1.0
        habits.append(Habit(share, expected, p_value))
    return _corrected(habits)


def paces(table: RankingTable) -> list[Pace | None]:
    """Return, per labeler, their median time a ranking and per 1,000 characters, and the share that is implausible."""
    characters = np.maximum(1, (table.prompt_lengths + table.lengths.sum(axis=1))[table.task])
    per_1000 = table.seconds / characters * 1000
    hasty = implausible(table)
    project = float(np.median(per_1000)) if len(per_1000) else math.nan
    found: list[Pace | None] = []
    habits: list[Habit | None] = []
    for rows in rows_of(table.labeler, table.number_of_labelers):
        seconds, relative = median_interval(table.seconds[rows]), median_interval(per_1000[rows])
        if seconds is None or relative is None:
            found.append(None)
            habits.append(None)
            continue
        count, n = int(hasty[rows].sum()), len(rows)
        share = Estimate(count / n, *wilson(count / n, n), n)
        habit = Habit(share, HASTY_SHARE, binomial_tail(count, n, HASTY_SHARE) if n >= LEAST_RANKINGS else None)
        found.append(Pace(seconds, relative, relative.value / project if project > 0 else math.nan, habit))
        habits.append(habit)
    corrected = _corrected(habits, one_sided=True)
    return [
        replace(pace, hasty=habit) if pace and habit else None for pace, habit in zip(found, corrected, strict=True)
    ]


def implausible(table: RankingTable) -> Bools:
    """Return which rankings [N] were given faster than anybody can read the prompt and the answers."""
    characters = (table.prompt_lengths + table.lengths.sum(axis=1))[table.task]
    fast: Bools = table.seconds < np.maximum(LEAST_SECONDS, characters / CHARACTERS_A_SECOND)
    return fast


def _per_ranking(hit: Bools, usable: Bools) -> tuple[Floats, Floats]:
    """Return hits and observations per ranking [N]: its pairs are one cluster."""
    return (hit & usable).sum(axis=1).astype(float), usable.sum(axis=1).astype(float)


def _sign_flip(differences: Floats) -> float | None:
    """Return the p-value of "the sum is 0" when each ranking's difference could as well have had the other sign."""
    scale = float((differences**2).sum())
    if len(differences) < LEAST_RANKINGS or scale == 0:
        return None
    return two_sided(float(differences.sum()) / math.sqrt(scale))


def _variance(hits: Floats, counts: Floats) -> float:
    total = float(counts.sum())
    return float(((hits - hits.sum() / total * counts) ** 2).sum()) / total**2


def _corrected(habits: Sequence[Habit | None], *, one_sided: bool = False) -> list[Habit | None]:
    p_values = holm([habit.p_value if habit else None for habit in habits])
    return [
        habit and replace(habit, p_value=p, flagged=p is not None and p < LEVEL and _matters(habit, one_sided))
        for habit, p in zip(habits, p_values, strict=True)
    ]


def _matters(habit: Habit, one_sided: bool) -> bool:
    difference = habit.share.value - habit.expected
    return (difference if one_sided else abs(difference)) >= SMALLEST_EFFECT
