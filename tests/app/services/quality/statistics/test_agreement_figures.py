"""Agreement: examples worked out by hand and from the literature, ties, partial rankings, intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ranking_tables import simulated, table

from app.services.quality.statistics.agreement import (
    agreement,
    alpha,
    coincidences,
    disagreement,
    meetings,
    with_others,
)
from app.services.quality.statistics.pairs import MISSING, UNNAMED, pair_values

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section D: four observers, twelve units, gaps.
FOUR_OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def counts_of(observers: tuple[str, ...], categories: int) -> np.ndarray:
    counts = np.zeros((len(observers[0].split()), categories))
    for line in observers:
        for unit, value in enumerate(line.split()):
            if value != ".":
                counts[unit, int(value) - 1] += 1
    return counts


@pytest.mark.parametrize(("metric", "expected"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_of_the_example_in_the_literature(metric: str, expected: float) -> None:
    matrix = coincidences(counts_of(FOUR_OBSERVERS, 5)).sum(axis=0)
    assert matrix.sum() == pytest.approx(40)  # the paper's number of pairable values
    assert float(alpha(matrix, metric)) == pytest.approx(expected, abs=5e-4)


def test_alpha_of_two_labelers_by_hand() -> None:
    """Four pairs: (A, A), (A, A), (B, B), (A, B).

    Both ways round: n = 16 values, 8 "better" and 8 "worse", 4 coincidences of different ones.
    alpha = 1 - 15 * 4 / (2 * 8 * 8) = 0.53125. Without ties ordinal and nominal are the same.
    """
    judged = [((1, 2), (1, 2)), ((1, 2), (1, 2)), ((2, 1), (2, 1)), ((1, 2), (2, 1))]
    rows = [(task, labeler, ranks) for task, both in enumerate(judged) for labeler, ranks in enumerate(both)]
    found = agreement(table(rows))
    assert found.alpha_nominal is not None
    assert found.alpha_ordinal is not None
    assert found.alpha_nominal.value == pytest.approx(0.53125)
    assert found.alpha_ordinal.value == pytest.approx(0.53125)
    assert found.alpha_nominal.count == 8
    assert found.pairs is not None
    assert (found.pairs.value, found.pairs.count) == (0.75, 4)


def test_tau_b_with_a_tie_by_hand() -> None:
    """A > B = C > D against A > B > C > D: 5 concordant pairs, 5 and 6 that are no tie: 5 / sqrt(30)."""
    found = agreement(table([(0, 0, (1, 2, 2, 3)), (0, 1, (1, 2, 3, 4))]))
    assert found.tau_b is not None
    assert found.tau_b.value == pytest.approx(5 / 30**0.5)
    assert found.pairs is not None
    assert found.pairs.value == pytest.approx(5.5 / 6)  # the tie against a preference is half right
    assert found.strict is not None
    assert (found.strict.value, found.strict.count) == (1.0, 5)


def test_tau_b_is_the_mean_over_tasks_of_the_mean_over_labelers() -> None:
    rows = [
        (0, 0, (1, 2)),
        (0, 1, (1, 2)),
        (0, 2, (2, 1)),
        (1, 0, (1, 2)),
        (1, 1, (1, 2)),
        (2, 0, (1, 1)),
        (2, 1, (1, 2)),
    ]
    found = agreement(table(rows))
    assert found.tau_b is not None
    assert found.tau_b.value == pytest.approx((-1 / 3 + 1) / 2)  # task 2 has none: one of its labelers ties everything
    assert found.flat_rankings == 1


def test_a_partial_ranking_says_nothing_about_two_answers_that_it_does_not_name() -> None:
    values = pair_values(np.array([[1, UNNAMED, UNNAMED], [2, 1, UNNAMED]], dtype=np.int8))
    assert values.tolist() == [[1, 1, MISSING], [-1, 1, 1]]
    found = agreement(table([(0, 0, (1, UNNAMED, UNNAMED)), (0, 1, (2, 1, UNNAMED))]))
    assert found.pairs is not None
    assert (found.pairs.value, found.pairs.count) == (0.5, 2)


def test_the_order_in_which_answers_are_stored_changes_nothing() -> None:
    drawn = simulated([1.5, 1.0, 0.5], tasks=40, overlap=3)
    turned = replace(drawn, ranks=drawn.ranks[:, ::-1].copy(), lengths=drawn.lengths[:, ::-1].copy())
    assert agreement(drawn) == agreement(turned)


def test_the_interval_covers_the_figure_and_is_wider_when_one_prompt_has_all_tasks() -> None:
    drawn = simulated([1.5, 1.5, 1.5], tasks=200, overlap=2)
    wide = agreement(replace(drawn, prompt_of_task=np.repeat(np.arange(10), 20)))
    narrow = agreement(drawn)
    for name in ("alpha_nominal", "alpha_ordinal", "tau_b", "pairs", "strict"):
        figure = getattr(narrow, name)
        assert figure.low < figure.value < figure.high
    assert narrow.pairs is not None
    assert narrow.pairs.high - narrow.pairs.low == pytest.approx(0.055, abs=0.03)
    assert wide.pairs is not None
    assert wide.pairs.value == narrow.pairs.value
    assert wide.pairs.low != narrow.pairs.low


def test_without_two_rankings_of_a_task_there_is_no_agreement() -> None:
    found = agreement(table([(0, 0, (1, 2)), (1, 1, (1, 2))]))
    assert (found.pairs, found.alpha_ordinal, found.tasks) == (None, None, 0)


def test_each_labeler_is_compared_with_the_others_and_tasks_by_how_far_they_part() -> None:
    rows = [(0, 0, (1, 2)), (0, 1, (1, 2)), (0, 2, (2, 1)), (1, 0, (1, 2)), (1, 1, (1, 2)), (2, 1, (1, 2))]
    made = table(rows)
    met = meetings(made, pair_values(made.ranks))
    first, second, third = with_others(made, met)
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.value, first.count, third.value, third.count) == (pytest.approx(2 / 3), 3, 0.0, 2)
    assert second.value == first.value
    apart = disagreement(made, met)
    assert apart[:2].tolist() == pytest.approx([2 / 3, 0])
    assert np.isnan(apart[2])
