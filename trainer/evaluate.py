"""Judging policies on the same prompts: reward, distance from the reference, win rate, and what the answers are like.

    python -m trainer evaluate --run DIR

Reads data/prompts.jsonl (the chosen split), and if they are there data/comparisons.jsonl (for the accuracy and the
calibration of the reward model) and the regression set. `run.model` is baseline and reference at once. Of the policies
one is in memory at a time. A run that was stopped starts again and, with the same seed, says the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedModel

from trainer import (
    agreement,
    checkpoint,
    data,
    diversity,
    frontier,
    losses,
    modeling,
    refusals,
    regression,
    report,
    reward_model,
    rollout,
)
from trainer.config import ConfigError, EvaluateOptions, PolicyRef, RunConfig, weights_of
from trainer.device import Device, setup
from trainer.intervals import ratio_interval
from trainer.jsonl import write_jsonl
from trainer.layout import Layout
from trainer.metrics import MetricsFile
from trainer.rankings import group_comparisons
from trainer.records import EXIT_DONE, EXIT_STOPPED, Prompt, Sample, read_comparisons, read_prompts
from trainer.stop import StopSignal
from trainer.tree import Tree

TOKENS_PER_FORWARD = 4096
FEWEST_POLICIES = 3


class Judged(NamedTuple):
    """The answers of one policy, K to each of B prompts, all K of a prompt together. Lists are of length B * K."""

    trees: list[Tree]  # one answer each
    answers: list[rollout.Answer]
    texts: list[str]
    logps: list[torch.Tensor]  # of each answer's tokens, by the policy itself
    same_tokens: bool  # as the baseline's; otherwise there is no KL between them
    unlearned: Mapping[str, Any] = MappingProxyType({})  # figures on the regression set


def run(run_dir: Path, config: RunConfig, stop: StopSignal) -> int:
    """Judge, and return the exit code."""
    options = cast("EvaluateOptions", config.options)

    # 1. The prompts, before anything slow.
    prompts = [row for row in read_prompts(run_dir / "data" / "prompts.jsonl") if row.split == options.split]
    if not prompts:
        raise ConfigError(
            f"data/prompts.jsonl has no prompt in the {options.split} split; there is nothing to judge on."
        )
    given = regression.load(run_dir, options.regression)
    device = setup(config)
    policies = [PolicyRef(options.baseline, config.model), *options.policies]
    vocabulary = modeling.load_tokenizer(config.model).get_vocab()
    judge, gold_judge = (
        reward_model.load_reward(name, device.dtype, device.device, mix) if name else None
        for name, mix in ((options.reward_model, weights_of(options.reward_mix)), (options.gold_model, {}))
    )

    for model, name in ((judge, options.reward_model), (gold_judge, options.gold_model)):
        if model is not None and name is not None:
            modeling.check_length(model.classifier, name, config.max_length)

    # 2. Each policy answers, and says how likely it found its own answers.
    checkpoint.cut_metrics(run_dir, 0)
    total = len(policies) * len(prompts) * options.samples_per_prompt
    judged: dict[str, Judged] = {}
    with MetricsFile(run_dir) as metrics:
        for number, policy in enumerate(policies, start=1):
            if stop.requested:
                return EXIT_STOPPED
            started = time.perf_counter()
            found = answer_prompts(policy.model, vocabulary, prompts, config, device, given)
            judged[policy.name] = found
            tokens = sum(len(answer.ids) for answer in found.answers)
            metrics.write(
                number * total // len(policies),
                total_steps=total,
                policy=policy.name,
                tokens=tokens,
                tokens_per_second=round(tokens / (time.perf_counter() - started), 1),
                peak_memory_mb=device.peak_memory_mb(),
            )

    # 3. The reference's view of all answers, then the reward model's.
    kls = kl_to_reference(judged, config, device)
    asked = [prompt for prompt in prompts for _ in range(options.samples_per_prompt)]
    messages = [prompt.messages for prompt in asked]
    rewards: dict[str, list[float]] = {}
    golds: dict[str, list[float]] = {}
    doubts: dict[str, list[float]] = {}
    for name, found in judged.items():
        if stop.requested:
            return EXIT_STOPPED
        for model, scores in ((judge, rewards), (gold_judge, golds)):
            if model is not None:
                ended = [answer.finish_reason != "length" for answer in found.answers]
                by_heads = model.reward(
                    reward_model.scores_of_texts(model, messages, found.texts, config.max_length, ended)
                )
                scores[name] = by_heads.mean(dim=1).tolist()
                if model is judge and model.size > 1:
                    doubts[name] = by_heads.std(dim=1, correction=0).tolist()

    # 4. Figures, samples, report.
    figures = {name: describe(name, judged, kls, rewards, golds, options, config.seed) for name in judged}
    write_jsonl(
        run_dir / "samples.jsonl", sample_lines(asked, judged, kls, rewards, doubts, options.samples_per_prompt)
    )
    summary: dict[str, Any] = {"headline": headline(figures, options), "prompts": len(prompts), "policies": figures}
    summary |= over_distance(figures)
    if judge is not None and (run_dir / "data" / "comparisons.jsonl").exists():
        summary |= judge_accuracy(judge, run_dir, config)
    report.write(run_dir, config, summary)
    return EXIT_DONE


def answer_prompts(
    model: str,
    vocabulary: dict[str, int],
    prompts: Sequence[Prompt],
    config: RunConfig,
    device: Device,
    given: regression.RegressionSet | None,
) -> Judged:
    """Load a policy, sample K answers to every prompt, measure their log-probabilities, and hold it against `given`."""
    options = cast("EvaluateOptions", config.options)
    each = options.samples_per_prompt
    tokenizer = modeling.load_tokenizer(model)
    encoded = rollout.encode_prompts(tokenizer, prompts, options.sampling, config.max_length)
    policy = modeling.load_policy(model, device.dtype, device.device)
    # The noise is the same for every policy: what differs between their answers is the policies.
    noise = rollout.noise(
        config.seed, [f"{p.id}/{i}" for p in prompts for i in range(each)], options.sampling.max_new_tokens
    )
    ids = [prompt for prompt in encoded for _ in range(each)]
    answers = rollout.sample(policy, ids, options.sampling, rollout.end_ids(policy, tokenizer), noise)
    trees = [Tree(prompt, [answer.ids]) for prompt, answer in zip(ids, answers, strict=True)]
    logps = answer_logps(policy, trees, options.sampling.temperature, device)
    texts = [rollout.text_of(tokenizer, answer) for answer in answers]
    unlearned = regression.measure(policy, tokenizer, given, config.max_length, device, config.seed) if given else {}
    return Judged(trees, answers, texts, logps, tokenizer.get_vocab() == vocabulary, unlearned)


@torch.no_grad()
def answer_logps(
    policy: PreTrainedModel, trees: Sequence[Tree], temperature: float, device: Device
) -> list[torch.Tensor]:
    """Return the log-probability of each token of each answer, at the sampling temperature (greedy: at 1)."""
    logps = [torch.empty(0)] * len(trees)
    for part, batch in Layout("rows", TOKENS_PER_FORWARD, device).batches(trees):
        values = modeling.completion_logps(policy, batch, temperature or 1.0).cpu()
        for index, row in zip(part, torch.split(values, [len(trees[i].completions[0]) for i in part]), strict=True):
            logps[index] = row
    return logps


def kl_to_reference(
    judged: dict[str, Judged], config: RunConfig, device: Device
) -> dict[str, list[tuple[float, float]] | None]:
    """Return for each policy the (k1, k3) estimates of the KL to the baseline, in nats, summed over each answer.

    The baseline's are 0. A policy with another vocabulary has none: there the KL is not defined.
    """
    options = cast("EvaluateOptions", config.options)
    kls: dict[str, list[tuple[float, float]] | None] = dict.fromkeys(judged)
    kls[options.baseline] = [(0.0, 0.0)] * len(judged[options.baseline].answers)
    comparable = [name for name, found in judged.items() if found.same_tokens and name != options.baseline]
    if comparable:
        reference = modeling.load_policy(config.model, device.dtype, device.device)
        for name in comparable:
            found = judged[name]
            theirs = answer_logps(reference, found.trees, options.sampling.temperature, device)
            kls[name] = [
                (float(losses.kl_k1(own, other).sum()), float(losses.kl_k3(own, other).sum()))
                for own, other in zip(found.logps, theirs, strict=True)
            ]
    return kls


def wins(policy: Sequence[float], baseline: Sequence[float], each: int) -> list[float]:
    """Return for each prompt the share of (policy answer, baseline answer) pairs that the policy wins; ties are half.

    Both lists hold K = `each` rewards a prompt, the prompts in the same order.
    """
    shares = []
    for start in range(0, len(policy), each):
        pairs = [(a, b) for a in policy[start : start + each] for b in baseline[start : start + each]]
        shares.append(sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs))
    return shares


def describe(
    name: str,
    judged: dict[str, Judged],
    kls: dict[str, list[tuple[float, float]] | None],
    rewards: dict[str, list[float]],
    golds: dict[str, list[float]],
    options: EvaluateOptions,
    seed: int,
) -> dict[str, Any]:
    """Return the figures of one policy; intervals are 95 %, by bootstrap over prompts."""
    answers, each, kl = judged[name].answers, options.samples_per_prompt, kls[name]
    count = len(answers)
    figures: dict[str, Any] = {}
    for prefix, scores in (("", rewards), ("gold_", golds)):
        if name not in scores:
            continue
        mean = f"{prefix}reward" if not prefix else "gold"
        sums = [sum(scores[name][start : start + each]) for start in range(0, count, each)]
        figures[mean] = sum(sums) / count
        figures[f"{mean}_interval"] = list(ratio_interval(sums, [each] * len(sums), seed))
        if name != options.baseline:
            won = wins(scores[name], scores[options.baseline], each)
            figures[f"{prefix}win_rate"] = sum(won) / len(won)
            figures[f"{prefix}win_rate_interval"] = list(ratio_interval(won, [1.0] * len(won), seed))
    figures["kl"] = sum(k1 for k1, _ in kl) / count if kl is not None else None
    figures["kl_k3"] = sum(k3 for _, k3 in kl) / count if kl is not None else None
    figures["tokens"] = sum(len(answer.ids) for answer in answers) / count
    figures["ended"] = sum(answer.finish_reason == "stop" for answer in answers) / count
    texts = describe_texts(judged[name].texts, judged[options.baseline].texts, each)
    return {**figures, **texts, **judged[name].unlearned}


def describe_texts(texts: Sequence[str], baseline: Sequence[str], each: int) -> dict[str, Any]:
    """Return what the answers' texts say by themselves: length against the baseline's, variety, refusals, abuse."""
    refused, abusive = refusals.shares(texts)
    figures: dict[str, Any] = {
        "length_ratio": sum(map(len, texts)) / max(1, sum(map(len, baseline))),
        "refusals": refused,
        "abusive_words": abusive,
    }
    found = {
        "distinct_1": diversity.distinct(texts, 1),
        "distinct_2": diversity.distinct(texts, 2),
        "self_bleu": diversity.self_bleu([texts[start : start + each] for start in range(0, len(texts), each)]),
    }
    return figures | {key: value for key, value in found.items() if value is not None}


def over_distance(figures: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the line of reward over sqrt(KL) through the policies, and who pleases the reward model but not gold.

    Three policies at different distances are the least for a line. A policy is over-optimised when the reward model
    sees it win over the baseline and the gold judge sees it lose, each with an interval that leaves one half.
    """
    rows = [row for row in figures.values() if row.get("kl") is not None and row.get("reward") is not None]
    found: dict[str, Any] = {}
    line = frontier.fit_line(frontier.points(rows), FEWEST_POLICIES)
    if line is not None:
        found["reward_by_sqrt_kl"] = {"linear": line._asdict()}
    if any("gold_win_rate" in row for row in figures.values()):
        gamed = [
            name
            for name, row in figures.items()
            if "gold_win_rate" in row and row["win_rate_interval"][0] > 0.5 and row["gold_win_rate_interval"][1] < 0.5
        ]
        found["over_optimised"] = ", ".join(gamed) or "none"
    return found


