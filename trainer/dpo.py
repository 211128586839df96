"""Direct preference optimisation on rankings: the policy straight from preferences (Rafailov et al. 2023).

    python -m trainer dpo --run DIR

Reads data/comparisons.jsonl (train split), watches the held-out split, and leaves a whole model in final/. The
reference is `run.model` as it is before the first step; its log-probabilities are computed once and kept in
reference.safetensors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from trainer import chat_template, checkpoint, data, model_card, modeling, optim, report
from trainer.config import ConfigError, DpoOptions, RunConfig
from trainer.device import Device, setup
from trainer.layout import Layout
from trainer.losses import cdpo_loss, dpo_loss, ipo_loss, plackett_luce_loss
from trainer.rankings import Group, choice_tensors, pair_tensors
from trainer.records import EXIT_DONE, EXIT_STOPPED
from trainer.reference import mean_figures, reference_logps
from trainer.stop import StopSignal
from trainer.stored import Index, StoredGroups

UNLIKELIER = 0.1  # of the nats that answers began with; long ones move by some nats in any training


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("DpoOptions", config.options)

    # 1. The data, before anything slow. Rankings of the same answers by several labelers become one group, which is
    #    read from the file when a step needs it.
    path = run_dir / "data" / "comparisons.jsonl"
    learned, judged = Index(path, lambda row: row.split == "train"), Index(path, lambda row: row.split == "held_out")
    learned.check_pairs()
    device = setup(config)
    team = device.team
    tokenizer = modeling.load_tokenizer(config.model)
    template = chat_template.facts(config.model, tokenizer)
    truncation = data.Truncation()
    train, held_out = (StoredGroups(index, tokenizer, config.max_length, truncation) for index in (learned, judged))

    # 2. The model, what it says before any step, and where an earlier attempt left it.
    model = modeling.load_trainable(config, device)
    layout = modeling.choose_layout(model, options.optim.tokens_per_forward, device)
    work = modeling.prepare_training(model, options.optim, device)
    train_reference, held_out_reference = reference_logps(run_dir, model, [train.trees, held_out.trees], config, layout)
    optimizer = optim.build(model.parameters(), options.optim)
    done, counters = checkpoint.resume(run_dir, {"policy": model}, {"policy": optimizer}, team)
    layout.resume(counters, run_dir)

    # 3. Train.
    steps = data.plan(len(train), options.optim, config.seed)
    each = data.steps_per_epoch(len(train), options.optim)
    with team.metrics(run_dir) as metrics:
        for step, items in enumerate(steps[done:], start=done + 1):
            started = time.perf_counter()
            groups, before = [train[i] for i in items], [train_reference[i] for i in items]
            totals, tokens = layout.step(partial(backward, model, groups, before, options, layout), optimizer)
            start_loss = totals.pop("start_loss")
            if step == 1:
                check_first_loss(totals["loss"], start_loss, options, device)
                optim.check_gradients(model)
            rate, norm = optim.update(optimizer, totals["loss"], options.optim, step, len(steps))

            # 4. Tell, watch, save.
            watched: dict[str, float] = {}
            if held_out and step % each == 0 and step < len(steps):  # the last epoch's is in the report
                watched = judge(model, held_out, held_out_reference, options, layout)
            metrics.write(
                step,
                total_steps=len(steps),
                epoch=step / each,
                **totals,
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
    summary: dict[str, Any] = {
        "headline": f"DPO on {len(train)} prompts, with no held-out rankings to judge it by.",
        "train_prompts": len(train),
        "train_pairs": learned.count_pairs(),
        "held_out_prompts": len(held_out),
        "held_out_pairs": judged.count_pairs(),
        "rankings_without_preference": learned.skipped + judged.skipped,
        "truncated_prompts": truncation.prompts,
        "truncated_completions": truncation.completions,
        **template,
    }
    if held_out:
        summary |= judge(model, held_out, held_out_reference, options, layout)
        summary["headline"] = (
            f"On {summary['held_out_pairs']} held-out pairs DPO's implicit reward agrees with the labelers in "
            f"{summary['held_out_accuracy']:.1%}."
        )

    # 6. Save and report.
    model = modeling.assemble(model, config, device)
    if not team.leads:
        return EXIT_DONE
    summary["headline"] += warning(run_dir, summary)
    checkpoint.write_final(
        run_dir,
        lambda folder: modeling.save_policy(model, tokenizer, folder, device.dtype),
        model_card.text(run_dir, config, summary),
    )
    report.write(run_dir, config, summary)
    return EXIT_DONE


def backward(
    model: PreTrainedModel, groups: list[Group], reference: list[torch.Tensor], options: DpoOptions, layout: Layout
) -> tuple[dict[str, float], int]:
    """Add the gradients of one step and return its figures and the tokens forwarded."""
    step_weight = sum(group.weight for group in groups)
    totals: dict[str, float] = {}
    tokens = 0
    for part, batch in layout.batches([group.tree for group in groups]):
        with layout.device.autocast():
            logps = batch.sum_by_completion(modeling.completion_logps(model, batch))
        before = batch.join([reference[i] for i in part])
        loss, figures = preference_loss(logps, before, [groups[i] for i in part], step_weight, options)
        torch.autograd.backward(loss)
        totals = {key: totals.get(key, 0.0) + value for key, value in figures.items()}
        tokens += batch.tokens
    return totals, tokens


def preference_loss(
    logps: torch.Tensor, reference: torch.Tensor, groups: Sequence[Group], step_weight: float, options: DpoOptions
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss that `options` asks for, and it with accuracy, margin and log-probabilities (nats) as numbers.

    The log-ratios among them are those to the reference: how far the log-probabilities are from where they began.
    `logps` and `reference` are (N,), of all completions of the groups in order. `start_loss` among the numbers is what
    the loss is where the policy is its reference.
    """
    lengths = torch.tensor(
        [len(completion) for group in groups for completion in group.tree.completions], device=logps.device
    )
    pairs = pair_tensors(groups, step_weight, logps.device)
    better, worse = pairs.members.unbind(dim=1)
    ratios = (logps - reference) / lengths if options.length_normalised else logps - reference

    def preference(ratios: torch.Tensor) -> torch.Tensor:
        chosen, rejected = ratios[better], ratios[worse]
        if options.loss == "plackett_luce":
            choices = choice_tensors(groups, step_weight, ratios.device)
            return plackett_luce_loss(options.beta * ratios, choices.chosen, choices.contenders, choices.weights)
        if options.loss == "ipo":
            return (pairs.weights * ipo_loss(chosen, rejected, options.beta)).sum()
        if options.label_smoothing:
            return (pairs.weights * cdpo_loss(chosen, rejected, options.beta, options.label_smoothing)).sum()
        return (pairs.weights * dpo_loss(chosen, rejected, options.beta)).sum()

    def likelihood(values: torch.Tensor) -> torch.Tensor:
        return (pairs.weights * (values / lengths)[better]).sum()

    loss = preference(ratios)
    start = preference(torch.zeros_like(ratios))
    if options.nll_weight:
        loss = loss - options.nll_weight * likelihood(logps)
        start = start - options.nll_weight * likelihood(reference)
    margins = options.beta * (ratios[better] - ratios[worse]).detach()
    figures = {
        "accuracy": (margins > 0).float(),
        "margin": margins,
        "chosen_logp": logps[better].detach(),
        "rejected_logp": logps[worse].detach(),
        "chosen_log_ratio": (logps - reference)[better].detach(),
        "rejected_log_ratio": (logps - reference)[worse].detach(),
    }
    numbers = {key: (pairs.weights * values).sum().item() for key, values in figures.items()}
    return loss, {"loss": loss.item(), "start_loss": start.item(), **numbers}


