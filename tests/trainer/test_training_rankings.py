"""What labelers said, gathered by prompt, and as pairs and choices with weights."""

import dataclasses

import pytest
import torch
from builders import ask, build_tokenizer

from trainer.data import Truncation
from trainer.rankings import choice_tensors, flag_tensors, group_comparisons, pair_tensors
from trainer.records import Comparison

TOKENIZER = build_tokenizer()


def rank(ranking: tuple[tuple[int, ...], ...], labeler: str = "", weight: float = 1.0) -> Comparison:
    return Comparison("c", ask("which"), ("aa", "b", "cccc"), ranking, weight, labeler)


def test_rankings_of_the_same_answers_share_one_encoding_and_add_up_by_pair() -> None:
    rankings = [rank(((0,), (1,), (2,)), "x"), rank(((1,), (0, 2)), "y"), rank(((0,), (1,), (2,)), "z", 2.0)]
    (group,) = group_comparisons(TOKENIZER, rankings, 64, Truncation())
    assert len(group.tree.completions) == 3
    assert group.pairs == {
        (0, 1): 3.0,  # x and z
        (0, 2): 3.0,  # x and z; y has them tied
        (1, 2): 4.0,  # all
        (1, 0): 1.0,  # y
    }
    assert group.weight == pytest.approx(4 / 3)


def test_answers_that_never_ended_are_encoded_without_an_end_and_grouped_with_their_like() -> None:
    cut = [dataclasses.replace(rank(((2,), (0,), (1,)), name), ended=(True, True, False)) for name in "xy"]
    unranked = dataclasses.replace(cut[0], messages=ask("other"), ranking=((2,), (1,)), completions=("", "b", "cccc"))
    here, whole, there = group_comparisons(
        TOKENIZER, [cut[0], rank(((0,), (1,), (2,))), cut[1], unranked], 64, Truncation()
    )
    assert [TOKENIZER.decode(ids) for ids in here.tree.completions] == ["aa<end>", "b<end>", "cccc"]
    assert [TOKENIZER.decode(ids) for ids in whole.tree.completions] == ["aa<end>", "b<end>", "cccc<end>"]
    assert [TOKENIZER.decode(ids) for ids in there.tree.completions] == ["<end>", "b<end>", "cccc"]
    assert (len(here.rankings), len(whole.rankings)) == (2, 1)
    (marked,) = group_comparisons(TOKENIZER, cut, 64, Truncation(), cut_mark="...")
    assert [TOKENIZER.decode(ids) for ids in marked.tree.completions] == ["aa<end>", "b<end>", "cccc...<end>"]


def test_answers_without_a_rank_stand_below_the_others_and_ties_alone_make_no_group() -> None:
    (group,) = group_comparisons(TOKENIZER, [rank(((2,),))], 64, Truncation())
    assert sorted(group.pairs) == [(2, 0), (2, 1)]
    ties = [rank(((0, 1, 2),)), rank(((0,), (1,), (2,)), weight=0.0)]
    assert group_comparisons(TOKENIZER, ties, 64, Truncation()) == []


def test_strengths_add_up_over_boundaries_and_what_nobody_said_is_nothing() -> None:
    cpu = torch.device("cpu")
    said = Comparison("c", ask("which"), ("a", "b", "c", "d"), ((0,), (1,), (2,)), strengths=(3, None))
    plain = Comparison("c", ask("which"), ("a", "b", "c", "d"), ((0,), (1,), (2,)), weight=2.0)
    (group,) = group_comparisons(TOKENIZER, [said], 64, Truncation())
    pairs = pair_tensors([group], 1.0, cpu)
    found = dict(zip(map(tuple, pairs.members.tolist()), pairs.strengths.tolist(), strict=True))
    assert found == {(0, 1): 3.0, (0, 2): 3.0, (0, 3): 3.0, (1, 2): 0.0, (1, 3): 0.0, (2, 3): 0.0}
    (group,) = group_comparisons(TOKENIZER, [said, plain], 64, Truncation())
    assert pair_tensors([group], 1.5, cpu).strengths[0].item() == pytest.approx(1.0)  # 3 of one labeler in three


