"""One answer as a stream of text, drawn token by token from exactly the distribution that `rollout` samples.

A model is loaded once and shared by many answers; each answer has a cache of its own, so several can be moved on in
turns.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import torch
from tokenizers.decoders import DecodeStream
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from trainer import modeling, rollout
from trainer.config import ConfigError, Sampling
from trainer.data import prompt_ids
from trainer.device import choose_device, choose_dtype
from trainer.records import Message


class Served(NamedTuple):
    """A model that answers: with its tokenizer, the tokens that end an answer, and how many positions it has."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    positions: int


def load(name: str, device: str) -> Served:
    """Load a local folder or hub id on a device (`auto`, `cpu`, `cuda`); raise `ConfigError` where that cannot be."""
    where = choose_device(device)
    tokenizer = modeling.load_tokenizer(name)
    model = modeling.load_policy(name, choose_dtype("auto", where), where)
    positions = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    return Served(model, tokenizer, frozenset(rollout.end_ids(model, tokenizer)), positions)


def answer(
    served: Served, messages: Sequence[Message], sampling: Sampling, seed: int | None
) -> Generator[str, None, str]:
    """Yield the answer's text in pieces, some of them empty, one for each token; return `stop` or `length`.

    An answer has as many tokens as there are positions left, at most `sampling.max_new_tokens`. Raises `ConfigError`
    when the conversation leaves none. Without a seed every answer is another one.
    """
    ids = prompt_ids(served.tokenizer, messages)
    room = min(sampling.max_new_tokens, served.positions - len(ids))
    if room < 1:
        raise ConfigError(f"The conversation has {len(ids)} tokens; the model has {served.positions} positions.")
    seed = secrets.randbits(31) if seed is None else seed
    uniforms = rollout.noise(seed, ["answer"], sampling.max_new_tokens)[:, :room]
    decoder = DecodeStream(skip_special_tokens=True)
    for token in tokens(served.model, ids, sampling, served.ends, uniforms):
        if token in served.ends:
            return "stop"
        yield decoder.step(served.tokenizer.backend_tokenizer, token) or ""
    return "length"


@torch.inference_mode()
def tokens(
    model: PreTrainedModel, ids: list[int], sampling: Sampling, ends: frozenset[int], uniforms: torch.Tensor
) -> Iterator[int]:
    """Yield the tokens that follow `ids`, one for each column of `uniforms` (1, T), until one of them is an end."""
    head, device = model.get_output_embeddings(), model.device
    cache = DynamicCache(config=model.config)
    inputs = torch.tensor([ids], device=device)
    uniforms = uniforms.to(device)
    for step in range(uniforms.shape[1]):
        hidden = model.base_model(input_ids=inputs, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        chosen, _, _ = rollout.choose(head(hidden), uniforms[:, step], sampling.temperature, sampling.top_p)
        yield int(chosen)
        if int(chosen) in ends:
            return
        inputs = chosen[:, None]
