"""The reliability model: it finds what was planted, and says little where there is little to see."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_tables import simulated, table

from app.services.quality.statistics import reliability
from app.services.quality.statistics.minimise import minimise
from app.services.quality.statistics.patterns import judgements_of, merge

GOOD = [2.4, 2.0, 1.6, 1.2, 0.8, 1.5]
CLICKER, REVERSED = 6, 7
SKILLS = [*GOOD, 0.0, -1.5]


def test_planted_skills_are_found_a_random_clicker_and_a_reversed_labeler_too() -> None:
    found = reliability.estimate(simulated(SKILLS, tasks=1000, overlap=2))
    assert np.corrcoef(found.skill, SKILLS)[0, 1] > 0.97
    assert np.mean(np.abs(found.skill - SKILLS) < 2 * found.error) >= 7 / 8
    assert found.skill[CLICKER] == pytest.approx(0, abs=0.2)
    clicker, backwards = found.reliability[CLICKER], found.reliability[REVERSED]
    assert clicker.low < 0.5 < clicker.high < 0.6
    assert backwards.high < 0.4
    assert all(found.reliability[good].low > 0.6 for good in range(len(GOOD)))


def test_intervals_cover_what_was_planted_about_as_often_as_they_say() -> None:
    inside = []
    for seed in range(12):
        skills = np.random.default_rng(seed).normal(1.2, 0.6, size=8)
        found = reliability.estimate(simulated(skills, tasks=150, k=3, overlap=2, seed=seed))
        inside.extend(np.abs(found.skill - skills) < 1.96 * found.error)
    assert 0.9 <= np.mean(inside) <= 1.0


def test_the_tie_threshold_is_estimated_and_a_habit_of_ties_is_no_lack_of_skill() -> None:
    strict = reliability.estimate(simulated([1.5] * 5, tasks=400, k=2, overlap=3, tie=0.1))
    loose = reliability.estimate(simulated([1.5] * 5, tasks=400, k=2, overlap=3, tie=0.8))
    assert strict.threshold == pytest.approx(np.full(5, 0.1), abs=0.1)
    assert loose.threshold == pytest.approx(np.full(5, 0.8), abs=0.2)
    assert loose.skill == pytest.approx(np.full(5, 1.5), abs=0.6)


def test_a_labeler_who_shares_no_task_keeps_the_prior_of_the_project() -> None:
    shared = simulated([2.0, 2.0, 2.0], tasks=200, overlap=2)
    alone = [(200 + number, 3, (1, 2, 3, 4)) for number in range(50)]
    rows = [(int(t), int(u), tuple(r)) for t, u, r in zip(shared.task, shared.labeler, shared.ranks, strict=True)]
    found = reliability.estimate(table([*rows, *alone]))
    assert found.judgements[3] == 0
    assert found.error[3] > 1.3 * found.error[0]
    assert 1.0 < found.skill[3] < found.skill[:3].max()  # near the others of the project, not at the prior's 1
    assert found.reliability[3].high - found.reliability[3].low > 0.25


def test_few_shared_tasks_shrink_the_estimate() -> None:
    few = [(task, labeler, (1, 2) if labeler else (2, 1)) for task in range(3) for labeler in (0, 1, 2)]
    many = [(task, labeler, (1, 2) if labeler else (2, 1)) for task in range(60) for labeler in (0, 1, 2)]
    assert reliability.estimate(table(few)).skill[0] > reliability.estimate(table(many)).skill[0]


def test_merged_patterns_lose_nothing() -> None:
    """Two tasks with the same judgements, one stored the other way round, are one pattern of weight 2 * 2 / K."""
    made = table([(0, 0, (1, 2)), (0, 1, (1, 2)), (1, 0, (2, 1)), (1, 1, (2, 1)), (2, 0, (1, 2)), (2, 1, (2, 1))])
    patterns, pattern_of_unit = merge(judgements_of(made), 2)
    assert len(patterns.weight) == 2
    assert pattern_of_unit[0] == pattern_of_unit[1] != pattern_of_unit[2]
    assert patterns.weight[pattern_of_unit[0]] == pytest.approx(2.0)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    patterns, _ = merge(judgements_of(simulated([1.0, 0.5, -0.5], tasks=30, overlap=3)), 3)
    at = np.array([0.9, 0.4, -0.2, -1.0, -0.5, 0.1])

    def value(parameters: np.ndarray) -> float:
        return reliability.log_likelihood(patterns, reliability.terms(parameters, 3))[0]

    _, gradient = reliability.log_likelihood(patterns, reliability.terms(at, 3))
    steps = np.eye(6) * 1e-5
    numeric = [(value(at + step) - value(at - step)) / 2e-5 for step in steps]
    assert gradient == pytest.approx(np.array(numeric), rel=1e-4, abs=1e-5)


def test_the_chances_of_the_three_judgements_add_up_to_one() -> None:
    terms = reliability.terms(np.array([1.3, -0.4, -0.7, 0.5]), 2)
    assert np.exp(terms.log_p).reshape(2, 3, -1).sum(axis=1) == pytest.approx(np.ones((2, reliability.NODES)))


def test_the_minimiser_finds_the_bottom_of_a_curved_valley() -> None:
    """Rosenbrock's function: the minimum is at (1, 1)."""

    def valley(p: np.ndarray) -> tuple[float, np.ndarray]:
        x, y = p
        return float((1 - x) ** 2 + 100 * (y - x * x) ** 2), np.array(
            [-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)]
        )

    assert minimise(valley, np.array([-1.2, 1.0]), tolerance=1e-8) == pytest.approx(np.array([1.0, 1.0]), abs=1e-5)
