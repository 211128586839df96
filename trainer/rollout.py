"""Sampling answers from a policy with a key-value cache, exactly from the distribution that training scores.

That distribution is softmax(logits / temperature) in float32 over the whole vocabulary: no top-k, no repetition
penalty, no minimum length. One number in [0, 1) decides each token, and those numbers belong to a name (`noise`), not
to a place in a batch; so a seed gives the same answers however they are batched, up to the rounding of the model.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch.nn.functional import pad

from trainer.config import ConfigError, Sampling
from trainer.data import end_token_id, prompt_ids
from trainer.device import is_out_of_memory
from trainer.modeling import logits
from trainer.records import Prompt
from trainer.shards import whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Finished rows leave the cache when they are at least this share of it: dropping one copies all that stay.
COMPACT_SHARE = 1 / 8
BLOCK = 256


class Answer(NamedTuple):
    """One sampled answer. `ids` holds the end token if it ended; `logps` and `entropy` are in nats."""

    ids: list[int]
    finish_reason: Literal["stop", "length"]
    logps: list[float]  # of each id, under softmax(logits / temperature)
    entropy: float  # of that distribution, mean over the answer's tokens
    version: int = 0  # the number of the weights it was drawn with


@dataclass
class Room:
    """How many answers are drawn at once. It halves for good when memory runs out."""

    answers: int

    def halve(self, tried: int, error: BaseException) -> None:
        """Take half of what was tried; raise `ConfigError` where that was a single answer."""
        if tried == 1:
            raise ConfigError(
                "Memory runs out even with a single answer at a time; lower sampling.max_new_tokens, or use precision "
                "bfloat16 or a smaller model."
            ) from error
        self.answers = tried // 2
        print(f"Out of memory: answers are drawn {self.answers} at a time.", file=sys.stderr, flush=True)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends an answer: the tokenizer's own and those of the model's generation settings."""
    listed = getattr(model.generation_config, "eos_token_id", None)
    more = [] if listed is None else [listed] if isinstance(listed, int) else list(listed)
    return sorted({end_token_id(tokenizer), *more})


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], sampling: Sampling, max_length: int
) -> list[list[int]]:
    """Return the ids of each prompt; raise `ConfigError` on one that leaves no room for `max_new_tokens`."""
    return [encode_prompt(tokenizer, prompt, sampling, max_length) for prompt in prompts]


def check_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Prompt], sampling: Sampling, max_length: int
) -> None:
    """Raise `ConfigError` on the first prompt that leaves no room for `max_new_tokens`; no ids are kept."""
    for prompt in prompts:
        encode_prompt(tokenizer, prompt, sampling, max_length)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, sampling: Sampling, max_length: int) -> list[int]:
    """Return the ids of a prompt; raise `ConfigError` where it leaves no room for `max_new_tokens`."""
    ids = prompt_ids(tokenizer, prompt.messages)
    if len(ids) + sampling.max_new_tokens > max_length:
        raise ConfigError(
            f"Prompt {prompt.id} has {len(ids)} tokens; with sampling.max_new_tokens {sampling.max_new_tokens} "
            f"that is more than max_length {max_length}. Raise max_length or leave the prompt out."
        )
    return ids


def noise(seed: int, names: Sequence[str], length: int) -> torch.Tensor:
    """Return (N, length) float64 numbers in [0, 1): row n depends on `seed` and `names[n]` alone."""
    rows = torch.empty(len(names), length, dtype=torch.float64)
    for row, name in zip(rows, names, strict=True):
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        row.uniform_(generator=torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True)))
    return rows


def copy_weights(policy: PreTrainedModel, sampler: PreTrainedModel) -> None:
    """Copy the policy's present weights, its adapters merged, into `sampler`, a plain model of the same architecture.

    A merged copy in the run's precision spares each of the many small steps of sampling the adapters and the casts.
    """
    core = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    with torch.no_grad():
        if core is policy:
            for target, source in zip(sampler.parameters(), policy.parameters(), strict=True):
                target.copy_(whole(source))
        for name, layer in core.named_modules():
            if hasattr(layer, "get_delta_weight"):
                base = layer.get_base_layer().weight
                sampler.get_submodule(name).weight.copy_(base.float() + layer.get_delta_weight("default").float())


