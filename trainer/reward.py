"""The reward model, from rankings: every completion is encoded once, and all pairs of a prompt form one batch element.

    python -m trainer reward --run DIR

Reads data/comparisons.jsonl; trains on the train split, judges on the held-out split, and leaves in final/ a sequence
classifier for plain transformers with reward.json beside it (InstructGPT, 3.5).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch

from trainer import checkpoint, data, modeling, optim, report, reward_model
from trainer.agreement import hits, length_only
from trainer.config import ConfigError, RewardOptions, RunConfig
from trainer.device import setup
from trainer.intervals import ratio_interval
from trainer.layout import Layout
from trainer.losses import pairwise_reward_loss
from trainer.rankings import Group, group_comparisons, pair_tensors
from trainer.records import EXIT_DONE, EXIT_STOPPED, MetricsFile, read_comparisons, read_demonstrations
from trainer.reward_model import RewardModel
from trainer.stop import StopSignal
from trainer.tree import Tree

NORMALISER_ANSWERS = 64  # the standard error of a mean over as many is an eighth of the scores' spread


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("RewardOptions", config.options)

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

    # 2. The model, and where an earlier attempt left it.
    model = reward_model.new_reward_model(config, device, tokenizer)
    layout = model.choose_layout(options.optim.tokens_per_forward, device)
    optimizer = optim.build(model.parameters(), options.optim)
    done, counters = checkpoint.resume(run_dir, {"reward": model}, {"reward": optimizer})
    layout.resume(counters)

    # 3. Train.
    steps = data.plan(len(train), options.optim, config.seed)
    each = data.steps_per_epoch(len(train), options.optim)
    with MetricsFile(run_dir) as metrics:
        for step, items in enumerate(steps[done:], start=done + 1):
            started = time.perf_counter()
            totals, tokens = layout.repeat(partial(backward, model, [train[i] for i in items], layout), optimizer)
            rate, norm = optim.update(optimizer, totals["loss"], options.optim, step, len(steps))

            # 4. Tell, watch, save.
            watched: dict[str, float] = {}
            if held_out and step % each == 0 and step < len(steps):  # the last epoch's is in the report
                watched = judge(held_out, score_trees(model, [group.tree for group in held_out], layout))
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
                checkpoint.save(run_dir, step, {"reward": model}, {"reward": optimizer}, layout.counters())
            if stop.requested:
                return EXIT_STOPPED

    # 5. Merge, judge and normalise: what is judged is what will be saved. The loss and the margin are of raw scores, as
    #    in training; the order of answers is the same before and after.
    model.merge(device.dtype)
    summary: dict[str, object] = {
        "headline": f"A reward model from {len(train)} prompts, with no held-out rankings to judge it by.",
        "train_prompts": len(train),
        "train_pairs": sum(len(group.pairs) for group in train),
        "held_out_prompts": len(held_out),
        "held_out_pairs": sum(len(group.pairs) for group in held_out),
    }
    if held_out:
        scores = score_trees(model, [group.tree for group in held_out], layout)
        low, high = ratio_interval(*hits(held_out, scores), seed=config.seed)
        summary |= judge(held_out, scores)
        summary |= {"held_out_accuracy_interval": [low, high], "length_only_accuracy": length_only(train, held_out)}
        summary["headline"] = (
            f"On {summary['held_out_pairs']} held-out pairs the reward model agrees with the labelers in "
            f"{summary['held_out_accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}); "
            f"judging by length alone agrees in {summary['length_only_accuracy']:.1%}."
        )
    demonstrations = run_dir / "data" / "demonstrations.jsonl"
    references = [
        data.encode(tokenizer, row.messages, [row.completion], config.max_length, truncation)
        for row in (read_demonstrations(demonstrations) if demonstrations.exists() else [])
        if row.split == "train"
    ]
    answers = [Tree(group.tree.prompt, [answer]) for group in train for answer in group.tree.completions]
    normalise(model, references, answers, layout)
    summary |= {
        "normalised_on": "demonstrations" if references else "training answers",
        "raw_mean": float(model.mean),
        "raw_std": float(model.std),
        "truncated_prompts": truncation.prompts,
        "truncated_completions": truncation.completions,
    }

    # 6. Save and report.
    checkpoint.write_final(run_dir, lambda folder: reward_model.save_reward(model, folder, config.max_length))
    report.write(run_dir, config, summary)
    return EXIT_DONE


def backward(model: RewardModel, groups: list[Group], layout: Layout) -> tuple[dict[str, float], int]:
    """Add the gradients of one step and return its figures and the tokens forwarded."""
    step_weight = sum(group.weight for group in groups)
    totals = dict.fromkeys(("loss", "accuracy", "margin"), 0.0)
    tokens = 0
    for part, batch in layout.batches([group.tree for group in groups]):
        with layout.device.autocast():
            scores = model(batch)
        pairs = pair_tensors([groups[i] for i in part], step_weight, scores.device)
        loss = pairwise_reward_loss(scores, pairs.members, pairs.weights)
        torch.autograd.backward(loss)
        better, worse = scores.detach()[pairs.members].unbind(dim=1)
        totals["loss"] += loss.item()
        totals["accuracy"] += (pairs.weights * (better > worse)).sum().item()
        totals["margin"] += (pairs.weights * (better - worse)).sum().item()
        tokens += batch.tokens
    return totals, tokens


def score_trees(model: RewardModel, trees: Sequence[Tree], layout: Layout) -> list[torch.Tensor]:
    """Return the scores (K,) of each tree's completions."""
    return layout.repeat(partial(reward_model.score, model, trees, layout))


def normalise(model: RewardModel, references: Sequence[Tree], answers: Sequence[Tree], layout: Layout) -> None:
    """Set the model's mean and std, so that reference answers score 0 on average (InstructGPT, 3.5).

    The mean is that of `references`, the labelers' demonstrations, or of `answers`, the training completions, where
    there are none. The std is that of `answers`: demonstrations are alike, and what PPO will score are samples.
    At most `NORMALISER_ANSWERS` of either, evenly spread, are scored.
    """

    def raw(trees: Sequence[Tree]) -> torch.Tensor:
        stride = -(-len(trees) // NORMALISER_ANSWERS)
        return torch.cat(score_trees(model, trees[::stride], layout))

    of_answers = raw(answers)
    mean = raw(references).mean() if references else of_answers.mean()
    model.mean.copy_(mean)
    model.std.copy_(of_answers.std(correction=0).clamp_min(1e-6))


def judge(groups: Sequence[Group], scores: Sequence[torch.Tensor]) -> dict[str, float]:
    """Return the held-out figures: loss as in training, share of pairs ranked right, mean score difference of pairs."""
    pairs = pair_tensors(groups, sum(group.weight for group in groups), torch.device("cpu"))
    flat = torch.cat(list(scores))
    better, worse = flat[pairs.members].unbind(dim=1)
    right, counted = hits(groups, scores)
    return {
        "held_out_loss": pairwise_reward_loss(flat, pairs.members, pairs.weights).item(),
        "held_out_accuracy": sum(right) / sum(counted),
        "held_out_margin": (pairs.weights * (better - worse)).sum().item(),
    }
