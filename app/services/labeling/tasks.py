"""Tasks: made as drafts from a sampling run's answers, or from prompts that want a demonstration; then opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import InvalidInputError
from app.models import Completion, Project, Prompt, Run, Task, TaskCompletion, User
from app.services.accounts import audit
from app.services.labeling.assignments import TaskKind
from app.services.projects import projects
from trainer.records import Sample

SMALLEST_TASK = 2
DEMONSTRATION_OVERLAP = 1


@dataclass(frozen=True)
class SampledTasks:
    """What a sampling run left behind: how many prompts got answers, and how many of them a task."""

    run_id: UUID
    prompts: int
    completions: int
    draft: int
    opened: int

    @property
    def without_task(self) -> int:
        """Prompts whose answers were all the same, so that there is nothing to rank."""
        return self.prompts - self.draft - self.opened


def add_sampled(session: Session, run: Run, samples: list[Sample], model_version_id: UUID) -> int:
    """Store a sampling run's answers, make draft ranking tasks in prompt order, and return how many.

    Each answer names its policy (`model_version_id` where the run was of one alone) and how it was drawn.
    Equal answers to one prompt are stored once: nobody should rank two identical texts. A prompt with fewer than two
    different answers gets no task; `sampled` counts such prompts. Runs inside the transaction that finishes the run.
    Raises `InvalidInputError` when a sample names a prompt of another project.
    """
    project = session.get_one(Project, run.project_id)
    policies: dict[str, str] = run.inputs.get("policies", {})
    distinct = _distinct_by_prompt(samples)
    prompts = session.scalars(
        select(Prompt).where(Prompt.project_id == project.id, Prompt.id.in_(distinct)).order_by(Prompt.position)
    ).all()
    if len(prompts) != len(distinct):
        raise InvalidInputError(f"The samples of run {run.name!r} name a prompt that is not in this project.")
    rows = [
        {
            "prompt_id": prompt.id,
            # Postgres cannot hold a NUL, and a finished run must not fail over one odd token.
            "text": sample.text.replace("\x00", "\N{REPLACEMENT CHARACTER}"),
            "source": "model",
            "model_version_id": UUID(policies[sample.policy]) if sample.policy in policies else model_version_id,
            "run_id": run.id,
            "sample_index": sample.index,
            "sampling": {"tokens": sample.tokens, **_drawn(run, sample.policy)},
            "finish_reason": sample.finish_reason,
        }
        for prompt in prompts
        for sample in distinct[prompt.id]
    ]
    stored: dict[UUID, list[UUID]] = {}
    if rows:
        returned = session.execute(
            insert(Completion).returning(Completion.id, Completion.prompt_id, sort_by_parameter_order=True), rows
        )
        for completion_id, prompt_id in returned:
            stored.setdefault(prompt_id, []).append(completion_id)
    rankable = [prompt for prompt in prompts if len(stored[prompt.id]) >= SMALLEST_TASK]
    first_key = _next_sort_key(session, project.id)
    tasks = [
        {
            "project_id": project.id,
            "prompt_id": prompt.id,
            "kind": "ranking",
            "sort_key": first_key + offset,
            "target_overlap": project.overlap,
            "required_tags": prompt.tags,
            "sampling_run_id": run.id,
        }
        for offset, prompt in enumerate(rankable)
    ]
    if not tasks:
        return 0
    made = session.execute(insert(Task).returning(Task.id, Task.prompt_id), tasks).all()
    session.execute(
        insert(TaskCompletion),
        [
            {"task_id": task_id, "completion_id": completion_id, "position": position}
            for task_id, prompt_id in made
            for position, completion_id in enumerate(stored[prompt_id])
        ],
    )
    return len(made)


def open_tasks(session: Session, project: Project, user: User, kind: TaskKind) -> int:
    """Open the project's tasks of one kind, on behalf of an admin, and return how many are new to labelers."""
    projects.lock(session, project.id)  # one change of many tasks comes after the other
    opened = (open_ranking_tasks if kind == "ranking" else open_demonstration_tasks)(session, project)
    if opened:
        audit.record(session, user, "tasks.opened", "project", project.id, kind=kind, count=opened)
    return opened


