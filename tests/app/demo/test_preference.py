"""The simulated preference, checked against values worked out by hand."""

from statistics import fmean, pstdev

import pytest

from app.demo import preference
from app.demo.preference import (
    LABELERS,
    Features,
    SimulatedLabeler,
    Weights,
    agreement,
    features,
    prefers,
    rank,
    score,
)

QUESTION = "How often should I water a cactus?"
GOOD = "Water a cactus every two weeks in summer and let the soil dry out in between."
CUT = "Water a cactus every two weeks in summer and let the soil dry out in"


def test_a_short_finished_answer_on_topic_gets_every_point() -> None:
    # Content words of the question: often, water, cactus. Two of the three are taken up, "often" is not.
    assert features(QUESTION, GOOD) == Features(1.0, 1.0, pytest.approx(2 / 3), 1.0, 0.0, 0.0)
    assert score(QUESTION, GOOD) == pytest.approx(2.0 + 1.5 + 2 / 3 + 1.0)


def test_an_answer_that_breaks_off_loses_the_two_points_of_a_finished_one() -> None:
    # Both have from 8 to 30 words and no long one, so only `finished` differs.
    assert score(QUESTION, GOOD) - score(QUESTION, CUT) == pytest.approx(2.0)
    assert prefers(QUESTION, GOOD, CUT) == 1.0
    assert prefers(QUESTION, CUT, GOOD) == 0.0


@pytest.mark.parametrize(("words", "brief"), [(0, 0.0), (4, 0.5), (8, 1.0), (30, 1.0), (40, 0.5), (50, 0.0), (90, 0.0)])
def test_brevity_is_full_from_8_to_30_words_and_gone_at_50(words: int, brief: float) -> None:
    assert features(QUESTION, "word " * words).brief == pytest.approx(brief)


def test_repeated_three_word_sequences_count_against_an_answer() -> None:
    # Nine words make seven sequences; "a b c", "b c a", "c a b" are the only different ones.
    assert features(QUESTION, "a b c a b c a b c").repetition == pytest.approx(1 - 3 / 7)


def test_lists_bold_type_and_line_breaks_are_clutter_up_to_one() -> None:
    assert features(QUESTION, "Water **often**.").clutter == pytest.approx(2 / 3)
    assert features(QUESTION, "Do this:\n- water\n- wait").clutter == 1.0
    assert features(QUESTION, "One line.\n").clutter == 0.0


def test_a_fifth_of_long_words_takes_all_points_for_plain_words() -> None:
    assert features(QUESTION, "hydrating succulents too often harms roots badly over long times").plain == 0.5
    assert features(QUESTION, "hydrating succulents demonstrably harms them").plain == 0.0


def test_word_forms_meet_on_topic() -> None:
    assert features("Why do cats purr?", "A cat that is purring is happy.").on_topic == 1.0
    assert features("Why do cats purr?", "A cat is happy.").on_topic == 0.5
    assert features("Watering plants?", "Plants need water.").on_topic == 1.0


def test_an_empty_answer_is_the_worst() -> None:
    assert score(QUESTION, "") < score(QUESTION, CUT)
    assert prefers(QUESTION, "", CUT) == 0.0


def test_equal_answers_are_tied_and_the_order_shown_does_not_matter() -> None:
    answers = [CUT, GOOD, CUT]
    for labeler in LABELERS:
        ranking = rank(QUESTION, answers, labeler)
        assert {0, 2} in [set(group) for group in ranking]
        turned = rank(QUESTION, answers[::-1], labeler)
        assert [{2 - index for index in group} for group in turned] == [set(group) for group in ranking]


def test_a_tie_group_spans_at_most_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without noise: 15 words each, scores fall with the share of long words, so steps of 5/30 = 0.167 in `plain`.
    monkeypatch.setattr(preference, "NOISE_SCALE", 0.0)
    words = ["cat"] * 30
    answers = [" ".join([*words[long:], *["x" * preference.LONG_WORD] * long]) for long in range(3)]
    light = SimulatedLabeler("Simulated", Weights(plain=0.5, repetition=0.0))  # steps of 0.083, margin 0.1
    assert rank(QUESTION, answers, light) == ((0, 1), (2,)), "2 is within the margin of 1, but not of the group's best"


def test_the_same_seed_repeats_a_ranking_and_another_seed_changes_some() -> None:
    answers = [f"{GOOD[:-1]} {ending}." for ending in ("now", "then", "always", "sometimes")]
    first = [rank(QUESTION, answers, labeler, seed=1) for labeler in LABELERS]
    assert first == [rank(QUESTION, answers, labeler, seed=1) for labeler in LABELERS]
    assert first != [rank(QUESTION, answers, labeler, seed=2) for labeler in LABELERS]


def test_the_noise_is_standard_gumbel() -> None:
    draws = [preference._gumbel("test", number) for number in range(4_000)]
    # Mean is Euler's constant 0.5772, standard deviation pi / sqrt(6) = 1.2825; 0.07 is over three standard errors.
    assert fmean(draws) == pytest.approx(0.5772, abs=0.07)
    assert pstdev(draws) == pytest.approx(1.2825, abs=0.07)


def test_agreement_counts_only_pairs_that_both_order() -> None:
    # (0,1) alike, (0,2) alike, (1,2) tied by the second: 2 of 2. Turned round, none.
    assert agreement([(((0,), (1,), (2,)), ((0,), (1, 2)))]) == 1.0
    assert agreement([(((0,), (1,)), ((1,), (0,)))]) == 0.0


def test_every_labeler_says_that_it_is_simulated() -> None:
    assert all("Simulated" in labeler.name for labeler in LABELERS)
