"""KTO: the policy from answers that labelers found acceptable or not, each by itself (Ethayarajh et al. 2024).

    python -m trainer kto --run DIR

Reads data/comparisons.jsonl (train split), of which only the line between acceptable answers and others is used,
watches the held-out split, and leaves a whole model in final/. What counts is how much likelier an answer became than
the policy moved as a whole; that is measured on strangers, the first answer of the next prompt after each prompt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from transformers import PreTrainedModel

from trainer import chat_template, checkpoint, data, model_card, modeling, optim, report
from trainer.config import ConfigError, KtoOptions, RunConfig
from trainer.device import setup
from trainer.layout import Layout
from trainer.losses import kto_loss
from trainer.rankings import Group, flag_tensors
from trainer.records import EXIT_DONE, EXIT_STOPPED
from trainer.reference import chunks, mean_figures, reference_logps, tree_logps
from trainer.stop import StopSignal
from trainer.stored import Index, Made, StoredGroups
from trainer.tree import Tree


class Flagged(NamedTuple):
    """Groups with what the reference says of their answers, and of each prompt's stranger."""

    groups: Sequence[Group]
    reference: Sequence[torch.Tensor]
    strangers: Sequence[Tree]
    stranger_reference: Sequence[torch.Tensor]

    def part(self, items: Sequence[int]) -> Flagged:
        """Return some of it."""
        return Flagged(
            [self.groups[i] for i in items],
            [self.reference[i] for i in items],
            [self.strangers[i] for i in items],
            [self.stranger_reference[i] for i in items],
        )


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("KtoOptions", config.options)

    # 1. The data, before anything slow.
    path = run_dir / "data" / "comparisons.jsonl"
    learned = Index(path, lambda row: row.split == "train", flags=True)
    judged = Index(path, lambda row: row.split == "held_out", flags=True)
    if not len(learned):
        raise ConfigError(
            "data/comparisons.jsonl has no ranking in the train split that says which answers are acceptable; "
            "collect rankings with a line between acceptable answers and others."
        )
    device = setup(config)
    team = device.team
    tokenizer = modeling.load_tokenizer(config.model)
    template = chat_template.facts(config.model, tokenizer)
    truncation = data.Truncation()
    sides = [StoredGroups(index, tokenizer, config.max_length, truncation) for index in (learned, judged)]

    # 2. The model, what it says before any step, and where an earlier attempt left it.
    model = modeling.load_trainable(config, device)
    layout = modeling.choose_layout(model, options.optim.tokens_per_forward, device)
    work = modeling.prepare_training(model, options.optim, device)
    train, held_out = prepare(run_dir, model, sides, config, layout)
    optimizer = optim.build(model.parameters(), options.optim)
    done, counters = checkpoint.resume(run_dir, {"policy": model}, {"policy": optimizer}, team)
    layout.resume(counters, run_dir)

    # 3. Train.
    steps = data.plan(len(train.groups), options.optim, config.seed)
    each = data.steps_per_epoch(len(train.groups), options.optim)
    with team.metrics(run_dir) as metrics:
        for step, items in enumerate(steps[done:], start=done + 1):
            started = time.perf_counter()
            here = train.part(items)
            # The baseline is the whole step's, however it is split into forwards.
            baseline = movement(model, here, layout)
            totals, tokens = layout.step(partial(backward, model, here, baseline, options, layout), optimizer)
            if step == 1:
                check_first_loss(totals["loss"], device.dtype)
                optim.check_gradients(model)
            rate, norm = optim.update(optimizer, totals["loss"], options.optim, step, len(steps))

            # 4. Tell, watch, save.
            watched: dict[str, float] = {}
            if len(held_out.groups) and step % each == 0 and step < len(steps):  # the last epoch's is in the report
                watched = judge(model, held_out, options, layout)
            metrics.write(
                step,
                total_steps=len(steps),
                epoch=step / each,
                **totals,
                kl=baseline,
                **watched,
                learning_rate=rate,
                grad_norm=norm,
                tokens=tokens,
                **device.speed(tokens, layout.take_load(), work, time.perf_counter() - started),
            )
            stops = team.any(stop.requested)
            if stops or step % config.checkpoint_steps == 0 or step == len(steps):
                checkpoint.save(run_dir, step, {"policy": model}, {"policy": optimizer}, layout.counters(), team)
            if stops:
                return EXIT_STOPPED

    # 5. Judge what will be saved: the merged model in the precision of the run.
    model = modeling.cast_weights(modeling.merge_lora(model), device.dtype)
    summary: dict[str, object] = {
        "headline": f"KTO on {len(train.groups)} prompts, with no held-out flags to judge it by.",
        "train_prompts": len(train.groups),
        "held_out_prompts": len(held_out.groups),
        "truncated_prompts": truncation.prompts,
        "truncated_completions": truncation.completions,
        **template,
    }
    if len(held_out.groups):
        summary |= judge(model, held_out, options, layout)
        summary["headline"] = (
            f"On the answers to {len(held_out.groups)} held-out prompts KTO's implicit reward agrees with what the "
            f"labelers found acceptable in {summary['held_out_accuracy']:.1%}."
        )

    # 6. Save and report.
    model = modeling.assemble(model, config, device)
    if not team.leads:
        return EXIT_DONE
    checkpoint.write_final(
        run_dir,
        lambda folder: modeling.save_policy(model, tokenizer, folder, device.dtype),
        model_card.text(run_dir, config, summary),
    )
    report.write(run_dir, config, summary)
    return EXIT_DONE


