"""The reward model, from rankings: every completion is encoded once, and all pairs of a prompt form one batch element.

    python -m trainer reward --run DIR

Reads data/comparisons.jsonl; trains on the train split, judges on the held-out split, and leaves in final/ a sequence
classifier for plain transformers with reward.json beside it (InstructGPT, 3.5). With `options.criteria` it learns from
the labelers' answers about single completions too, and with `options.models` several whole models side by side.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np
import torch

from trainer import (
    agreement,
    chat_template,
    checkpoint,
    data,
    model_card,
    modeling,
    optim,
    report,
    reward_figures,
    reward_model,
)
from trainer.config import RANKING, ConfigError, RewardOptions, RunConfig, weights_of
from trainer.device import setup
from trainer.layout import Layout
from trainer.losses import davidson_loss, pairwise_reward_loss, plackett_luce_loss
from trainer.rankings import Group, choice_tensors, deal_labelers, pair_tensors
from trainer.records import EXIT_DONE, EXIT_STOPPED, read_demonstrations, scan_comparisons
from trainer.reward_model import RewardModel
from trainer.stop import StopSignal
from trainer.stored import Index, StoredGroups
from trainer.tree import Tree

NORMALISER_ANSWERS = 64  # the standard error of a mean over as many is an eighth of the scores' spread


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Train, and return the exit code."""
    options = cast("RewardOptions", config.options)

    # 1. The data, before anything slow. Rankings of the same answers by several labelers become one group, which is
    #    read from the file when a step needs it.
    path = run_dir / "data" / "comparisons.jsonl"
    strangers = unseen_labelers(path, options)
    criteria = tuple(weights_of(options.criteria))
    learned = Index(
        path,
        lambda row: row.split == "train" and row.labeler not in strangers,
        ties=options.loss == "davidson",
        criteria=criteria,
    )
    learned.check_pairs()
    device = setup(config)
    team = device.team
    tokenizer = modeling.load_tokenizer(config.model)
    template = chat_template.facts(config.model, tokenizer)
    truncation = data.Truncation()
    judged = Index(path, lambda row: row.split == "held_out", criteria=criteria)
    train, held_out = (
        StoredGroups(index, tokenizer, config.max_length, truncation, reward_model.CUT_MARK)
        for index in (learned, judged)
    )
    check_criteria(train, path, options)
    judged_by = held_out if judged.has_pairs else []

    # 2. The model, and where an earlier attempt left it.
    model = reward_model.new_reward_model(config, device, tokenizer)
    layout = model.choose_layout(options.optim.tokens_per_forward, device)
    work = model.prepare_training(options.optim, device)
    optimizers = {
        f"reward_{number}": optim.build(model.parameters_of(number), options.optim, model.head(number).parameters())
        for number in range(options.models)
    }
    done, counters = checkpoint.resume(run_dir, {"reward": model}, optimizers, team)
    layout.resume(counters, run_dir)

    # 3. Train. Member n takes the steps that it would take alone, in a run with the seed of n more.
    plans = [data.plan(len(train), options.optim, config.seed + number) for number in range(options.models)]
    last = len(plans[0])
    each = data.steps_per_epoch(len(train), options.optim)
    with team.metrics(run_dir) as metrics:
        for step in range(done + 1, last + 1):
            started = time.perf_counter()
            tokens, rate = 0, 0.0
            totals: dict[str, list[float]] = defaultdict(list)
            for number, optimizer in enumerate(optimizers.values()):
                items = plans[number][step - 1]
                copies = bootstrap(items, options.heads, config.seed + number).to(device.device)
                groups = [train[i] for i in items]
                found, read = layout.step(partial(backward, model, groups, copies, options, layout, number), optimizer)
                if step == 1:
                    optim.check_gradients(model.members[number])
                rate, found["grad_norm"] = optim.update(optimizer, found["loss"], options.optim, step, last)
                tokens += read
                for key, value in found.items():
                    totals[key].append(value)

            # 4. Tell, watch, save.
            watched: dict[str, float] = {}
            if judged_by and step % each == 0 and step < last:  # the last epoch's is in the report
                watched = judge(model, judged_by, score_groups(model, judged_by, layout), options)
            metrics.write(
                step,
                total_steps=last,
                epoch=step / each,
                **{key: fmean(values) for key, values in totals.items()},
                **watched,
                learning_rate=rate,
                tokens=tokens,
                **device.speed(tokens, layout.take_load(), work, time.perf_counter() - started),
            )
            stops = team.any(stop.requested)
            if stops or step % config.checkpoint_steps == 0 or step == last:
                checkpoint.save(run_dir, step, {"reward": model}, optimizers, layout.counters(), team)
            if stops:
                return EXIT_STOPPED

    # 5. Merge, judge and normalise: what is judged is what will be saved. The loss and the margin are of raw scores, as
    #    in training; the order of answers is the same before and after.
    model.merge(device.dtype)
    summary: dict[str, object] = {
        "headline": f"A reward model from {len(train)} prompts, with no held-out rankings to judge it by.",
        "train_prompts": len(train),
        "train_pairs": learned.count_pairs(),
        "held_out_prompts": len(held_out),
        "held_out_pairs": judged.count_pairs(),
        "rankings_without_preference": learned.skipped + judged.skipped,
    }
    if judged_by:
        scores = score_groups(model, held_out, layout)
        summary |= judge(model, held_out, scores, options)
        summary |= reward_figures.describe(model, train, held_out, scores, strangers, config.seed)
        summary["headline"] = reward_figures.headline(summary)
    demonstrations = run_dir / "data" / "demonstrations.jsonl"
    references = [
        data.encode(tokenizer, row.messages, [row.completion], config.max_length, truncation)
        for row in (read_demonstrations(demonstrations) if demonstrations.exists() else [])
        if row.split == "train"
    ]
    some = train[:: -(-len(train) // NORMALISER_ANSWERS)]
    answers = [Tree(group.tree.prompt, [answer]) for group in some for answer in group.tree.completions]
    normalise(model, references, answers, layout)
    summary |= {
        "normalised_on": "demonstrations" if references else "training answers",
        "raw_mean": model.mean.mean().item(),
        "raw_std": model.std.mean().item(),
        **template,
        "truncated_prompts": truncation.prompts,
        "truncated_completions": truncation.completions,
    }

    # 6. Save and report.
    model = reward_model.assemble(model, config, device)
    if not team.leads:
        return EXIT_DONE
    checkpoint.write_final(
        run_dir,
        lambda folder: reward_model.save_reward(model, folder, config.max_length),
        model_card.text(run_dir, config, summary),
    )
    report.write(run_dir, config, summary)
    return EXIT_DONE


def unseen_labelers(path: Path, options: RewardOptions) -> set[str]:
    """Return the labelers from whom nothing is learned."""
    if options.labeler_folds == 0:
        return set()
    folds = deal_labelers((row for _, row in scan_comparisons(path)), options.labeler_folds)
    if len(folds) < options.labeler_folds:
        raise ConfigError(
            f"options.labeler_folds is {options.labeler_folds}, but the comparisons are of {len(folds)} labelers only."
        )
    return {labeler for labeler, fold in folds.items() if fold == options.held_out_fold}


def check_criteria(train: Sequence[Group], path: Path, options: RewardOptions) -> None:
    """Refuse a criterion by which nothing in the train split is told apart, and say which ones there are."""
    for name in weights_of(options.criteria):
        if not any(group.judged_on(name).pairs for group in train):
            judged = sorted({key for _, row in scan_comparisons(path) for answers in row.judgements for key in answers})
            raise ConfigError(
                f"options.criteria names {name}, by which no ranking of the train split tells two answers apart; "
                f"labelers judged by {', '.join(judged) or 'no criterion at all'}."
            )


def bootstrap(numbers: Sequence[int], heads: int, seed: int) -> torch.Tensor:
    """Return (B, E) how often each head sees each prompt: once if there is one head, else as a Poisson draw of mean 1.

    So every head learns from another sample of the prompts, the same ones however the run is batched or resumed.
    """
    if heads == 1:
        return torch.ones(len(numbers), 1)
    draws = [[np.random.default_rng((seed, head, number)).poisson() for head in range(heads)] for number in numbers]
    return torch.tensor(draws, dtype=torch.float32)


def ranking_loss(
    scores: torch.Tensor,
    groups: Sequence[Group],
    copies: torch.Tensor,
    step_weight: float,
    options: RewardOptions,
    log_nu: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Return the mean over heads of the loss that `options` asks for, of scores (N, E) and copies (B, E).

    `log_nu` has Davidson's nu of each head, if that is the loss.
    """
    each = list(zip(scores.unbind(dim=1), copies.unbind(dim=1), strict=True))
    if options.loss == "plackett_luce":
        choices = choice_tensors(groups, step_weight, scores.device)
        losses = [
            plackett_luce_loss(column, choices.chosen, choices.contenders, choices.weights * seen[choices.owners])
            for column, seen in each
        ]
    elif options.loss == "davidson":
        pairs = pair_tensors(groups, step_weight, scores.device, ties=True)
        losses = [
            davidson_loss(column, pairs.members, pairs.tied, pairs.weights * seen[pairs.owners], nu)
            for (column, seen), nu in zip(each, log_nu, strict=True)
        ]
    else:
        pairs = pair_tensors(groups, step_weight, scores.device)
        margins = options.margin * pairs.strengths
        losses = [
            pairwise_reward_loss(column, pairs.members, pairs.weights * seen[pairs.owners], margins)
            for column, seen in each
        ]
    return torch.stack(losses).mean()


def step_loss(
    scores: torch.Tensor,
    groups: Sequence[Group],
    copies: torch.Tensor,
    step_weight: float,
    options: RewardOptions,
    log_nu: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Return the loss of the ranking and those of the criteria, weighted, of scores (N, 1 + C, E).

    A criterion's is that of its pairs. A prompt that nobody judged by it, or whose answers all got the same, adds
    nothing: the others weigh what they would weigh beside it.
    """
    loss = ranking_loss(scores[:, 0], groups, copies, step_weight, options, log_nu)
    pairs_alone = replace(options, loss="pairs", margin=0.0)
    for place, (name, weight) in enumerate(weights_of(options.criteria).items(), start=1):
        seen = [group.judged_on(name) for group in groups]
        loss = loss + weight * ranking_loss(scores[:, place], seen, copies, step_weight, pairs_alone, [])
    return loss


def backward(
    model: RewardModel,
    groups: list[Group],
    copies: torch.Tensor,
    options: RewardOptions,
    layout: Layout,
    member: int = 0,
) -> tuple[dict[str, float], int]:
    """Add the gradients of one step of a member and return its figures and the tokens forwarded."""
    step_weight = sum(group.weight for group in groups)
    views = {name: [group.judged_on(name) for group in groups] for name in model.names[1:]}
    pair_weights = {
        name: sum(group.weight for group in seen if group.pairs) for name, seen in {RANKING: groups, **views}.items()
    }
    log_nu = [] if model.log_nu is None else [model.log_nu[member]] * options.heads
    told = [name for name in views if pair_weights[name]]  # what the step's answers were judged by
    totals = dict.fromkeys(
        ["loss", *(["accuracy", "margin"] if pair_weights[RANKING] else []), *(f"accuracy_on_{name}" for name in told)],
        0.0,
    )
    tokens = 0
    for part, batch in layout.batches([group.tree for group in groups]):
        with layout.device.autocast():
            scores = model.by_name(model(batch, member))
        here = [groups[i] for i in part]
        loss = step_loss(scores, here, copies[part], step_weight, options, log_nu)
        for key, value in figures(scores[:, 0].detach().mean(dim=1), here, pair_weights[RANKING]).items():
            totals[key] += value
        for name in told:
            column = scores[:, model.names.index(name)].detach().mean(dim=1)
            found = figures(column, [views[name][i] for i in part], pair_weights[name])
            totals[f"accuracy_on_{name}"] += found["accuracy"]
        torch.autograd.backward(loss)
        totals["loss"] += loss.item()
        tokens += batch.tokens
    return totals, tokens


def figures(scores: torch.Tensor, groups: Sequence[Group], step_weight: float) -> dict[str, float]:
    """Return the share of pairs ranked right and the mean difference of pairs, of scores (N,) on all their groups."""
    if step_weight == 0:  # a step of answers that no ranking tells apart, only criteria
        return {}
    pairs = pair_tensors(groups, step_weight, scores.device)
    better, worse = scores[pairs.members].unbind(dim=1)
    return {
        "accuracy": (pairs.weights * (better > worse)).sum().item(),
        "margin": (pairs.weights * (better - worse)).sum().item(),
    }


def score_groups(model: RewardModel, groups: Sequence[Group], layout: Layout) -> list[torch.Tensor]:
    """Return the scores (K, L) of each group's completions."""
    return layout.repeat(partial(reward_model.score_all, model, [group.tree for group in groups], layout))


def normalise(model: RewardModel, references: Sequence[Tree], answers: Sequence[Tree], layout: Layout) -> None:
    """Set the model's mean and std, so that reference answers score 0 on average (InstructGPT, 3.5).

    The mean is that of `references`, the labelers' demonstrations, or of `answers`, the training completions, where
    there are none. The std is that of `answers`: demonstrations are alike, and what PPO will score are samples.
    At most `NORMALISER_ANSWERS` of either, evenly spread, are scored.
    """

    def raw(trees: Sequence[Tree]) -> torch.Tensor:
        some = trees[:: -(-len(trees) // NORMALISER_ANSWERS)]
        return torch.cat(layout.repeat(partial(reward_model.score_all, model, some, layout)))

    of_answers = raw(answers)
    mean = raw(references).mean(dim=0) if references else of_answers.mean(dim=0)
    model.mean.copy_(mean)
    model.std.copy_(of_answers.std(dim=0, correction=0).clamp_min(1e-6))


def judge(
    model: RewardModel, groups: Sequence[Group], scores: Sequence[torch.Tensor], options: RewardOptions
) -> dict[str, float]:
    """Return the held-out figures of scores (K, L): loss as in training, share of pairs ranked right, mean margin."""
    by_ranking = [model.ranking(values) for values in scores]
    flat = model.by_name(torch.cat(list(scores)).to(model.mean.device) * model.std)
    step_weight = sum(group.weight for group in groups)
    everything = torch.ones(len(groups), model.size, device=flat.device)
    log_nu = [] if model.log_nu is None else [nu for nu in model.log_nu for _ in range(options.heads)]
    with torch.no_grad():
        loss = step_loss(flat, groups, everything, step_weight, options, log_nu)
    found = figures(flat[:, 0].mean(dim=1), groups, step_weight)
    rate = agreement.hits(groups, [values.mean(dim=1) for values in by_ranking]).rate
    on_criteria = reward_figures.by_criterion(model, groups, scores)
    return {
        "held_out_loss": loss.item(),
        "held_out_accuracy": rate,
        "held_out_margin": found["margin"],
        **{f"held_out_accuracy_on_{name}": hits.rate for name, hits in on_criteria.items()},
    }
