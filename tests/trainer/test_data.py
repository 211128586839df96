"""Tokenisation, truncation, order, micro-batches and the pairs of rankings."""

import pytest
import torch
from builders import ask, build_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from trainer import data
from trainer.config import Optim
from trainer.records import Comparison, Message

TOKENIZER = build_tokenizer()


def test_a_completion_ends_in_the_end_token_and_starts_where_the_prompt_ends() -> None:
    (sequence,) = data.encode(TOKENIZER, ask("hi"), ["yo"], 64, data.Truncation())
    assert TOKENIZER.decode(sequence.prompt) == "<user>hi<end><assistant>"
    assert TOKENIZER.decode(sequence.completion) == "yo<end>"


def test_an_answer_cut_off_by_a_length_limit_gets_no_end_token() -> None:
    assert data.completion_ids(TOKENIZER, "yo", ended=False) == data.completion_ids(TOKENIZER, "yo")[:-1]


def test_a_tokenizer_without_a_chat_template_gets_a_plain_form() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    ids = data.prompt_ids(tokenizer, [Message("system", "Be kind."), Message("user", "hi")])
    assert tokenizer.decode(ids) == "System: Be kind.\n\nUser: hi\n\nAssistant:\n"


def test_a_long_prompt_loses_its_beginning_once_for_all_its_completions() -> None:
    cuts = data.Truncation()
    short, long = data.fit(list(range(20)), [[91], [91, 92, 93, 94]], 16, cuts)
    assert short.prompt == long.prompt == list(range(8, 20))
    assert (short.completion, long.completion) == ([91], [91, 92, 93, 94])
    assert cuts == data.Truncation(prompts=1, completions=0)


def test_a_completion_is_cut_only_where_half_the_length_for_the_prompt_leaves_no_room() -> None:
    cuts = data.Truncation()
    (sequence,) = data.fit(list(range(20)), [list(range(50, 70))], 16, cuts)
    assert sequence == data.Sequence(list(range(12, 20)), list(range(50, 58)))
    assert cuts == data.Truncation(prompts=1, completions=1)


@given(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(16, 64))
def test_whatever_fits_is_left_alone_and_nothing_exceeds_the_length(
    prompt: int, completions: list[int], n: int
) -> None:
    cuts = data.Truncation()
    ids = [list(range(length)) for length in completions]
    sequences = data.fit(list(range(prompt)), ids, n, cuts)
    assert all(s.prompt and s.completion and s.length <= n for s in sequences)
    if prompt + max(completions) <= n:
        assert [s.completion for s in sequences] == ids
        assert cuts == data.Truncation()


def test_masks_and_end_index_follow_lengths_even_when_padding_is_the_end_token() -> None:
    end = TOKENIZER.eos_token_id
    batch = data.collate([data.Sequence([5, 6], [7, end]), data.Sequence([5], [end])], end, torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, 6, 7, end], [5, end, end, end]]
    assert batch.completion_mask.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.end_index.tolist() == [3, 1]
    assert batch.tokens == 6


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 100)), min_size=1, max_size=30), st.integers(64, 500))
def test_micro_batches_hold_every_item_once_and_keep_to_the_limit(sizes: list[tuple[int, int]], limit: int) -> None:
    parts = data.micro_batches(sizes, limit)
    assert sorted(i for part in parts for i in part) == list(range(len(sizes)))
    for part in parts:
        padded = sum(sizes[i][0] for i in part) * max(sizes[i][1] for i in part)
        assert padded <= limit or len(part) == 1


def test_the_order_depends_on_seed_and_epoch_alone_and_an_epoch_sees_everything_once() -> None:
    optim = Optim(batch_size=4, epochs=2.0)
    steps = data.plan(10, optim, seed=3)
    assert steps == data.plan(10, optim, seed=3) != data.plan(10, optim, seed=4)
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    first, second = ([i for step in part for i in step] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_max_steps_cuts_the_plan_and_leaves_its_beginning_alone() -> None:
    whole = data.plan(10, Optim(batch_size=4, epochs=2.0), seed=3)
    assert data.plan(10, Optim(batch_size=4, epochs=2.0, max_steps=4), seed=3) == whole[:4]
    assert len(data.plan(10, Optim(batch_size=4, epochs=0.5), seed=3)) == 2


def rank(ranking: tuple[tuple[int, ...], ...], labeler: str = "", weight: float = 1.0) -> Comparison:
    return Comparison("c", ask("which"), ("aa", "b", "cccc"), ranking, weight, labeler)


def test_rankings_of_the_same_answers_share_one_encoding_and_add_up_by_pair() -> None:
    rankings = [rank(((0,), (1,), (2,)), "x"), rank(((1,), (0, 2)), "y"), rank(((0,), (1,), (2,)), "z", 2.0)]
    (group,) = data.group_comparisons(TOKENIZER, rankings, 64, data.Truncation())
    assert len(group.sequences) == 3
    assert dict(zip(group.pairs, group.pair_weights, strict=True)) == {
        (0, 1): 3.0,  # x and z
        (0, 2): 3.0,  # x and z; y has them tied
        (1, 2): 4.0,  # all
        (1, 0): 1.0,  # y
    }
    assert group.weight == pytest.approx(4 / 3)


def test_answers_without_a_rank_stand_below_the_others_and_ties_alone_make_no_group() -> None:
    (group,) = data.group_comparisons(TOKENIZER, [rank(((2,),))], 64, data.Truncation())
    assert sorted(group.pairs) == [(2, 0), (2, 1)]
    ties = [rank(((0, 1, 2),)), rank(((0,), (1,), (2,)), weight=0.0)]
    assert data.group_comparisons(TOKENIZER, ties, 64, data.Truncation()) == []


def test_the_pair_weights_of_the_parts_of_a_step_add_up_to_one() -> None:
    other = Comparison("d", ask("other"), ("x", "y"), ((0,), (1,)), 3.0)
    groups = data.group_comparisons(TOKENIZER, [rank(((0,), (1,), (2,))), other], 64, data.Truncation())
    cpu = torch.device("cpu")
    pairs, weights = data.pair_tensors(groups, 4.0, cpu)
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]
    torch.testing.assert_close(weights, torch.tensor([1 / 12, 1 / 12, 1 / 12, 3 / 4]))
    parts = [data.pair_tensors([group], 4.0, cpu)[1] for group in groups]
    torch.testing.assert_close(torch.cat(parts), weights)
