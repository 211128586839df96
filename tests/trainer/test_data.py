"""Tokenisation, truncation and order."""

import pytest
from builders import ask, build_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from trainer import data
from trainer.config import ConfigError, Optim
from trainer.records import Message
from trainer.tree import Tree

TOKENIZER = build_tokenizer()


def test_a_completion_ends_in_the_end_token_and_starts_where_the_prompt_ends() -> None:
    tree = data.encode(TOKENIZER, ask("hi"), ["yo"], 64, data.Truncation())
    assert TOKENIZER.decode(tree.prompt) == "<user>hi<end><assistant>"
    assert [TOKENIZER.decode(completion) for completion in tree.completions] == ["yo<end>"]


def test_an_answer_cut_off_by_a_length_limit_gets_no_end_token() -> None:
    assert data.completion_ids(TOKENIZER, "yo", ended=False) == data.completion_ids(TOKENIZER, "yo")[:-1]
    tree = data.encode(TOKENIZER, ask("hi"), ["yo", "so"], 64, data.Truncation(), [False, True])
    assert [TOKENIZER.decode(completion) for completion in tree.completions] == ["yo", "so<end>"]
    assert data.completion_ids(TOKENIZER, "", ended=False) == [TOKENIZER.eos_token_id]  # nothing cannot be read


def test_a_mark_stands_behind_an_answer_that_was_cut_off_and_before_its_end_token() -> None:
    tree = data.encode(TOKENIZER, ask("hi"), ["yo", "so", ""], 64, data.Truncation(), [False, True, False], "...")
    assert [TOKENIZER.decode(completion) for completion in tree.completions] == ["yo...<end>", "so<end>", "...<end>"]


def test_an_answer_that_is_too_long_keeps_the_mark_and_the_end_token_behind_it() -> None:
    cuts = data.Truncation()
    for ended in (True, False):
        tree = data.encode(TOKENIZER, ask("hi"), ["abcdefghijkl", "so"], 16, cuts, [ended, True], "...")
        assert [TOKENIZER.decode(completion) for completion in tree.completions] == ["abcdefg...<end>", "so<end>"]
    assert cuts.completions == 2


def test_a_tokenizer_without_a_chat_template_gets_a_plain_form() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    ids = data.prompt_ids(tokenizer, [Message("system", "Be kind."), Message("user", "hi")])
    assert tokenizer.decode(ids) == "System: Be kind.\n\nUser: hi\n\nAssistant:\n"


CONVERSATION = [Message("user", "hi"), Message("assistant", "yo"), Message("user", "so?")]


def test_every_turn_of_the_assistant_is_scored_with_its_end_token_and_nothing_else() -> None:
    tree = data.encode_turns(TOKENIZER, CONVERSATION, "so", 64, data.Truncation())
    assert TOKENIZER.decode(tree.prompt) == "<user>hi<end><assistant>"
    assert TOKENIZER.decode(tree.completions[0]) == "yo<end><user>so?<end><assistant>so<end>"
    assert tree.scored is not None
    asked = [token for token, wanted in zip(tree.completions[0], tree.scored[0], strict=True) if wanted]
    assert TOKENIZER.decode(asked) == "yo<end>so<end>"
    assert tree.asked == len(asked)
    # What is before the last answer is what the sampler will see.
    assert tree.prompt + tree.completions[0][:-3] == data.prompt_ids(TOKENIZER, CONVERSATION)


def test_a_conversation_of_one_turn_is_the_same_either_way() -> None:
    one = data.encode_turns(TOKENIZER, ask("hi"), "yo", 64, data.Truncation())
    assert one[:2] == data.encode(TOKENIZER, ask("hi"), ["yo"], 64, data.Truncation())[:2]
    assert one.scored == [[True] * 3]


def test_a_long_conversation_loses_its_beginning() -> None:
    cuts = data.Truncation()
    tree = data.encode_turns(TOKENIZER, CONVERSATION, "so", 8, cuts)
    assert TOKENIZER.decode(tree.prompt + tree.completions[0]) == "so?<end><assistant>so<end>"
    assert tree.asked == 3
    assert cuts.prompts == 1


def test_an_answer_longer_than_the_length_keeps_its_beginning_and_the_end_of_its_question() -> None:
    cuts = data.Truncation()
    tree = data.encode_turns(TOKENIZER, CONVERSATION, "abcdefghijklmnopqrst", 16, cuts)
    assert TOKENIZER.decode(tree.prompt + tree.completions[0]) == "o<end><user>so?<end><assistant>abcdefgh"
    assert tree.scored is not None
    # The end of the first answer has lost its question: it is read, but not learned.
    asked = [token for token, wanted in zip(tree.completions[0], tree.scored[0], strict=True) if wanted]
    assert TOKENIZER.decode(asked) == "abcdefgh"
    assert cuts == data.Truncation(prompts=1, completions=1)
    one = data.encode_turns(TOKENIZER, ask("hi"), "abcdefghijklmnopqrst", 16, data.Truncation())
    assert one[:2] == data.encode(TOKENIZER, ask("hi"), ["abcdefghijklmnopqrst"], 16, data.Truncation())[:2]


def test_a_template_that_rewrites_earlier_turns_is_refused_for_training_on_all_of_them() -> None:
    tokenizer = build_tokenizer()
    data.encode_turns(tokenizer, CONVERSATION, "so", 64, data.Truncation())
    tokenizer.chat_template = str(tokenizer.chat_template).replace("message['content']", "message['content'] | upper")
    with pytest.raises(ConfigError, match=r"set options\.turns to last"):
        data.encode_turns(tokenizer, CONVERSATION, "so", 64, data.Truncation())
    data.encode(tokenizer, CONVERSATION, ["so"], 64, data.Truncation())


def test_a_long_prompt_loses_its_beginning_once_for_all_its_completions() -> None:
    cuts = data.Truncation()
    tree = data.fit(list(range(20)), [[91], [91, 92, 93, 94]], 16, cuts)
    assert tree == Tree(list(range(8, 20)), [[91], [91, 92, 93, 94]])
    assert cuts == data.Truncation(prompts=1, completions=0)


def test_a_completion_is_cut_only_where_half_the_length_for_the_prompt_leaves_no_room() -> None:
    cuts = data.Truncation()
    tree = data.fit(list(range(20)), [list(range(50, 70))], 16, cuts)
    assert tree == Tree(list(range(12, 20)), [list(range(50, 58))])
    assert cuts == data.Truncation(prompts=1, completions=1)


@given(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(16, 64))
def test_whatever_fits_is_left_alone_and_nothing_exceeds_the_length(
    prompt: int, completions: list[int], n: int
) -> None:
    cuts = data.Truncation()
    ids = [list(range(length)) for length in completions]
    tree = data.fit(list(range(prompt)), ids, n, cuts)
    assert tree.prompt
    assert all(tree.completions)
    assert tree.longest <= n
    if prompt + max(completions) <= n:
        assert tree.completions == ids
        assert cuts == data.Truncation()


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
