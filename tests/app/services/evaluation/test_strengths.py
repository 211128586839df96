"""Bradley-Terry and the length-controlled win rate: by hand, and against values planted in simulations."""

from __future__ import annotations

import math
import random

import pytest

from app.services.evaluation import bradley_terry, length_control
from app.services.evaluation.bradley_terry import ELO, PRIOR, Meeting
from app.services.evaluation.length_control import Outcome
from app.services.evaluation.linear import inverse


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_an_inverse_is_one() -> None:
    found = inverse([[0.0, 2.0], [4.0, 0.0]])  # the first pivot is 0: rows have to change places
    assert found == [[0.0, 0.25], [0.5, 0.0]]
    with pytest.raises(ArithmeticError):
        inverse([[1.0, 2.0], [2.0, 4.0]])


def test_two_policies_by_hand() -> None:
    # 30 wins of 40. With d = theta_0 - theta_1 and theta_1 = -theta_0 the prior's pull is d / 18: so
    # 30 - 40 sigma(d) = d / 18.
    meetings = [Meeting(number, 0, 1, float(number < 30)) for number in range(40)]
    first, second = bradley_terry.strengths(meetings, 2, anchor=1)
    d = first.elo / ELO
    assert 30 - 40 * sigma(d) == pytest.approx(d / (2 * PRIOR**2), abs=1e-9)
    assert (second.elo, second.low, second.high) == (0.0, 0.0, 0.0)
    assert first.meetings == second.meetings == 40
    # Independent outcomes: the error of d is about 1 / sqrt(40 · 3/4 · 1/4).
    assert (first.high - first.low) / 2 / ELO == pytest.approx(1.96 / math.sqrt(40 * 0.1875), rel=0.05)


def test_a_clean_sweep_is_finite_and_a_tie_is_half_a_win() -> None:
    swept = bradley_terry.strengths([Meeting(n, 0, 1, 1.0) for n in range(20)], 2, anchor=1)[0]
    assert 400 < swept.elo < 2000
    tied = bradley_terry.strengths([Meeting(n, 0, 1, 0.5) for n in range(20)], 2, anchor=1)[0]
    assert tied.elo == pytest.approx(0.0, abs=1e-9)
    assert bradley_terry.chance(400) == pytest.approx(10 / 11)


def test_planted_strengths_lie_in_their_intervals_about_as_often_as_they_should() -> None:
    planted = [0.0, 0.5, -0.4, 1.2]
    inside = tries = 0
    for seed in range(60):
        generator = random.Random(seed)
        meetings = []
        for prompt in range(150):
            first, second = generator.sample(range(4), 2)
            won = float(generator.random() < sigma(planted[first] - planted[second]))
            meetings.append(Meeting(prompt, first, second, won))
        found = bradley_terry.strengths(meetings, 4)
        for own in (1, 2, 3):
            inside += found[own].low <= ELO * planted[own] <= found[own].high
            tries += 1
    assert 0.9 <= inside / tries <= 0.99


def test_many_labelers_on_one_prompt_are_not_many_prompts() -> None:
    alone = [Meeting(n, 0, 1, float(n % 4 > 0)) for n in range(40)]
    crowd = [Meeting(n, 0, 1, float(n % 4 > 0)) for n in range(40) for _ in range(5)]
    one, five = (bradley_terry.strengths(rows, 2, anchor=1)[0] for rows in (alone, crowd))
    # Five labelers who say the same know no more than one; counted one by one the interval would be sqrt(5) narrower.
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.1)


def simulated(effect: float, skill: float, seed: int) -> list[Outcome]:
    generator = random.Random(seed)
    lengths = [generator.gauss(120, 100) for _ in range(600)]
    spread = math.sqrt(sum((x - sum(lengths) / 600) ** 2 for x in lengths) / 600)
    return [
        Outcome(n, float(generator.random() < sigma(skill + effect * math.tanh(x / spread))), x)
        for n, x in enumerate(lengths)
    ]


def test_a_policy_that_only_writes_more_wins_half_at_equal_length() -> None:
    outcomes = simulated(effect=1.5, skill=0.0, seed=1)
    assert sum(outcome.won for outcome in outcomes) / 600 > 0.65
    found = length_control.controlled(outcomes)
    assert found is not None
    assert found.low < 0.5 < found.high
    assert found.length_effect == pytest.approx(1.5, abs=0.4)


def test_a_planted_skill_is_found_beside_the_length() -> None:
    covered = 0
    for seed in range(60):
        found = length_control.controlled(simulated(effect=-0.8, skill=0.7, seed=seed))
        assert found is not None
        covered += found.low <= sigma(0.7) <= found.high
    assert 54 <= covered <= 60


def test_without_differences_in_length_it_is_the_win_rate_itself() -> None:
    rows = [Outcome(n, float(n < 15), 0.0) for n in range(20)]
    found = length_control.controlled(rows)
    assert found is not None
    # The prior pulls by a / 9: 15 - 20 sigma(a) = a / 9.
    a = math.log(found.win_rate / (1 - found.win_rate))
    assert 15 - 20 * found.win_rate == pytest.approx(a / 9, abs=1e-9)
    assert found.length_effect == pytest.approx(0.0, abs=1e-9)
    assert length_control.controlled([]) is None
