"""What rankings weigh by the age of their round and by the policies whose answers they rank."""

from __future__ import annotations

import pytest

from app.errors import InvalidInputError
from app.services.projects import mixing


def test_a_ranking_weighs_less_with_every_round_and_by_its_answers_policies() -> None:
    assert mixing.weight(0, ["base", "dpo-1"], 100, {}) == 1
    # 0.5 a round, two rounds ago: 0.25. Policies: base 0.2, one unnamed and one by a person 1 each: mean 2.2 / 3.
    assert mixing.weight(2, ["base", "dpo-1", ""], 50, {"base": 0.2}) == pytest.approx(0.25 * 2.2 / 3, abs=1e-6)
    assert mixing.weight(0, ["a"], 0, {}) == 1, "the newest round weighs all, whatever becomes of the older ones"
    assert mixing.weight(1, ["a"], 0, {}) == 0


def test_a_round_ages_only_by_rounds_that_brought_tasks() -> None:
    assert mixing.ages([7, 0, 3, 3]) == {7: 0, 3: 1, 0: 2}
    assert mixing.ages([]) == {}


def test_weights_are_lines_of_a_name_and_a_number() -> None:
    assert mixing.read_weights("base 0.5\n\n  dpo-1   2 \n") == {"base": 0.5, "dpo-1": 2.0}
    for typed in ("base", "base half", "base -1", "base 101", "base nan", "base inf", "0.5"):
        with pytest.raises(InvalidInputError, match="as in: base"):
            mixing.read_weights(typed)
    with pytest.raises(InvalidInputError, match="two weights"):
        mixing.read_weights("base 1\nbase 2")
