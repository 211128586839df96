"""The usual recipes: what an admin chooses in plain words, written out as stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.services.training import run_options

LORA_RANK = 16
NOT_BLIND = "Nobody would measure this: let labelers judge the candidate blind, or leave it empty."


class Choices(BaseModel):
    """What a weekly round does; the defaults are a weekly DPO through the project's gate.

    With `blind` labelers judge every candidate against the policy in use, `blind_overlap` of them each prompt, before
    the gate. Without it `min_blind_win_rate` is refused: nothing would measure what it asks for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: Literal["dpo", "ppo", "both"] = "dpo"
    sft: bool = False
    start: Literal["newest_sft", "in_use", "base"] = "newest_sft"
    min_reward_accuracy: float | None = Field(default=None, ge=0, le=1)
    blind: bool = False
    blind_overlap: int = Field(default=1, ge=1, le=16)
    min_win_rate: float | None = Field(default=None, ge=0, le=1)
    min_blind_win_rate: float | None = Field(default=None, ge=0, le=1)
    max_kl: float | None = Field(default=None, ge=0)
    promote: Literal["as_project", "by_hand", "automatically"] = "as_project"
    prompts: Literal["all", "unsampled", "train", "held_out", "none"] = "all"
    priority: int = Field(default=10, ge=-1000, le=1000)

    @model_validator(mode="after")
    def _is_measured(self) -> Self:
        if self.min_blind_win_rate is not None and not self.blind:
            raise ValueError(NOT_BLIND)
        return self


def recipe(chosen: Choices) -> dict[str, Any]:
    """Return the recipe of these choices, as `recipes.read` takes it."""
    start = "stage:sft" if chosen.sft else chosen.start
    policies = ["dpo", "ppo"] if chosen.methods == "both" else [chosen.methods]
    stages: list[dict[str, Any]] = [{"name": "snapshot", "kind": "snapshot"}]
    if chosen.sft:
        stages.append(_training("sft", "base"))
    stages.append(_training("reward", start))
    if "dpo" in policies:
        stages.append(_training("dpo", start))
    if "ppo" in policies:
        stages.append(_training("ppo", start, reward_model="stage:reward"))
    candidates = [f"stage:{name}" for name in policies]
    stages += [
        {
            "name": "evaluation",
            "kind": "evaluate",
            "snapshot": "snapshot",
            "policies": candidates,
            "reward_model": "stage:reward",
        },
        *_blind(chosen, policies),
        {
            "name": "gate",
            "kind": "gate",
            "evaluation": "evaluation",
            # Of several candidates the gate finds the other verdicts by their policies, which are new in this round.
            **({"blind": f"blind-{policies[0]}"} if chosen.blind else {}),
            "candidates": candidates,
            **chosen.model_dump(
                include={"min_reward_accuracy", "min_win_rate", "min_blind_win_rate", "max_kl", "promote"},
                exclude_none=True,
            ),
        },
    ]
    if chosen.prompts != "none":
        stages += [
            {"name": "answers", "kind": "sample", "model": "stage:gate", "prompts": chosen.prompts},
            {"name": "queue", "kind": "order", "reward_model": "stage:reward"},
            {"name": "tasks", "kind": "tasks", "sample": "answers", "priority": chosen.priority},
        ]
    return {"stages": stages}


def _blind(chosen: Choices, policies: Sequence[str]) -> list[dict[str, Any]]:
    """Return a stage for each candidate that labelers judge, one after the other."""
    return [
        {
            "name": f"blind-{name}",
            "kind": "blind",
            "evaluation": "evaluation",
            "candidate": f"stage:{name}",
            "overlap": chosen.blind_overlap,
        }
        for name in policies
        if chosen.blind
    ]


def _training(method: str, model: str, **more: Any) -> dict[str, Any]:
    """Return a training stage with the same first values as the form of a single run."""
    options: dict[str, Any] = {}
    first = run_options.FIRST.get(method, {})
    for field in run_options.fields_of(method):
        if field.name in first and field.path[0] == "options":
            place = options
            for key in field.path[1:-1]:
                place = place.setdefault(key, {})
            place[field.path[-1]] = field.value(first[field.name])
    return {
        "name": method,
        "kind": method,
        "snapshot": "snapshot",
        "model": model,
        "options": options,
        "settings": {"lora": {"rank": LORA_RANK, "alpha": 2.0 * LORA_RANK}},
        **more,
    }
