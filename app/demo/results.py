"""What a demo found out: the figures of its table, gathered from the runs' own files, and the rule of promotion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from app.demo.judge import Interval, win_rate
from app.demo.preference import agreement, score
from trainer.records import Comparison, Prompt, Sample, read_comparisons, read_prompts, read_samples

PROMOTION_RULE = (
    "The policy whose win rate over the base model has the highest lower bound (95 % interval, simulated preference, "
    "held-out prompts) is promoted."
)


@dataclass(frozen=True)
class PolicyFigures:
    """One policy on the held-out prompts. Win rates are over the base model, which has none itself."""

    name: str
    by_simulated: Interval | None
    by_reward_model: Interval | None
    simulated_score: float
    reward: float
    kl: float
    tokens: float
    ended: float


@dataclass(frozen=True)
class RewardFigures:
    """How often the reward model ranks held-out pairs as the labelers did."""

    accuracy: Interval
    length_only: float
    pairs: int


@dataclass(frozen=True)
class Example:
    """A held-out question with the first answer of the base model and of the promoted policy."""

    question: str
    base: str
    promoted: str


@dataclass(frozen=True)
class Result:
    """All that the table and the report tell."""

    project: str
    seed: int
    train_prompts: int
    held_out_prompts: int
    rankings: int
    demonstrations: int
    agreement: float
    reward: RewardFigures
    policies: tuple[PolicyFigures, ...]
    promoted: str
    is_better: bool
    examples: tuple[Example, ...]


def reward_figures(report: Mapping[str, Any]) -> RewardFigures:
    """Return the figures of a reward run's report."""
    summary = report["summary"]
    accuracy = Interval(summary["held_out_accuracy"], *summary["held_out_accuracy_interval"])
    return RewardFigures(accuracy, summary["length_only_accuracy"], summary["held_out_pairs"])


def policy_figures(report: Mapping[str, Any], run_dir: Path, baseline: str, seed: int) -> tuple[PolicyFigures, ...]:
    """Return the figures of an evaluation: the reward model's from its report, the simulated ones from its answers."""
    questions = _questions(read_prompts(run_dir / "data" / "prompts.jsonl"))
    answers = _answers(read_samples(run_dir / "samples.jsonl"))
    rows = []
    for name, figures in report["summary"]["policies"].items():
        ours = answers[name]
        rows.append(
            PolicyFigures(
                name,
                None if name == baseline else win_rate(questions, ours, answers[baseline], seed),
                Interval(figures["win_rate"], *figures["win_rate_interval"]) if "win_rate" in figures else None,
                fmean(score(questions[key], text) for key, texts in ours.items() for text in texts),
                figures["reward"],
                figures["kl"],
                figures["tokens"],
                figures["ended"],
            )
        )
    return tuple(rows)


def choose(policies: Sequence[PolicyFigures]) -> tuple[str, bool]:
    """Return the policy to promote by `PROMOTION_RULE`, and whether its lower bound shows it better than the base."""
    judged = {row.name: row.by_simulated for row in policies if row.by_simulated is not None}
    name = max(judged, key=lambda name: (judged[name].low, judged[name].value))
    return name, judged[name].low > 0.5


def examples(run_dir: Path, baseline: str, promoted: str, count: int = 3) -> tuple[Example, ...]:
    """Return the first answers to the first held-out prompts: chosen by their place, not by how they turned out."""
    questions = _questions(read_prompts(run_dir / "data" / "prompts.jsonl"))
    answers = _answers(read_samples(run_dir / "samples.jsonl"))
    return tuple(
        Example(questions[key], answers[baseline][key][0], answers[promoted][key][0])
        for key in list(answers[baseline])[:count]
    )


def mean_agreement(comparisons_file: Path) -> float:
    """Return the mean agreement of every two labelers over the prompts that both ranked."""
    by_labeler: dict[str, dict[tuple[object, ...], Comparison]] = {}
    for row in read_comparisons(comparisons_file):
        by_labeler.setdefault(row.labeler, {})[(row.messages, row.completions)] = row
    shares = []
    for one, other in combinations(sorted(by_labeler), 2):
        shared = [key for key in by_labeler[one] if key in by_labeler[other]]
        shares.append(agreement([(by_labeler[one][key].ranking, by_labeler[other][key].ranking) for key in shared]))
    return fmean(shares)


def _questions(prompts: Sequence[Prompt]) -> dict[str, str]:
    return {prompt.id: prompt.messages[-1].content for prompt in prompts}


def _answers(samples: Sequence[Sample]) -> dict[str, dict[str, list[str]]]:
    answers: dict[str, dict[str, list[str]]] = {}
    for sample in samples:
        answers.setdefault(sample.policy, {}).setdefault(sample.prompt_id, []).append(sample.text.strip())
    return answers