def prepare(
    run_dir: Path, model: PreTrainedModel, sides: Sequence[StoredGroups], config: RunConfig, layout: Layout
) -> list[Flagged]:
    """Return each side with its strangers and what the reference says of both."""

    def stranger(groups: StoredGroups, number: int) -> Tree:
        following = groups[(number + 1) % len(groups)]
        return Tree(groups[number].tree.prompt, [following.tree.completions[0]])

    strangers = [Made(len(groups), partial(stranger, groups)) for groups in sides]
    parts = [trees for groups, others in zip(sides, strangers, strict=True) for trees in (groups.trees, others)]
    logps = reference_logps(run_dir, model, parts, config, layout)
    return [Flagged(*of) for of in zip(sides, logps[::2], strangers, logps[1::2], strict=True)]


def movement(model: PreTrainedModel, here: Flagged, layout: Layout) -> float:
    """Return z0, the mean log-ratio (nats) of answers to other prompts, or 0 where it is below: the policy's KL."""
    total = 0.0
    for some, before in zip(chunks(here.strangers), chunks(here.stranger_reference), strict=True):
        total += (torch.cat(tree_logps(model, some, layout)) - torch.cat(list(before))).sum().item()
    return max(0.0, total / len(here.strangers))


def backward(
    model: PreTrainedModel, here: Flagged, baseline: float, options: KtoOptions, layout: Layout
) -> tuple[dict[str, float], int]:
    """Add the gradients of one step and return its figures and the tokens forwarded."""
    step_weight = sum(group.weight for group in here.groups)
    totals: dict[str, float] = {}
    tokens = 0
    for part, batch in layout.batches([group.tree for group in here.groups]):
        with layout.device.autocast():
            logps = batch.sum_by_completion(modeling.completion_logps(model, batch))
        ratios = logps - batch.join([here.reference[i] for i in part])
        loss, figures = flag_loss(ratios, [here.groups[i] for i in part], step_weight, baseline, options)
        torch.autograd.backward(loss)
        totals = {key: totals.get(key, 0.0) + value for key, value in figures.items()}
        tokens += batch.tokens
    return totals, tokens


def flag_loss(
    ratios: torch.Tensor, groups: Sequence[Group], step_weight: float, baseline: float, options: KtoOptions
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss, and it with accuracy and margin as numbers, of log-ratios (N,) of all the groups' answers."""
    flags = flag_tensors(groups, step_weight, ratios.device)
    flagged = ratios[flags.flagged]
    losses = kto_loss(flagged, flags.acceptable, torch.tensor(baseline, device=ratios.device), options.beta)
    distance = options.beta * (flagged.detach() - baseline) * torch.where(flags.acceptable, 1.0, -1.0)
    loss = (flags.weights * losses).sum()
    figures = {
        "loss": loss.item(),
        "accuracy": (flags.weights * (distance > 0)).sum().item(),
        "margin": (flags.weights * distance).sum().item(),
    }
    return loss, figures


def check_first_loss(loss: float, dtype: torch.dtype) -> None:
    """Refuse to train when the first loss is not 1/2: then the policy does not start as its reference."""
    if abs(loss - 0.5) > (0.05 if dtype is torch.bfloat16 else 1e-4):
        raise ConfigError(
            f"The first KTO loss is {loss:.4f}, not 0.5: the policy does not start as its reference, "
            "so its implicit rewards would mean nothing."
        )


def judge(model: PreTrainedModel, here: Flagged, options: KtoOptions, layout: Layout) -> dict[str, float]:
    """Return the figures of `flag_loss` on held-out groups, under `held_out_…`."""
    baseline = movement(model, here, layout)

    def figures(logps: torch.Tensor, before: torch.Tensor, some: Sequence[Group], weight: float) -> dict[str, float]:
        return flag_loss(logps - before, some, weight, baseline, options)[1]

    found = mean_figures(model, here.groups, here.reference, layout, figures)
    return {f"held_out_{key}": value for key, value in found.items()}
