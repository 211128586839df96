"""When rounds stop teaching: planted figures, and what the guard says of them."""

from __future__ import annotations

from dataclasses import replace

from app.services.training.saturation import Measured, judge

GOOD = Measured(1, pairs=1200, ties=0.1, margin=1.0, win_rate=0.7, low=0.6, high=0.8, kl=4.0)
EVEN = replace(GOOD, win_rate=0.52, low=0.42, high=0.62)


def numbered(*rounds: Measured) -> list[Measured]:
    return [replace(round_, number=number) for number, round_ in enumerate(rounds, start=1)]


def test_two_rounds_are_needed_to_say_anything() -> None:
    for few in ([], [EVEN]):
        assert judge(few).state == "too_early"
        assert judge(few).signs == ()


def test_rounds_whose_policies_win_still_teach() -> None:
    found = judge(numbered(GOOD, GOOD))
    assert found.state == "teaching"
    assert "wins 70% (60% to 80%)" in found.sentence
    assert found.signs == ()


def test_one_policy_that_does_not_win_may_be_chance() -> None:
    found = judge(numbered(GOOD, EVEN))
    assert found.state == "slowing"
    assert found.signs == ("Round 2: the new policy wins 52%, interval 42% to 62%, so it is not shown to be better.",)


def test_two_that_do_not_win_and_more_ties_mean_that_the_rounds_are_saturated() -> None:
    tied = replace(EVEN, ties=0.35)
    found = judge(numbered(GOOD, EVEN, tied))
    assert found.state == "saturated"
    assert "Labelers tie 35% of the pairs, where it was 10% in round 1." in found.signs
    assert len(found.signs) == 3
    # Without the second sign, or with a policy that wins in between, nothing is decided.
    assert judge(numbered(GOOD, EVEN, EVEN)).state == "slowing"
    assert judge(numbered(EVEN, GOOD, tied)).state == "slowing"


def test_ties_count_when_they_are_more_by_a_tenth_and_by_more_than_chance() -> None:
    # 10 % and 19.9 % of many pairs: too small a step. 10 % and 25 % of 20 pairs: standard error 0.12, so chance.
    for before, now in (
        (GOOD, replace(GOOD, ties=0.199)),
        (replace(GOOD, pairs=20), replace(GOOD, pairs=20, ties=0.25)),
    ):
        assert judge(numbered(before, now)).signs == ()
    assert len(judge(numbered(GOOD, replace(GOOD, ties=0.21))).signs) == 1


def test_a_margin_that_has_shrunk_and_distance_that_buys_nothing_are_signs() -> None:
    small = replace(GOOD, margin=0.69)
    assert judge(numbered(GOOD, small)).signs == (
        "The reward model's margin on held-out pairs is 0.69, where it was 1.00 in round 1.",
    )
    assert judge(numbered(GOOD, replace(GOOD, margin=0.71))).signs == ()
    far = replace(EVEN, kl=9.0)
    assert (
        "The policy went further (9.0 nats an answer after 4.0) without winning more."
        in judge(numbered(GOOD, far)).signs
    )
    assert judge(numbered(GOOD, replace(GOOD, kl=9.0))).signs == (), "distance that wins is no sign"
    assert judge(numbered(EVEN, replace(far, margin=0.5))).state == "saturated"


def test_what_was_not_measured_is_not_made_up() -> None:
    found = judge(numbered(Measured(1), Measured(2)))
    assert found.state == "too_early"
    assert "was not judged" in found.sentence
