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

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import torch

from trainer import chat_template, episodes, judges, losses, modeling, rollout, rollout_log, sampler
from trainer.config import ConfigError, RlooOptions, RunConfig
from trainer.course import Clock, Course
from trainer.device import setup
from trainer.episodes import Actor, Episodes, Measures
from trainer.layout import Layout
from trainer.records import EXIT_DONE, EXIT_STOPPED
from trainer.stop import StopSignal
from trainer.stored import StoredPrompts

ALIKE = 1e-6  # advantages below are rounding: the group's rewards are all one, and teach nothing


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("RlooOptions", config.options)

    # 1. The prompts, before anything slow.
    prompts = StoredPrompts(run_dir / "data" / "prompts.jsonl", "train")
    if not len(prompts):
        raise ConfigError("data/prompts.jsonl has no prompt in the train split; RLOO needs prompts to answer.")
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    template = chat_template.facts(config.model, tokenizer)
    rollout.check_prompts(tokenizer, prompts, options.sampling, config.max_length)

    # 2. The models, and where an earlier attempt left them.
    jury = judges.load_judges(options, device, config.max_length)
    actor = Actor(modeling.load_trainable(config, device), modeling.load_frozen(config, device))
    layout = modeling.choose_layout(actor.policy, options.optim.tokens_per_forward, device, actor.frozen)
    work = modeling.prepare_training(actor.policy, options.optim, device, actor.frozen)
    answerer = sampler.load_sampler(run_dir, config, actor.policy, tokenizer, device)
    course = Course(run_dir, config, actor, answerer, layout, work)

    with device.team.metrics(run_dir) as metrics:
        for iteration in course.left():
            clock = Clock()

            # 3. Roll out, and score the answers.
            answerer.load(actor.policy, iteration)
            count = options.optim.batch_size // options.answers_per_prompt
            chosen = [prompts[i] for i in episodes.turn(len(prompts), count, iteration, config.seed, "prompts")]
            rolled = episodes.roll_out(answerer, tokenizer, jury, chosen, config, iteration, device)
            behind = sampler.check_versions(rolled.answers, iteration)
            clock.lap()

            # 4. Log-probabilities by the trainer's own forward; advantages over the group.
            epochs = episodes.epochs(count, options, config.seed, iteration)
            measures = layout.repeat(partial(episodes.measure, actor, rolled, epochs[0], options, layout))
            objective = rolled.objective(options.missing_end_penalty)
            advantages = aim(rolled, measures, objective, course.kl_coefficient, options)
            told = rollout_log.describe(rolled, measures, objective, options.importance_cap)
            told["groups_alike"] = (advantages.abs().view(count, -1).amax(dim=1) < ALIKE).float().mean().item()
            clock.lap()

            # 5. Update the policy, or go back where it has run away.
            steps = partial(
                update,
                actor,
                course.optimizers,
                rolled,
                measures,
                advantages,
                epochs,
                iteration,
                course.kl_coefficient,
                options,
                layout,
            )
            figures = course.update(iteration, told, steps)
            clock.lap()

            # 6. Tell, adapt, save.
            if course.close(metrics, stop, iteration, rolled, measures, figures, clock, behind):
                return EXIT_STOPPED

    # 7. Save and report.
    course.finish(tokenizer, template)
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
    optimizers: Mapping[str, torch.optim.Optimizer],
    rolled: Episodes,
    measures: Measures,
    advantages: torch.Tensor,
    epochs: list[list[list[int]]],
    iteration: int,
    kl_coefficient: float,
    options: RlooOptions,
    layout: Layout,
) -> dict[str, float | str]:
    """Take the steps of an iteration (`episodes.take_steps`) and return mean figures."""

    def gradients(minibatch: list[int], _step: int) -> dict[str, float]:
        return backward(actor, rolled, measures, advantages, minibatch, kl_coefficient, options, layout)

    return episodes.take_steps(gradients, actor, optimizers, rolled, advantages, epochs, iteration, options, layout)


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
