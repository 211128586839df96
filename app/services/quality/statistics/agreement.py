"""How far labelers agree: Krippendorff's alpha, Kendall's tau-b, and the share of pairs judged alike.

All three are computed from judgements of pairs of answers, so ties and partial rankings need no rule of their own: a
tie is a judgement, and a pair that a partial ranking leaves open is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.services.quality.statistics.evidence import Estimate, cluster_share, percentile_interval, resampled_sums
from app.services.quality.statistics.pairs import (
    MISSING,
    Bools,
    Floats,
    Ints,
    RankingTable,
    Small,
    pair_values,
    rows_of,
    same_task,
    totals,
)

Metric = Literal["nominal", "ordinal"]


@dataclass(frozen=True)
class Agreement:
    """A project's agreement. None where no two rankings of one task say anything about the same pair of answers.

    `pairs` gives a tie against a preference half a point; `strict` looks only at pairs where both preferred one.
    `tau_b` is the mean over tasks of the mean over pairs of labelers; `flat_rankings` counts the pairs of rankings
    that have no tau-b because one of them ties everything.
    """

    alpha_nominal: Estimate | None
    alpha_ordinal: Estimate | None
    tau_b: Estimate | None
    pairs: Estimate | None
    strict: Estimate | None
    tasks: int
    flat_rankings: int


@dataclass(frozen=True)
class Meetings:
    """What two rankings of one task have in common, for every such two. Rows are numbers of rankings [M].

    `compared` counts the pairs of answers both judge, `points` the agreement on them (1 alike, 1/2 a tie against a
    preference, 0 opposite), `strict` the pairs on which both prefer one, `alike` those on which it is the same one.
    """

    left: Ints
    right: Ints
    compared: Floats
    points: Floats
    strict: Floats
    alike: Floats
    tau_b: Floats


def coincidences(counts: Floats) -> Floats:
    """Return Krippendorff's coincidences [..., C, C] of units whose values were counted per category: [..., C].

    A unit with fewer than two values cannot be paired and contributes nothing (Krippendorff 2011).
    """
    total = counts.sum(axis=-1)
    products = counts[..., :, None] * counts[..., None, :]
    diagonal = np.arange(counts.shape[-1])
    products[..., diagonal, diagonal] -= counts
    return products / np.where(total > 1, total - 1, np.inf)[..., None, None]


def alpha(matrix: Floats, metric: Metric) -> Floats:
    """Return Krippendorff's alpha of summed coincidences [..., C, C]; not a number where there is no variation."""
    n_c = matrix.sum(axis=-1)
    n = n_c.sum(axis=-1)
    difference = _differences(n_c, metric)
    observed = (matrix * difference).sum(axis=(-2, -1))
    expected = (n_c[..., :, None] * n_c[..., None, :] * difference).sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)


def _differences(n_c: Floats, metric: Metric) -> Floats:
    """Return the squared differences [..., C, C] between categories."""
    if metric == "nominal":
        categories = n_c.shape[-1]
        return np.broadcast_to(1.0 - np.eye(categories), (*n_c.shape, categories))
    # The ordinal distance: how many values lie from the middle of one category to the middle of the other.
    middle = n_c.cumsum(axis=-1) - n_c / 2
    return (middle[..., :, None] - middle[..., None, :]) ** 2


def value_counts(task: Ints, values: Small, number_of_tasks: int) -> Floats:
    """Return [T, P, 3]: how many rankings judged each pair as worse, tied, better (its first answer)."""
    counts = np.zeros((number_of_tasks, values.shape[1], 3))
    for category, value in enumerate((-1, 0, 1)):
        np.add.at(counts[..., category], task, values == value)
    return counts


def meetings(table: RankingTable, values: Small) -> Meetings:
    """Return how every two rankings of one task compare, where they judge at least one pair of answers in common."""
    parts = [_meet(left, right, values) for left, right in same_task(table.task)]
    if not parts:
        empty = np.empty(0)
        return Meetings(empty.astype(np.int32), empty.astype(np.int32), empty, empty, empty, empty, empty)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    kept = columns[2] > 0
    left, right, *rest = (column[kept] for column in columns)
    return Meetings(left.astype(np.int32), right.astype(np.int32), *rest)


