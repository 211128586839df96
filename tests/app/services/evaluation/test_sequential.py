"""The confidence sequence: values by hand, and simulations of what peeking does with it and without."""

from __future__ import annotations

import math
import random

import pytest

from app.services.evaluation.sequential import STAKES, interval, log_wealth

LIMIT = math.log(2 / 0.05)
LOOKS = 400


def outcomes(chance: float, seed: int, count: int = LOOKS, ties: float = 0.15) -> list[float]:
    """Wins, ties and losses of one candidate, with this mean."""
    generator = random.Random(seed)
    return [0.5 if generator.random() < ties else float(generator.random() < chance) for _ in range(count)]


def test_the_wealth_by_hand() -> None:
    # One win against m = 1/2: every stake s pays 1 - s + s / 0.5 = 1 + s; a loss after it leaves (1 + s)(1 - s).
    won = sum(1 + stake for stake in STAKES) / len(STAKES)
    both = sum((1 + stake) * (1 - stake) for stake in STAKES) / len(STAKES)
    assert log_wealth([1.0, 0.0], 0.5) == pytest.approx([math.log(won), math.log(both)], rel=1e-12)


def test_the_interval_is_where_the_wealth_reaches_its_limit() -> None:
    found = interval(outcomes(0.7, seed=1, count=120))
    assert log_wealth(outcomes(0.7, seed=1, count=120), found.low)[-1] == pytest.approx(LIMIT, rel=1e-6)
    mirrored = [1 - value for value in outcomes(0.7, seed=1, count=120)]
    assert log_wealth(mirrored, 1 - found.high)[-1] == pytest.approx(LIMIT, rel=1e-6)
    assert found.low < found.value < found.high


def test_the_order_does_not_matter_and_the_mirror_is_the_other_policy() -> None:
    values = outcomes(0.6, seed=3, count=80)
    found, reversed_, other = interval(values), interval(values[::-1]), interval([1 - value for value in values])
    assert (found.low, found.high) == pytest.approx((reversed_.low, reversed_.high))
    assert (found.low, found.high) == pytest.approx((1 - other.high, 1 - other.low))


def test_nothing_is_known_of_nothing_and_a_clean_sweep_is_not_certainty() -> None:
    assert (interval([]).low, interval([]).high) == (0.0, 1.0)
    swept = interval([1.0] * 12)
    assert 0.5 < swept.low < 1.0
    assert swept.high == pytest.approx(1.0)
    assert interval([1.0] * 5).low < 0.5  # five wins in a row happen by chance alone in 1 of 32 tries


def stopped_wrongly_by_wilson(values: list[float]) -> bool:
    """Whether the usual 95 % interval for a fixed number ever leaves one half, looked at from the tenth answer on."""
    total = 0.0
    for count, value in enumerate(values, start=1):
        total += value
        share = total / count
        centre = (share + 1.96**2 / (2 * count)) / (1 + 1.96**2 / count)
        half = 1.96 / (1 + 1.96**2 / count) * math.sqrt(share * (1 - share) / count + 1.96**2 / (4 * count**2))
        if count >= 10 and not centre - half <= 0.5 <= centre + half:
            return True
    return False


def test_looking_after_every_answer_does_not_make_equal_policies_differ() -> None:
    runs = [outcomes(0.5, seed) for seed in range(400)]
    wrong = sum(
        max(log_wealth(values, 0.5)) >= LIMIT or max(log_wealth([1 - value for value in values], 0.5)) >= LIMIT
        for values in runs
    )
    assert wrong / len(runs) <= 0.05
    # The same looks with an interval that knows of one look only: what this module is there for.
    assert sum(map(stopped_wrongly_by_wilson, runs)) / len(runs) > 0.2


@pytest.mark.parametrize("chance", [0.2, 0.65, 0.95])
def test_the_interval_holds_the_mean_at_all_times_at_once(chance: float) -> None:
    mean = 0.15 * 0.5 + 0.85 * chance
    runs = [outcomes(chance, seed) for seed in range(300)]
    missed = sum(
        max(log_wealth(values, mean)) >= LIMIT or max(log_wealth([1 - v for v in values], 1 - mean)) >= LIMIT
        for values in runs
    )
    assert missed / len(runs) <= 0.05


def test_a_better_candidate_is_found_long_before_all_prompts_are_judged() -> None:
    needed = []
    for seed in range(100):
        path = log_wealth(outcomes(0.7, seed), 0.5)
        needed.append(next((number for number, log in enumerate(path, start=1) if log >= LIMIT), LOOKS))
    assert sorted(needed)[50] < 120
    assert max(needed) < LOOKS
