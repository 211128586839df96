"""Policy gradients whose baseline is the other answers to the same prompt: no value model (RLOO, and GRPO's way of it).

    python -m trainer rloo --run DIR

Reads data/prompts.jsonl (train split) and leaves a whole model in final/. Rollouts, scores, reference, KL and clipping
are PPO's (`episodes`); an answer's every token has the advantage of the whole answer over its group. Sources: Kool et
al. 2019, Ahmadian et al. 2024 (RLOO), Shao et al. 2024 (GRPO). Losses are means over the tokens of a minibatch, not of
each answer first, so that long answers are not let off.

As in PPO, what decides an iteration follows from the seed and its number, and a resumed run repeats an uninterrupted
one bit for bit on the CPU.
"""

from __future__ import annotations

import itertools
import time
from functools import partial
from pathlib import Path
from typing import cast

import torch

from trainer import (
    checkpoint,
    episodes,
    judges,
    losses,
    model_card,
    modeling,
    optim,
    report,
    rollout,
    rollout_log,
    sampler,
)
from trainer.brakes import Brakes
from trainer.config import ConfigError, RlooOptions, RunConfig
from trainer.device import setup
from trainer.episodes import Actor, Episodes, Measures
from trainer.layout import Layout
from trainer.records import EXIT_DONE, EXIT_STOPPED, MetricsFile, read_prompts
from trainer.stop import StopSignal

ALIKE = 1e-6  # advantages below are rounding: the group's rewards are all one, and teach nothing


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("RlooOptions", config.options)

    # 1. The prompts, before anything slow.
    prompts = [prompt for prompt in read_prompts(run_dir / "data" / "prompts.jsonl") if prompt.split == "train"]
    if not prompts:
        raise ConfigError("data/prompts.jsonl has no prompt in the train split; RLOO needs prompts to answer.")
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    rollout.encode_prompts(tokenizer, prompts, options.sampling, config.max_length)

    # 2. The models, and where an earlier attempt left them.
    jury = judges.load_judges(options, device)
    frozen = None if config.lora else modeling.load_policy(config.model, torch.float32, device.device)
    actor = Actor(modeling.load_trainable(config, device), frozen)
    layout = modeling.choose_layout(actor.policy, options.optim.tokens_per_forward, device)
    answerer = sampler.load_sampler(run_dir, config, actor.policy, tokenizer, device)
    optimizers = {"policy": optim.build(actor.policy.parameters(), options.optim)}
    brakes = Brakes(options, actor.modules())
    done, counters = checkpoint.resume(run_dir, actor.modules() | brakes.modules(), optimizers)
    layout.resume(counters)
    brakes.resume(counters)
    kl_coefficient = float(counters.get("kl_coefficient", options.kl_coefficient))
    rollout_log.cut_texts(run_dir, done)

    with MetricsFile(run_dir) as metrics:
        for iteration in range(done + 1, options.iterations + 1):
            if brakes.spent:
                break
            clock = [time.perf_counter()]

            # 3. Roll out, and score the answers.
            answerer.load(actor.policy, iteration)
            count = options.optim.batch_size // options.answers_per_prompt
            chosen = [prompts[i] for i in episodes.turn(len(prompts), count, iteration, config.seed, "prompts")]
            rolled = episodes.roll_out(answerer, tokenizer, jury, chosen, config, iteration, device)
            behind = sampler.check_versions(rolled.answers, iteration)
            clock.append(time.perf_counter())

            # 4. Log-probabilities by the trainer's own forward; advantages over the group.
            epochs = [
                episodes.minibatches(count, options.minibatches, config.seed, iteration, epoch)
                for epoch in range(options.ppo_epochs)
            ]
            measures = layout.repeat(partial(episodes.measure, actor, rolled, epochs[0], options, layout))
            objective = rolled.objective(options.missing_end_penalty)
            advantages = aim(rolled, measures, objective, kl_coefficient, options)
            told = rollout_log.describe(rolled, measures, objective, options.importance_cap)
            told["groups_alike"] = (advantages.abs().view(count, -1).amax(dim=1) < ALIKE).float().mean().item()
            clock.append(time.perf_counter())

            # 5. Update the policy, or go back where it has run away.
            brakes.check_sign(told["kl"], told["kl_standard_error"])
            brakes.keep_best(iteration, told["objective"], told["kl"])
            spent = kl_coefficient
            if brakes.too_far(told["kl"]):
                brakes.roll_back(optimizers)
                kl_coefficient *= 2
                figures: dict[str, float | str] = {"event": "rolled back", "rolled_back_to": brakes.best_iteration}
            else:
                figures = update(
                    actor, optimizers["policy"], rolled, measures, advantages, epochs, iteration, spent, options, layout
                )
            clock.append(time.perf_counter())

            # 6. Tell, adapt, save.
            seconds = [round(after - before, 3) for before, after in itertools.pairwise(clock)]
            metrics.write(
                iteration,
                total_steps=options.iterations,
                episodes=iteration * options.optim.batch_size,
                **told,
                kl_coefficient=spent,
                **figures,
                answers_behind=behind,
                tokens_per_second=round(int(rolled.mask.sum()) / (clock[-1] - clock[0]), 1),
                rollout_seconds=seconds[0],
                estimate_seconds=seconds[1],
                update_seconds=seconds[2],
                peak_memory_mb=device.peak_memory_mb(),
            )
            rollout_log.write_texts(run_dir, rolled, measures, iteration)
            if options.kl_target is not None and "rolled_back_to" not in figures:
                kl_coefficient = losses.adapted_kl_coefficient(
                    kl_coefficient, told["kl"], options.kl_target, options.optim.batch_size, options.kl_horizon
                )
            last = iteration == options.iterations or brakes.spent
            if stop.requested or last or iteration % config.checkpoint_steps == 0:
                state = {"kl_coefficient": kl_coefficient} | brakes.counters() | layout.counters()
                checkpoint.save(run_dir, iteration, actor.modules() | brakes.modules(), optimizers, state)
            if stop.requested:
                return EXIT_STOPPED

    # 7. Save and report.
    if brakes.spent or options.keep == "best":
        brakes.restore()
    summary = rollout_log.summarise(run_dir, options, brakes)
    checkpoint.write_final(
        run_dir,
        lambda folder: modeling.save_policy(actor.policy, tokenizer, folder, device.dtype),
        model_card.text(run_dir, config, summary),
    )
    report.write(run_dir, config, summary)
    return EXIT_DONE


