"""Agreement of scores with labelers, by hand."""

import math

import pytest
import torch
from builders import ask

from trainer import agreement
from trainer.rankings import Group, Ranking
from trainer.tree import Tree


def group(name: str, *rankings: Ranking, lengths: tuple[int, ...] = (2, 2, 2)) -> Group:
    return Group(ask(name), Tree([1], [[2] * length for length in lengths]), rankings)


def ranked(order: tuple[int, ...], labeler: str, weight: float = 1.0) -> Ranking:
    return Ranking(tuple((index,) for index in order), (), (0,) * len(order), weight, labeler)


ONE = group("one", ranked((0, 1, 2), "ann"), ranked((1, 0, 2), "bob", 2.0), lengths=(2, 5, 4))
TWO = group("two", ranked((0, 1), "ann"), lengths=(3, 3))
SCORES = [torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 0.0])]


def test_hits_count_preferences_of_all_labelers_by_prompt_and_halve_equal_scores() -> None:
    # Ann: three right. Bob, with weight 2: one of three wrong. Prompt two: equal scores.
    found = agreement.hits([ONE, TWO], SCORES)
    assert found == ([3.0 + 4.0, 0.5], [3.0 + 6.0, 1.0])
    assert found.rate == pytest.approx(7.5 / 10)


def test_hits_of_each_labeler_and_by_length() -> None:
    by_labeler = agreement.by_labeler([ONE, TWO], SCORES)
    assert {name: (sum(found.right), sum(found.counted)) for name, found in by_labeler.items()} == {
        "ann": (3.5, 4.0),
        "bob": (4.0, 6.0),
    }
    by_length = agreement.by_length([ONE, TWO], SCORES)
    # Longer (by a quarter or more): ann's 1 > 2 (5 and 4 tokens), bob's 1 > 0 (wrong) and 1 > 2. Shorter: 0 > 1, 0 > 2
    # of ann and 0 > 2 of bob. About as long: prompt two.
    assert {name: (sum(found.right), sum(found.counted)) for name, found in by_length.items()} == {
        "longer": (1.0 + 0.0 + 2.0, 1.0 + 2.0 + 2.0),
        "about as long": (0.5, 1.0),
        "shorter": (1.0 + 1.0 + 2.0, 1.0 + 1.0 + 2.0),
    }


def test_calibration_is_the_distance_between_confidence_and_hits() -> None:
    # Four pairs at sigma(ln 3) = 0.75, of which three are right: no error. All right: off by a quarter.
    scores = [torch.tensor([math.log(3.0), 0.0])]
    right, wrong = ranked((0, 1), "ann", 3.0), ranked((1, 0), "bob")
    for rankings, error in (((right, wrong), 0.0), ((right,), 0.25)):
        found = agreement.calibration_error([group("q", *rankings, lengths=(2, 2))], scores)
        assert found == pytest.approx(error, abs=1e-6)


def test_labelers_agree_where_both_prefer_the_same_of_two() -> None:
    # Ann and Bob on prompt one: they differ on (0, 1) and agree on two pairs. Nobody overlaps on prompt two.
    found = agreement.between_labelers([ONE, TWO])
    assert found == ([2.0], [3.0])
    assert agreement.between_labelers([TWO]) is None


def test_no_two_bins_of_the_reliability_diagram_have_the_same_name() -> None:
    bins = [agreement.Bin(1.0, probability, 1.0) for probability in (0.5, 0.5497, 0.5502, 0.999, 1.0)]
    assert [row.words for row in bins] == ["50% to 55%", "50% to 55%", "55% to 60%", "95% to 100%", "95% to 100%"]
