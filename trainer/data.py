"""From text to trees of tokens: tokenisation, truncation, order. Pure functions of their arguments.

A completion is always tokenised apart from its prompt and joined to it as ids. So the ids of prompt + completion
start with the ids of the prompt by construction, in training as in sampling.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.config import ConfigError, Optim
from trainer.records import Message
from trainer.tree import Tree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Truncation:
    """How many prompts lost their beginning, and how many completions their end, to fit `max_length`."""

    prompts: int = 0
    completions: int = 0


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends an answer: what completions are trained to end in and samplers stop at."""
    if tokenizer.eos_token_id is None:
        raise ConfigError("The model's tokenizer has no end token (eos_token), so no answer could ever end.")
    return int(tokenizer.eos_token_id)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Seq[Message]) -> list[int]:
    """Return the ids of a conversation up to where the assistant starts to speak.

    They come from the tokenizer's chat template. A tokenizer without one gets a plain form:
    `User: …` and `Assistant: …` paragraphs, then `Assistant:` and a line break, after the bos token if there is one.
    """
    start = [] if tokenizer.chat_template or tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    return start + _ids(tokenizer, _template_text(tokenizer, messages))


def _template_text(tokenizer: PreTrainedTokenizerBase, messages: Seq[Message]) -> str:
    if tokenizer.chat_template:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    text = "".join(f"{message.role.capitalize()}: {message.content}\n\n" for message in messages)
    return text + "Assistant:\n"


def completion_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, *, ended: bool = True, cut_mark: str = ""
) -> list[int]:
    """Return the ids of an answer, with the end token if it `ended` (rather than being cut off by a length limit).

    One that was cut gets the end token only behind a `cut_mark`, where one is given. An answer without any token gets
    it in either case: there must be something to read.
    """
    ids = _ids(tokenizer, text if ended else text + cut_mark)
    return ids if ids and not ended and not cut_mark else [*ids, end_token_id(tokenizer)]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Seq[Message],
    completions: Seq[str],
    max_length: int,
    truncation: Truncation,
    ended: Seq[bool] = (),
    cut_mark: str = "",
) -> Tree:
    """Return the tree of one prompt and its K completions, each of at most `max_length` tokens with the prompt.

    `ended` says of each completion whether it ended; nothing given, all did. What is behind one that did not:
    `completion_ids`.
    """
    prompt = prompt_ids(tokenizer, messages)
    # What an encoder's head reads is its first token: it stays, however much of the prompt behind it is cut.
    kept = int(tokenizer.cls_token_id is not None and prompt[:1] == [tokenizer.cls_token_id])
    answers = [
        completion_ids(tokenizer, text, ended=end, cut_mark=cut_mark)
        for text, end in zip(completions, ended or (True,) * len(completions), strict=True)
    ]
    tail = completion_ids(tokenizer, "", ended=False, cut_mark=cut_mark) if cut_mark else []
    return fit(prompt, answers, max_length, truncation, kept, tail)


def encode_turns(
    tokenizer: PreTrainedTokenizerBase,
    messages: Seq[Message],
    completion: str,
    max_length: int,
    truncation: Truncation,
) -> Tree:
    """Return a conversation as one completion of its first question, of which the assistant's turns are scored.

    Raises `ConfigError` where the chat template renders a conversation otherwise once it goes on, or ends a turn with
    another token than the tokenizer's end token: then what is learned would not be what is met in sampling. A
    conversation that is too long is cut as in `fit`, all before the last answer being the prompt. An earlier answer
    that the cut leaves without its question is read, but not scored.
    """
    answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
    starts = [_template_text(tokenizer, messages[:number]) for number in (*answers, len(messages))]
    said = [*(messages[number].content for number in answers), completion]
    ids = _ids(tokenizer, starts[0])
    scored = [False] * len(ids)
    for number, text in enumerate(said):
        answer = completion_ids(tokenizer, text)
        if number + 1 < len(said):
            ids += answer
            scored += [True] * len(answer)
            before = f"{starts[number]}{text}{tokenizer.eos_token}"
            if not starts[number + 1].startswith(before):
                raise ConfigError(
                    "The chat template writes an earlier answer differently once the conversation goes on, so training "
                    "on every turn would teach what is never met; set options.turns to last."
                )
            between = _ids(tokenizer, starts[number + 1][len(before) :])
            ids += between
            scored += [False] * len(between)
    before_last, (last,), _ = fit(ids, [answer], max_length, truncation)
    scored = scored[len(ids) - len(before_last) :]
    if len(before_last) < len(ids):
        orphan = scored.index(False)
        scored[:orphan] = [False] * orphan
    ids, scored = before_last + last, scored + [True] * len(last)
    first = scored.index(True)
    return Tree(ids[:first], [ids[first:]], [scored[first:]])


def fit(
    prompt: list[int],
    completions: Seq[list[int]],
    max_length: int,
    truncation: Truncation,
    kept_tokens: int = 0,
    tail: Seq[int] = (),
) -> Tree:
    """Cut the prompt from the left, so that the question's end stays, and count what was cut in `truncation`.

    The first `kept_tokens` of the prompt are never cut.
    A completion is cut (at its end, which loses the end token) only where half of `max_length` for the prompt would
    not leave it room; then it ends in the `tail`. The K completions of a prompt keep one and the same cut prompt: they
    answer one question.
    """
    room = max_length - min(len(prompt), max_length // 2)
    kept = [one if len(one) <= room else [*one[: max(1, room - len(tail))], *tail][:room] for one in completions]
    truncation.completions += sum(len(completion) > room for completion in completions)
    longest = max(map(len, kept), default=0)
    if len(prompt) + longest > max_length:
        truncation.prompts += 1
        prompt = prompt[:kept_tokens] + prompt[len(prompt) - (max_length - longest) + kept_tokens :]
    return Tree(prompt, kept)


def steps_per_epoch(count: int, optim: Optim) -> int:
    """Return the steps in which every one of `count` items is seen once."""
    return math.ceil(count / optim.batch_size)


def plan(count: int, optim: Optim, seed: int) -> list[list[int]]:
    """Return for each step the indexes of its items. The order depends on (seed, epoch) alone, so resume is exact.

    The last step of an epoch may be smaller. `epochs` may be a fraction; `max_steps` caps the number of steps.
    """
    each = steps_per_epoch(count, optim)
    total = math.ceil(optim.epochs * each)
    total = min(total, optim.max_steps or total)
    steps: list[list[int]] = []
    for epoch in range(math.ceil(total / each)):
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        steps += [order[start : start + optim.batch_size] for start in range(0, count, optim.batch_size)]
    return steps[:total]