def aim(
    rolled: Episodes, measures: Measures, objective: torch.Tensor, kl_coefficient: float, options: RlooOptions
) -> torch.Tensor:
    """Return the advantage (N, T) of each token: its whole answer's over the other answers to the prompt.

    What is compared are `objective` (N,), less the answers' KL penalty where it belongs to the reward.
    """
    rewards = objective
    if options.kl_in == "reward":
        kl = losses.KL_ESTIMATORS[options.kl_estimator](measures.logps, measures.reference_logps)
        rewards = objective - kl_coefficient * (kl * rolled.mask).sum(dim=1)
    groups = rewards.view(len(rolled.trees), -1)
    advantages = losses.group_advantages(groups, options.group_advantages).flatten()
    return torch.where(rolled.mask, advantages[:, None], 0.0)


def update(
    actor: Actor,
    optimizer: torch.optim.AdamW,
    rolled: Episodes,
    measures: Measures,
    advantages: torch.Tensor,
    epochs: list[list[list[int]]],
    iteration: int,
    kl_coefficient: float,
    options: RlooOptions,
    layout: Layout,
) -> dict[str, float | str]:
    """Take one step a minibatch, every loss a mean over the tokens of the whole minibatch; return mean figures.

    With `kl_stop` the steps end before one whose minibatch shows a policy too far from the one that answered. Raises
    `DivergedError` if the first minibatch's log-ratios are not 0: then what was measured is not what is trained.
    """
    each = sum(map(len, epochs))
    before, total = (iteration - 1) * each, options.iterations * each
    budget, taken, rate, first_log_ratio = layout.tokens, 0, 0.0, 0.0
    sums: dict[str, float] = {}
    event: dict[str, float | str] = {}
    for minibatch in itertools.chain.from_iterable(epochs):
        step = before + taken + 1
        attempt = partial(backward, actor, rolled, measures, advantages, minibatch, kl_coefficient, options, layout)
        figures = layout.repeat(attempt, optimizer)
        log_ratio = figures.pop("first_log_ratio")
        if taken == 0 and layout.tokens == budget:  # smaller batches than those measured in would round otherwise
            episodes.check_first_ratio(log_ratio, iteration)
            first_log_ratio = log_ratio
        if options.kl_stop is not None and figures["approx_kl"] > options.kl_stop:
            optimizer.zero_grad(set_to_none=True)
            event = {"event": "kl stop"}
            break
        if step == 1 and bool(advantages[rolled.rows(minibatch)].any()):
            optim.check_gradients(actor.policy)
        rate, figures["grad_norm"] = optim.update(optimizer, figures["loss"], options.optim, step, total)
        episodes.add(sums, figures)
        taken += 1
    means = {key: value / taken for key, value in sums.items()}
    return {**means, "updates": taken, "first_log_ratio": first_log_ratio, "learning_rate": rate, **event}


def backward(
    actor: Actor,
    rolled: Episodes,
    measures: Measures,
    advantages: torch.Tensor,
    minibatch: list[int],
    kl_coefficient: float,
    options: RlooOptions,
    layout: Layout,
) -> dict[str, float]:
    """Add the gradients of one minibatch of prompts and return its figures."""
    count = int(rolled.mask[rolled.rows(minibatch)].sum())
    totals: dict[str, float] = {}
    for part, batch in layout.batches([rolled.trees[number] for number in minibatch]):
        rows = rolled.rows([minibatch[n] for n in part])
        found = episodes.forward(actor, batch, options, layout.device, entropy=options.entropy_coefficient > 0)
        loss, figures = episodes.policy_loss(
            found, measures, advantages, rows, rolled.mask, count, kl_coefficient, options
        )
        torch.autograd.backward(loss)
        episodes.add(totals, figures | {"loss": loss.item()})
    return totals
