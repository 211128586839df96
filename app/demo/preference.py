"""The simulated labelers of `plackett demo`: a declared preference with noise. No person is behind these judgements.

A demo that ends in minutes cannot wait for people, so three *simulated labelers* rank in their place. What they like is
written down here in full, so that anybody can check whether training moved the model towards it:

    score = 2.0 finished + 1.5 brief + 1.0 on topic + 1.0 plain - 2.0 repetition - 1.0 clutter

    finished     1 if the last sentence ends, else 0
    brief        1 from 8 to 30 words, falling to 0 at no words and at 50 words
    on topic     share of the prompt's content words (at most three of them) that the answer takes up
    plain        1 if no word has ten letters or more, falling to 0 where a fifth of the words do
    repetition   share of the answer's three-word sequences that it has used before
    clutter      lists, headings, bold type and stray line breaks; three of them count as 1

Each labeler weighs these a little differently and adds Gumbel noise, so that labelers disagree as people do. The noise
is keyed by a hash of seed, labeler, prompt and answer: it can be repeated, and does not depend on the order in which
the answers are shown. It is a test signal for the loop, not a claim about what makes an answer good: nothing in it
knows whether an answer is true.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

NOISE_SCALE = 0.25
TIE_MARGIN = 0.1
BRIEF_FROM, BRIEF_TO, BRIEF_END = 8, 30, 50
LONG_WORD = 10
STEM = 4

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_ENDING = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]*$")
_CLUTTER = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#+)\s|\*\*|\n", re.MULTILINE)
_FUNCTION_TEXT = (
    "about after all also although and any are because before between briefly but can could did does else every "
    "for from get give had has have her hers him his how into its let like line made make many may more most "
    "much name need not one only other our out over say sentence sentences she short should some such suggest "
    "tell than that the their them then there these they thing things this three two want was well were what "
    "when where which while who whom why will with without word would write you your yours"
)
_FUNCTION_WORDS = frozenset(_FUNCTION_TEXT.split())


class Weights(NamedTuple):
    """How much each feature counts; `repetition` and `clutter` are subtracted."""

    finished: float = 2.0
    brief: float = 1.5
    on_topic: float = 1.0
    plain: float = 1.0
    repetition: float = 2.0
    clutter: float = 1.0


class Features(NamedTuple):
    """What the preference sees of an answer, each in [0, 1]."""

    finished: float
    brief: float
    on_topic: float
    plain: float
    repetition: float
    clutter: float


@dataclass(frozen=True)
class SimulatedLabeler:
    """A simulated labeler: a name that says so, and weights of its own."""

    name: str
    weights: Weights


LABELERS = (
    SimulatedLabeler("Simulated labeler Ada", Weights(brief=2.0, on_topic=0.75)),
    SimulatedLabeler("Simulated labeler Ben", Weights(on_topic=1.5, plain=0.75)),
    SimulatedLabeler("Simulated labeler Cleo", Weights(finished=1.75, plain=1.5, clutter=1.5)),
)


def features(prompt: str, completion: str) -> Features:
    """Return what the preference sees of `completion` as an answer to `prompt` (the user's last turn)."""
    words = [word.lower() for word in _WORD.findall(completion)]
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    wanted = _content_stems(prompt)
    met = wanted & _content_stems(completion)
    long_share = sum(len(word) >= LONG_WORD for word in words) / len(words) if words else 1.0
    return Features(
        finished=float(bool(_ENDING.search(completion.rstrip()))),
        brief=_brevity(len(words)),
        on_topic=min(1.0, len(met) / min(3, len(wanted))) if wanted else float(bool(words)),
        plain=max(0.0, 1.0 - 5.0 * long_share),
        repetition=1.0 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0,
        clutter=min(1.0, len(_CLUTTER.findall(completion.strip())) / 3),
    )


def score(prompt: str, completion: str, weights: Weights = Weights()) -> float:  # noqa: B008  # an immutable tuple
    """Return the noise-free score; the default weights are the declared preference that win rates use."""
    seen = features(prompt, completion)
    return (
        weights.finished * seen.finished
        + weights.brief * seen.brief
        + weights.on_topic * seen.on_topic
        + weights.plain * seen.plain
        - weights.repetition * seen.repetition
        - weights.clutter * seen.clutter
    )


def rank(
    prompt: str, completions: Sequence[str], labeler: SimulatedLabeler, seed: int = 0
) -> tuple[tuple[int, ...], ...]:
    """Return the simulated labeler's tie groups of indexes into `completions`, best first.

    A completion joins the group above it when its noisy score is within `TIE_MARGIN` of that group's best.
    """
    noisy = [
        score(prompt, completion, labeler.weights) + NOISE_SCALE * _gumbel(seed, labeler.name, prompt, completion)
        for completion in completions
    ]
    groups: list[list[int]] = []
    for index in sorted(range(len(completions)), key=lambda index: (-noisy[index], completions[index], index)):
        if groups and noisy[groups[-1][0]] - noisy[index] <= TIE_MARGIN:
            groups[-1].append(index)
        else:
            groups.append([index])
    return tuple(tuple(group) for group in groups)


def prefers(prompt: str, first: str, second: str) -> float:
    """Return 1 if the declared preference, without noise, likes `first` better, 0 if `second`, 0.5 for a tie."""
    difference = score(prompt, first) - score(prompt, second)
    if abs(difference) <= TIE_MARGIN:
        return 0.5
    return 1.0 if difference > 0 else 0.0


def agreement(rankings: Sequence[tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]]) -> float:
    """Return the share of pairs that two rankings of the same answers order alike, of those that both order."""
    alike = ordered = 0
    for one, other in rankings:
        ones, others = _strict_pairs(one), _strict_pairs(other)
        both = {pair for pair in ones if pair in others or pair[::-1] in others}
        ordered += len(both)
        alike += len(both & others)
    return alike / ordered if ordered else math.nan


def _strict_pairs(ranking: tuple[tuple[int, ...], ...]) -> set[tuple[int, int]]:
    return {
        (better, worse)
        for place, group in enumerate(ranking)
        for better in group
        for lower in ranking[place + 1 :]
        for worse in lower
    }


def _brevity(words: int) -> float:
    if words < BRIEF_FROM:
        return words / BRIEF_FROM
    return min(1.0, max(0.0, (BRIEF_END - words) / (BRIEF_END - BRIEF_TO)))


def _content_stems(text: str) -> set[str]:
    """Return the first letters of the words that carry meaning: "purr" meets "purring", "cats" meets "cat"."""
    words = (re.split("['\u2019]", word.lower())[0] for word in _WORD.findall(text))
    return {word.removesuffix("s")[:STEM] for word in words if len(word) > 2 and word not in _FUNCTION_WORDS}


def _gumbel(*key: object) -> float:
    """Return one standard Gumbel draw that depends on `key` alone."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    uniform = (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
    return -math.log(-math.log(uniform))
