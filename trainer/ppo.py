"""Proximal policy optimisation against a reward model, with a per-token KL penalty to the starting model.

    python -m trainer ppo --run DIR

Reads data/prompts.jsonl (train split) and leaves a whole model in final/. The reference is `run.model` as it is before
the first step: the policy with its adapters off, or without LoRA a frozen copy. Texts of each iteration are in
rollouts.jsonl. Sources: Schulman et al. 2017, Ziegler et al. 2019, Ouyang et al. 2022 (3.5), Huang et al. 2024.

What decides an iteration (prompts, noise, minibatches) is a function of the seed and its number. So a resumed run needs
weights, optimisers and the KL coefficient, and repeats an uninterrupted one bit for bit on the CPU.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import checkpoint, data, losses, modeling, optim, report, reward_model, rollout, tree
from trainer.config import ConfigError, PpoOptions, RunConfig
from trainer.device import Device, setup
from trainer.records import (
    EXIT_DONE,
    EXIT_STOPPED,
    MetricsFile,
    Prompt,
    append_jsonl,
    read_jsonl,
    read_prompts,
    write_jsonl,
)
from trainer.stop import StopSignal

LOG_RATIO_TOLERANCE = 1e-6
NEGATIVE_KL_PATIENCE = 3
ROLLOUT_TEXTS = 4


class Actor(NamedTuple):
    """The policy, its value head, and the frozen model it may not stray from (None: it without its adapters)."""

    policy: PreTrainedModel
    value_head: nn.Linear
    frozen: PreTrainedModel | None

    def modules(self) -> dict[str, nn.Module]:
        """Return what is trained, by name."""
        return {"policy": self.policy, "value": self.value_head}


class Episodes(NamedTuple):
    """N scored answers. Tensors are (N, T) over answer tokens, column 0 the first one; `mask` is True on real ones."""

    prompts: list[Prompt]
    trees: list[tree.Tree]  # one answer each
    answers: list[rollout.Answer]
    texts: list[str]
    scores: torch.Tensor  # (N,) by the reward model
    mask: torch.Tensor


class Estimates(NamedTuple):
    """What the update needs to know of each answer token, (N, T) float32, all measured before the first step."""

    logps: torch.Tensor
    reference_logps: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("PpoOptions", config.options)

    # 1. The prompts, before anything slow.
    prompts = [prompt for prompt in read_prompts(run_dir / "data" / "prompts.jsonl") if prompt.split == "train"]
    if not prompts:
        raise ConfigError("data/prompts.jsonl has no prompt in the train split; PPO needs prompts to answer.")
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    rollout.encode_prompts(tokenizer, prompts, options.sampling, config.max_length)

    # 2. The models, and where an earlier attempt left them. The sampler is a merged copy in the run's precision.
    judge = reward_model.load_reward(options.reward_model, device.dtype, device.device)
    actor = load_actor(config, device)
    sampler = modeling.load_policy(config.model, device.dtype, device.device)
    optimizers = {name: optim.build(module.parameters(), options.optim) for name, module in actor.modules().items()}
    done, counters = checkpoint.resume(run_dir, actor.modules(), optimizers)
    kl_coefficient = float(counters.get("kl_coefficient", options.kl_coefficient))
    negative = int(counters.get("negative_kl_iterations", 0))
    cut_rollouts(run_dir / "rollouts.jsonl", done)

    with MetricsFile(run_dir) as metrics:
        for iteration in range(done + 1, options.iterations + 1):
            clock = [time.perf_counter()]

            # 3. Roll out, and score the answers as texts, in the reward model's own tokens.
            rollout.copy_weights(actor.policy, sampler)
            chosen = [
                prompts[i] for i in episode_prompts(len(prompts), options.optim.batch_size, iteration, config.seed)
            ]
            episodes = roll_out(sampler, tokenizer, judge, chosen, config, iteration)
            clock.append(time.perf_counter())

            # 4. Log-probabilities and values by the trainer's own forward, in the first epoch's very batches, so that
            #    the first ratio is exactly 1; rewards, advantages, returns.
            parts = [minibatches(episodes, options, config.seed, iteration, n) for n in range(options.ppo_epochs)]
            penalty = torch.tensor([answer.finish_reason == "length" for answer in episodes.answers])
            scores = episodes.scores - options.missing_end_penalty * penalty.to(episodes.scores)
            estimates = estimate(actor, episodes, parts[0], scores, kl_coefficient, config, device)
            clock.append(time.perf_counter())

            # 5. Update policy and value.
            figures = update(actor, optimizers, episodes, estimates, parts, iteration, options, device)
            clock.append(time.perf_counter())

            # 6. Tell, adapt, save.
            told = describe(episodes, estimates, scores)
            negative = watch_kl(told["kl"], told["kl_standard_error"], negative)
            seconds = [round(after - before, 3) for before, after in itertools.pairwise(clock)]
            metrics.write(
                iteration,
                total_steps=options.iterations,
                episodes=iteration * options.optim.batch_size,
                **told,
                kl_coefficient=kl_coefficient,
                **figures,
                tokens_per_second=round(int(episodes.mask.sum()) / (clock[-1] - clock[0]), 1),
                rollout_seconds=seconds[0],
                estimate_seconds=seconds[1],
                update_seconds=seconds[2],
                peak_memory_mb=device.peak_memory_mb(),
            )
            append_jsonl(run_dir / "rollouts.jsonl", rollout_lines(episodes, estimates, iteration))
            if options.kl_target is not None:
                kl_coefficient = losses.adapted_kl_coefficient(
                    kl_coefficient, told["kl"], options.kl_target, options.optim.batch_size, options.kl_horizon
                )
            if stop.requested or iteration % config.checkpoint_steps == 0 or iteration == options.iterations:
                state = {"kl_coefficient": kl_coefficient, "negative_kl_iterations": negative}
                checkpoint.save(run_dir, iteration, actor.modules(), optimizers, state)
            if stop.requested:
                return EXIT_STOPPED

    # 7. Save and report.
    checkpoint.write_final(run_dir, lambda folder: modeling.save_policy(actor.policy, tokenizer, folder, device.dtype))
    report.write(run_dir, config, summarise(run_dir, options))
    return EXIT_DONE


def load_actor(config: RunConfig, device: Device) -> Actor:
    """Load the policy with a value head that says 0 everywhere, and without LoRA a frozen copy beside it."""
    policy = modeling.load_trainable(config, device)
    frozen = None if config.lora else modeling.load_policy(config.model, torch.float32, device.device)
    value_head = nn.Linear(policy.get_output_embeddings().in_features, 1).to(device.device)
    nn.init.zeros_(value_head.weight)
    nn.init.zeros_(value_head.bias)
    return Actor(policy, value_head, frozen)


def episode_prompts(count: int, batch_size: int, iteration: int, seed: int) -> list[int]:
    """Return which of `count` prompts iteration (from 1) answers: shuffled passes, one after another without a gap."""
    order: list[int] = []
    first = (iteration - 1) * batch_size
    for epoch in range(first // count, (first + batch_size - 1) // count + 1):
        one_pass = list(range(count))
        random.Random(f"{seed}/prompts/{epoch}").shuffle(one_pass)
        order += one_pass
    return order[first % count :][:batch_size]


def roll_out(
    sampler: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    judge: reward_model.RewardModel,
    prompts: list[Prompt],
    config: RunConfig,
    iteration: int,
) -> Episodes:
    """Answer each prompt and score the answers."""
    sampling = cast("PpoOptions", config.options).sampling
    ids = [data.prompt_ids(tokenizer, prompt.messages) for prompt in prompts]
    noise = rollout.noise(config.seed, [f"{iteration}/{n}" for n in range(len(prompts))], sampling.max_new_tokens)
    answers = rollout.sample(sampler, ids, sampling, rollout.end_ids(sampler, tokenizer), noise)
    texts = [rollout.text_of(tokenizer, answer) for answer in answers]
    scores = reward_model.score_texts(judge, [prompt.messages for prompt in prompts], texts, config.max_length)
    lengths = torch.tensor([len(answer.ids) for answer in answers])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    trees = [tree.Tree(prompt, [answer.ids]) for prompt, answer in zip(ids, answers, strict=True)]
    return Episodes(prompts, trees, answers, texts, scores.to(sampler.device), mask.to(sampler.device))


def minibatches(
    episodes: Episodes, options: PpoOptions, seed: int, iteration: int, epoch: int
) -> list[list[list[int]]]:
    """Return the minibatches of one epoch, each as its micro-batches, each as indexes of episodes."""
    order = list(range(len(episodes.trees)))
    random.Random(f"{seed}/minibatches/{iteration}/{epoch}").shuffle(order)
    size = -(-len(order) // options.minibatches)
    split = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        parts = tree.split([episodes.trees[row] for row in rows], options.optim.tokens_per_forward, shared=False)
        split.append([[rows[i] for i in part] for part in parts])
    return split


def forward(actor: Actor, batch: tree.Batch, temperature: float, device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (M,) float32 log-probabilities of the answers' tokens, row after row, and the values (M,) before each."""
    with device.autocast():
        hidden = modeling.hidden_states(actor.policy, batch)[batch.sources]
        logps = modeling.token_logps(actor.policy, hidden, batch.targets, temperature)
    return logps, actor.value_head(hidden.float()).squeeze(1)  # values in float32: bfloat16 has three digits


