"""What labelers work on, as the API lists it: projects, prompts, completions and tasks."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import cast, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import Session
from sqlalchemy.sql import func

from app.models import Completion, Import, Project, Prompt, Task, TaskCompletion
from app.services.api.listing import Fields, Listing, Part, Query, one, page

_PROJECTS = select(
    Project.id,
    Project.name,
    Project.state,
    Project.k,
    Project.overlap,
    Project.lease_minutes,
    Project.held_out_fraction,
    Project.access,
    Project.deadline_at,
    Project.max_leases,
    Project.gold_percent,
    Project.screening_tasks,
    func.round(Project.screening_threshold * 100).label("screening_percent"),
    Project.queue_order,
    Project.random_percent,
    Project.round_weight_percent,
    Project.policy_weights,
    Project.created_at,
)
_PROMPTS = select(
    Prompt.id,
    Prompt.project_id,
    Prompt.position,
    Prompt.messages,
    Prompt.split,
    Prompt.source,
    Prompt.import_id,
    Import.dataset,
    Prompt.tags,
    Prompt.created_at,
).outerjoin(Import, Import.id == Prompt.import_id)
_COMPLETIONS = select(
    Completion.id,
    Prompt.project_id,
    Completion.prompt_id,
    Completion.text,
    Completion.source,
    Completion.model_version_id,
    Completion.sampling["model"].as_string().label("model"),
    Completion.run_id,
    Completion.sample_index,
    Completion.finish_reason,
    Completion.parent_id,
    Completion.created_at,
).join(Prompt, Prompt.id == Completion.prompt_id)
_ANSWERS = (
    select(
        func.coalesce(
            func.array_agg(aggregate_order_by(TaskCompletion.completion_id, TaskCompletion.position)),
            cast(literal_column("'{}'"), ARRAY(PG_UUID(as_uuid=True))),
        )
    )
    .where(TaskCompletion.task_id == Task.id)
    .correlate(Task)
    .scalar_subquery()
)
_TASKS = select(
    Task.id,
    Task.project_id,
    Task.prompt_id,
    Task.kind,
    Task.state,
    Task.purpose,
    Task.required_tags.label("tags"),
    Task.priority,
    Task.target_overlap.label("overlap"),
    Task.open_leases,
    Task.done_count.label("done"),
    _ANSWERS.label("completion_ids"),
    Task.created_at,
)


def projects(session: Session, part: Part, *, only: UUID | None, state: str | None = None) -> Listing:
    """Return projects; `only` is the one that a token is tied to."""
    return page(session, _where(_PROJECTS, {Project.id: only, Project.state: state}), Project.id, part)


def project(session: Session, project_id: UUID) -> Fields:
    """Return a project, or raise `NotFoundError`."""
    return one(session, _PROJECTS, Project.id, project_id)


def prompts(
    session: Session,
    project_id: UUID,
    part: Part,
    *,
    split: str | None = None,
    source: str | None = None,
    tag: str | None = None,
) -> Listing:
    """Return a project's prompts."""
    query = _where(_PROMPTS, {Prompt.project_id: project_id, Prompt.split: split, Prompt.source: source})
    return page(session, query if tag is None else query.where(Prompt.tags.contains([tag])), Prompt.id, part)


def prompt(session: Session, prompt_id: UUID) -> Fields:
    """Return a prompt, or raise `NotFoundError`."""
    return one(session, _PROMPTS, Prompt.id, prompt_id)


def completions(
    session: Session,
    project_id: UUID,
    part: Part,
    *,
    prompt_id: UUID | None = None,
    run_id: UUID | None = None,
    source: str | None = None,
) -> Listing:
    """Return the answers to a project's prompts."""
    narrowed = {
        Prompt.project_id: project_id,
        Completion.prompt_id: prompt_id,
        Completion.run_id: run_id,
        Completion.source: source,
    }
    return page(session, _where(_COMPLETIONS, narrowed), Completion.id, part)


def completion(session: Session, completion_id: UUID) -> Fields:
    """Return an answer, or raise `NotFoundError`."""
    return one(session, _COMPLETIONS, Completion.id, completion_id)


def tasks(
    session: Session,
    project_id: UUID,
    part: Part,
    *,
    kind: str | None = None,
    state: str | None = None,
    purpose: str | None = None,
    prompt_id: UUID | None = None,
) -> Listing:
    """Return a project's tasks."""
    narrowed = {
        Task.project_id: project_id,
        Task.kind: kind,
        Task.state: state,
        Task.purpose: purpose,
        Task.prompt_id: prompt_id,
    }
    return page(session, _where(_TASKS, narrowed), Task.id, part)


def task(session: Session, task_id: UUID) -> Fields:
    """Return a task, or raise `NotFoundError`."""
    return one(session, _TASKS, Task.id, task_id)


def _where(query: Query, narrowed: dict[Any, Any]) -> Query:
    """Return the query with a condition for each column whose value is given."""
    return query.where(*(column == value for column, value in narrowed.items() if value is not None))
