"""What PPO and RLOO share: answers of the policy's own, scored and measured, and the policy's part of the loss.

An iteration's answers lie in grids (N, T), N answers by T positions, a prompt's answers in neighbouring rows. What
decides an iteration (prompts, noise, minibatches) is a function of the seed and its number.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import data, judges, losses, modeling, optim, rollout, sampler, shards, tree
from trainer.config import RolloutOptions, RunConfig
from trainer.device import Device
from trainer.judges import Judge
from trainer.layout import Layout
from trainer.records import DivergedError, Prompt

LOG_RATIO_TOLERANCE = 1e-6
NO_ADVANTAGE = 1e-3  # answers that are all alike get scores that differ by rounding, which may become so much


class Actor(NamedTuple):
    """The policy, the frozen model it may not stray from (None: it without its adapters), and PPO's value head."""

    policy: PreTrainedModel
    frozen: PreTrainedModel | None
    value_head: nn.Linear | None = None

    def modules(self) -> dict[str, nn.Module]:
        """Return what is trained, by name."""
        return {"policy": self.policy} | ({} if self.value_head is None else {"value": self.value_head})


class Episodes(NamedTuple):
    """G prompts with N scored answers in all. Grids are (N, T); `mask` is True on an answer's tokens."""

    prompts: list[Prompt]
    trees: list[tree.Tree]
    answers: list[rollout.Answer]
    texts: list[str]
    judged: torch.Tensor  # (N, M) by every head of every reward model
    scores: torch.Tensor  # (N,) of the ensemble, before any penalty
    mask: torch.Tensor
    cut: tuple[int, int] = (0, 0)  # prompts and answers that a reward model could not read whole

    def rows(self, trees: Sequence[int]) -> list[int]:
        """Return the rows of the answers to some of the prompts, in the order of a batch of their trees."""
        each = len(self.answers) // len(self.trees)
        return [each * number + k for number in trees for k in range(each)]

    def objective(self, missing_end_penalty: float) -> torch.Tensor:
        """Return the scores (N,) with the penalty for a missing end token taken off."""
        cut = torch.tensor([answer.finish_reason == "length" for answer in self.answers], device=self.scores.device)
        return self.scores - missing_end_penalty * cut.to(self.scores.dtype)


class Measures(NamedTuple):
    """Grids (N, T) float32 of what was measured of each answer token before the first update."""

    logps: torch.Tensor
    reference_logps: torch.Tensor
    sampler_logps: torch.Tensor
    values: torch.Tensor  # 0 where there is no value head


class Forward(NamedTuple):
    """Of the M answer tokens of a batch, float32: log-probabilities, entropies and values before each token."""

    logps: torch.Tensor
    entropies: torch.Tensor | None
    values: torch.Tensor | None


