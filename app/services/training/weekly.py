"""The usual recipes: what an admin chooses in plain words, written out as stages."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.services.training import run_options

LORA_RANK = 16


class Choices(BaseModel):
    """What a weekly round does; the defaults are a weekly DPO through the project's gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: Literal["dpo", "ppo", "both"] = "dpo"
    sft: bool = False
    start: Literal["newest_sft", "in_use", "base"] = "newest_sft"
    min_reward_accuracy: float | None = Field(default=None, ge=0, le=1)
    min_win_rate: float | None = Field(default=None, ge=0, le=1)
    max_kl: float | None = Field(default=None, ge=0)
    promote: Literal["as_project", "by_hand", "automatically"] = "as_project"
    prompts: Literal["all", "unsampled", "held_out", "none"] = "all"
    priority: int = Field(default=10, ge=-1000, le=1000)


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
        {
            "name": "gate",
            "kind": "gate",
            "evaluation": "evaluation",
            "candidates": candidates,
            **chosen.model_dump(
                include={"min_reward_accuracy", "min_win_rate", "max_kl", "promote"}, exclude_none=True
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
