"""Proximal policy optimisation against reward models, with a per-token KL penalty to the starting model.

    python -m trainer ppo --run DIR

Reads data/prompts.jsonl (train split), and for PPO-ptx data/demonstrations.jsonl, and leaves a whole model in final/.
The reference is `run.model` as it is before the first step: the policy with its adapters off, or without LoRA a frozen
copy. Texts of each iteration are in rollouts.jsonl. Sources: Schulman et al. 2017, Ziegler et al. 2019, Ouyang et al.
2022 (3.5), Huang et al. 2024.

What decides an iteration (prompts, noise, minibatches) is a function of the seed and its number, and an iteration that
was not finished is begun again. So a resumed run needs weights, optimisers and a few numbers, and repeats an
uninterrupted one bit for bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import nn

from trainer import chat_template, data, episodes, judges, losses, modeling, ptx, rollout, rollout_log, sampler
from trainer.config import ConfigError, PpoOptions, RunConfig
from trainer.course import Clock, Course
from trainer.device import Device, setup
from trainer.episodes import Actor, Episodes, Measures
from trainer.judges import Judge
from trainer.layout import Layout
from trainer.records import EXIT_DONE, EXIT_STOPPED
from trainer.stop import StopSignal
from trainer.stored import StoredPrompts
from trainer.tree import Tree


class Targets(NamedTuple):
    """What the update aims at, (N, T) float32."""

    advantages: torch.Tensor
    returns: torch.Tensor


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("PpoOptions", config.options)

    # 1. The data, before anything slow.
    prompts = StoredPrompts(run_dir / "data" / "prompts.jsonl", "train")
    if not len(prompts):
        raise ConfigError("data/prompts.jsonl has no prompt in the train split; PPO needs prompts to answer.")
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    template = chat_template.facts(config.model, tokenizer)
    rollout.check_prompts(tokenizer, prompts, options.sampling, config.max_length)
    mix_cuts = data.Truncation()
    texts = ptx.read(run_dir, tokenizer, config.max_length, mix_cuts) if options.ptx_coefficient else []

    # 2. The models, and where an earlier attempt left them.
    jury = judges.load_judges(options, device, config.max_length)
    actor = load_actor(config, device, jury[0])
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

            # 4. Log-probabilities and values by the trainer's own forward; rewards, advantages, returns.
            epochs = episodes.epochs(count, options, config.seed, iteration)
            measures = layout.repeat(partial(episodes.measure, actor, rolled, epochs[0], options, layout))
            objective = rolled.objective(options.missing_end_penalty)
            rewards = rewards_of(rolled, measures, objective, course.kl_coefficient, options)
            if iteration == 1:
                head = cast("nn.Linear", actor.value_head)
                measures = settle(head, rolled, measures, rewards, options)
                device.team.follow([*head.parameters(), measures.values])
            targets = aim(rolled, measures, rewards, options)
            told = rollout_log.describe(rolled, measures, objective, options.importance_cap)
            told["explained_variance"] = losses.explained_variance(measures.values, targets.returns, rolled.mask)
            clock.lap()

            # 5. Update policy and value, or go back where the policy has run away.
            steps = partial(
                update,
                actor,
                course.optimizers,
                rolled,
                measures,
                targets,
                epochs,
                iteration,
                course.kl_coefficient,
                texts,
                config,
                layout,
            )
            figures = course.update(iteration, told, steps)
            clock.lap()

            # 6. Tell, adapt, save.
            if course.close(metrics, stop, iteration, rolled, measures, figures, clock, behind):
                return EXIT_STOPPED

    # 7. Save and report.
    mixed = {"ptx_truncated_prompts": mix_cuts.prompts, "ptx_truncated_completions": mix_cuts.completions}
    course.finish(tokenizer, template | (mixed if options.ptx_coefficient else {}))
    return EXIT_DONE


def load_actor(config: RunConfig, device: Device, judge: Judge) -> Actor:
    """Load the policy, its value head, and without LoRA a frozen copy beside it."""
    policy = modeling.load_trainable(config, device)
    frozen = modeling.load_frozen(config, device)
    return Actor(policy, frozen, judges.value_head(judge, policy, cast("PpoOptions", config.options).value_start))


def rewards_of(
    rolled: Episodes, measures: Measures, objective: torch.Tensor, kl_coefficient: float, options: PpoOptions
) -> torch.Tensor:
    """Return the reward (N, T) of each token; `objective` (N,) judges whole answers and stands at their ends."""
    kl = losses.KL_ESTIMATORS[options.kl_estimator](measures.logps, measures.reference_logps)
    taken = kl_coefficient if options.kl_in == "reward" else 0.0
    rewards = losses.penalised_rewards(kl, objective, rolled.mask, taken)
    return losses.whiten(rewards, rolled.mask, shift_mean=False) if options.whiten_rewards else rewards


@torch.no_grad()
def settle(
    head: nn.Linear, rolled: Episodes, measures: Measures, rewards: torch.Tensor, options: PpoOptions
) -> Measures:
    """Fit a head that came from a reward model to the first answers, and return the measures with its values.

    It is shifted to their mean return. Where it explains nothing of their returns, as a head may that has only ever
    read whole answers of another trunk, it is emptied: values that are wrong are worse than none.
    """
    _, returns = losses.gae(rewards, torch.zeros_like(rewards), rolled.mask, options.discount, 1.0)
    if losses.explained_variance(measures.values, returns, rolled.mask) > 0:
        shift = (returns - measures.values)[rolled.mask].mean()
        head.bias.add_(shift)
        return measures._replace(values=torch.where(rolled.mask, measures.values + shift, 0.0))
    head.weight.zero_()
    head.bias.zero_()
    return measures._replace(values=torch.zeros_like(measures.values))


def aim(rolled: Episodes, measures: Measures, rewards: torch.Tensor, options: PpoOptions) -> Targets:
    """Derive advantages and returns from values and rewards (N, T)."""
    advantages, returns = losses.gae(rewards, measures.values, rolled.mask, options.discount, options.gae_lambda)
    if options.whiten_advantages:
        advantages = losses.whiten(advantages, rolled.mask)
    return Targets(advantages, returns)


def update(
    actor: Actor,
    optimizers: Mapping[str, torch.optim.Optimizer],
    rolled: Episodes,
    measures: Measures,
    targets: Targets,
    epochs: list[list[list[int]]],
    iteration: int,
    kl_coefficient: float,
    texts: Sequence[Tree],
    config: RunConfig,
    layout: Layout,
) -> dict[str, float | str]:
    """Take the steps of an iteration (`episodes.take_steps`), policy, value and mix in one; return mean figures."""
    options = cast("PpoOptions", config.options)

    def gradients(minibatch: list[int], step: int) -> dict[str, float]:
        numbers = episodes.turn(len(texts), options.ptx_batch_size, step, config.seed, "ptx") if len(texts) else []
        mix = [texts[number] for number in numbers]
        return backward(actor, rolled, measures, targets, minibatch, mix, kl_coefficient, options, layout)

    return episodes.take_steps(
        gradients, actor, optimizers, rolled, targets.advantages, epochs, iteration, options, layout
    )


def backward(
    actor: Actor,
    rolled: Episodes,
    measures: Measures,
    targets: Targets,
    minibatch: list[int],
    mix: list[Tree],
    kl_coefficient: float,
    options: PpoOptions,
    layout: Layout,
) -> dict[str, float]:
    """Add the gradients of one minibatch (prompts, and texts to mix in) and return its figures."""
    count = int(rolled.mask[rolled.rows(minibatch)].sum())
    totals: dict[str, float] = {}
    for part, batch in layout.batches([rolled.trees[number] for number in minibatch]):
        rows = rolled.rows([minibatch[n] for n in part])
        here = rolled.mask[rows]
        found = episodes.forward(actor, batch, options, layout.device, entropy=options.entropy_coefficient > 0)
        loss, figures = episodes.policy_loss(
            found, measures, targets.advantages, rows, rolled.mask, count, kl_coefficient, options
        )
        values = cast("torch.Tensor", found.values)  # the actor has a value head
        old_values, returns = measures.values[rows][here], targets.returns[rows][here]
        value_losses = losses.clipped_value_loss(values, old_values, returns, options.clip_value)
        value_loss = value_losses.sum() / count
        loss = loss + options.value_coefficient * value_loss
        torch.autograd.backward(loss)
        clipped = (value_losses > losses.value_loss(values, returns)).sum() / count
        figures |= {"value_loss": value_loss.item(), "value_clip_fraction": clipped.item(), "loss": loss.item()}
        episodes.add(totals, figures)
    if mix:
        ptx_loss = ptx.backward(actor.policy, mix, options.ptx_coefficient, layout)
        episodes.add(totals, {"ptx_loss": ptx_loss, "loss": options.ptx_coefficient * ptx_loss})
    return totals
