"""The reward models that score answers in PPO and RLOO: all heads of all of them are one ensemble."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from trainer import chat_template, data, reward_model, shards
from trainer.config import ConfigError, RolloutOptions, weights_of
from trainer.device import Device
from trainer.layout import Layout
from trainer.modeling import check_length, core
from trainer.records import Prompt
from trainer.reward_model import RewardModel

# Training moves embeddings by far less than this share of their size, and another base has quite others.
SAME_BASE = 0.1


class Judge(NamedTuple):
    """A reward model, and how answers are laid into its forwards."""

    model: RewardModel
    layout: Layout


def load_judges(options: RolloutOptions, device: Device, max_length: int) -> list[Judge]:
    """Load every reward model; each must score its probe texts as it did when it was saved, and read `max_length`."""
    judges = []
    for folder in (options.reward_model, *options.more_reward_models):
        model = reward_model.load_reward(folder, device.dtype, device.device, weights_of(options.reward_mix))
        check_length(model.classifier, folder, max_length)
        chat_template.facts(folder, model.tokenizer)
        layout = model.choose_layout(reward_model.TOKENS_PER_FORWARD, device)
        # The weights are in the run's precision already: no autocast.
        layout.device = Device(device.device, torch.float32)
        judges.append(Judge(model, layout))
    return judges


def score(
    judges: Sequence[Judge],
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[str]],
    ended: Sequence[Sequence[bool]],
    max_length: int,
    truncation: data.Truncation,
) -> torch.Tensor:
    """Return the normalised scores (N, M) of all answers by all M heads, on the CPU.

    `texts` are the answers to each prompt, which is read once for all of them, in each judge's own tokens; `ended` says
    which of them ended. What any of the judges had to cut is counted in `truncation`. Raises `ConfigError` on a score
    that is no number.
    """
    columns = []
    for judge in judges:
        trees = [
            judge.model.encode(prompt.messages, answers, max_length, truncation, ends)
            for prompt, answers, ends in zip(prompts, texts, ended, strict=True)
        ]
        found = judge.layout.repeat(lambda: reward_model.score_heads(judge.model, trees, judge.layout))  # noqa: B023
        columns.append(torch.cat(found))
    scores = torch.cat(columns, dim=1)
    if not bool(scores.isfinite().all()):
        raise ConfigError(
            "A reward model gave an answer a score that is no number; train it again, or use precision float32."
        )
    return scores


def value_head(judge: Judge, policy: PreTrainedModel, start: str) -> nn.Linear:
    """Return a float32 value head for the policy: the reward model's normalised head, or 0 everywhere.

    The reward model's where asked for (`start` reward) and the two grew from one base: then both read nearly the same
    hidden states. (Ouyang et al. 2022 start a whole value network as the reward model; here it is one with the policy.)
    """
    head = nn.Linear(policy.get_output_embeddings().in_features, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if start == "reward" and same_base(judge.model, policy):
        with torch.no_grad():
            weights, bias = judge.model.linear()
            head.weight.copy_(weights[None].cpu())
            head.bias.copy_(bias.cpu())
    elif start == "reward":
        print(
            "The reward model and the policy did not grow from one base, so the value head starts at 0.",
            file=sys.stderr,
            flush=True,
        )
    return head.to(policy.device)


def same_base(judge: RewardModel, policy: PreTrainedModel) -> bool:
    """Whether the two grew from one model, by kind, depth and embeddings."""
    ours, theirs = core(policy).config, judge.classifier.config
    if (ours.model_type, ours.num_hidden_layers) != (theirs.model_type, theirs.num_hidden_layers):
        return False
    mine = shards.whole(core(policy).get_input_embeddings().weight.detach()).float().cpu()
    other = judge.classifier.get_input_embeddings().weight.detach().float().cpu()
    return mine.shape == other.shape and bool((mine - other).norm() <= SAME_BASE * other.norm())
