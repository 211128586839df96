"""Scoring open tasks with a reward model: how sure it is of each, so that labelers are asked first where it is not.

    python -m trainer score --run DIR

Reads data/comparisons.jsonl, whose rankings may be empty: nobody has judged these answers yet. `run.model` is the final
folder of a reward run. Writes scores.jsonl, a line a task. A run that was stopped starts again and says the same.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import torch
from torch.nn.functional import softplus

from trainer import chat_template, checkpoint, data, report, reward_model
from trainer.config import ConfigError, RunConfig
from trainer.device import setup
from trainer.jsonl import write_jsonl
from trainer.metrics import MetricsFile
from trainer.modeling import check_length
from trainer.records import EXIT_DONE, EXIT_STOPPED, Score, read_comparisons
from trainer.stop import StopSignal

TOKENS_PER_FORWARD = 4096
TASKS_A_STEP = 32


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Score, and return the exit code."""
    # 1. The tasks, and the model that judges them.
    tasks = read_comparisons(run_dir / "data" / "comparisons.jsonl")
    if not tasks:
        raise ConfigError("data/comparisons.jsonl holds no task to score; open ranking tasks first.")
    device = setup(config)
    model = reward_model.load_reward(config.model, device.dtype, device.device)
    check_length(model.classifier, config.model, config.max_length)
    template = chat_template.facts(config.model, model.tokenizer)
    truncation = data.Truncation()
    trees = [model.encode(row.messages, row.completions, config.max_length, truncation, row.ended) for row in tasks]
    layout = model.choose_layout(TOKENS_PER_FORWARD, device)

    # 2. What each head says of each answer, in the units of the loss: a difference of 1 is odds of e to 1.
    checkpoint.cut_metrics(run_dir, 0)
    scores: list[Score] = []
    with MetricsFile(run_dir) as metrics:
        for first in range(0, len(tasks), TASKS_A_STEP):
            if stop.requested:
                return EXIT_STOPPED
            found = reward_model.score_all(model, trees[first : first + TASKS_A_STEP], layout)
            for task, values in zip(tasks[first : first + TASKS_A_STEP], found, strict=True):
                scores.append(describe(task.id, model.ranking(values).cpu()))
            metrics.write(len(scores), total_steps=len(tasks), peak_memory_mb=device.peak_memory_mb())

    # 3. Scores, report.
    write_jsonl(run_dir / "scores.jsonl", list(scores))
    heads = model.size
    report.write(
        run_dir,
        config,
        {
            "headline": f"{len(scores)} tasks scored by {heads} head{'' if heads == 1 else 's'}.",
            "tasks": len(scores),
            "heads": heads,
            "truncated_prompts": truncation.prompts,
            "truncated_completions": truncation.completions,
            "mean_information": fmean(row.information for row in scores),
            "mean_spread": fmean(row.spread for row in scores),
            "mean_margin": fmean(row.margin for row in scores),
            **template,
        },
    )
    return EXIT_DONE


def describe(task_id: str, scores: torch.Tensor) -> Score:
    """Return what raw scores (K, E) of a task's answers by each head say about asking for it."""
    first, second = torch.triu_indices(len(scores), len(scores), offset=1)
    differences = (scores[first] - scores[second]).double()  # (pairs, E)
    return Score(
        task_id,
        tuple(scores.double().mean(dim=1).tolist()),
        float(information(differences).mean()),
        float(differences.std(dim=1, correction=0).mean()),
        float(differences.mean(dim=1).abs().mean()),
    )


def information(differences: torch.Tensor) -> torch.Tensor:
    """Return for each pair how much its answer would tell which head is right, in nats: (P, E) differences → (P,).

    The entropy of what the heads say together, less the mean entropy of what each says (BALD, Houlsby et al. 2011,
    equation 2). Zero where all heads agree, be it on a toss-up: nothing is learned from the labeler's noise.
    """
    probability = differences.sigmoid()
    together = probability.mean(dim=-1)
    apart = entropy(differences).mean(dim=-1)
    whole = -torch.xlogy(together, together) - torch.xlogy(1 - together, 1 - together)
    return (whole - apart).clamp(min=0)


def entropy(differences: torch.Tensor) -> torch.Tensor:
    """Return the entropy in nats of a choice whose log-odds are `differences`, elementwise."""
    return softplus(differences) - differences * differences.sigmoid()
