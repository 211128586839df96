"""What the report of a reward model says of its held-out rankings: how far to trust the accuracy, and whose it is.

Scores are normalised, (K, L) of the K completions of a group, as `reward_model.score_all` returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch

from trainer import agreement
from trainer.intervals import ratio_interval
from trainer.rankings import Group
from trainer.reward_model import RewardModel


def describe(
    model: RewardModel,
    train: Sequence[Group],
    held_out: Sequence[Group],
    scores: Sequence[torch.Tensor],
    strangers: AbstractSet[str],
    seed: int,
) -> dict[str, object]:
    """Return what a person needs to judge the accuracy by: interval, calibration, baselines, by labeler and length.

    With criteria there is the accuracy on each, too, and with several heads how far they disagree.
    """
    by_ranking = [model.ranking(values) for values in scores]
    means = [values.mean(dim=1) for values in by_ranking]
    found: dict[str, object] = {
        "held_out_accuracy_interval": list(ratio_interval(*agreement.hits(held_out, means), seed=seed)),
        "calibration_error": agreement.calibration_error(held_out, means),
        "length_only_accuracy": agreement.length_only(train, held_out),
    }
    people = agreement.between_labelers(held_out)
    if people is not None:
        found |= {"labelers_agree": people.rate, "labelers_agree_interval": list(ratio_interval(*people, seed=seed))}
    if strangers:
        kinds = agreement.by_acquaintance(held_out, means, strangers)
        found["accuracy_on_labelers"] = {name: hits.figures(seed) for name, hits in kinds.items()}
    by_labeler = agreement.by_labeler(held_out, means)
    by_length = agreement.by_length(held_out, means)
    found["accuracy_by_labeler"] = {name: hits.figures(seed) for name, hits in by_labeler.items()}
    found["accuracy_by_preferred_answer"] = {name: hits.figures(seed) for name, hits in by_length.items()}
    on_criteria = by_criterion(model, held_out, scores)
    if on_criteria:
        found["accuracy_by_criterion"] = {name: hits.figures(seed) for name, hits in on_criteria.items()}
    if model.size > 1:
        found["held_out_uncertainty"] = torch.cat(by_ranking).std(dim=1).mean().item()
    return found


def by_criterion(
    model: RewardModel, groups: Sequence[Group], scores: Sequence[torch.Tensor]
) -> dict[str, agreement.Hits]:
    """Return how far each criterion's heads agree with what labelers said by it, where they told answers apart."""
    found = {}
    for place, name in enumerate(model.names[1:], start=1):
        seen = [group.judged_on(name) for group in groups]
        own = [values[:, place * model.size : (place + 1) * model.size].mean(dim=1) for values in scores]
        hits = agreement.hits(seen, own)
        if hits.counted:
            found[name] = hits
    return found


def headline(summary: Mapping[str, Any]) -> str:
    """Return the report's first sentence: the accuracy beside what needs no model, and beside what people reach."""
    low, high = summary["held_out_accuracy_interval"]
    return (
        f"On {summary['held_out_pairs']} held-out pairs the reward model agrees with the labelers in "
        f"{summary['held_out_accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}); "
        f"judging by length alone agrees in {summary['length_only_accuracy']:.1%}"
        + (
            f", two labelers with one another in {summary['labelers_agree']:.1%}."
            if "labelers_agree" in summary
            else "."
        )
    )