def text_of(tokenizer: PreTrainedTokenizerBase, answer: Answer) -> str:
    """Return the answer as text, without its end token."""
    ids = answer.ids[:-1] if answer.finish_reason == "stop" else answer.ids
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def sample(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    ends: Sequence[int],
    uniforms: torch.Tensor,
    room: Room | None = None,
) -> list[Answer]:
    """Return one answer to each of N prompts (token ids), in their order.

    `uniforms` is (N, max_new_tokens) from `noise`. Prompts of like length share a batch, of `sampling.batch_size` or as
    many as `room` has. A batch that runs out of memory is drawn again in parts; whoever samples often keeps a `room`.
    """
    room = room or Room(sampling.batch_size)
    answers: list[Answer | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    while order:
        rows = order[: room.answers]
        try:
            batch = _sample_batch(model, [prompts[row] for row in rows], sampling, ends, uniforms[rows])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            room.halve(len(rows), error)
        else:
            for row, answer in zip(rows, batch, strict=True):
                answers[row] = answer
            order = order[len(rows) :]
            continue
        if model.device.type == "cuda":  # by now nothing of the attempt is held
            torch.cuda.empty_cache()
    return [answer for answer in answers if answer is not None]


def choose(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token (N,), its log-probability (N,) and the entropy (N,) for logits (N, V) and uniforms (N,) in [0, 1).

    The token is the first whose cumulative probability passes the uniform. With temperature 0 it is the likeliest, and
    its log-probability that at temperature 1. `top_p` draws from the smallest set of likeliest tokens that has that
    much probability (Holtzman et al. 2020); log-probability and entropy are still those of the whole distribution.
    """
    logps = torch.log_softmax(logits.float() / (temperature or 1.0), dim=1)
    probabilities = logps.exp()
    entropy = -torch.linalg.vecdot(probabilities, logps)
    if temperature == 0:
        tokens = logps.argmax(dim=1)
    else:
        if top_p < 1:
            sorted_p, index = probabilities.sort(dim=1, descending=True, stable=True)
            before = sorted_p.cumsum(dim=1) - sorted_p
            probabilities = torch.zeros_like(sorted_p).scatter(1, index, sorted_p.masked_fill(before >= top_p, 0.0))
        tokens = _inverse_cdf(probabilities, uniforms)
    return tokens, logps.gather(1, tokens[:, None]).squeeze(1), entropy


def _inverse_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the first index (N,) at which the running sum of `weights` (N, V) passes uniform times the whole sum.

    Sums are float64: in float32 their rounding would be the size of a rare token. They are taken by blocks first, then
    inside one block, so that no float64 copy of the whole vocabulary is made at every step.
    """
    blocks = pad(weights, (0, -weights.shape[1] % BLOCK)).view(len(weights), -1, BLOCK)
    ends = blocks.sum(dim=2, dtype=torch.float64).cumsum(dim=1)
    target = uniforms[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block.squeeze(1)].cumsum(
        dim=1, dtype=torch.float64
    )
    place = torch.searchsorted(inside, target - before, right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + place).squeeze(1).clamp(max=weights.shape[1] - 1)


@torch.inference_mode()
def _sample_batch(
    model: PreTrainedModel,
    prompts: list[list[int]],
    sampling: Sampling,
    ends: Sequence[int],
    uniforms: torch.Tensor,
) -> list[Answer]:
    from trainer.cache import with_room  # it loads transformers

    device = model.device
    uniforms, end_tensor = uniforms.to(device), torch.tensor(ends, device=device)
    count, width = len(prompts), sampling.max_new_tokens
    ids, logps = torch.zeros(count, width, dtype=torch.long, device=device), torch.zeros(count, width, device=device)
    entropies = torch.zeros(count, width, device=device)
    lengths = torch.full((count,), width, device=device)
    stopped = torch.zeros(count, dtype=torch.bool, device=device)

    # A prompt that is asked several times is read once.
    once = {tuple(prompt): number for number, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    inputs, mask = left_pad([list(prompt) for prompt in once], device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache, rows = with_room(model.config, inputs.shape[1] + width), torch.arange(count, device=device)
    for step in range(width):
        hidden = model.base_model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        if step == 0 and len(once) < count:
            spread = torch.tensor([once[tuple(prompt)] for prompt in prompts], device=device)
            cache.batch_select_indices(spread)
            hidden, positions, mask = hidden[spread], positions[spread], mask[spread]
        tokens, chosen, entropy = choose(
            logits(model, hidden), uniforms[rows, step], sampling.temperature, sampling.top_p
        )
        ids[rows, step], logps[rows, step], entropies[rows, step] = tokens, chosen, entropy
        ended = rows[torch.isin(tokens, end_tensor) & ~stopped[rows]]
        lengths[ended] = step + 1
        stopped[ended] = True

        inputs, positions = tokens[:, None], positions[:, -1:] + 1
        alive = ~stopped[rows]
        if not alive.any():
            break
        if (~alive).sum() >= COMPACT_SHARE * len(rows):
            kept = alive.nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            rows, inputs, positions, mask = rows[kept], inputs[kept], positions[kept], mask[kept]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    answers = []
    for n, (length, stop) in enumerate(zip(lengths.tolist(), stopped.tolist(), strict=True)):
        end: Literal["stop", "length"] = "stop" if stop else "length"
        answers.append(
            Answer(ids[n, :length].tolist(), end, logps[n, :length].tolist(), float(entropies[n, :length].mean()))
        )
    return answers


def left_pad(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (N, T) and mask (N, T), True on real tokens; the last column is real in every row."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = True
    return ids.to(device), mask.to(device)
