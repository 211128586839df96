"""Quality reports: what a worker computes from the database, when one is due, and what is left out of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from run_builders import completion_ids, make_project, make_prompts, make_task, make_user, rank
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db import reading, transaction
from app.models import Project, QualityReport, Quarantine, Task, User
from app.services.quality import quality, quality_figures
from app.worker import tasks as worker


@dataclass(frozen=True)
class Crowd:
    """A project that four labelers have ranked: three who see what is better, and one who clicks at random."""

    project: Project
    admin: User
    labelers: list[User]
    tasks: list[Task]


TRUE_ORDER = [[0], [1], [2]]
NUMBER_OF_TASKS = 24


@pytest.fixture
def crowd(database: str) -> Crowd:
    generator = np.random.default_rng(1)
    with transaction() as session:
        admin = make_user(session)
        labelers = [make_user(session, f"{name}@example.org", "labeler") for name in ("ada", "bob", "cleo", "dan")]
        project = make_project(session, admin)
        tasks = []
        for prompt in make_prompts(session, project, [f"Question {n}?" for n in range(NUMBER_OF_TASKS)]):
            task = make_task(session, prompt, ["A long good answer.", "A fair answer.", "No."])
            tasks.append(task)
            for number, labeler in enumerate(labelers[:3]):
                slip = generator.random() < 0.1
                rank(session, task, labeler, [[1], [0], [2]] if slip else TRUE_ORDER, seconds=20.0 + number)
            order = generator.permutation(3)
            rank(session, task, labelers[3], [[int(place)] for place in order], seconds=0.5)
        return Crowd(project, admin, labelers, tasks)


def compute(project: Project) -> dict[str, Any]:
    with reading() as session:
        return quality_figures.compute(session, project.id)


def line_of(body: dict[str, Any], user: User) -> dict[str, Any]:
    [line] = [line for line in body["labelers"] if line["user"] == str(user.id)]
    return line


def test_the_report_tells_the_careful_from_the_careless(crowd: Crowd) -> None:
    body = compute(crowd.project)
    assert (body["rankings"], body["tasks"], body["shared_tasks"]) == (96, 24, 24)
    assert 0.5 < body["agreement"]["pairs"]["value"] < 0.9
    assert body["agreement"]["alpha_ordinal"]["low"] < body["agreement"]["alpha_ordinal"]["value"]
    *careful, careless = [line_of(body, labeler) for labeler in crowd.labelers]
    assert all(line["reliability"]["low"] > careless["reliability"]["high"] for line in careful)
    assert all(line["flags"] == ["position"] for line in careful)  # these builders show every answer in one order
    assert "haste" in careless["flags"]
    assert careless["pace"]["hasty"]["share"]["value"] == 1.0
    assert careful[0]["length"]["share"]["value"] > 0.9
    assert body["with_reviewers"] is None


def test_disagreements_are_listed_with_the_greatest_first(crowd: Crowd) -> None:
    body = compute(crowd.project)
    scores = [entry["score"] for entry in body["disagreements"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) <= NUMBER_OF_TASKS
    assert min(scores) > 0


def test_what_is_set_aside_superseded_or_not_counted_is_no_part_of_it(crowd: Crowd) -> None:
    with transaction() as session:
        first = rank(session, crowd.tasks[0], crowd.admin, TRUE_ORDER)
        rank(session, crowd.tasks[0], crowd.admin, TRUE_ORDER, supersedes=first.id)
        rank(session, crowd.tasks[1], crowd.admin, TRUE_ORDER, counted=False, not_counted_reason="late")
    assert compute(crowd.project)["rankings"] == 97
    with transaction() as session:
        session.add(
            Quarantine(
                project_id=crowd.project.id, user_id=crowd.labelers[3].id, reason="Random", created_by=crowd.admin.id
            )
        )
    body = compute(crowd.project)
    assert body["rankings"] == 73
    assert str(crowd.labelers[3].id) not in [line["user"] for line in body["labelers"]]


def test_labelers_are_compared_with_reviewers_where_both_have_ranked(crowd: Crowd) -> None:
    with transaction() as session:
        for task in crowd.tasks[:6]:
            rank(session, task, crowd.admin, TRUE_ORDER)
    share = compute(crowd.project)["with_reviewers"]
    assert share["count"] == 6 * 4 * 3
    assert 0.5 < share["value"] < 1


def test_gold_tasks_measure_labelers_and_a_reference_that_nobody_shares_is_suspect(crowd: Crowd) -> None:
    with transaction() as session:
        for task, order in ((crowd.tasks[0], TRUE_ORDER), (crowd.tasks[1], TRUE_ORDER[::-1])):
            _make_gold(session, task, order)
    body = compute(crowd.project)
    assert (body["rankings"], body["tasks"]) == (88, 22)
    right, wrong = sorted(body["gold"], key=lambda entry: entry["suspect"])
    assert (right["task"], right["suspect"], right["answers"]) == (str(crowd.tasks[0].id), False, 4)
    assert (wrong["task"], wrong["suspect"]) == (str(crowd.tasks[1].id), True)
    assert line_of(body, crowd.labelers[0])["gold"]["count"] == 6


def test_an_empty_project_has_a_report_too(database: str) -> None:
    with transaction() as session:
        project = make_project(session, make_user(session))
    body = compute(project)
    assert (body["rankings"], body["labelers"], body["agreement"]["pairs"]) == (0, [], None)


def test_a_request_is_a_row_that_the_worker_fills_once(crowd: Crowd) -> None:
    with transaction() as session:
        quality.request(session, crowd.project, crowd.admin)
        quality.request(session, crowd.project, crowd.admin)
        found = quality.report(session, crowd.project.id)
        assert (found.newest, found.is_waiting) == (None, True)
    worker.quality_reports()
    with transaction() as session:
        found = quality.report(session, crowd.project.id)
        assert not found.is_waiting
        assert found.body is not None
        assert found.body["rankings"] == 96
        assert session.scalar(select(func.count()).select_from(QualityReport)) == 1


def test_new_rankings_make_a_report_due_but_not_at_once(crowd: Crowd) -> None:
    with transaction() as session:
        assert quality.request_due(session)
    worker.quality_reports()
    with transaction() as session:
        assert not quality.request_due(session)
        rank(session, crowd.tasks[0], crowd.admin, TRUE_ORDER)
        assert not quality.request_due(session)  # the last one is minutes old at most
        old = QualityReport.computed_at - quality.EVERY - timedelta(seconds=1)
        session.execute(update(QualityReport).values(computed_at=old))
        assert quality.request_due(session)
        assert quality.request_due(session)  # it waits already
        assert session.scalar(select(func.count()).select_from(QualityReport)) == 2


def _make_gold(session: Session, task: Task, order: list[list[int]]) -> None:
    ids = completion_ids(session, task)
    reference = [[str(ids[place]) for place in group] for group in order]
    session.execute(update(Task).where(Task.id == task.id).values(purpose="gold", reference=reference))
