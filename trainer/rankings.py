"""What labelers said of one prompt's completions, gathered over labelers, and as tensors for the losses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch

from trainer.data import Truncation, encode
from trainer.losses import prompt_mean_weights
from trainer.records import Comparison, Message
from trainer.tree import Tree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[int, int]


class Ranking(NamedTuple):
    """One labeler's ranking: tie groups of a tree's completions, best first, and those below all of them, unordered."""

    levels: tuple[tuple[int, ...], ...]
    rest: tuple[int, ...]
    strengths: tuple[int, ...]  # of each boundary between neighbours among `levels` and `rest`; 0 where nobody said
    weight: float
    labeler: str
    acceptable: int | None = None  # how many of `levels`, from the best, are acceptable

    def flags(self) -> list[tuple[int, bool]]:
        """Return (answer, whether it is acceptable) of every answer; nothing where the labeler drew no line."""
        if self.acceptable is None:
            return []
        good = [index for level in self.levels[: self.acceptable] for index in level]
        bad = [*(index for level in self.levels[self.acceptable :] for index in level), *self.rest]
        return [(index, True) for index in good] + [(index, False) for index in bad]

    def pairs(self) -> list[tuple[int, int, int]]:
        """Return every (better, worse, strength); over several boundaries strengths add up."""
        levels = (*self.levels, self.rest) if self.rest else self.levels
        return [
            (better, worse, sum(self.strengths[high:low]))
            for high, level in enumerate(levels)
            for better in level
            for low in range(high + 1, len(levels))
            for worse in levels[low]
        ]

    def ties(self) -> list[Pair]:
        """Return every pair of one tie group."""
        return [(a, b) for level in self.levels for n, a in enumerate(level) for b in level[n + 1 :]]

    def choices(self) -> list[tuple[int, tuple[int, ...]]]:
        """Return (chosen, all it was chosen from): each answer of a tie group against all below, not its equals."""
        found = []
        for number, level in enumerate(self.levels):
            below = (*(index for lower in self.levels[number + 1 :] for index in lower), *self.rest)
            found += [(index, (index, *below)) for index in level if below]
        return found


@dataclass(frozen=True)
class Group:
    """A prompt with its K encoded completions as one tree, and all rankings of them. Indexes are of the tree's K.

    `criteria` holds, by name, the rankings that the labelers' answers about single completions come to.
    """

    messages: tuple[Message, ...]
    tree: Tree
    rankings: tuple[Ranking, ...]
    criteria: dict[str, tuple[Ranking, ...]] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """The prompt's own weight: the mean of its rankings', 0 without any."""
        return sum(ranking.weight for ranking in self.rankings) / max(1, len(self.rankings))

    def judged_on(self, criterion: str) -> Group:
        """Return the same completions, ranked by a criterion alone: without any ranking where nobody judged by it."""
        return replace(self, rankings=self.criteria.get(criterion, ()))

    @cached_property
    def pairs(self) -> dict[Pair, float]:
        """(better, worse) with their weights: labelers who agree on a pair add up."""
        weights: dict[Pair, float] = {}
        for ranking in self.rankings:
            for better, worse, _ in ranking.pairs():
                weights[better, worse] = weights.get((better, worse), 0.0) + ranking.weight
        return weights


def group_comparisons(
    tokenizer: PreTrainedTokenizerBase,
    comparisons: Sequence[Comparison],
    max_length: int,
    truncation: Truncation,
    *,
    ties: bool = False,
    flags: bool = False,
    criteria: Sequence[str] = (),
    cut_mark: str = "",
) -> list[Group]:
    """Gather the rankings of the same completions of the same prompt, and encode each completion once.

    An answer that ended and the same words cut off, behind which is the `cut_mark`, are two completions.
    Answers that no pair names are not encoded; prompts without any pair are left out. With `ties` a tie counts as much
    as a preference, as does a difference on one of the `criteria`; with `flags` a line between acceptable answers and
    others counts, and nothing else does.
    """
    gathered: dict[tuple[tuple[Message, ...], tuple[str, ...], tuple[bool, ...]], list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.weight > 0 and named(comparison, ties, flags=flags, criteria=criteria):
            key = (comparison.messages, comparison.completions, comparison.ended)
            gathered.setdefault(key, []).append(comparison)
    return [
        make_group(
            tokenizer, rows, max_length, truncation, ties=ties, flags=flags, criteria=criteria, cut_mark=cut_mark
        )
        for rows in gathered.values()
    ]


def make_group(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Comparison],
    max_length: int,
    truncation: Truncation,
    *,
    ties: bool = False,
    flags: bool = False,
    criteria: Sequence[str] = (),
    cut_mark: str = "",
) -> Group:
    """Return the group of some rankings of the same completions of the same prompt (see `group_comparisons`)."""
    messages, completions, ended = rows[0].messages, rows[0].completions, rows[0].ended
    used = sorted(set().union(*(named(row, ties, flags=flags, criteria=criteria) for row in rows)))
    place = {index: position for position, index in enumerate(used)}
    tree = encode(
        tokenizer,
        messages,
        [completions[index] for index in used],
        max_length,
        truncation,
        [ended[index] for index in used] if ended else (),
        cut_mark,
    )
    judged = {name: tuple(filter(None, (_by_criterion(row, name, place) for row in rows))) for name in criteria}
    return Group(messages, tree, tuple(_ranking(row, place) for row in rows), judged)


def named(comparison: Comparison, ties: bool, *, flags: bool, criteria: Sequence[str]) -> set[int]:
    """Return the answers that a ranking says something about."""
    if flags:
        return set() if comparison.acceptable is None else set(range(len(comparison.completions)))
    named = {index for pair in comparison.pairs() for index in pair}
    for levels in map(comparison.levels, criteria):
        named |= {index for level in levels for index in level if len(levels) > 1}
    return named | {index for group in comparison.ranking if ties and len(group) > 1 for index in group}


def _ranking(comparison: Comparison, place: dict[int, int]) -> Ranking:
    ranked = {index for group in comparison.ranking for index in group}
    levels = tuple(tuple(place[index] for index in group) for group in comparison.ranking)
    rest = tuple(place[index] for index in range(len(comparison.completions)) if index in place and index not in ranked)
    said = [strength or 0 for strength in comparison.strengths or (0,) * (len(levels) - 1)]
    return Ranking(levels, rest, (*said, 0), comparison.weight, comparison.labeler, comparison.acceptable)


def _by_criterion(comparison: Comparison, criterion: str, place: dict[int, int]) -> Ranking | None:
    """Return what a labeler's answers to one criterion come to, if they tell any two completions apart."""
    levels = comparison.levels(criterion)
    if len(levels) < 2:
        return None
    placed = tuple(tuple(place[index] for index in level) for level in levels)
    return Ranking(placed, (), (0,) * len(levels), comparison.weight, comparison.labeler)


