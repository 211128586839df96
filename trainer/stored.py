"""Prompts, comparisons and demonstrations, read and encoded when they are asked for: memory holds where lines begin.

So what a run holds does not grow with what has been collected but for about thirty bytes a ranking.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np

from trainer.config import ConfigError
from trainer.data import Truncation
from trainer.jsonl import canonical
from trainer.rankings import Group, make_group, named
from trainer.records import (
    Comparison,
    Demonstration,
    Prompt,
    comparison_at,
    demonstration_at,
    prompt_at,
    scan_comparisons,
    scan_demonstrations,
    scan_prompts,
)
from trainer.tree import Tree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


class Index:
    """Where the lines of each group stand. Groups are numbered by their first lines, as in the file.

    `skipped` counts the wanted rankings of some weight from which nothing can be learned.
    """

    def __init__(
        self,
        path: Path,
        wanted: Callable[[Comparison], bool],
        *,
        ties: bool = False,
        flags: bool = False,
        criteria: Sequence[str] = (),
    ) -> None:
        self.path, self.ties, self.flags, self.criteria = path, ties, flags, tuple(criteria)
        self.has_pairs = False
        self.skipped = 0
        self._without_pairs: Counter[str] = Counter()
        numbers: dict[bytes, int] = {}
        owners, offsets = array("q"), array("q")
        for offset, row in scan_comparisons(path):
            if not wanted(row):
                continue
            if why := _why_no_pairs(row):
                self._without_pairs[why] += 1
            if row.weight == 0:
                continue
            if not named(row, ties, flags=flags, criteria=criteria):
                self.skipped += 1
                continue
            said = [[message.role, message.content] for message in row.messages]
            key = hashlib.sha256(canonical([said, row.completions, row.ended])).digest()[:16]
            owners.append(numbers.setdefault(key, len(numbers)))
            offsets.append(offset)
            self.has_pairs = self.has_pairs or bool(row.pairs())
        order = np.argsort(np.asarray(owners, dtype=np.int64), kind="stable")
        self._offsets = np.asarray(offsets, dtype=np.int64)[order]
        self._starts = np.searchsorted(np.asarray(owners, dtype=np.int64)[order], np.arange(len(numbers) + 1))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def check_pairs(self) -> None:
        """Raise `ConfigError` where no ranking prefers one answer to another, with what there is instead."""
        if not self.has_pairs:
            found = ", ".join(f"{why}: {count}" for why, count in sorted(self._without_pairs.items()))
            raise ConfigError(
                "data/comparisons.jsonl has no ranking in the train split that prefers one answer to another "
                f"({found or 'none at all'}); collect rankings of two or more answers that are not all ties."
            )

    def lines(self, number: int) -> list[int]:
        """Return where the lines of a group begin, in their order."""
        first, last = self._starts[number : number + 2]
        return [int(offset) for offset in self._offsets[first:last]]

    def count_pairs(self) -> int:
        """Return how many pairs the groups have, those on which several labelers agree once; nothing is encoded."""
        return sum(
            len({pair for offset in self.lines(number) for pair in comparison_at(self.path, offset).pairs()})
            for number in range(len(self))
        )


def _why_no_pairs(row: Comparison) -> str:
    """Return why a ranking tells no two answers apart, or counts for nothing; an empty text if it does."""
    if len(row.completions) < 2:
        return "of a single answer"
    if not row.ranking:
        return "empty"
    if not row.pairs():
        return "all tied"
    return "of no weight" if row.weight == 0 else ""


class Made(Sequence[T]):
    """Items that are made whenever they are asked for."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self._make(number) for number in range(*at.indices(self._count))]
        if not -self._count <= at < self._count:
            raise IndexError(at)
        return self._make(at % self._count)

    def __iter__(self) -> Iterator[T]:
        return (self._make(number) for number in range(self._count))


class StoredPrompts(Made[Prompt]):
    """The prompts of one split."""

    def __init__(self, path: Path, split: str) -> None:
        offsets = array("q", (offset for offset, row in scan_prompts(path) if row.split == split))
        super().__init__(len(offsets), lambda number: prompt_at(path, offsets[number]))


class Encoded(Made[T]):
    """Items that are encoded anew whenever they are asked for. Their cuts count once."""

    def __init__(self, count: int, encode: Callable[[int, Truncation], T], truncation: Truncation) -> None:
        super().__init__(count, self._count_once)
        self._encode, self._truncation = encode, truncation
        self._seen = np.zeros(count, dtype=bool)

    def _count_once(self, number: int) -> T:
        cuts = Truncation()
        item = self._encode(number, cuts)
        if not self._seen[number]:
            self._seen[number] = True
            self._truncation.prompts += cuts.prompts
            self._truncation.completions += cuts.completions
        return item


class StoredGroups(Encoded[Group]):
    """The groups of an index."""

    def __init__(
        self,
        index: Index,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        truncation: Truncation,
        cut_mark: str = "",
    ) -> None:
        super().__init__(len(index), self._group, truncation)
        self._index, self._tokenizer, self._max_length, self._cut_mark = index, tokenizer, max_length, cut_mark

    @property
    def trees(self) -> Sequence[Tree]:
        """The groups' trees."""
        return Made(len(self), lambda number: self[number].tree)

    def _group(self, number: int, cuts: Truncation) -> Group:
        index = self._index
        return make_group(
            self._tokenizer,
            [comparison_at(index.path, offset) for offset in index.lines(number)],
            self._max_length,
            cuts,
            ties=index.ties,
            flags=index.flags,
            criteria=index.criteria,
            cut_mark=self._cut_mark,
        )


class StoredDemonstrations(Encoded[Tree]):
    """The demonstrations of one split that have a weight, as trees."""

    def __init__(
        self, path: Path, split: str, encode: Callable[[Demonstration, Truncation], Tree], truncation: Truncation
    ) -> None:
        self.weights, self._offsets = array("d"), array("q")
        for offset, row in scan_demonstrations(path):
            if row.split == split and row.weight > 0:
                self.weights.append(row.weight)
                self._offsets.append(offset)
        super().__init__(
            len(self.weights),
            lambda number, cuts: encode(demonstration_at(path, self._offsets[number]), cuts),
            truncation,
        )