def turn(count: int, size: int, number: int, seed: int, name: str) -> list[int]:
    """Return which of `count` things turn `number` (from 1) of `size` takes: shuffled passes one after another."""
    order: list[int] = []
    first = (number - 1) * size
    for one_pass in range(first // count, (first + size - 1) // count + 1):
        order += _shuffled(count, f"{seed}/{name}/{one_pass}")
    return order[first % count :][:size]


@functools.lru_cache(maxsize=4)  # turn after turn is of the same pass or two, and there may be a million things
def _shuffled(count: int, seed: str) -> Sequence[int]:
    order = array("q", range(count))
    random.Random(seed).shuffle(order)
    return order


def roll_out(
    answerer: sampler.Sampler,
    tokenizer: PreTrainedTokenizerBase,
    jury: Sequence[Judge],
    prompts: list[Prompt],
    config: RunConfig,
    iteration: int,
    device: Device,
) -> Episodes:
    """Answer each prompt and score the answers, as texts, in each reward model's own tokens.

    Of several processes each answers its share of the prompts, and all hold all answers in the end. An answer's noise
    belongs to its number among all.
    """
    options = cast("RolloutOptions", config.options)
    each = options.answers_per_prompt
    ids = [data.prompt_ids(tokenizer, prompt.messages) for prompt in prompts]
    ours = device.team.deal([len(one) for one in ids])
    rows = [each * n + k for n in ours for k in range(each)]
    found = answerer.answer([ids[row // each] for row in rows], [f"{iteration}/{row}" for row in rows])
    said = [rollout.text_of(tokenizer, answer) for answer in found]
    ended = [answer.finish_reason != "length" for answer in found]
    starts = range(0, len(said), each)
    by_prompt, ends = [said[at : at + each] for at in starts], [ended[at : at + each] for at in starts]
    cuts = data.Truncation()
    marks = (
        judges.score(jury, [prompts[n] for n in ours], by_prompt, ends, config.max_length, cuts).tolist()
        if ours
        else []
    )
    whole: dict[int, tuple[rollout.Answer, str, list[float]]] = {}
    parts = device.team.gather([rows, found, said, marks, (cuts.prompts, cuts.completions)])
    for *part, _ in parts:
        whole |= {row: (rollout.Answer(*answer), text, mark) for row, answer, text, mark in zip(*part, strict=True)}
    answers, texts, numbers = (list(column) for column in zip(*(whole[row] for row in sorted(whole)), strict=True))
    judged = torch.tensor(numbers, device=device.device)
    scores = losses.ensemble_score(judged, options.reward_ensemble, options.uncertainty_coefficient)
    if options.reward_clip is not None:
        scores = scores.clamp(-options.reward_clip, options.reward_clip)
    cut_prompts, cut_answers = (sum(part[-1][n] for part in parts) for n in (0, 1))
    lengths = torch.tensor([len(answer.ids) for answer in answers])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    trees = [
        tree.Tree(prompt, [answer.ids for answer in answers[each * n : each * (n + 1)]]) for n, prompt in enumerate(ids)
    ]
    return Episodes(prompts, trees, answers, texts, judged, scores, mask.to(device.device), (cut_prompts, cut_answers))


def epochs(count: int, options: RolloutOptions, seed: int, iteration: int) -> list[list[list[int]]]:
    """Return the minibatches of every epoch of an iteration over `count` prompts."""
    return [minibatches(count, options.minibatches, seed, iteration, epoch) for epoch in range(options.ppo_epochs)]


def minibatches(count: int, parts: int, seed: int, iteration: int, epoch: int) -> list[list[int]]:
    """Return the minibatches of one epoch, each as indexes of prompts."""
    order = list(range(count))
    random.Random(f"{seed}/minibatches/{iteration}/{epoch}").shuffle(order)
    size = -(-count // parts)
    return [order[start : start + size] for start in range(0, count, size)]


def forward(
    actor: Actor, batch: tree.Batch, options: RolloutOptions, device: Device, *, entropy: bool = False
) -> Forward:
    """Read a batch once for everything that is asked of the policy; entropies only where they are trained."""
    temperature = options.sampling.temperature
    with device.autocast():
        hidden = modeling.hidden_states(actor.policy, batch)[batch.sources]
        entropies = None
        if entropy:
            logps, entropies = modeling.token_logps_and_entropies(
                actor.policy, hidden, batch.targets, temperature, gradient=True
            )
        else:
            logps = modeling.token_logps(actor.policy, hidden, batch.targets, temperature)
    # Values in float32: bfloat16 has three digits.
    return Forward(logps, entropies, None if actor.value_head is None else actor.value_head(hidden.float()).squeeze(1))


@torch.no_grad()
def measure(
    actor: Actor, episodes: Episodes, first_epoch: list[list[int]], options: RolloutOptions, layout: Layout
) -> Measures:
    """Measure every answer token, in the very batches of the first epoch, so that its first ratio is exactly 1."""
    mask = episodes.mask
    logps, reference_logps, sampler_logps, values = (torch.zeros(mask.shape, device=mask.device) for _ in range(4))
    sampled = [logp for answer in episodes.answers for logp in answer.logps]
    sampler_logps.masked_scatter_(mask, torch.tensor(sampled, device=mask.device))
    for minibatch in first_epoch:
        for part, batch in layout.batches([episodes.trees[number] for number in minibatch]):
            rows = episodes.rows([minibatch[n] for n in part])
            found = forward(actor, batch, options, layout.device)
            base = (
                contextlib.nullcontext(actor.frozen) if actor.frozen is not None else modeling.reference(actor.policy)
            )
            with base as reference, layout.device.autocast():
                expected = modeling.completion_logps(reference, batch, options.sampling.temperature)
            for grid, flat in ((logps, found.logps), (reference_logps, expected), (values, found.values)):
                if flat is not None:
                    grid[rows] = torch.zeros_like(grid[rows]).masked_scatter(mask[rows], flat)
    if actor.frozen is not None:
        shards.close(actor.frozen)
    layout.device.team.sum_grids(logps, reference_logps, values)
    return Measures(logps, reference_logps, sampler_logps, values)


def policy_loss(
    found: Forward,
    measures: Measures,
    advantages: torch.Tensor,
    rows: list[int],
    mask: torch.Tensor,
    count: int,
    kl_coefficient: float,
    options: RolloutOptions,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the policy's part of the loss of some answers, and it with its figures as numbers.

    Each is a sum over the answers' tokens divided by `count`, the tokens of the whole minibatch, so that micro-batches
    add up to the minibatch's mean.
    """
    here = mask[rows]
    old, reference, sampled, wanted = (
        grid[rows][here] for grid in (measures.logps, measures.reference_logps, measures.sampler_logps, advantages)
    )
    weights = losses.importance_weights(old, sampled, options.importance_cap)
    loss = (weights * losses.clipped_policy_loss(found.logps, old, wanted, options.clip_ratio)).sum() / count
    log_ratio = (found.logps - old).detach()
    figures = {
        "policy_loss": loss.item(),
        "clip_fraction": ((log_ratio.exp() - 1).abs() > options.clip_ratio).sum().item() / count,
        "approx_kl": losses.kl_k3(old, old + log_ratio).sum().item() / count,
    }
    if options.kl_in == "loss":
        kl = losses.KL_ESTIMATORS[options.kl_estimator](found.logps, reference).sum() / count
        loss = loss + kl_coefficient * kl
        figures["kl_loss"] = kl.item()
    if found.entropies is not None:
        entropy = found.entropies.sum() / count
        loss = loss - options.entropy_coefficient * entropy
        figures["entropy_trained"] = entropy.item()
    return loss, figures | {"first_log_ratio": log_ratio.abs().max().item() if len(log_ratio) else 0.0}


def take_steps(
    gradients: Callable[[list[int], int], dict[str, float]],
    actor: Actor,
    optimizers: Mapping[str, torch.optim.Optimizer],
    episodes: Episodes,
    advantages: torch.Tensor,
    epochs: Sequence[Sequence[list[int]]],
    iteration: int,
    options: RolloutOptions,
    layout: Layout,
) -> dict[str, float | str]:
    """Take one step a minibatch, every loss a mean over the tokens of the whole minibatch; return mean figures.

    `gradients(minibatch, step)` adds the gradients of a minibatch and returns its figures; steps count from 1 through
    the whole run. With `kl_stop` the steps end before one whose minibatch shows a policy too far from the one that
    answered. Raises `DivergedError` if the first minibatch's log-ratios are not 0: then what was measured is not what
    is trained.
    """
    each = sum(map(len, epochs))
    before, total = (iteration - 1) * each, options.iterations * each
    budget, taken, rate, first_log_ratio = layout.tokens, 0, 0.0, 0.0
    sums: dict[str, float] = {}
    event: dict[str, float | str] = {}
    for minibatch in itertools.chain.from_iterable(epochs):
        step = before + taken + 1
        figures = layout.step(partial(gradients, minibatch, step), *optimizers.values(), add=add_parts)
        log_ratio = figures.pop("first_log_ratio")
        if taken == 0 and layout.tokens == budget:  # smaller batches than those measured in would round otherwise
            check_first_ratio(log_ratio, iteration)
            first_log_ratio = log_ratio
        if options.kl_stop is not None and figures["approx_kl"] > options.kl_stop:
            for optimizer in optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            event = {"event": "kl stop"}
            break
        if step == 1 and bool((advantages[episodes.rows(minibatch)].abs() > NO_ADVANTAGE).any()):
            optim.check_gradients(actor.policy)
        loss = figures["loss"]
        for name, optimizer in optimizers.items():
            rate, norm = optim.update(optimizer, loss, options.optim, step, total)
            if name == "policy":
                figures["grad_norm"] = norm
        add(sums, figures)
        taken += 1
    means = {key: value / taken for key, value in sums.items()}
    return {**means, "updates": taken, "first_log_ratio": first_log_ratio, "learning_rate": rate, **event}


def check_first_ratio(log_ratio: float, iteration: int) -> None:
    """Refuse an update whose first minibatch does not repeat what was measured: its ratio is 1 by definition."""
    if not log_ratio <= LOG_RATIO_TOLERANCE:
        raise DivergedError(
            f"Iteration {iteration} starts with a log-ratio of {log_ratio:.2g} instead of 0: the update's forward does "
            "not repeat the one that measured the rollout, so training would learn from noise."
        )


def add(totals: dict[str, float], figures: dict[str, float]) -> None:
    """Add the figures of a part to those of the whole; of log-ratios the largest counts."""
    for key, value in figures.items():
        before = totals.get(key, 0.0)
        totals[key] = max(before, value) if key == "first_log_ratio" else before + value


def add_parts(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the figures of a minibatch from those that several processes found of their shares of it."""
    totals: dict[str, float] = {}
    for figures in parts:
        add(totals, figures)
    return totals
