"""Win rates of the simulated preference."""

import pytest

from app.demo.judge import bootstrap_mean, win_rate

GOOD, BAD = "Cats purr when they feel safe and warm with you.", "Cats purr when they feel safe and warm with"


def test_a_win_a_loss_and_a_tie_make_one_half() -> None:
    questions = dict.fromkeys("abc", "Why do cats purr?")
    policy = {"a": [GOOD], "b": [BAD], "c": [GOOD]}
    baseline = {"a": [BAD], "b": [GOOD], "c": [GOOD]}
    rate = win_rate(questions, policy, baseline)
    assert rate.value == pytest.approx(0.5)
    assert rate.low == 0.0
    assert rate.high == 1.0


def test_a_policy_that_always_wins_has_no_width() -> None:
    questions = {str(n): "Why do cats purr?" for n in range(9)}
    rate = win_rate(questions, {key: [GOOD, GOOD] for key in questions}, {key: [BAD] for key in questions})
    assert (rate.value, rate.low, rate.high) == (1.0, 1.0, 1.0)


def test_the_interval_covers_the_mean_and_has_the_width_of_two_standard_errors() -> None:
    # 100 fair coins: standard error 0.05, so the interval reaches about 0.098 to either side.
    interval = bootstrap_mean([0.0, 1.0] * 50, seed=3)
    assert interval.value == 0.5
    assert interval.low == pytest.approx(0.402, abs=0.02)
    assert interval.high == pytest.approx(0.598, abs=0.02)


def test_no_prompt_in_common_is_an_error() -> None:
    with pytest.raises(ValueError, match="no prompt in common"):
        win_rate({"a": "?"}, {"a": [GOOD]}, {"b": [BAD]})
