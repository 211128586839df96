"""What each round of a project came to: rankings and ties, reward model, win rate, distance, and the gate's word.

A round is a pipeline that froze a snapshot. Its figures are read from what its stages left behind; nothing is stored
twice. Ties are counted on tasks that no reward model has moved ahead: those would be closer than the rest by design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import column, func, or_, select, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.models import ModelVersion, Pipeline, PipelineStage, Ranking, Run, Snapshot, Task, TaskScore
from app.services.labeling import standing
from app.services.training import saturation
from app.services.training.saturation import Measured, Saturation
from app.services.training.stages import base


@dataclass(frozen=True)
class RoundFigures:
    """One round. `judged_by` says who the win rate is by: people (blind), or the reward model. Figures may be None."""

    pipeline_id: UUID
    number: int
    name: str
    state: str
    rankings: int
    new_rankings: int
    measured: Measured
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    candidate: str | None
    incumbent: str | None
    judged_by: str
    reward_win_rate: float | None
    passed: bool | None
    promoted: bool
    unmet: tuple[str, ...]
    opened: int | None


@dataclass(frozen=True)
class Rounds:
    """A project's rounds, the oldest first, and whether they still teach."""

    rounds: tuple[RoundFigures, ...]
    saturation: Saturation


def of_project(session: Session, project_id: UUID) -> Rounds:
    """Return the figures of every round that has frozen a snapshot, and what they say together."""
    found: list[RoundFigures] = []
    before: Pipeline | None = None
    total = 0
    for pipeline in session.scalars(
        select(Pipeline).where(Pipeline.project_id == project_id).order_by(Pipeline.number)
    ).all():
        figures = _of(session, pipeline, before, total)
        if figures is None:
            continue
        found.append(figures)
        before, total = pipeline, figures.rankings
    ended = [row.measured for row in found if row.state == "succeeded" and row.candidate is not None]
    return Rounds(tuple(found), saturation.judge(ended))


def _of(session: Session, pipeline: Pipeline, before: Pipeline | None, earlier_rankings: int) -> RoundFigures | None:
    stages = {stage.kind: stage for stage in base.current(session, pipeline.id) if stage.state == "succeeded"}
    if "snapshot" not in stages:
        return None
    snapshot = session.get_one(Snapshot, UUID(stages["snapshot"].detail["snapshot_id"]))
    rankings = sum(snapshot.manifest["splits"]["comparisons"].values())
    pairs, tied = _pairs(session, pipeline, stages["snapshot"].finished_at, before.created_at if before else None)
    reward, exam = _summary(session, stages.get("reward")), _summary(session, stages.get("evaluate"))
    policies = exam.get("policies", {})
    incumbent = _name(session, stages["evaluate"].detail.get("baseline_id")) if "evaluate" in stages else None
    candidate = next((name for name in policies if name != incumbent), None)
    judged = policies.get(candidate, {})
    blind = stages["blind"].detail if "blind" in stages else {}
    by_people = blind.get("win_rate") is not None
    interval = (blind.get("low"), blind.get("high")) if by_people else judged.get("win_rate_interval") or (None, None)
    gate = stages["gate"].detail if "gate" in stages else {}
    accuracy = exam.get("held_out_accuracy", reward.get("held_out_accuracy"))
    bounds = exam.get("held_out_accuracy_interval", reward.get("held_out_accuracy_interval"))
    return RoundFigures(
        pipeline.id,
        pipeline.number,
        pipeline.name,
        pipeline.state,
        rankings,
        rankings - earlier_rankings,
        Measured(
            pipeline.number,
            pairs,
            tied / pairs if pairs else None,
            reward.get("held_out_margin"),
            blind["win_rate"] if by_people else judged.get("win_rate"),
            interval[0],
            interval[1],
            judged.get("kl"),
        ),
        accuracy,
        (bounds[0], bounds[1]) if bounds else None,
        candidate,
        incumbent,
        "people, blind" if by_people else "reward model" if "win_rate" in judged else "",
        judged.get("win_rate"),
        gate.get("passed"),
        bool(gate.get("promoted")),
        _sentences(gate.get("unmet")),
        stages["tasks"].detail.get("opened") if "tasks" in stages else None,
    )


def _pairs(session: Session, pipeline: Pipeline, until: datetime | None, since: datetime | None) -> tuple[int, int]:
    """Return how many pairs the labelers have ordered or tied since the round before, and how many of them they tied.

    Inside a tie group of n answers n (n - 1) / 2 pairs are tied. Answers that were left unranked are no pairs here.
    """
    group = func.jsonb_array_elements(Ranking.groups).table_valued(column("value", JSONB))
    size = func.jsonb_array_length(group.c.value)
    query = (
        select(func.sum(size).label("ranked"), func.sum(size * (size - 1) / 2).label("tied"))
        .select_from(Ranking)
        .join(Task, Task.id == Ranking.task_id)
        .outerjoin(TaskScore, TaskScore.task_id == Task.id)
        .join(group, true())
        .where(
            Ranking.project_id == pipeline.project_id,
            Ranking.origin == "task",
            Ranking.created_at <= until,
            or_(TaskScore.task_id.is_(None), TaskScore.picked == "random"),
            *standing.rankings(),
        )
        .group_by(Ranking.id)
    )
    if since is not None:
        query = query.where(Ranking.created_at > since)
    each = query.subquery()
    ranked, tied = session.execute(
        select(
            func.coalesce(func.sum(each.c.ranked * (each.c.ranked - 1) / 2), 0),
            func.coalesce(func.sum(each.c.tied), 0),
        )
    ).one()
    return int(ranked), int(tied)


def _summary(session: Session, stage: PipelineStage | None) -> dict[str, Any]:
    if stage is None or stage.run_id is None:
        return {}
    summary: dict[str, Any] = (session.get_one(Run, stage.run_id).report or {}).get("summary", {})
    return summary


def _name(session: Session, model_id: str | None) -> str | None:
    return session.get_one(ModelVersion, UUID(model_id)).name if model_id else None


def _sentences(unmet: dict[str, list[str]] | Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(unmet, dict):
        return tuple(sentence for sentences in unmet.values() for sentence in sentences)
    return tuple(unmet or ())
