"""Judgements of pairs of answers, and the few patterns that they come in.

What is said about a pair is who preferred which answer. The answers themselves do not matter to a labeler's
reliability, so pairs about which the same labelers said the same are one pattern with a weight: with two labelers a
task, a million pairs are a few thousand patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from app.services.quality.statistics.pairs import MISSING, Floats, Ints, RankingTable, pair_values

CHUNK = 50_000
"""Judgements looked at together; bounds the memory."""


@dataclass(frozen=True)
class Judged:
    """Every judgement of a pair of answers [J], sorted by unit (a pair of one task's answers), then by labeler."""

    unit: Ints
    labeler: Ints
    value: Ints
    ranking: Ints
    weight: Floats
    unit_size: Ints


@dataclass(frozen=True)
class Patterns:
    """Judgements of pairs of answers, with equal ones merged: what is said of a pair is who said what, no more.

    Judgements [J] are sorted by pattern; `starts` [U] are where each pattern begins. `kind` = 3 labeler + value.
    """

    kind: Ints
    pattern: Ints
    starts: Ints
    weight: Floats
    number_of_labelers: int


def judgements_of(table: RankingTable) -> Judged:
    """Return what the rankings say about pairs. Each pair of K answers weighs 2 / K, see `reliability`."""
    values = pair_values(table.ranks)
    row, pair = np.nonzero(values != MISSING)
    named = (table.lengths > 0).sum(axis=1)
    key = table.task[row].astype(np.int64) * values.shape[1] + pair
    order = np.lexsort((table.labeler[row], key))
    row, pair = row[order], pair[order]
    _, unit, size = np.unique(key[order], return_inverse=True, return_counts=True)
    return Judged(
        unit=unit.astype(np.int32),
        labeler=table.labeler[row],
        value=values[row, pair].astype(np.int32),
        ranking=row.astype(np.int32),
        weight=2.0 / np.maximum(named[table.task[row]], 2),
        unit_size=size.astype(np.int32),
    )


def merge(judged: Judged, labelers: int) -> tuple[Patterns, Ints]:
    """Merge units on which the same labelers said the same, a unit and its mirror image too; return each's pattern."""
    units = len(judged.unit_size)
    starts = starts_of(judged.unit_size)
    # A pair and its mirror image are the same judgement: orient each unit so that its first strict value is "better".
    strict = np.flatnonzero(judged.value)
    sign = np.ones(units, dtype=np.int32)
    with_strict, first = np.unique(judged.unit[strict], return_index=True)
    sign[with_strict] = judged.value[strict[first]]
    kind = 3 * judged.labeler + judged.value * sign[judged.unit] + 1
    weight = judged.weight[starts] if units else np.empty(0)
    pattern_of_unit = np.empty(units, dtype=np.int32)
    kinds, sizes, weights, made = [], [], [], 0
    for size in np.unique(judged.unit_size):
        chosen = np.flatnonzero(judged.unit_size == size)
        rows = kind[starts[chosen][:, None] + np.arange(size)]
        keyed = np.column_stack([rows, np.round(weight[chosen] * 1e6).astype(np.int64)])
        found, first, inverse = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
        inverse = inverse.ravel()
        pattern_of_unit[chosen] = made + inverse
        kinds.append(found[:, :-1].ravel())
        sizes.append(np.full(len(found), size))
        weights.append(np.bincount(inverse) * weight[chosen][first])
        made += len(found)
    each = np.concatenate(sizes) if sizes else np.empty(0, dtype=np.int64)
    return (
        Patterns(
            kind=np.concatenate(kinds).astype(np.int32) if kinds else np.empty(0, dtype=np.int32),
            pattern=np.repeat(np.arange(made), each).astype(np.int32),
            starts=np.concatenate([[0], np.cumsum(each)[:-1]]).astype(np.int32)
            if made
            else np.empty(0, dtype=np.int32),
            weight=np.concatenate(weights) if weights else np.empty(0),
            number_of_labelers=labelers,
        ),
        pattern_of_unit,
    )


def chunks(patterns: Patterns) -> list[tuple[slice, slice]]:
    """Return (patterns, judgements) slices that cover everything and cut no pattern."""
    total, count = len(patterns.kind), len(patterns.starts)
    if not count:
        return []
    cuts = np.unique(np.searchsorted(patterns.starts, np.arange(0, total, CHUNK)))
    edges = [*cuts.tolist(), count]
    return [
        (slice(a, b), slice(int(patterns.starts[a]), int(patterns.starts[b]) if b < count else total))
        for a, b in pairwise(edges)
        if a < b
    ]


def starts_of(sizes: Ints) -> Ints:
    """Return where each of the consecutive stretches of these sizes begins."""
    return (np.cumsum(sizes) - sizes).astype(np.int32)