def _meet(left: Ints, right: Ints, values: Small) -> tuple[Floats, ...]:
    a, b = values[left].astype(np.int16), values[right].astype(np.int16)
    both = (a != MISSING) & (b != MISSING)
    a, b = np.where(both, a, 0), np.where(both, b, 0)
    compared = both.sum(axis=1).astype(float)
    points = compared - (np.abs(a - b) / 2).sum(axis=1)
    strict = (a * b != 0).sum(axis=1).astype(float)
    alike = (a * b > 0).sum(axis=1).astype(float)
    # With pairs scored -1, 0 and 1 tau-b is a cosine: the numerator is concordant less discordant pairs, and a sum
    # of squares counts the pairs that are no tie (Kendall 1945).
    scale = np.sqrt((a * a).sum(axis=1, dtype=float) * (b * b).sum(axis=1, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = np.where(scale > 0, (a * b).sum(axis=1) / scale, np.nan)
    return left.astype(float), right.astype(float), compared, points, strict, alike, tau


def agreement(table: RankingTable, seed: int = 0) -> Agreement:
    """Return a project's agreement with intervals from the bootstrap over prompts."""
    values = pair_values(table.ranks)
    met = meetings(table, values)
    if not len(met.left):
        return Agreement(None, None, None, None, None, 0, 0)
    number_of_tasks = len(table.prompt_of_task)
    # Which answer of a pair comes first is an accident of storage. Counting every pair both ways round makes "better"
    # and "worse" equally frequent, so that alpha does not depend on it.
    one_way = coincidences(value_counts(table.task, values, number_of_tasks)).sum(axis=1)
    both_ways = one_way + one_way[:, ::-1, ::-1]
    met_task = table.task[met.left]
    defined = np.isfinite(met.tau_b)
    tau_sum = np.bincount(met_task[defined], met.tau_b[defined], number_of_tasks)
    tau_count = np.bincount(met_task[defined], minlength=number_of_tasks)
    per_task = np.column_stack(
        [
            both_ways.reshape(number_of_tasks, 9),
            np.divide(tau_sum, tau_count, out=np.zeros(number_of_tasks), where=tau_count > 0),
            tau_count > 0,
            *(
                np.bincount(met_task, column, number_of_tasks)
                for column in (met.points, met.compared, met.alike, met.strict)
            ),
        ]
    )
    columns = np.zeros((table.number_of_prompts, per_task.shape[1]))
    np.add.at(columns, table.prompt_of_task, per_task)
    columns = columns[columns[:, 12] > 0]  # prompts on which nobody meets say nothing about agreement
    total, drawn = columns.sum(axis=0), resampled_sums(columns, seed)

    def ratio(top: int, bottom: int) -> Estimate | None:
        if total[bottom] == 0:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            interval = percentile_interval(drawn[:, top] / drawn[:, bottom])
        return Estimate(float(total[top] / total[bottom]), *interval, int(total[bottom]))

    def krippendorff(metric: Metric) -> Estimate | None:
        value = float(alpha(total[:9].reshape(3, 3), metric))
        if not np.isfinite(value):
            return None
        interval = percentile_interval(alpha(drawn[:, :9].reshape(-1, 3, 3), metric))
        return Estimate(value, *interval, int(total[:9].sum() / 2))

    return Agreement(
        alpha_nominal=krippendorff("nominal"),
        alpha_ordinal=krippendorff("ordinal"),
        tau_b=ratio(9, 10),
        pairs=ratio(11, 12),
        strict=ratio(13, 14),
        tasks=len(np.unique(met_task)),
        flat_rankings=int((~defined).sum()),
    )


def with_others(table: RankingTable, met: Meetings) -> list[Estimate | None]:
    """Return, per labeler, the share of pairs on which they agree with the others, half a point for a tie."""
    labelers = np.concatenate([table.labeler[met.left], table.labeler[met.right]])
    prompts = np.tile(table.prompt[met.left], 2)
    return _by_labeler(table, labelers, prompts, np.tile(met.points, 2), np.tile(met.compared, 2))


def with_group(table: RankingTable, met: Meetings, is_reviewer: Bools) -> Estimate | None:
    """Return the share of pairs on which labelers agree with reviewers; `is_reviewer` says it per labeler [L]."""
    mixed = is_reviewer[table.labeler[met.left]] != is_reviewer[table.labeler[met.right]]
    prompts, size = table.prompt[met.left][mixed], table.number_of_prompts
    return cluster_share(totals(prompts, met.points[mixed], size), totals(prompts, met.compared[mixed], size))


def _by_labeler(
    table: RankingTable, labelers: Ints, prompts: Ints, points: Floats, counts: Floats
) -> list[Estimate | None]:
    estimates = []
    for rows in rows_of(labelers, table.number_of_labelers):
        _, cluster = np.unique(prompts[rows], return_inverse=True)
        estimates.append(cluster_share(totals(cluster, points[rows]), totals(cluster, counts[rows])))
    return estimates


def disagreement(table: RankingTable, met: Meetings) -> Floats:
    """Return, per task [T], how far its rankings contradict one another: 0 alike … 1 opposite, nan for fewer than 2."""
    size = len(table.prompt_of_task)
    task = table.task[met.left]
    points, compared = np.bincount(task, met.points, size), np.bincount(task, met.compared, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(compared > 0, 1 - points / compared, np.nan)
