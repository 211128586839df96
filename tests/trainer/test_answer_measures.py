"""What is said of answers by their texts alone: variety by hand, refusals and abuse by example."""

from __future__ import annotations

import math

import pytest

from trainer import diversity, refusals


def test_distinct_counts_kinds_of_word_sequences() -> None:
    texts = ["the cat the cat", "The dog"]
    assert diversity.distinct(texts, 1) == pytest.approx(3 / 6)  # the, cat, dog among six words
    assert diversity.distinct(texts, 2) == pytest.approx(3 / 4)  # the cat twice, cat the, the dog
    assert diversity.distinct(["word"], 2) is None


def test_bleu_by_hand() -> None:
    # a b c d e against a b c x: 3 of 5 words, (2 + 1) of (4 + 1) pairs, (1 + 1) of (3 + 1), (0 + 1) of (2 + 1).
    expected = math.exp((math.log(3 / 5) + math.log(3 / 5) + math.log(2 / 4) + math.log(1 / 3)) / 4)
    assert diversity.bleu(["a", "b", "c", "d", "e"], [["a", "b", "c", "x"]]) == pytest.approx(expected, rel=1e-12)
    # The shorter text pays exp(1 - 8 / 4) and agrees in everything.
    assert diversity.bleu(["a", "b", "c", "d"], [["a", "b", "c", "d", "e", "f", "g", "h"]]) == pytest.approx(
        math.exp(-1), rel=1e-12
    )


def test_self_bleu_is_one_for_the_same_answers_and_zero_for_strangers() -> None:
    assert diversity.self_bleu([["a b c d e", "a b c d e"]]) == pytest.approx(1.0)
    assert diversity.self_bleu([["a b c", "x y z"]]) == 0.0
    assert diversity.self_bleu([["a b c"], ["x y z"]]) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m very sorry, I cannot do that for you.",
        "I cannot provide instructions for this.",
        "As an AI language model, I have no opinion.",
        "Unfortunately I am unable to say.",
        "I must decline.",
        "It would be unethical for me to explain.",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert refusals.refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sorry to hear that your cat is ill! Take it to a vet.",
        "You can help by calling first.",
        "The word 'sorry' comes from Old English.",
        "I can provide three examples.",
        "A long story. " * 20 + "I cannot help it, he said.",
    ],
)
def test_what_only_sounds_like_a_refusal_is_none(text: str) -> None:
    assert not refusals.refuses(text)


def test_abuse_is_found_as_whole_words_only() -> None:
    assert refusals.shares(["You IDIOT.", "I'm sorry, I can't help.", "Scunthorpe shuts up shop", "Fine."]) == (
        0.25,
        0.25,
    )
