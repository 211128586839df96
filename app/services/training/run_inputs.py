"""What a run may be made of: an input that does not fit is refused before the run has a row, in one sentence.

Models and snapshots are of the run's own project, of the kind that the method wants, and hold something to learn from;
the GPUs are no more than the method can use; the configuration is one that the database can keep.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import ModelVersion, Project, Run, Snapshot
from app.services.training import registry
from trainer.config import SPLITTABLE, RunConfig

METHOD_NAMES = {
    "sft": "SFT",
    "reward": "Reward model",
    "dpo": "DPO",
    "kto": "KTO",
    "ppo": "PPO",
    "rloo": "RLOO",
    "evaluate": "Evaluation",
    "sample": "Sampling",
    "score": "Order of the queue",
}
"""Every method that a run can have, as people call it."""

LEARNS_FROM = {
    "sft": "demonstrations",
    "reward": "comparisons",
    "dpo": "comparisons",
    "kto": "acceptable",
    "ppo": "prompts",
    "rloo": "prompts",
}
"""By method, which part of a snapshot has to hold something in the training split."""


def require_same_project(project: Project, thing: ModelVersion | Snapshot) -> None:
    """Raise `NotFoundError` for what belongs to another project, as if it were not there."""
    if thing.project_id != project.id:
        raise NotFoundError("This project has no such model or snapshot.")


def require_policy(project: Project, model: ModelVersion) -> None:
    """Refuse a model that is no policy of the project, or whose files are gone."""
    require_same_project(project, model)
    if model.kind != "policy":
        raise InvalidInputError(f"{model.name} is a reward model; choose a policy here.")
    registry.check_present(model)


def require_reward_model(project: Project, model: ModelVersion) -> None:
    """Refuse a model that is no reward model of the project, or whose files are gone."""
    require_same_project(project, model)
    if model.kind != "reward":
        raise InvalidInputError(f"{model.name} is not a reward model; choose one, or train one first.")
    registry.check_present(model)


def require_data(method: str, snapshot: Snapshot) -> None:
    """Refuse a snapshot whose training split holds nothing that the method learns from."""
    part = LEARNS_FROM[method]
    if snapshot.manifest["splits"].get(part, {}).get("train"):
        return
    if part == "acceptable":
        raise InvalidInputError(
            f"In the training split of snapshot {snapshot.number} no ranking says which answers are acceptable, and "
            f"{METHOD_NAMES[method]} learns from that line alone; collect rankings with the line and freeze a new "
            "snapshot."
        )
    raise InvalidInputError(
        f"Snapshot {snapshot.number} has no {part} in the training split, and {method} learns "
        "from those; collect some and freeze a new snapshot."
    )


def require_splittable(method: str, gpus: int) -> None:
    """Refuse more devices than the method can use: N copies of one training are no training on N devices."""
    if gpus < 1:
        raise InvalidInputError("A run asks for at least one GPU.")
    if gpus > 1 and method not in SPLITTABLE:
        raise InvalidInputError(
            f"{METHOD_NAMES[method]} runs on one GPU; only {', '.join(SPLITTABLE)} can share its work among several."
        )


def require_shareable(config: RunConfig, gpus: int) -> None:
    """Refuse a model that is to be spread over the GPUs of a run which asks for one."""
    if config.shard and gpus == 1:
        raise InvalidInputError(
            "optim.shard spreads a model over the GPUs of a run, and this run asks for one; ask for more, or set "
            "optim.shard to false."
        )


def require_storable(config: dict[str, Any]) -> None:
    """Refuse the two things that Python's JSON allows and Postgres' does not."""
    try:
        text = json.dumps(config, allow_nan=False)
    except ValueError:
        raise InvalidInputError("Every number in the configuration must be finite.") from None
    if "\\u0000" in text:
        raise InvalidInputError("The configuration must not hold a NUL character.")


def length_of(session: Session, reward_model: ModelVersion) -> int:
    """Return the length up to which a reward model was trained to read."""
    trained = session.get(Run, reward_model.run_id) if reward_model.run_id else None
    return int(trained.config["max_length"]) if trained else RunConfig.max_length
