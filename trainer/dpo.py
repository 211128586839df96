"""Direct preference optimisation on rankings: the policy straight from preferences (Rafailov et al. 2023).

    python -m trainer dpo --run DIR

Reads data/comparisons.jsonl (train split), watches the held-out split, and leaves a whole model in final/. The
reference is `run.model` as it is before the first step; its log-probabilities are computed once and kept in
reference.safetensors.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from trainer import checkpoint, data, modeling, optim, report
from trainer.config import ConfigError, DpoOptions, RunConfig
from trainer.device import Device, setup
from trainer.layout import Layout
from trainer.losses import dpo_loss
from trainer.rankings import Group, group_comparisons, pair_tensors
from trainer.records import EXIT_DONE, EXIT_STOPPED, MetricsFile, canonical, read_comparisons
from trainer.stop import StopSignal


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("DpoOptions", config.options)

    # 1. The data, before anything slow. Rankings of the same answers by several labelers become one group.
    comparisons = read_comparisons(run_dir / "data" / "comparisons.jsonl")
    if not any(row.split == "train" and row.weight > 0 and row.pairs() for row in comparisons):
        raise ConfigError(
            "data/comparisons.jsonl has no ranking in the train split that prefers one answer to another; "
            "collect rankings that are not all ties."
        )
    device = setup(config)
    tokenizer = modeling.load_tokenizer(config.model)
    truncation = data.Truncation()
    train, held_out = (
        group_comparisons(tokenizer, [c for c in comparisons if c.split == split], config.max_length, truncation)
        for split in ("train", "held_out")
    )

    # 2. The model, what it says before any step, and where an earlier attempt left it.
    model = modeling.load_trainable(config, device)
    layout = modeling.choose_layout(model, options.optim.tokens_per_forward, device)
    reference = reference_logps(run_dir, model, [*train, *held_out], config, layout)
    train_reference, held_out_reference = reference[: len(train)], reference[len(train) :]
    optimizer = optim.build(model.parameters(), options.optim)
    done, counters = checkpoint.resume(run_dir, {"policy": model}, {"policy": optimizer})
    layout.resume(counters)

    # 3. Train.
    steps = data.plan(len(train), options.optim, config.seed)
    each = data.steps_per_epoch(len(train), options.optim)
    with MetricsFile(run_dir) as metrics:
        for step, items in enumerate(steps[done:], start=done + 1):
            started = time.perf_counter()
            groups, before = [train[i] for i in items], [train_reference[i] for i in items]
            totals, tokens = layout.repeat(partial(backward, model, groups, before, options, layout), optimizer)
            if step == 1:
                check_first_loss(totals["loss"], device)
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
                tokens_per_second=round(tokens / (time.perf_counter() - started), 1),
                peak_memory_mb=device.peak_memory_mb(),
            )
            if stop.requested or step % config.checkpoint_steps == 0 or step == len(steps):
                checkpoint.save(run_dir, step, {"policy": model}, {"policy": optimizer}, layout.counters())
            if stop.requested:
                return EXIT_STOPPED

    # 5. Judge what will be saved: the merged model in the precision of the run.
    model = modeling.cast_weights(modeling.merge_lora(model), device.dtype)
    summary: dict[str, object] = {
        "headline": f"DPO on {len(train)} prompts, with no held-out rankings to judge it by.",
        "train_prompts": len(train),
        "train_pairs": sum(len(group.pairs) for group in train),
        "held_out_prompts": len(held_out),
        "held_out_pairs": sum(len(group.pairs) for group in held_out),
        "truncated_prompts": truncation.prompts,
        "truncated_completions": truncation.completions,
    }
    if held_out:
        summary |= judge(model, held_out, held_out_reference, options, layout)
        summary["headline"] = (
            f"On {summary['held_out_pairs']} held-out pairs DPO's implicit reward agrees with the labelers in "
            f"{summary['held_out_accuracy']:.1%}."
        )

    # 6. Save and report.
    checkpoint.write_final(run_dir, lambda folder: modeling.save_policy(model, tokenizer, folder, device.dtype))
    report.write(run_dir, config, summary)
    return EXIT_DONE


def backward(
    model: PreTrainedModel, groups: list[Group], reference: list[torch.Tensor], options: DpoOptions, layout: Layout
) -> tuple[dict[str, float], int]:
    """Add the gradients of one step and return its figures and the tokens forwarded."""
    step_weight = sum(group.weight for group in groups)
    totals = dict.fromkeys(("loss", "accuracy", "margin", "chosen_logp", "rejected_logp"), 0.0)
    tokens = 0
    for part, batch in layout.batches([group.tree for group in groups]):
        with layout.device.autocast():
            logps = batch.sum_by_completion(modeling.completion_logps(model, batch))
        before = torch.cat([reference[i] for i in part]).to(logps.device)
        pairs = pair_tensors([groups[i] for i in part], step_weight, logps.device)
        loss, figures = pair_loss(logps, before, pairs.members, pairs.weights, options.beta)
        torch.autograd.backward(loss)
        totals = {key: value + figures[key] for key, value in totals.items()}
        tokens += batch.tokens
    return totals, tokens


def pair_loss(
    logps: torch.Tensor, reference: torch.Tensor, pairs: torch.Tensor, weights: torch.Tensor, beta: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the weighted loss, and it with accuracy, margin and log-probabilities (nats a completion) as numbers.

    `logps` and `reference` are (N,), one a completion; `pairs` (P, 2) indexes them; `weights` is (P,).
    """
    better, worse = pairs.unbind(dim=1)
    losses, chosen, rejected = dpo_loss(logps[better], logps[worse], reference[better], reference[worse], beta)
    loss = (weights * losses).sum()
    figures = {
        "loss": losses,
        "accuracy": (chosen > rejected).float(),
        "margin": chosen - rejected,
        "chosen_logp": logps[better],
        "rejected_logp": logps[worse],
    }
    return loss, {key: (weights * values.detach()).sum().item() for key, values in figures.items()}