def open_ranking_tasks(session: Session, project: Project) -> int:
    """Open every draft ranking task of the project and return how many; opening twice opens nothing more."""
    return len(
        session.execute(
            update(Task)
            .where(Task.project_id == project.id, Task.kind == "ranking", Task.state == "draft")
            .values(state="open")
            .returning(Task.id)
        ).all()
    )


def open_sampled(session: Session, project: Project, user: User, run_id: UUID, priority: int, round_number: int) -> int:
    """Open the draft tasks that one sampling run has left, as a round's, and return how many are new."""
    projects.lock(session, project.id)
    opened = len(
        session.execute(
            update(Task)
            .where(Task.project_id == project.id, Task.sampling_run_id == run_id, Task.state == "draft")
            .values(state="open", priority=priority, round=round_number)
            .returning(Task.id)
        ).all()
    )
    if opened:
        audit.record(session, user, "tasks.opened", "project", project.id, kind="ranking", count=opened)
    return opened


def open_demonstration_tasks(session: Session, project: Project) -> int:
    """Open one demonstration task for each training prompt that has none yet, and return how many are new.

    Held-out prompts are left out: an answer written for one would put it on both sides of the split.
    """
    wanting = session.execute(
        select(Prompt.id, Prompt.tags)
        .where(
            Prompt.project_id == project.id,
            Prompt.split == "train",
            ~exists().where(Task.prompt_id == Prompt.id, Task.kind == "demonstration"),
        )
        .order_by(Prompt.position)
    ).all()
    if not wanting:
        return 0
    first_key = _next_sort_key(session, project.id)
    rows = [
        {
            "project_id": project.id,
            "prompt_id": prompt_id,
            "kind": "demonstration",
            "state": "open",
            "sort_key": first_key + offset,
            "target_overlap": DEMONSTRATION_OVERLAP,
            "required_tags": required,
        }
        for offset, (prompt_id, required) in enumerate(wanting)
    ]
    # Two admins may press the button at once; the partial unique index lets one of them win for each prompt.
    return len(session.execute(upsert(Task).on_conflict_do_nothing().returning(Task.id), rows).all())


def sampled(session: Session, project_id: UUID) -> list[SampledTasks]:
    """Return, for each sampling run with answers, newest first, what became of its prompts."""
    answered = (
        select(
            Completion.run_id,
            func.count(Completion.prompt_id.distinct()).label("prompts"),
            func.count().label("completions"),
        )
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .join(Run, Run.id == Completion.run_id)
        .where(Prompt.project_id == project_id, Run.method == "sample")
        .group_by(Completion.run_id)
        .subquery()
    )
    rows = session.execute(
        select(
            answered.c.run_id,
            answered.c.prompts,
            answered.c.completions,
            func.count(Task.id).filter(Task.state == "draft"),
            func.count(Task.id).filter(Task.state != "draft"),
        )
        .outerjoin(Task, Task.sampling_run_id == answered.c.run_id)
        .group_by(answered.c.run_id, answered.c.prompts, answered.c.completions)
        .order_by(answered.c.run_id.desc())
    )
    return [SampledTasks(*row) for row in rows]


def _drawn(run: Run, policy: str) -> dict[str, float]:
    """Return the temperature and the nucleus by which a policy's answers of this run were drawn."""
    options = (run.config or {}).get("options", {})
    sampling = options.get("sampling", {})
    own: dict[str, Any] = next((item for item in options.get("policies", ()) if item["name"] == policy), {})
    temperature = own.get("temperature") if own.get("temperature") is not None else sampling.get("temperature")
    values = {"temperature": temperature, "top_p": sampling.get("top_p")}
    return {name: value for name, value in values.items() if value is not None}


def _distinct_by_prompt(samples: Iterable[Sample]) -> dict[UUID, list[Sample]]:
    """Return the samples of each prompt by index, the first of equal texts only (white space at the ends aside)."""
    by_prompt: dict[UUID, dict[str, Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.index):
        by_prompt.setdefault(UUID(sample.prompt_id), {}).setdefault(sample.text.strip(), sample)
    return {prompt_id: list(texts.values()) for prompt_id, texts in by_prompt.items()}


def _next_sort_key(session: Session, project_id: UUID) -> int:
    """Return the key after the project's last: tasks are handed out in the order they were made."""
    last = session.scalar(select(func.max(Task.sort_key)).where(Task.project_id == project_id))
    return 0 if last is None else last + 1
