"""Handing out work: how fast, beside the bare minimum of SQL, and whether a task is ever given to too many.

Each round claims every place of the same tasks twice: once through `assignments.claim`, once with a loop that only
raises a counter and inserts an assignment by primary key, knowing beforehand which task it wants. The second is no
solution (it neither searches nor respects the overlap); it is the floor that the durable commits of a claim set.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, select, text, update

from app import db, migrate
from app.embedded.access import using
from app.embedded.folder import make_var
from app.embedded.postgres import PostgresServer
from app.models import Assignment, Project, Prompt, Task, User
from app.services.labeling import assignments
from app.services.projects import guidelines, projects
from app.services.projects.projects import NewProject
from app.settings import get_settings

TASKS, OVERLAP, CLIENTS, ROUNDS = 200, 3, 10, 5


def main() -> None:
    """Measure on a fresh, durable PostgreSQL and print the medians and the range of the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        var = make_var(Path(folder) / "var")
        with PostgresServer(var) as server, using({"DATABASE_URL": server.url}):
            get_settings.cache_clear()
            db.reset_engine()
            migrate.upgrade(server.url)
            _measure()
            db.reset_engine()


def _measure() -> None:
    ours: list[float] = []
    floor: list[float] = []
    over = 0
    for number in range(ROUNDS):
        for claims, rates in ((_claim_by_service, ours), (_claim_by_key, floor)):
            project, users, tasks = _seed(f"round {number} {claims.__name__}")
            started = time.perf_counter()
            claimed = claims(project, users, tasks)
            rates.append(claimed / (time.perf_counter() - started))
            if claims is _claim_by_service:
                over += _over_assigned(project)
    ratios = sorted(mine / bare for mine, bare in zip(ours, floor, strict=True))
    print(
        f"handout: {TASKS * OVERLAP} places, {CLIENTS} clients, {ROUNDS} rounds: "
        f"{statistics.median(ours):.0f} claims/s, floor {statistics.median(floor):.0f}/s, "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), over-assigned tasks {over}"
    )


def _seed(name: str) -> tuple[Project, list[User], list[UUID]]:
    with db.transaction() as session:
        users = [
            User(email=f"{name} {n}@example.org".replace(" ", "-"), name="Bench", role="admin", password_hash="-")
            for n in range(CLIENTS)
        ]
        session.add_all(users)
        session.flush()
        project = projects.create(
            session,
            users[0],
            NewProject(name=name, guidelines="Rank.", k=2, overlap=OVERLAP, lease_minutes=60, held_out_percent=0),
        )
        session.flush()
        for position in range(TASKS):
            prompt = Prompt(
                project_id=project.id, position=position, messages=[], content_sha256=str(position), split="train"
            )
            session.add(prompt)
            session.flush()
            session.add(
                Task(
                    project_id=project.id,
                    prompt_id=prompt.id,
                    kind="demonstration",
                    state="open",
                    sort_key=position,
                    target_overlap=OVERLAP,
                )
            )
        session.flush()
        tasks = list(session.scalars(select(Task.id).where(Task.project_id == project.id)))
        session.execute(text("ANALYZE tasks"))
    return project, users, tasks


def _together(one_client: Callable[[User], int], users: list[User]) -> int:
    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(one_client, users))


def _claim_by_service(project: Project, users: list[User], tasks: list[UUID]) -> int:
    del tasks

    def one_client(user: User) -> int:
        claimed = 0
        while True:
            with db.transaction() as session:
                assignment = assignments.claim(session, project, user, "demonstration")
                if assignment is None:
                    return claimed
                # Answered at once, so that the next claim of this client finds another task.
                assignments.settle(session, assignments.lock_assignment(session, assignment, user))
            claimed += 1

    return _together(one_client, users)


def _claim_by_key(project: Project, users: list[User], tasks: list[UUID]) -> int:
    with db.transaction() as session:
        guideline = guidelines.current(session, project.id).version_id
    places = count()
    wanted = [(task, lap) for lap in range(OVERLAP) for task in tasks]

    def one_client(user: User) -> int:
        claimed = 0
        while (place := next(places)) < len(wanted):
            with db.transaction() as session:
                task = wanted[place][0]
                session.execute(update(Task).where(Task.id == task).values(open_leases=Task.open_leases + 1))
                session.execute(
                    text(
                        "INSERT INTO assignments (task_id, user_id, shown_order, guideline_version_id, expires_at) "
                        "VALUES (:task, :user, '{}', :guideline, clock_timestamp()) ON CONFLICT DO NOTHING"
                    ),
                    {"task": task, "user": user.id, "guideline": guideline},
                )
            claimed += 1
        return claimed

    return _together(one_client, users)


def _over_assigned(project: Project) -> int:
    with db.transaction() as session:
        held = (
            select(Assignment.task_id)
            .join(Task)
            .where(Task.project_id == project.id, Assignment.state.in_(("leased", "done")))
            .group_by(Assignment.task_id)
            .having(func.count() > OVERLAP)
        )
        return len(session.execute(held).all())