@torch.no_grad()
def estimate(
    actor: Actor,
    episodes: Episodes,
    parts: list[list[list[int]]],
    scores: torch.Tensor,
    kl_coefficient: float,
    config: RunConfig,
    device: Device,
) -> Estimates:
    """Measure log-probabilities and values of every token and derive advantages and returns.

    `scores` (N,) are those of whole answers with the penalty for a missing end token taken off.
    """
    options, mask = cast("PpoOptions", config.options), episodes.mask
    temperature = options.sampling.temperature
    logps, reference_logps, values = (torch.zeros(mask.shape, device=mask.device) for _ in range(3))
    for part in (part for minibatch in parts for part in minibatch):
        batch = tree.collate([episodes.trees[row] for row in part], device.device, shared=False)
        found = list(forward(actor, batch, temperature, device))
        without = contextlib.nullcontext(actor.frozen) if actor.frozen is not None else modeling.reference(actor.policy)
        with without as reference, device.autocast():
            found.append(modeling.completion_logps(reference, batch, temperature))
        for target, flat in zip((logps, values, reference_logps), found, strict=True):
            target[part] = torch.zeros_like(target[part]).masked_scatter(mask[part], flat)
    rewards = losses.penalised_rewards(logps, reference_logps, scores, mask, kl_coefficient)
    advantages, returns = losses.gae(rewards, values, mask, options.discount, options.gae_lambda)
    return Estimates(logps, reference_logps, values, losses.whiten(advantages, mask), returns)


