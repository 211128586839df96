"""How well scores agree with the labelers: hits, by labeler and length, calibration, and what could be reached at all.

Hits are lists of (right, counted), one entry a prompt, as `intervals.ratio_interval` takes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import torch

from trainer.intervals import ratio_interval
from trainer.rankings import Group
from trainer.records import Message

LONGER = 1.25  # an answer with so many times the tokens of another is longer, not just a little
BINS = 10


class Hits(NamedTuple):
    """Per prompt, the weight of pairs ranked right (equal scores count half) and of all pairs."""

    right: list[float]
    counted: list[float]

    @property
    def rate(self) -> float:
        """Hits over pairs."""
        return sum(self.right) / sum(self.counted)

    def figures(self, seed: int) -> dict[str, object]:
        """Return the rate, its 95 % interval over prompts, and the weight of pairs behind it."""
        low, high = ratio_interval(*self, seed=seed)
        return {"accuracy": self.rate, "accuracy_interval": [low, high], "pairs": sum(self.counted)}


class Judgement(NamedTuple):
    """One labeler's preference and what the scores say of it."""

    prompt: tuple[Message, ...]
    labeler: str
    lengths: tuple[int, int]  # tokens of the better and the worse answer
    difference: float  # score of the better answer minus score of the worse
    weight: float


def judgements(groups: Sequence[Group], scores: Sequence[torch.Tensor]) -> Iterator[Judgement]:
    """Yield every preference of every labeler with the scores (K,) of its group."""
    for group, values in zip(groups, scores, strict=True):
        lengths = [len(completion) for completion in group.tree.completions]
        for ranking in group.rankings:
            for better, worse, _ in ranking.pairs():
                difference = float(values[better] - values[worse])
                yield Judgement(
                    group.messages, ranking.labeler, (lengths[better], lengths[worse]), difference, ranking.weight
                )


def count(found: Iterable[Judgement]) -> Hits:
    """Gather judgements by prompt."""
    right: dict[tuple[Message, ...], float] = {}
    counted: dict[tuple[Message, ...], float] = {}
    for row in found:
        hit = 0.5 if row.difference == 0 else float(row.difference > 0)
        right[row.prompt] = right.get(row.prompt, 0.0) + row.weight * hit
        counted[row.prompt] = counted.get(row.prompt, 0.0) + row.weight
    return Hits(list(right.values()), list(counted.values()))


def hits(groups: Sequence[Group], scores: Sequence[torch.Tensor]) -> Hits:
    """Return the hits over all labelers."""
    return count(judgements(groups, scores))


def by_labeler(groups: Sequence[Group], scores: Sequence[torch.Tensor]) -> dict[str, Hits]:
    """Return the hits on each labeler's own preferences."""
    rows = sorted(judgements(groups, scores), key=lambda row: row.labeler)
    return {labeler: count(found) for labeler, found in itertools.groupby(rows, key=lambda row: row.labeler)}


def by_acquaintance(
    groups: Sequence[Group], scores: Sequence[torch.Tensor], strangers: AbstractSet[str]
) -> dict[str, Hits]:
    """Return the hits on the preferences of the labelers who were learned from, and on those of the strangers."""
    rows = list(judgements(groups, scores))
    kinds = {
        "learned from": [row for row in rows if row.labeler not in strangers],
        "never seen": [row for row in rows if row.labeler in strangers],
    }
    return {kind: count(found) for kind, found in kinds.items() if found}


def by_length(groups: Sequence[Group], scores: Sequence[torch.Tensor]) -> dict[str, Hits]:
    """Return the hits where the preferred answer is longer, shorter, or about as long as the other."""
    kinds: dict[str, list[Judgement]] = {}
    for row in judgements(groups, scores):
        better, worse = row.lengths
        kind = "longer" if better >= LONGER * worse else "shorter" if worse >= LONGER * better else "about as long"
        kinds.setdefault(kind, []).append(row)
    return {kind: count(kinds[kind]) for kind in ("longer", "about as long", "shorter") if kind in kinds}


class Bin(NamedTuple):
    """Pairs of about the same certainty: their weight, mean probability, and share of hits."""

    pairs: float
    probability: float
    right: float

    @property
    def words(self) -> str:
        """The range of probabilities, which no two bins share."""
        low = min(int((self.probability - 0.5) * 2 * BINS), BINS - 1) / (2 * BINS) + 0.5
        return f"{low:.0%} to {low + 0.5 / BINS:.0%}"


def reliability(groups: Sequence[Group], scores: Sequence[torch.Tensor]) -> list[Bin]:
    """Return the reliability diagram of sigma(r_w - r_l) as the probability that a labeler prefers w.

    Pairs are turned so that the probability is at least one half and sorted into `BINS` bins of equal width; those that
    hold none are left out. The scores must be as the loss saw them, before any normalisation.
    """
    sums = [[0.0, 0.0, 0.0] for _ in range(BINS)]  # weight, weight * probability, weight * hit
    for row in judgements(groups, scores):
        probability = float(torch.sigmoid(torch.tensor(abs(row.difference), dtype=torch.float64)))
        hit = 0.5 if row.difference == 0 else float(row.difference > 0)
        place = sums[min(int((probability - 0.5) * 2 * BINS), BINS - 1)]
        for index, value in enumerate((1.0, probability, hit)):
            place[index] += row.weight * value
    return [Bin(weight, probability / weight, hit / weight) for weight, probability, hit in sums if weight]


def calibration_error(groups: Sequence[Group], scores: Sequence[torch.Tensor]) -> float:
    """Return the expected calibration error: the mean distance between a bin's probability and its share of hits.

    Guo et al. 2017, equation 5.
    """
    bins = reliability(groups, scores)
    return sum(row.pairs * abs(row.probability - row.right) for row in bins) / sum(row.pairs for row in bins)


def between_labelers(groups: Sequence[Group]) -> Hits | None:
    """Return how often two labelers who both prefer one of the same two answers prefer the same one.

    That is about what a perfect model of people could reach on one labeler's word. None where no two labelers ranked
    the same answers.
    """
    right: list[float] = []
    counted: list[float] = []
    for group in groups:
        said = [{(better, worse) for better, worse, _ in ranking.pairs()} for ranking in group.rankings]
        same = other = 0
        for first, second in itertools.combinations(said, 2):
            same += len(first & second)
            other += sum((worse, better) in second for better, worse in first)
        if same + other:
            right.append(float(same))
            counted.append(float(same + other))
    return Hits(right, counted) if counted else None


def length_only(train: Sequence[Group], held_out: Sequence[Group]) -> float:
    """Return the held-out accuracy of preferring the longer answer, or the shorter if the training pairs do."""

    def accuracy(groups: Sequence[Group], sign: int) -> float:
        right = counted = 0.0
        for group in groups:  # one at a time: there may be very many
            lengths = torch.tensor([sign * len(completion) for completion in group.tree.completions])
            found = hits([group], [lengths])
            right, counted = right + sum(found.right), counted + sum(found.counted)
        return right / counted

    return accuracy(held_out, 1 if accuracy(train, 1) >= 0.5 else -1)