def deal_labelers(comparisons: Iterable[Comparison], folds: int) -> dict[str, int]:
    """Return the fold of each labeler: folds of equal size, give or take one, in the order of the names' hashes."""
    names = {comparison.labeler for comparison in comparisons}
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return {name: number % folds for number, name in enumerate(order)}


# Tensors. Completions are numbered over all the groups given, in their order. The weights of all parts of a step add
# up to 1; `step_weight` is the sum of the prompts' weights over the whole step, of which the groups may be a part.


class Pairs(NamedTuple):
    """P comparisons of two completions."""

    members: torch.Tensor  # (P, 2) int64: better, worse
    weights: torch.Tensor  # (P,)
    strengths: torch.Tensor  # (P,): the labelers' mean, 0 for ties
    tied: torch.Tensor  # (P,) bool
    owners: torch.Tensor  # (P,) int64: the group of each


class Choices(NamedTuple):
    """C choices of a completion from several (Plackett and Luce's reading of a ranking)."""

    chosen: torch.Tensor  # (C,) int64
    contenders: torch.Tensor  # (C, N) bool, the chosen one among them
    weights: torch.Tensor  # (C,)
    owners: torch.Tensor  # (C,) int64: the group of each


def pair_tensors(groups: Sequence[Group], step_weight: float, device: torch.device, *, ties: bool = False) -> Pairs:
    """Return all pairs of some groups, with `ties` also those that labelers found equal."""
    members: list[Pair] = []
    weights: list[float] = []
    strengths: list[float] = []
    tied: list[bool] = []
    owners: list[int] = []
    first = 0
    for owner, group in enumerate(groups):
        said: dict[tuple[int, int, bool], list[float]] = {}
        for ranking in group.rankings:
            found = [(better, worse, False, strength) for better, worse, strength in ranking.pairs()]
            found += [(min(pair), max(pair), True, 0) for pair in ranking.ties() if ties]
            for a, b, equal, strength in found:
                totals = said.setdefault((a, b, equal), [0.0, 0.0])
                totals[0] += ranking.weight
                totals[1] += ranking.weight * strength
        for (a, b, equal), (weight, weighted_strength) in said.items():
            members.append((first + a, first + b))
            weights.append(weight)
            strengths.append(weighted_strength / weight)
            tied.append(equal)
            owners.append(owner)
        first += len(group.tree.completions)
    return Pairs(
        torch.tensor(members, dtype=torch.long, device=device).view(-1, 2),
        _share(groups, weights, owners, step_weight).to(device),
        torch.tensor(strengths, device=device),
        torch.tensor(tied, dtype=torch.bool, device=device),
        torch.tensor(owners, dtype=torch.long, device=device),
    )