def check_first_loss(loss: float, expected: float, options: DpoOptions, device: Device) -> None:
    """Refuse to train when the first loss is not that of a policy equal to its reference (for plain DPO ln 2).

    In bfloat16 the two forwards have batches of other shapes and round differently; the tolerance allows for that, and
    for IPO's loss being steeper: 1 / beta a nat instead of beta / 2.
    """
    tolerance = 0.05 if device.dtype is torch.bfloat16 else 1e-4
    tolerance *= 2 / options.beta**2 if options.loss == "ipo" else 1
    name = f"ln 2 = {expected:.4f}" if math.isclose(expected, math.log(2), rel_tol=1e-5) else f"{expected:.4f}"
    if abs(loss - expected) > tolerance:
        raise ConfigError(
            f"The first DPO loss is {loss:.4f}, not {name}: the policy does not start as its reference, "
            "so its implicit rewards would mean nothing."
        )


def judge(
    model: PreTrainedModel,
    groups: Sequence[Group],
    reference: Sequence[torch.Tensor],
    options: DpoOptions,
    layout: Layout,
) -> dict[str, float]:
    """Return the figures of `preference_loss` on held-out groups, under `held_out_…`."""

    def figures(logps: torch.Tensor, before: torch.Tensor, some: Sequence[Group], weight: float) -> dict[str, float]:
        return preference_loss(logps, before, some, weight, options)[1]

    found = mean_figures(model, groups, reference, layout, figures)
    found.pop("start_loss")
    return {f"held_out_{key}": value for key, value in found.items()}


def warning(run_dir: Path, summary: Mapping[str, Any]) -> str:
    """Return a sentence where better and worse answers both ended clearly less likely than they began, else nothing.

    Of held-out pairs where there are some, else of the pairs in the last fifth of the steps. Either way the policy is
    held against the reference on the same answers.
    """
    if "held_out_chosen_logp" in summary:
        where, ends = "on held-out pairs", [{key.removeprefix("held_out_"): v for key, v in summary.items()}]
    else:
        rows = report.read_metrics(run_dir)
        where, ends = "in the last steps", rows[-max(1, len(rows) // 5) :]

    def told(kind: str) -> tuple[float, str]:
        logp, change = (sum(row[f"{kind}_{what}"] for row in ends) / len(ends) for what in ("logp", "log_ratio"))
        return change / max(change - logp, 1e-9), f"from {logp - change:.1f} to {logp:.1f}"

    (better_change, better), (worse_change, worse) = told("chosen"), told("rejected")
    if max(better_change, worse_change) > -UNLIKELIER:
        return ""
    return (
        f" Better and worse answers became unlikely together: {where} their log-probabilities fell {better} and "
        f"{worse} nats; options.nll_weight counters that."
    )