def sample_lines(
    asked: Sequence[Prompt],
    judged: dict[str, Judged],
    kls: dict[str, list[tuple[float, float]] | None],
    rewards: dict[str, list[float]],
    doubts: dict[str, list[float]],
    each: int,
) -> list[Sample]:
    """Return every answer with what was measured of it, policy after policy."""
    lines = []
    for name, found in judged.items():
        kl, reward, doubt = kls[name], rewards.get(name), doubts.get(name)
        for n, (prompt, answer, text) in enumerate(zip(asked, found.answers, found.texts, strict=True)):
            lines.append(
                Sample(
                    name,
                    prompt.id,
                    n % each,
                    text,
                    len(answer.ids),
                    answer.finish_reason,
                    reward[n] if reward is not None else None,
                    kl[n][0] if kl is not None else None,
                    doubt[n] if doubt is not None else None,
                )
            )
    return lines


def judge_accuracy(judge: reward_model.RewardModel, run_dir: Path, config: RunConfig) -> dict[str, Any]:
    """Return how often the reward model ranks held-out pairs as the labelers did, and how often length alone does."""
    comparisons = read_comparisons(run_dir / "data" / "comparisons.jsonl")
    train, held_out = (
        group_comparisons(
            judge.tokenizer,
            [row for row in comparisons if row.split == split],
            config.max_length,
            data.Truncation(),
            cut_mark=judge.cut_mark,
        )
        for split in ("train", "held_out")
    )
    if not held_out:
        return {}
    rows = Layout("rows", TOKENS_PER_FORWARD, Device(judge.mean.device, torch.float32))
    scores = reward_model.score_all(judge, [group.tree for group in held_out], rows)
    found = agreement.hits(held_out, [judge.reward(values).mean(dim=1) for values in scores])
    # Probabilities are of the ranking's scores as its loss saw them, without the scale for training policies.
    as_trained = [judge.ranking(values).mean(dim=1) for values in scores]
    return {
        "held_out_pairs": sum(len(group.pairs) for group in held_out),
        "held_out_accuracy": found.rate,
        "held_out_accuracy_interval": list(ratio_interval(*found, seed=config.seed)),
        "calibration_error": agreement.calibration_error(held_out, as_trained),
        "length_only_accuracy": agreement.length_only(train or held_out, held_out),
        "agreement_by_probability": {row.words: row._asdict() for row in agreement.reliability(held_out, as_trained)},
    }


def headline(figures: dict[str, dict[str, Any]], options: EvaluateOptions) -> str:
    """Return the sentence a person reads first: the best win rate with its interval, good or bad."""
    judged = {name: row for name, row in figures.items() if "win_rate" in row}
    if not judged:
        return f"{len(figures)} policies answered; nothing says which is better without a reward model."
    name, row = max(judged.items(), key=lambda item: item[1]["win_rate"])
    low, high = row["win_rate_interval"]
    verdict = "better than" if low > 0.5 else "worse than" if high < 0.5 else "not told apart from"
    return (
        f"By the reward model {name} is {verdict} {options.baseline}: it wins {row['win_rate']:.0%} of comparisons "
        f"(95 % interval {low:.0%} to {high:.0%})."
    )
