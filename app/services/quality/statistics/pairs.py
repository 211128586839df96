"""Rankings as arrays, and the pairwise view of them that every figure here is computed from.

Shapes: N rankings, T tasks, K answers a task at most, P = K (K - 1) / 2 pairs of answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Small = NDArray[np.int8]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ABSENT, UNNAMED = 0, -1
"""Entries of `ranks`: the task has no such answer; the ranking does not name it, so that it stands below all named."""

MISSING = 9
"""Entry of `values`: this ranking says nothing about this pair of answers."""


@dataclass(frozen=True)
class RankingTable:
    """Rankings in columns, sorted by task. Tasks, prompts and labelers are numbered from 0.

    `ranks` [N, K] holds the rank of each answer in the task's stored order: 1 is best, equal ranks are a tie.
    `shown` [N, K] holds at which place each answer was shown, from 1; 0 where there is none.
    `lengths` [T, K] and `prompt_lengths` [T] are in characters, `seconds` [N] is how long the ranking took.
    """

    task: Ints
    labeler: Ints
    ranks: Small
    shown: Small
    seconds: Floats
    prompt_of_task: Ints
    lengths: Ints
    prompt_lengths: Ints
    number_of_labelers: int

    def __post_init__(self) -> None:
        if np.any(np.diff(self.task) < 0):
            raise ValueError("the rankings must be sorted by task")

    @property
    def prompt(self) -> Ints:
        """The prompt of each ranking [N]."""
        return self.prompt_of_task[self.task]

    @property
    def number_of_prompts(self) -> int:
        """How many prompts the tasks have."""
        return int(self.prompt_of_task.max(initial=-1)) + 1


def pair_places(k: int) -> tuple[Ints, Ints]:
    """Return the places [P] of the first and of the second answer of every pair, first < second."""
    return np.triu_indices(k, 1)


def pair_values(ranks: Small) -> Small:
    """Return [N, P]: 1 where the first answer of the pair is preferred, -1 the second, 0 for a tie, else MISSING.

    An answer that is not named stands below every named one; two that are not named are in no order.
    """
    first, second = pair_places(ranks.shape[1])
    placed = np.where(ranks == UNNAMED, np.int16(127), ranks.astype(np.int16))
    values: Small = np.sign(placed[:, second] - placed[:, first]).astype(np.int8)
    absent = (ranks[:, first] == ABSENT) | (ranks[:, second] == ABSENT)
    unordered = (ranks[:, first] == UNNAMED) & (ranks[:, second] == UNNAMED)
    values[absent | unordered] = MISSING
    return values


def same_task(task: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield row numbers (left, right) until every two rankings of one task have met once. `task` is sorted."""
    for distance in range(1, len(task)):
        left = np.flatnonzero(task[:-distance] == task[distance:])
        if not len(left):
            return
        yield left, left + distance


def rows_of(numbers: Ints, size: int) -> list[Ints]:
    """Return, for each number below `size`, the rows where it stands."""
    order = np.argsort(numbers, kind="stable")
    return [order[begin:end] for begin, end in pairwise(np.searchsorted(numbers[order], np.arange(size + 1)))]


def totals(numbers: Ints, amounts: Floats, size: int = 0) -> Floats:
    """Return the sum of the amounts for each number below `size`."""
    return np.bincount(numbers, amounts, size).astype(np.float64)
