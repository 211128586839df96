"""What each round of a project came to: rankings and ties, reward model, win rate, distance, and the gate's word.

A round is a pipeline that froze a snapshot. Its figures are read from what its stages left behind; nothing is stored
twice. Ties are counted on tasks that no reward model has moved ahead: those would be closer than the rest by design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, column, exists, func, or_, select, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.models import (
    BlindEvaluation,
    Completion,
    GateVerdict,
    ModelVersion,
    Pipeline,
    PipelineStage,
    Ranking,
    Run,
    Snapshot,
    Task,
    TaskCompletion,
    TaskScore,
)
from app.services.evaluation import gate
from app.services.evaluation.gate import Check
from app.services.labeling import standing
from app.services.training import saturation
from app.services.training.saturation import Measured, Saturation
from app.services.training.stages import base


@dataclass(frozen=True)
class Source:
    """Who wrote answers that labelers ranked: the policy, None for a person, and its temperature where it is known."""

    policy: str | None
    temperature: float | None
    answers: int


@dataclass(frozen=True)
class RoundFigures:
    """One round. `judged_by` says who the win rate is by: people (blind), or the reward model. Figures may be None.

    `sources` wrote the answers in the rankings that are new since the round before, whoever wrote most first. `judged`
    of `to_judge` prompts were judged blind before it was decided; `checks` are the gate's.
    """

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
    sources: tuple[Source, ...] = ()
    judged: int | None = None
    to_judge: int | None = None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Rounds:
    """A project's rounds, the oldest first, and whether they still teach."""

    rounds: tuple[RoundFigures, ...]
    saturation: Saturation


RECENT = 8
"""Rounds that the guard looks at beside the first: the newest ones."""


def of_project(session: Session, project_id: UUID) -> Rounds:
    """Return the figures of every round that has frozen a snapshot, and what they say together."""
    found: list[RoundFigures] = []
    before: Pipeline | None = None
    total = 0
    for pipeline in _frozen(session, project_id):
        found.append(_of(session, pipeline, before, total))
        before, total = pipeline, found[-1].rankings
    return Rounds(tuple(found), _judged([row for row in found if row.state == "succeeded"]))


def guard(session: Session, project_id: UUID) -> Saturation:
    """Return whether a project's rounds still teach, as `of_project` does, at a cost that does not grow with them."""
    frozen = _frozen(session, project_id)
    ended = [place for place, pipeline in enumerate(frozen) if pipeline.state == "succeeded"]
    found = [
        _of(session, frozen[place], frozen[place - 1] if place else None, 0)
        for place in sorted({*ended[:1], *ended[-RECENT:]})
    ]
    return _judged(found)


def _judged(ended: Sequence[RoundFigures]) -> Saturation:
    """Return what the first and the newest of the rounds that have ended say."""
    told = [*ended[:1], *ended[1:][-RECENT:]]
    return saturation.judge([row.measured for row in told if row.candidate is not None])


def _frozen(session: Session, project_id: UUID) -> Sequence[Pipeline]:
    """Return the rounds that have frozen a snapshot, the oldest first."""
    snapshot = exists().where(
        PipelineStage.pipeline_id == Pipeline.id,
        PipelineStage.kind == "snapshot",
        PipelineStage.state == "succeeded",
    )
    query = select(Pipeline).where(Pipeline.project_id == project_id, snapshot)
    return session.scalars(query.order_by(Pipeline.number)).all()


def _of(session: Session, pipeline: Pipeline, before: Pipeline | None, earlier_rankings: int) -> RoundFigures:
    done = [stage for stage in base.current(session, pipeline.id) if stage.state == "succeeded"]
    stages = {stage.kind: stage for stage in done}
    snapshot = session.get_one(Snapshot, UUID(stages["snapshot"].detail["snapshot_id"]))
    rankings = sum(snapshot.manifest["splits"]["comparisons"].values())
    since = before.created_at if before else None
    pairs, tied = _pairs(session, pipeline, stages["snapshot"].finished_at, since)
    reward, exam = _summary(session, stages.get("reward")), _summary(session, stages.get("evaluate"))
    policies = exam.get("policies", {})
    incumbent = _name(session, stages["evaluate"].detail.get("baseline_id")) if "evaluate" in stages else None
    word = stages["gate"].detail if "gate" in stages else {}
    candidate = _candidate(session, policies, incumbent, word)
    judged = policies.get(candidate, {})
    blind, evaluation = _blind(session, done, candidate)
    by_people = blind.get("win_rate") is not None
    interval = (blind.get("low"), blind.get("high")) if by_people else judged.get("win_rate_interval") or (None, None)
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
        word.get("passed"),
        bool(word.get("promoted")),
        _sentences(word.get("unmet")),
        stages["tasks"].detail.get("opened") if "tasks" in stages else None,
        _sources(session, pipeline, stages["snapshot"].finished_at, since),
        blind.get("judged"),
        evaluation.prompts - evaluation.identical if evaluation is not None else None,
        _checks(session, word, candidate),
    )


def _candidate(
    session: Session, policies: Mapping[str, Any], incumbent: str | None, word: Mapping[str, Any]
) -> str | None:
    """Return the new policy that a round is about: of several the one that the gate kept, or else the first."""
    names = [name for name in policies if name != incumbent]
    kept = _name(session, word.get("model_id")) if word.get("passed") else None
    return kept if kept in names else next(iter(names), None)


def _blind(
    session: Session, done: Sequence[PipelineStage], candidate: str | None
) -> tuple[Mapping[str, Any], BlindEvaluation | None]:
    """Return what labelers said of the candidate, and the evaluation in which they did."""
    for stage in done:
        if stage.kind == "blind":
            evaluation = session.get_one(BlindEvaluation, UUID(stage.detail["blind_evaluation_id"]))
            if _name(session, str(evaluation.candidate_id)) == candidate:
                return stage.detail, evaluation
    return {}, None


def _checks(session: Session, word: Mapping[str, Any], candidate: str | None) -> tuple[Check, ...]:
    found = word.get("verdicts", {}).get(candidate)
    verdict = session.get(GateVerdict, UUID(found)) if found else None
    return tuple(gate.checks_of(verdict)) if verdict is not None else ()


def _sources(
    session: Session, pipeline: Pipeline, until: datetime | None, since: datetime | None
) -> tuple[Source, ...]:
    """Return who wrote the answers in the rankings since the round before, whoever wrote most first."""
    temperature = Completion.sampling["temperature"].as_float()
    query = (
        select(ModelVersion.name, temperature, func.count())
        .select_from(Ranking)
        .join(Task, Task.id == Ranking.task_id)
        .join(TaskCompletion, TaskCompletion.task_id == Task.id)
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .outerjoin(ModelVersion, ModelVersion.id == Completion.model_version_id)
        .where(*_of_window(pipeline, until, since))
        .group_by(ModelVersion.name, temperature)
        .order_by(func.count().desc(), ModelVersion.name, temperature)
    )
    return tuple(Source(*row) for row in session.execute(query))


def _of_window(pipeline: Pipeline, until: datetime | None, since: datetime | None) -> list[ColumnElement[bool]]:
    """Return what makes a ranking one of those that count and are new in this round."""
    window = [Ranking.project_id == pipeline.project_id, Ranking.origin == "task", Ranking.created_at <= until]
    return [*window, *([Ranking.created_at > since] if since is not None else []), *standing.rankings()]


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
        .where(or_(TaskScore.task_id.is_(None), TaskScore.picked == "random"), *_of_window(pipeline, until, since))
        .group_by(Ranking.id)
    )
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
