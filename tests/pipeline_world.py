"""A project whose pipelines run without a trainer: runs are ended by hand, as their supervisor would end them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from run_builders import fake_model_folder, fill_project, make_model, make_project, make_user
from sqlalchemy import select

from app.db import transaction
from app.models import ModelVersion, Pipeline, PipelineStage, Project, Run, User
from app.services.labeling import queue_order, tasks
from app.services.training import pipelines, recipes, registry, run_states
from app.worker import rounds
from trainer.records import Sample, Score

FULL: dict[str, Any] = {
    "stages": [
        {"name": "data", "kind": "snapshot"},
        {"name": "start", "kind": "sft", "snapshot": "data"},
        {"name": "judge", "kind": "reward", "snapshot": "data", "model": "stage:start"},
        {"name": "policy", "kind": "dpo", "snapshot": "data", "model": "stage:start"},
        {
            "name": "exam",
            "kind": "evaluate",
            "snapshot": "data",
            "policies": ["stage:policy"],
            "reward_model": "stage:judge",
        },
        {
            "name": "gate",
            "kind": "gate",
            "evaluation": "exam",
            "candidates": ["stage:policy"],
            "min_win_rate": 0.5,
            "max_kl": 10,
            "promote": "automatically",
        },
        {"name": "answers", "kind": "sample", "model": "stage:gate"},
        {"name": "tasks", "kind": "tasks", "sample": "answers", "priority": 5},
    ]
}
SHORT: dict[str, Any] = {"stages": FULL["stages"][:2]}
JUDGED: dict[str, Any] = {
    "stages": [
        {"name": "data", "kind": "snapshot"},
        {"name": "judge", "kind": "reward", "snapshot": "data", "model": "base"},
        {"name": "policy", "kind": "dpo", "snapshot": "data", "model": "base"},
        {
            "name": "exam",
            "kind": "evaluate",
            "snapshot": "data",
            "policies": ["stage:policy"],
            "reward_model": "stage:judge",
        },
        {
            "name": "gate",
            "kind": "gate",
            "evaluation": "exam",
            "candidates": ["stage:policy"],
            "min_win_rate": 0.5,
            "promote": "automatically",
        },
    ]
}


def seldom() -> str:
    """A rule of the calendar that names no time near now, for tests that set a due time by hand and want no other."""
    far = datetime.now(UTC) + timedelta(days=180)
    return f"0 2 {far.day} {far.month} *"


@dataclass(frozen=True)
class Loop:
    """A project with answers and a base model, and what a supervisor would do for its runs."""

    project: Project
    admin: User
    model: ModelVersion
    folder: Path

    def begin(self, recipe: dict[str, Any], name: str = "By hand", **more: Any) -> UUID:
        with transaction() as session:
            checked = recipes.read(recipe)
            return pipelines.create(session, self.project, self.admin, checked, name=name, **more).id

    def end_run(self, pipeline_id: UUID, summary: dict[str, Any] | None = None, failure: str = "") -> UUID:
        """Let the run that a pipeline waits for end, well or with a reason, and carry the pipeline on."""
        with transaction() as session:
            run_id = next(s.run_id for s in pipelines.stages_of(session, pipeline_id) if s.state == "running")
            assert run_id is not None
            lease = run_states.claim(session, run_id, "test", 60)
            assert lease is not None
            run = session.get_one(Run, run_id, populate_existing=True)
            if failure:
                run_states.fail(session, lease, failure, 2)
            else:
                run_states.finish(session, lease, {"summary": summary or {}})
                self._leave(session, run)
        rounds.look()
        return run_id

    def _leave(self, session: Any, run: Run) -> None:
        if run.method == "sample":
            assert run.parent_model_id is not None
            rows = [
                Sample("policy", prompt, index, f"Answer {index} of {run.id}.", 4, "stop")
                for prompt in run.inputs["prompts"]
                for index in range(2)
            ]
            tasks.add_sampled(session, run, rows, run.parent_model_id)
        elif run.method == "score":
            queue_order.apply(session, run, [Score(task, (0.0,), 0.0, 0.0, 1.0) for task in run.inputs["tasks"]])
        elif run.method in registry.KINDS:
            uri = fake_model_folder(self.folder / str(run.id))
            registry.add_trained(session, run, uri=uri, manifest_sha256="", metrics={})
            # Its files are made up, so that nothing asks for their hashes.
            model = session.scalars(select(ModelVersion).where(ModelVersion.run_id == run.id)).one()
            model.manifest_sha256 = None


def make_loop(folder: Path) -> Loop:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        model = make_model(session, project, admin, fake_model_folder(folder / "base"))
        fill_project(session, project, [admin], [f"Is it {n}?" for n in range(10)])
        return Loop(project, admin, model, folder)


def stages(pipeline_id: UUID) -> list[PipelineStage]:
    with transaction() as session:
        return pipelines.stages_of(session, pipeline_id)


def states(pipeline_id: UUID) -> list[str]:
    return [stage.state for stage in stages(pipeline_id)]


def pipeline(pipeline_id: UUID) -> Pipeline:
    with transaction() as session:
        return pipelines.get(session, pipeline_id)


def by_name(pipeline_id: UUID) -> dict[str, PipelineStage]:
    return {stage.name: stage for stage in stages(pipeline_id)}


def play_round(loop: Loop, win_rate: float) -> UUID:
    """A whole round of `JUDGED` whose new policy wins so often, give or take a tenth."""
    pipeline_id = loop.begin(JUDGED)
    rounds.look()
    loop.end_run(pipeline_id, {"held_out_accuracy": 0.7, "held_out_margin": 0.9})
    loop.end_run(pipeline_id)
    with transaction() as session:
        exam = session.get_one(Run, by_name(pipeline_id)["exam"].run_id)
        candidate, baseline = exam.config["options"]["policies"][0]["name"], exam.config["options"]["baseline"]
    figures = {"win_rate": win_rate, "win_rate_interval": [win_rate - 0.1, win_rate + 0.1], "kl": 3.0}
    summary = {
        "held_out_accuracy": 0.75,
        "held_out_accuracy_interval": [0.7, 0.8],
        "policies": {baseline: {}, candidate: figures},
    }
    loop.end_run(pipeline_id, summary)
    return pipeline_id
