"""How long the next task takes, by the size of a project and by how much of it is used up; it should not depend on it.

Projects of 10⁴, 10⁵ and 10⁶ tasks, each fresh, with its first nine tenths answered by others, and with its first nine
tenths answered by the very labeler who asks, while they wait for others. A claim is `assignments.claim`, a page is
`work.open_task`, both in one transaction that is rolled back, so that each try finds the same. The tasks hold no
answers, which would cost the same each.
"""

from __future__ import annotations

import statistics
import time
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app import db
from app.models import Project, User
from app.services.labeling import assignments, work
from bench.desk import analyse, database, make_project, sign_in

SIZES = (10_000, 100_000, 1_000_000)
TRIES = 300

_USE_UP = "UPDATE tasks SET done_count = target_overlap WHERE project_id = :project_id AND sort_key < :used"
_TAKE = """
INSERT INTO assignments (task_id, user_id, state, shown_order, guideline_version_id, expires_at, finished_at)
SELECT t.id, :user_id, 'done', '{}', g.id, clock_timestamp(), clock_timestamp()
FROM tasks t JOIN guideline_versions g USING (project_id) WHERE t.project_id = :project_id AND t.sort_key < :used
ORDER BY t.sort_key
"""
_RANK = """
INSERT INTO rankings (submit_id, body_sha256, project_id, task_id, assignment_id, user_id, guideline_version_id, groups,
                      shown_order, is_simulated, counted, seconds, created_at)
SELECT a.submit_id, '-', t.project_id, t.id, a.id, a.user_id, a.guideline_version_id, '[]', '{}', false, true, 1,
       clock_timestamp() - interval '2 days'
FROM assignments a JOIN tasks t ON t.id = a.task_id WHERE t.project_id = :project_id AND a.user_id = :user_id
"""


def main() -> None:
    """Measure and print the medians, and how far they are from those of the smallest project."""
    with database() as _:
        fresh, *far_ahead = (labeler.user for labeler in sign_in(1 + len(SIZES)))
        made = {size: make_project(f"{size} tasks", size, overlap=2, with_answers=False) for size in SIZES}
        _measure("fresh", made, [fresh] * len(made))
        for user, (size, project_id) in zip(far_ahead, made.items(), strict=True):
            values = {"project_id": project_id, "user_id": user.id, "used": size * 9 // 10}
            with db.transaction() as session:
                session.execute(text("SET LOCAL statement_timeout = 0"))
                for statement in (_TAKE, _RANK):
                    session.execute(text(statement), values)
        analyse()
        _measure("nine tenths done by oneself", made, far_ahead)
        for size, project_id in made.items():
            with db.transaction() as session:
                session.execute(text("SET LOCAL statement_timeout = 0"))
                session.execute(text(_USE_UP), {"project_id": project_id, "used": size * 9 // 10})
        _measure("nine tenths just used up, not yet vacuumed", made, [fresh] * len(made))
        analyse()
        _measure("nine tenths used up", made, [fresh] * len(made))


def _measure(state: str, made: dict[int, UUID], users: list[User]) -> None:
    times: dict[int, tuple[list[float], list[float]]] = {size: ([], []) for size in made}
    for number in range(TRIES):
        for user, (size, project_id) in zip(users, made.items(), strict=True):
            claiming, showing = _try(project_id, user)
            if number >= TRIES // 10:  # the first ones fill the caches
                times[size][0].append(claiming)
                times[size][1].append(showing)
    smallest = times[SIZES[0]]
    for size, each in times.items():
        (claim, page), (least_claim, least_page) = (
            [statistics.median(values) for values in pair] for pair in (each, smallest)
        )
        print(
            f"next task: {size:,} tasks, {state}: claim {claim:.2f} ms ({claim / least_claim:.2f} times the smallest), "
            f"page {page:.2f} ms ({page / least_page:.2f}), claim p99 {statistics.quantiles(each[0], n=100)[98]:.2f} ms"
        )


def _try(project_id: UUID, user: User) -> tuple[float, float]:
    with db.get_engine().connect() as connection, connection.begin() as transaction:
        with Session(connection, expire_on_commit=False) as session:
            project = session.get_one(Project, project_id)
            started = time.perf_counter()
            taken = assignments.claim(session, project, user, "ranking")
            claimed = time.perf_counter()
            if taken is None:
                raise RuntimeError("no task is left")
            work.open_task(session, taken, user)
            shown = time.perf_counter()
        transaction.rollback()
    return (claimed - started) * 1000, (shown - claimed) * 1000
