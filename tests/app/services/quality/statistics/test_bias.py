"""Habits of single labelers: found where they were planted, and not flagged where there is no evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ranking_tables import simulated, table

from app.services.quality.statistics import bias, evidence
from app.services.quality.statistics.pairs import RankingTable

SKILLS = [1.5] * 6


@pytest.fixture
def plain() -> RankingTable:
    return simulated(SKILLS, tasks=300, overlap=2, seed=3)


def test_honest_labelers_are_flagged_no_more_often_than_the_level_allows() -> None:
    """Forty families of tests at 5 %: more than six with a flag have a probability below one half percent."""
    families = []
    for seed in range(20):
        plain = simulated(SKILLS, tasks=100, overlap=2, seed=seed)
        families += [bias.positions(plain), bias.lengths(plain)]
        assert not [pace for pace in bias.paces(plain) if pace and pace.hasty.flagged]
    assert sum(any(habit and habit.flagged for habit in habits) for habits in families) <= 6


def test_somebody_who_prefers_what_is_shown_first_is_flagged_alone(plain: RankingTable) -> None:
    theirs = plain.labeler == 2
    first, *others = bias.positions(replace(plain, ranks=np.where(theirs[:, None], plain.shown, plain.ranks)))[2:]
    assert first is not None
    assert first.flagged
    assert first.share.value == 1.0
    assert first.share.low > 0.9
    assert not [habit for habit in others if habit and habit.flagged]


def test_somebody_who_prefers_long_answers_is_compared_with_the_others(plain: RankingTable) -> None:
    by_length = (np.argsort(np.argsort(-plain.lengths, axis=1), axis=1) + 1).astype(np.int8)[plain.task]
    theirs = plain.labeler == 4
    habits = bias.lengths(replace(plain, ranks=np.where(theirs[:, None], by_length, plain.ranks)))
    assert [habit.flagged for habit in habits if habit] == [False, False, False, False, True, False]
    everyone = bias.lengths(replace(plain, ranks=by_length))
    assert [habit.share.value for habit in everyone if habit] == [1.0] * 6
    assert not [habit for habit in everyone if habit and habit.flagged]  # where all do it, it may be quality


def test_haste_is_judged_by_what_can_be_read(plain: RankingTable) -> None:
    theirs = plain.labeler == 1
    paces = bias.paces(replace(plain, seconds=np.where(theirs, 1.5, plain.seconds)))
    assert [pace.hasty.flagged for pace in paces if pace] == [False, True, False, False, False, False]
    hasty, calm = paces[1], paces[0]
    assert hasty is not None
    assert calm is not None
    assert (hasty.hasty.share.value, hasty.seconds.value) == (1.0, 1.5)
    assert hasty.ratio < 0.1
    assert 0.8 < calm.ratio < 1.2


def test_long_answers_need_longer_than_two_seconds() -> None:
    made = table(
        [(0, 0, (1, 2)), (0, 1, (1, 2)), (1, 0, (1, 2))], lengths=[[1500, 1500], [50, 50]], seconds=[29, 31, 29]
    )
    assert bias.implausible(made).tolist() == [True, False, False]


def test_too_few_rankings_are_shown_but_not_tested() -> None:
    made = table([(task, 0, (1, 2)) for task in range(9)], shown=[(1, 2)] * 9)
    [habit] = bias.positions(made)
    assert habit is not None
    assert (habit.share.value, habit.p_value, habit.flagged) == (1.0, None, False)


def test_holms_correction_by_hand() -> None:
    """0.01 * 3 = 0.03; 0.02 * 2 = 0.04; 0.04 * 1 = 0.04, which may not fall below the one before it."""
    assert evidence.holm([0.02, None, 0.04, 0.01]) == [0.04, None, 0.04, 0.03]


def test_wilsons_interval_and_the_binomial_tail_by_hand() -> None:
    """For 8 of 10 Wilson's interval is 0.490 to 0.943; P(at least 2 of 3 at one half) = 3/8 + 1/8."""
    assert evidence.wilson(0.8, 10) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert evidence.binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert evidence.binomial_tail(0, 3, 0.5) == 1.0


def test_observations_of_one_cluster_do_not_count_as_many() -> None:
    alone = evidence.cluster_share(np.array([1.0, 0.0] * 20), np.ones(40))
    together = evidence.cluster_share(np.array([10.0, 0.0] * 2), np.full(4, 10.0))
    assert alone is not None
    assert together is not None
    assert alone.value == together.value == 0.5
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_putting_many_clusters_together_leaves_the_spread_of_a_sum_as_it_is() -> None:
    """5,000 independent values of variance 1/4: the standard deviation of their sum is sqrt(1250)."""
    values = np.random.default_rng(2).integers(0, 2, size=(5000, 1)).astype(float)
    spread = evidence.resampled_sums(values).std()
    assert spread == pytest.approx(1250**0.5, rel=0.1)


def test_the_median_has_an_interval_of_its_own() -> None:
    found = evidence.median_interval(np.arange(101.0))
    assert found is not None
    assert (found.value, found.count) == (50.0, 101)
    assert found.low < 45
    assert found.high > 55
    assert evidence.median_interval(np.empty(0)) is None
