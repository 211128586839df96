"""How varied answers are: shares of distinct word sequences, and how much the answers to one prompt repeat one another.

Standard library only. Words are what stands between white space, in lower case. Figures for texts of different length
do not compare: the longer a text, the more it repeats by necessity.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ORDER = 4

Words = Sequence[str]


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Return the distinct n-grams over all n-grams of the texts (Li et al. 2016, distinct-n); None without any."""
    grams = [gram for text in texts for gram in _ngrams(_words(text), n)]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(groups: Sequence[Sequence[str]]) -> float | None:
    """Return the mean BLEU of each answer with the other answers to its prompt as references (Zhu et al. 2018).

    1 means that all answers to a prompt are the same. None where no prompt has two answers.
    """
    scores = [
        bleu(_words(text), [_words(other) for place, other in enumerate(group) if place != own])
        for group in groups
        if len(group) > 1
        for own, text in enumerate(group)
    ]
    return sum(scores) / len(scores) if scores else None


def bleu(text: Words, references: Sequence[Words]) -> float:
    """Return BLEU-4 of one text (Papineni et al. 2002), with one added to counts from bigrams on (Lin and Och 2004)."""
    if not text:
        return 1.0 if any(not reference for reference in references) else 0.0
    logs = 0.0
    for n in range(1, ORDER + 1):
        found = Counter(_ngrams(text, n))
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= Counter(_ngrams(reference, n))
        added = int(n > 1)
        matched = sum(min(count, most[gram]) for gram, count in found.items()) + added
        if not matched:
            return 0.0
        logs += math.log(matched / (sum(found.values()) + added))
    # The reference whose length is nearest; of two as near, the shorter.
    nearest = min((abs(len(reference) - len(text)), len(reference)) for reference in references)[1]
    return min(1.0, math.exp(1 - nearest / len(text))) * math.exp(logs / ORDER)


def _words(text: str) -> list[str]:
    return text.lower().split()


def _ngrams(words: Words, n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