def update(
    actor: Actor,
    optimizers: dict[str, torch.optim.AdamW],
    episodes: Episodes,
    estimates: Estimates,
    epochs: list[list[list[list[int]]]],
    iteration: int,
    options: PpoOptions,
    device: Device,
) -> dict[str, float]:
    """Take one step a minibatch, every loss a mean over the tokens of the whole minibatch; return mean figures.

    Raises `RuntimeError` if the first minibatch's log-ratios are not 0: then what was measured is not what is trained.
    """
    steps_each = sum(len(epoch) for epoch in epochs)
    total_steps, step = options.iterations * steps_each, (iteration - 1) * steps_each
    sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "approx_kl", "grad_norm"), 0.0)
    first_log_ratio, rate = 0.0, 0.0
    for minibatch in (minibatch for epoch in epochs for minibatch in epoch):
        step += 1
        count = int(episodes.mask[[row for part in minibatch for row in part]].sum())
        loss_sum = 0.0
        for part in minibatch:
            batch = tree.collate([episodes.trees[row] for row in part], device.device, shared=False)
            here = episodes.mask[part]
            old_logps, old_values, advantages, returns = (
                grid[part][here]
                for grid in (estimates.logps, estimates.values, estimates.advantages, estimates.returns)
            )
            logps, values = forward(actor, batch, options.sampling.temperature, device)
            policy_loss = losses.clipped_policy_loss(logps, old_logps, advantages, options.clip_ratio).sum() / count
            value_loss = losses.clipped_value_loss(values, old_values, returns, options.clip_value).sum() / count
            loss = policy_loss + options.value_coefficient * value_loss
            torch.autograd.backward(loss)
            log_ratio = (logps - old_logps).detach()
            if step == (iteration - 1) * steps_each + 1:
                first_log_ratio = max(first_log_ratio, log_ratio.abs().max().item())
            sums["policy_loss"] += policy_loss.item()
            sums["value_loss"] += value_loss.item()
            sums["clip_fraction"] += ((log_ratio.exp() - 1).abs() > options.clip_ratio).sum().item() / count
            sums["approx_kl"] += losses.kl_k3(-log_ratio, torch.zeros_like(log_ratio)).sum().item() / count
            loss_sum += loss.item()
        if first_log_ratio > LOG_RATIO_TOLERANCE:
            raise RuntimeError(
                f"Iteration {iteration} starts with a log-ratio of {first_log_ratio:.2g} instead of 0: the update's "
                "forward does not repeat the one that measured the rollout, so PPO would learn from noise."
            )
        rate, norm = optim.update(optimizers["policy"], loss_sum, options.optim, step, total_steps)
        optim.update(optimizers["value"], loss_sum, options.optim, step, total_steps)
        sums["grad_norm"] += norm
    means = {key: value / steps_each for key, value in sums.items()}
    return means | {"first_log_ratio": first_log_ratio, "learning_rate": rate}