def test_the_pair_weights_of_the_parts_of_a_step_add_up_to_one() -> None:
    other = Comparison("d", ask("other"), ("x", "y"), ((0,), (1,)), 3.0)
    groups = group_comparisons(TOKENIZER, [rank(((0,), (1,), (2,))), other], 64, Truncation())
    cpu = torch.device("cpu")
    pairs = pair_tensors(groups, 4.0, cpu)
    assert pairs.members.tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]
    torch.testing.assert_close(pairs.weights, torch.tensor([1 / 12, 1 / 12, 1 / 12, 3 / 4]))
    parts = [pair_tensors([group], 4.0, cpu).weights for group in groups]
    torch.testing.assert_close(torch.cat(parts), pairs.weights)


def test_a_ranking_is_a_row_of_choices_that_share_its_weight() -> None:
    # The best of three, then the better of two; the last is no choice. Equal answers are not chosen from one another.
    groups = group_comparisons(TOKENIZER, [rank(((2,), (0,), (1,))), rank(((0, 1), (2,)))], 64, Truncation())
    choices = choice_tensors(groups, 1.0, torch.device("cpu"))
    assert choices.chosen.tolist() == [2, 0, 0, 1]
    assert choices.contenders.tolist() == [
        [True, True, True],
        [True, True, False],
        [True, False, True],
        [False, True, True],
    ]
    torch.testing.assert_close(choices.weights, torch.full((4,), 1 / 4))


def test_ties_are_pairs_only_where_they_are_asked_for() -> None:
    rankings = [rank(((0, 1), (2,)), weight=3.0), rank(((0,), (1, 2)))]
    cpu = torch.device("cpu")
    without = pair_tensors(group_comparisons(TOKENIZER, rankings, 64, Truncation()), 1.0, cpu)
    assert not without.tied.any()
    (group,) = group_comparisons(TOKENIZER, rankings, 64, Truncation(), ties=True)
    pairs = pair_tensors([group], 2.0, cpu, ties=True)
    found = {
        (*members, tied): weight
        for members, tied, weight in zip(
            map(tuple, pairs.members.tolist()), pairs.tied.tolist(), pairs.weights.tolist(), strict=True
        )
    }
    # The first ranking says 0 > 2, 1 > 2 and 0 = 1 with weight 3; the second 0 > 1, 0 > 2 and 1 = 2. Twelfths.
    assert found == pytest.approx(
        {
            (0, 2, False): 4 / 12,
            (1, 2, False): 3 / 12,
            (0, 1, True): 3 / 12,
            (0, 1, False): 1 / 12,
            (1, 2, True): 1 / 12,
        }
    )


def test_a_ranking_of_ties_alone_says_something_only_to_a_loss_of_ties() -> None:
    tie = [rank(((0, 1, 2),))]
    assert group_comparisons(TOKENIZER, tie, 64, Truncation()) == []
    (group,) = group_comparisons(TOKENIZER, tie, 64, Truncation(), ties=True)
    assert len(group.tree.completions) == 3


def test_flags_part_the_acceptable_from_the_rest_and_need_no_preference() -> None:
    cpu = torch.device("cpu")
    line = Comparison("c", ask("which"), ("a", "b", "c"), ((2,), (0,)), acceptable=1)
    both_bad = Comparison("d", ask("other"), ("a", "b"), ((0, 1),), acceptable=0)
    silent = rank(((0,), (1,), (2,)))
    groups = group_comparisons(TOKENIZER, [line, both_bad, silent], 64, Truncation(), flags=True)
    assert [len(group.tree.completions) for group in groups] == [3, 2]
    flags = flag_tensors(groups, 2.0, cpu)
    assert list(zip(flags.flagged.tolist(), flags.acceptable.tolist(), strict=True)) == [
        (2, True),
        (0, False),
        (1, False),
        (3, False),
        (4, False),
    ]
    torch.testing.assert_close(flags.weights, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4]))
