"""Whole rounds with the real trainer on a tiny model: nothing is made up but the labelers' answers."""

from __future__ import annotations

from threading import Event
from typing import Any
from uuid import UUID

import pytest
from run_builders import rank
from sqlalchemy import select
from supervision import World

from app.db import transaction
from app.models import Completion, ModelVersion, Pipeline, PipelineStage, Run, Task
from app.services.training import pipelines, recipes, weekly
from app.services.training.weekly import Choices
from app.worker import rounds
from app.worker.supervise import supervise

QUICK: dict[str, Any] = {"settings": {"max_length": 128, "precision": "float32"}}
OPTIM = {"batch_size": 2, "max_steps": 2, "epochs": 1.0, "learning_rate": 1e-3}
SAMPLING = {"max_new_tokens": 8, "temperature": 1.0}


def start(world: World, recipe: dict[str, Any]) -> UUID:
    with transaction() as session:
        return pipelines.create(session, world.project, world.admin, recipes.read(recipe), name="Test").id


def carry_through(pipeline_id: UUID) -> Pipeline:
    """Tick and supervise until the round has ended, as beat and the one GPU worker do."""
    while True:
        rounds.look()
        with transaction() as session:
            pipeline = pipelines.get(session, pipeline_id)
            queued = session.scalar(select(Run.id).where(Run.state == "queued"))
        if pipeline.state != "running":
            return pipeline
        assert queued is not None
        supervise(queued, "test-worker", Event())


def stages(pipeline_id: UUID) -> dict[str, PipelineStage]:
    with transaction() as session:
        return {stage.name: stage for stage in pipelines.stages_of(session, pipeline_id)}


def test_a_round_trains_samples_and_opens_tasks(world: World) -> None:
    pipeline_id = start(
        world,
        {
            "stages": [
                {"name": "data", "kind": "snapshot"},
                {"name": "sft", "kind": "sft", "snapshot": "data", "options": {"optim": OPTIM}, **QUICK},
                {"name": "answers", "kind": "sample", "model": "stage:sft", "options": {"sampling": SAMPLING}, **QUICK},
                {"name": "tasks", "kind": "tasks", "sample": "answers", "priority": 3},
            ]
        },
    )
    assert carry_through(pipeline_id).state == "succeeded"
    found = stages(pipeline_id)
    with transaction() as session:
        opened = session.scalars(select(Task).where(Task.sampling_run_id == found["answers"].run_id)).all()
        by_model = session.scalars(select(Completion.model_version_id).where(Completion.run_id.is_not(None))).unique()
    assert {(task.state, task.priority) for task in opened} == {("open", 3)}
    assert len(opened) == found["tasks"].detail["opened"] > 0
    assert {str(item) for item in by_model} == {found["sft"].detail["model_id"]}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_weekly_rounds_in_a_row(world: World) -> None:
    """Snapshot, SFT, reward model, DPO, PPO, evaluation, gate, sampling, tasks; new rankings; and all of it again."""
    recipe = weekly.recipe(Choices(methods="both", sft=True, min_win_rate=0.0, max_kl=1000.0, promote="automatically"))
    for stage in recipe["stages"]:
        if stage["kind"] in ("sft", "reward", "dpo", "ppo"):
            stage["options"]["optim"] = OPTIM
        if stage["kind"] in ("evaluate", "sample", "ppo"):
            stage["options"] = {**stage.get("options", {}), "sampling": SAMPLING}
        if stage["kind"] == "ppo":
            stage["options"]["iterations"] = 1
        if stage["kind"] in ("sft", "reward", "dpo", "ppo", "evaluate", "sample"):
            stage["settings"] = {**stage.get("settings", {}), **QUICK["settings"]}
    first = start(world, recipe)
    ended = carry_through(first)
    assert (ended.state, ended.reason) == ("succeeded", None)
    with transaction() as session:
        for task in session.scalars(select(Task).where(Task.sampling_run_id.is_not(None))).all():
            rank(session, task, world.admin, [[1], [0]])
    second = start(world, recipe)
    ended = carry_through(second)
    assert (ended.state, ended.reason) == ("succeeded", None)
    with transaction() as session:
        promoted = session.scalars(select(ModelVersion).where(ModelVersion.state == "promoted")).one()
    before, after = stages(first), stages(second)
    assert promoted.name in ("dpo-2", "ppo-2")
    assert after["gate"].detail["promoted"]
    assert after["snapshot"].detail != before["snapshot"].detail