def describe(episodes: Episodes, estimates: Estimates, scores: torch.Tensor) -> dict[str, float]:
    """Return an iteration's figures: rewards, KL (nats a sequence), entropy (nats a token), lengths, value fit."""
    mask, count = episodes.mask, len(episodes.answers)
    lengths = mask.sum(dim=1)
    kl = (losses.kl_k1(estimates.logps, estimates.reference_logps) * mask).sum(dim=1)
    k3 = (losses.kl_k3(estimates.logps, estimates.reference_logps) * mask).sum(dim=1)
    sampled = torch.tensor([logp for answer in episodes.answers for logp in answer.logps], device=mask.device)
    return {
        "reward": episodes.scores.mean().item(),
        "objective": scores.mean().item(),
        "kl": kl.mean().item(),
        "kl_k3": k3.mean().item(),
        "kl_standard_error": kl.std(correction=0).item() / count**0.5,
        "entropy": sum(answer.entropy * len(answer.ids) for answer in episodes.answers) / int(lengths.sum()),
        "response_length": lengths.float().mean().item(),
        "ended": sum(answer.finish_reason == "stop" for answer in episodes.answers) / count,
        "explained_variance": losses.explained_variance(estimates.values, estimates.returns, mask),
        "sampler_gap": (sampled - estimates.logps[mask]).abs().mean().item(),
    }


def watch_kl(kl: float, standard_error: float, negative: int) -> int:
    """Return for how many iterations running the KL was clearly below 0, and warn when that cannot be chance.

    The mean log-ratio of samples from the policy may be negative on a batch, but not again and again.
    """
    negative = negative + 1 if kl < -2 * standard_error else 0
    if negative >= NEGATIVE_KL_PATIENCE:
        print(
            f"Warning: negative KL. It is {kl:.3f} nats, below 0 for {negative} iterations running, so the sampled "
            "answers do not come from the distribution that is trained. Check the sampler's temperature and precision.",
            file=sys.stderr,
            flush=True,
        )
    return negative


def rollout_lines(episodes: Episodes, estimates: Estimates, iteration: int) -> list[dict[str, object]]:
    """Return a few of the iteration's answers for `rollouts.jsonl`."""
    kl = ((estimates.logps - estimates.reference_logps) * episodes.mask).sum(dim=1)
    return [
        {
            "iteration": iteration,
            "prompt_id": episodes.prompts[n].id,
            "text": episodes.texts[n],
            "tokens": len(episodes.answers[n].ids),
            "finish_reason": episodes.answers[n].finish_reason,
            "reward": episodes.scores[n].item(),
            "kl": kl[n].item(),
        }
        for n in range(min(ROLLOUT_TEXTS, len(episodes.texts)))
    ]


def cut_rollouts(path: Path, done: int) -> None:
    """Drop the answers of iterations after `done`, which will be sampled again."""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(line for line in lines if line.endswith(b"\n")))
        write_jsonl(path, [row for _, row in read_jsonl(path) if row["iteration"] <= done])


def summarise(run_dir: Path, options: PpoOptions) -> dict[str, object]:
    """Return the report's summary: where reward and KL began and where they ended."""
    rows = report.read_metrics(run_dir)
    tail = rows[-max(1, len(rows) // 5) :]
    end = {key: sum(row[key] for row in tail) / len(tail) for key in ("reward", "kl", "response_length", "ended")}
    return {
        "headline": (
            f"In {options.iterations} iterations the reward went from {rows[0]['reward']:.2f} to {end['reward']:.2f} "
            f"at a KL of {end['kl']:.2f} nats a sequence."
        ),
        "episodes": options.iterations * options.optim.batch_size,
        "first_reward": rows[0]["reward"],
        **{f"last_{key}": value for key, value in end.items()},
        "kl_coefficient": rows[-1]["kl_coefficient"],
    }