class Flags(NamedTuple):
    """F flags of single completions, each of one labeler."""

    flagged: torch.Tensor  # (F,) int64
    acceptable: torch.Tensor  # (F,) bool
    weights: torch.Tensor  # (F,)


def flag_tensors(groups: Sequence[Group], step_weight: float, device: torch.device) -> Flags:
    """Return all flags of some groups."""
    flagged: list[int] = []
    acceptable: list[bool] = []
    weights: list[float] = []
    owners: list[int] = []
    first = 0
    for owner, group in enumerate(groups):
        for ranking in group.rankings:
            for index, good in ranking.flags():
                flagged.append(first + index)
                acceptable.append(good)
                weights.append(ranking.weight)
                owners.append(owner)
        first += len(group.tree.completions)
    return Flags(
        torch.tensor(flagged, dtype=torch.long, device=device),
        torch.tensor(acceptable, dtype=torch.bool, device=device),
        _share(groups, weights, owners, step_weight).to(device),
    )


def choice_tensors(groups: Sequence[Group], step_weight: float, device: torch.device) -> Choices:
    """Return all choices of some groups; a ranking's choices share its weight, so that long ones weigh no more."""
    total = sum(len(group.tree.completions) for group in groups)
    chosen: list[int] = []
    contenders: list[torch.Tensor] = []
    weights: list[float] = []
    owners: list[int] = []
    first = 0
    for owner, group in enumerate(groups):
        for ranking in group.rankings:
            choices = ranking.choices()
            for best, among in choices:
                mask = torch.zeros(total, dtype=torch.bool)
                mask[[first + index for index in among]] = True
                chosen.append(first + best)
                contenders.append(mask)
                weights.append(ranking.weight / len(choices))
                owners.append(owner)
        first += len(group.tree.completions)
    return Choices(
        torch.tensor(chosen, dtype=torch.long, device=device),
        (torch.stack(contenders) if contenders else torch.zeros(0, total, dtype=torch.bool)).to(device),
        _share(groups, weights, owners, step_weight).to(device),
        torch.tensor(owners, dtype=torch.long, device=device),
    )


def _share(
    groups: Sequence[Group], weights: Sequence[float], owners: Sequence[int], step_weight: float
) -> torch.Tensor:
    """Return the weights (P,) whose sum is the mean over prompts of each prompt's mean (`prompt_mean_weights`)."""
    prompts = torch.tensor([group.weight for group in groups])
    within = prompt_mean_weights(torch.tensor(weights), torch.tensor(owners, dtype=torch.long), prompts)
    return within * (sum(group.weight for group in groups) / step_weight)
