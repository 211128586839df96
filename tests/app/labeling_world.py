"""A project with prompts, sampled answers and open tasks, made through the services that the pages call."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from itertools import count
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import db
from app.models import Assignment, ModelVersion, Project, Prompt, Ranking, Run, Task, User
from app.services.labeling import judgements, rankings, tasks
from app.services.labeling.assignments import TaskKind, claim
from app.services.projects import projects, prompts
from app.services.projects.projects import NewProject
from trainer.records import Sample

_numbers = count(1)


@dataclass(frozen=True)
class World:
    """Ids of a project and its people; `labelers` are as many as were asked for."""

    project_id: UUID
    admin: User
    labelers: tuple[User, ...]


def make_user(session: Session, role: str = "labeler", **columns: object) -> User:
    number = next(_numbers)
    user = User(
        **{
            "email": f"world{number}@example.org",
            "name": f"{role.title()} {number}",
            "role": role,
            "password_hash": "-",
            **columns,
        }
    )
    session.add(user)
    session.flush()
    session.refresh(user)
    return user


def make_world(
    *,
    number_of_prompts: int = 3,
    k: int = 3,
    overlap: int = 1,
    number_of_labelers: int = 2,
    open_tasks: bool = True,
    held_out_percent: int = 0,
) -> World:
    """Make and commit a project whose every prompt has `k` different answers."""
    with db.transaction() as session:
        admin = make_user(session, "admin")
        labelers = tuple(make_user(session) for _ in range(number_of_labelers))
        new = NewProject(f"World {next(_numbers)}", "Be kind.", k=k, overlap=overlap, held_out_percent=held_out_percent)
        project = projects.create(session, admin, new)
        if number_of_prompts:
            lines = "\n".join(f"Question {number}?" for number in range(number_of_prompts))
            prompts.import_file(session, project, admin, BytesIO(lines.encode()), "text")
            add_answers(session, project, admin, [f"Answer {index}." for index in range(k)])
        if open_tasks:
            tasks.open_ranking_tasks(session, project)
        return World(project.id, admin, labelers)


def add_answers(session: Session, project: Project, user: User, texts: list[str]) -> int:
    """Let a sampling run end with these answers to every prompt; return how many tasks it made."""
    run, model = make_sampling_run(session, project, user)
    ids = session.scalars(select(Prompt.id).where(Prompt.project_id == project.id).order_by(Prompt.position))
    samples = [
        Sample("base", str(prompt_id), index, text, 9, "stop") for prompt_id in ids for index, text in enumerate(texts)
    ]
    return tasks.add_sampled(session, run, samples, model.id)


def make_sampling_run(session: Session, project: Project, user: User) -> tuple[Run, ModelVersion]:
    model = ModelVersion(
        project_id=project.id,
        name=f"model-{next(_numbers)}",
        kind="policy",
        method="base",
        uri="nowhere",
        created_by=user.id,
    )
    session.add(model)
    session.flush()
    run = Run(
        project_id=project.id,
        method="sample",
        name="Sampling",
        config={},
        dedupe_key=str(uuid4()),
        parent_model_id=model.id,
        created_by=user.id,
    )
    session.add(run)
    session.flush()
    return run, model


def take(world: World, user: User, kind: TaskKind = "ranking") -> Assignment | None:
    """Lease a task in a transaction of its own and return the assignment, or None."""
    with db.transaction() as session:
        taken = claim(session, session.get_one(Project, world.project_id), user, kind)
        return None if taken is None else session.get_one(Assignment, taken)


def rank(assignment: Assignment, user: User, **ranks: int) -> rankings.Stored:
    """Submit ranks by letter in a transaction of its own; without any, the order as shown."""
    letters = judgements.LETTERS[: len(assignment.shown_order)]
    with db.transaction() as session:
        return rankings.submit(
            session,
            assignment.id,
            user,
            assignment.submit_id,
            {
                f"rank_{letter}": str(rank)
                for letter, rank in (ranks or {letter: n for n, letter in enumerate(letters, start=1)}).items()
            },
        )


def expire(*assignments: Assignment) -> None:
    """Let the time of leases run out, by moving their end and not the clock."""
    with db.transaction() as session:
        for assignment in assignments:
            found = session.get_one(Assignment, assignment.id)
            found.expires_at = session.execute(select(func.clock_timestamp())).scalar_one()


def task_of(assignment: Assignment) -> Task:
    with db.transaction() as session:
        return session.get_one(Task, assignment.task_id)


def stored_rankings(world: World) -> list[Ranking]:
    with db.transaction() as session:
        query = select(Ranking).where(Ranking.project_id == world.project_id).order_by(Ranking.id)
        return list(session.scalars(query))


def counters_are_right() -> bool:
    """Return whether every task's counters equal the leases and counted answers that exist for it."""
    leases = (
        select(func.count())
        .where(Assignment.task_id == Task.id, Assignment.state == "leased")
        .correlate(Task)
        .scalar_subquery()
    )
    counted = select(func.count()).where(Ranking.task_id == Task.id, Ranking.counted).correlate(Task).scalar_subquery()
    with db.transaction() as session:
        query = select(func.count()).where(
            Task.kind == "ranking", (Task.open_leases != leases) | (Task.done_count != counted)
        )
        return session.scalar(query) == 0
