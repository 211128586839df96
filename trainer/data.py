"""From text to padded batches: tokenisation, truncation, order, micro-batches. Pure functions of their arguments.

A completion is always tokenised apart from its prompt and joined to it as ids. So the ids of prompt + completion
start with the ids of the prompt by construction, in training as in sampling.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from trainer.config import ConfigError, Optim
from trainer.losses import prompt_mean_weights
from trainer.records import Comparison, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Sequence(NamedTuple):
    """The token ids of one prompt and one completion of it."""

    prompt: list[int]
    completion: list[int]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.completion)


@dataclass
class Truncation:
    """How many prompts lost their beginning, and how many completions their end, to fit `max_length`."""

    prompts: int = 0
    completions: int = 0


class Batch(NamedTuple):
    """N right-padded sequences of at most T tokens. Masks are True where the token counts."""

    input_ids: torch.Tensor  # (N, T) int64
    attention_mask: torch.Tensor  # (N, T) bool: prompt and completion
    completion_mask: torch.Tensor  # (N, T) bool: completion with its end token

    @property
    def end_index(self) -> torch.Tensor:
        """The position (N,) of each sequence's last real token."""
        return self.attention_mask.sum(dim=1) - 1

    @property
    def tokens(self) -> int:
        """Real tokens, padding left out."""
        return int(self.attention_mask.sum())


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
    if tokenizer.chat_template:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        return _ids(tokenizer, text)
    turns_text = "".join(f"{message.role.capitalize()}: {message.content}\n\n" for message in messages)
    start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    return start + _ids(tokenizer, turns_text + "Assistant:\n")


def completion_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, ended: bool = True) -> list[int]:
    """Return the ids of an answer, with the end token if it `ended` (rather than being cut off by a length limit)."""
    return _ids(tokenizer, text) + ([end_token_id(tokenizer)] if ended else [])


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Seq[Message],
    completions: Seq[str],
    max_length: int,
    truncation: Truncation,
) -> list[Sequence]:
    """Return the K sequences of one prompt, all with the same prompt ids, each at most `max_length` tokens."""
    prompt = prompt_ids(tokenizer, messages)
    return fit(prompt, [completion_ids(tokenizer, text) for text in completions], max_length, truncation)


def fit(prompt: list[int], completions: Seq[list[int]], max_length: int, truncation: Truncation) -> list[Sequence]:
    """Cut the prompt from the left, so that the question's end stays, and count what was cut in `truncation`.

    A completion is cut (at its end, which loses the end token) only where half of `max_length` for the prompt would
    not leave it room. The K completions of a prompt keep one and the same cut prompt: they answer one question.
    """
    room = max_length - min(len(prompt), max_length // 2)
    kept = [completion[:room] for completion in completions]
    truncation.completions += sum(len(completion) > room for completion in completions)
    longest = max(map(len, kept), default=0)
    if len(prompt) + longest > max_length:
        truncation.prompts += 1
        prompt = prompt[len(prompt) - (max_length - longest) :]
    return [Sequence(prompt, completion) for completion in kept]


@dataclass(frozen=True)
class Group:
    """A prompt, its K encoded completions, and all that labelers said about them as (better, worse) pairs.

    `pairs` index into `sequences`; labelers who agree on a pair add up in its weight. `weight` is the prompt's own: the
    mean weight of its rankings.
    """

    messages: tuple[Message, ...]
    sequences: list[Sequence]
    pairs: list[tuple[int, int]]
    pair_weights: list[float]
    weight: float

    @property
    def size(self) -> tuple[int, int]:
        """(rows, longest row), as `micro_batches` wants it."""
        return len(self.sequences), max(sequence.length for sequence in self.sequences)


def group_comparisons(
    tokenizer: PreTrainedTokenizerBase, comparisons: Seq[Comparison], max_length: int, truncation: Truncation
) -> list[Group]:
    """Gather the rankings of the same completions of the same prompt, and encode each completion once.

    Answers that no pair names (ties alone, or not ranked) are not encoded; prompts without any pair are left out.
    """
    gathered: dict[tuple[tuple[Message, ...], tuple[str, ...]], list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.weight > 0 and comparison.pairs():
            gathered.setdefault((comparison.messages, comparison.completions), []).append(comparison)
    groups = []
    for (messages, completions), rankings in gathered.items():
        weights: dict[tuple[int, int], float] = {}
        for ranking in rankings:
            for pair in ranking.pairs():
                weights[pair] = weights.get(pair, 0.0) + ranking.weight
        used = sorted({index for pair in weights for index in pair})
        sequences = encode(tokenizer, messages, [completions[index] for index in used], max_length, truncation)
        row = {index: position for position, index in enumerate(used)}
        pairs = [(row[better], row[worse]) for better, worse in weights]
        weight = sum(ranking.weight for ranking in rankings) / len(rankings)
        groups.append(Group(messages, sequences, pairs, list(weights.values()), weight))
    return groups


def pair_tensors(groups: Seq[Group], step_weight: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pairs (P, 2) of some groups, as rows of all their sequences in order, and the pairs' weights (P,).

    `step_weight` is the sum of the prompts' weights over the whole step, of which these groups may be a part; the
    weights of all parts add up to 1 (see `losses.prompt_mean_weights`).
    """
    pairs: list[tuple[int, int]] = []
    owners: list[int] = []
    first = 0
    for owner, group in enumerate(groups):
        pairs += [(first + better, first + worse) for better, worse in group.pairs]
        owners += [owner] * len(group.pairs)
        first += len(group.sequences)
    weights = prompt_mean_weights(
        torch.tensor([weight for group in groups for weight in group.pair_weights]),
        torch.tensor(owners),
        torch.tensor([group.weight for group in groups]),
    )
    share = sum(group.weight for group in groups) / step_weight
    return torch.tensor(pairs, device=device), (weights * share).to(device)


def collate(sequences: Seq[Sequence], pad_id: int, device: torch.device) -> Batch:
    """Pad N sequences on the right to the longest. What `pad_id` is does not matter: only the masks are read."""
    longest = max(sequence.length for sequence in sequences)
    input_ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    attention_mask = torch.zeros((len(sequences), longest), dtype=torch.bool)
    completion_mask = torch.zeros((len(sequences), longest), dtype=torch.bool)
    for row, (prompt, completion) in enumerate(sequences):
        end = len(prompt) + len(completion)
        input_ids[row, :end] = torch.tensor(prompt + completion)
        attention_mask[row, :end] = True
        completion_mask[row, len(prompt) : end] = True
    return Batch(input_ids.to(device), attention_mask.to(device), completion_mask.to(device))


def micro_batches(sizes: Seq[tuple[int, int]], tokens_per_forward: int) -> list[list[int]]:
    """Split items into forwards of at most `tokens_per_forward` tokens with padding; return their indexes.

    `sizes` gives (rows, longest row in tokens) of each item; the rows of an item stay together. Items of like length
    share a forward, the longest first, so that little is padding and memory runs out early or never.
    An item that is too large alone has a forward of its own.
    """
    parts: list[list[int]] = []
    rows = longest = 0
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i][1], i)):
        if not parts or (rows + sizes[index][0]) * longest > tokens_per_forward:
            parts.append([])
            rows, longest = 0, sizes[index][1]
        parts[-1].append(index)
        rows += sizes[index][0]
    return parts


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