@torch.no_grad()
def group_logps(model: PreTrainedModel, groups: Sequence[Group], layout: Layout) -> list[torch.Tensor]:
    """Return log pi(y | x) (K,) of each group's completions, on the CPU."""
    logps: list[torch.Tensor] = [torch.empty(0)] * len(groups)
    for part, batch in layout.batches([group.tree for group in groups]):
        with layout.device.autocast():
            values = batch.sum_by_completion(modeling.completion_logps(model, batch)).cpu()
        sizes = [len(groups[i].tree.completions) for i in part]
        for index, chunk in zip(part, torch.split(values, sizes), strict=True):
            logps[index] = chunk
    return logps


def reference_logps(
    run_dir: Path, model: PreTrainedModel, groups: Sequence[Group], config: RunConfig, layout: Layout
) -> list[torch.Tensor]:
    """Return `group_logps` of the untrained model, from the run's cache where that holds them for these very inputs."""
    ids = [list(group.tree) for group in groups]
    facts = [modeling.fingerprint(config.model), str(layout.device.dtype), hashlib.sha256(canonical(ids)).hexdigest()]
    key = hashlib.sha256(canonical(facts)).hexdigest()
    path = run_dir / "reference.safetensors"
    sizes = [len(group.tree.completions) for group in groups]
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if file.metadata() == {"key": key}:
                return list(torch.split(file.get_tensor("logps"), sizes))
    logps = layout.repeat(partial(group_logps, model, groups, layout))
    aside = path.with_suffix(".partial")
    save_file({"logps": torch.cat(logps)}, aside, metadata={"key": key})
    aside.replace(path)
    return logps


def check_first_loss(loss: float, device: Device) -> None:
    """Refuse to train when the first loss is not ln 2: then the policy and the reference are not the same model.

    In bfloat16 the two forwards have batches of other shapes and round differently; the tolerance allows for that.
    """
    if abs(loss - math.log(2)) > (0.05 if device.dtype is torch.bfloat16 else 1e-4):
        raise RuntimeError(
            f"The first DPO loss is {loss:.4f}, not ln 2 = 0.6931: the policy does not start as its reference."
        )


def judge(
    model: PreTrainedModel,
    groups: Sequence[Group],
    reference: Sequence[torch.Tensor],
    options: DpoOptions,
    layout: Layout,
) -> dict[str, float]:
    """Return the figures of `pair_loss` on held-out groups, under `held_out_…`."""
    logps = torch.cat(layout.repeat(partial(group_logps, model, groups, layout)))
    pairs = pair_tensors(groups, sum(group.weight for group in groups), torch.device("cpu"))
    _, figures = pair_loss(logps, torch.cat(list(reference)), pairs.members, pairs.weights, options.beta)
    return {f"held_out_{key}": value for key, value in figures.items()}
