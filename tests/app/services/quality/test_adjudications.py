"""Adjudication: the queue of disagreements, a blind case, and a verdict that stands for the task in snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from run_builders import completion_ids, make_project, make_prompts, make_task, make_user, rank
from sqlalchemy import func, select

from app.db import reading, transaction
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Assignment, Project, Ranking, Snapshot, Task, User
from app.services.labeling import rankings
from app.services.quality import adjudications, quality, quality_figures, quarantines
from app.services.quality.adjudications import Case
from app.services.quality.quarantines import NewQuarantine
from app.services.training import snapshots
from app.worker import tasks as worker
from trainer.records import read_comparisons


@dataclass(frozen=True)
class Split:
    """Ada and Bob agree about the first task, part somewhat about the second, and altogether about the third."""

    project: Project
    admin: User
    reviewer: User
    ada: User
    bob: User
    tasks: list[Task]


@pytest.fixture
def split(database: str) -> Split:
    with transaction() as session:
        admin, reviewer = make_user(session), make_user(session, "rae@example.org", "reviewer")
        ada, bob = (make_user(session, f"{name}@example.org", "labeler") for name in ("ada", "bob"))
        project = make_project(session, admin)
        tasks = []
        others = ([[0], [1], [2]], [[1], [0], [2]], [[2], [1], [0]])
        for prompt, other in zip(make_prompts(session, project, ["One?", "Two?", "Three?"]), others, strict=True):
            task = make_task(session, prompt, ["Good.", "Fair.", "Poor."])
            rank(session, task, ada, [[0], [1], [2]], reason="I know this one.")
            rank(session, task, bob, other)
            tasks.append(task)
        quality.request(session, project, admin)
    worker.quality_reports()
    return Split(project, admin, reviewer, ada, bob, tasks)


def queued(split: Split, user: User) -> list[tuple[int, float]]:
    with transaction() as session:
        places = {task.id: number for number, task in enumerate(split.tasks)}
        return [(places[entry.task_id], entry.score) for entry in adjudications.queue(session, split.project, user)]


def opened(split: Split, task: Task, user: User) -> Case:
    with transaction() as session:
        return adjudications.case(session, split.project, task.id, user)


def decide(split: Split, case: Case, user: User, *texts: str) -> Ranking:
    """Rank the answers in the order of these texts."""
    letter_of = {answer.text: answer.letter for answer in case.answers}
    fields = {f"rank_{letter_of[text]}": str(place) for place, text in enumerate(texts, start=1)}
    with transaction() as session:
        return adjudications.decide(session, split.project, case.task_id, user, case.submit_id, fields)


def comparisons(split: Split) -> tuple[list[tuple[tuple[int, ...], ...]], Snapshot]:
    with transaction() as session:
        snapshot = snapshots.create(session, split.project, split.admin)
    return [row.ranking for row in read_comparisons(Path(snapshot.uri) / "comparisons.jsonl")], snapshot


def test_the_queue_begins_with_the_greatest_disagreement(split: Split) -> None:
    assert queued(split, split.reviewer) == [(2, 1.0), (1, pytest.approx(1 / 3))]


def test_a_verdict_stands_for_the_labelers_rankings_in_the_next_snapshot(split: Split) -> None:
    before, snapshot = comparisons(split)
    assert len(before) == 6
    assert snapshot.manifest["adjudicated"] == {"comparisons": 0, "rankings_replaced": 0}
    verdict = decide(split, opened(split, split.tasks[2], split.reviewer), split.reviewer, "Good.", "Poor.", "Fair.")
    assert (verdict.origin, verdict.counted) == ("adjudication", True)
    after, snapshot = comparisons(split)
    assert len(after) == 5
    assert ((0,), (2,), (1,)) in after
    assert ((2,), (1,), (0,)) not in after
    assert snapshot.manifest["adjudicated"] == {"comparisons": 1, "rankings_replaced": 2}
    assert queued(split, split.admin) == [(1, pytest.approx(1 / 3))]
    with transaction() as session:
        task = session.get_one(Task, split.tasks[2].id)
        assert (task.done_count, task.open_leases) == (split.tasks[2].done_count, 0)  # it takes no labeler's place


def test_a_verdict_under_quarantine_lets_the_labelers_rankings_stand_again(split: Split) -> None:
    decide(split, opened(split, split.tasks[2], split.reviewer), split.reviewer, "Good.", "Poor.", "Fair.")
    with transaction() as session:
        new = NewQuarantine(split.reviewer.id, None, None, "Hasty")
        quarantines.create(session, split.project, split.admin, new)
    assert len(comparisons(split)[0]) == 6


def test_the_same_verdict_twice_is_one_and_another_supersedes_it(split: Split) -> None:
    case = opened(split, split.tasks[2], split.reviewer)
    first = decide(split, case, split.reviewer, "Good.", "Fair.", "Poor.")
    assert decide(split, case, split.reviewer, "Good.", "Fair.", "Poor.").id == first.id
    with pytest.raises(ConflictError, match="settled this task"):
        decide(split, case, split.reviewer, "Poor.", "Fair.", "Good.")
    other = opened(split, split.tasks[2], split.admin)
    second = decide(split, other, split.admin, "Poor.", "Fair.", "Good.")
    assert second.supersedes == first.id
    assert len(comparisons(split)[0]) == 5
    with transaction() as session:
        assert session.scalar(select(func.count()).where(Ranking.origin == "adjudication")) == 2


def test_two_reviewers_at_once_do_not_overwrite_each_other(split: Split) -> None:
    hers, mine = opened(split, split.tasks[2], split.reviewer), opened(split, split.tasks[2], split.admin)
    decide(split, hers, split.reviewer, "Good.", "Fair.", "Poor.")
    with pytest.raises(ConflictError, match="settled this task"):
        decide(split, mine, split.admin, "Poor.", "Fair.", "Good.")


def test_the_case_names_no_labeler_and_keeps_its_order(split: Split) -> None:
    case = opened(split, split.tasks[2], split.reviewer)
    assert case == opened(split, split.tasks[2], split.reviewer)
    assert [opinion.name for opinion in case.opinions] == ["Labeler 1", "Labeler 2"]
    text = repr(case)
    for person in (split.ada, split.bob):
        assert person.email not in text
        assert str(person.id) not in text
    letters = {answer.text: answer.letter for answer in case.answers}
    ranks = [tuple(opinion.ranks[letters[text]] for text in ("Good.", "Fair.", "Poor.")) for opinion in case.opinions]
    assert sorted(ranks) == [(1, 2, 3), (3, 2, 1)]
    assert sorted(opinion.reason for opinion in case.opinions) == ["", "I know this one."]


def test_a_dismissed_disagreement_is_gone_until_another_ranking_comes(split: Split) -> None:
    with transaction() as session:
        adjudications.dismiss(session, split.project, split.tasks[2].id, split.reviewer)
        adjudications.dismiss(session, split.project, split.tasks[2].id, split.reviewer)
    assert queued(split, split.reviewer) == [(1, pytest.approx(1 / 3))]
    assert opened(split, split.tasks[2], split.reviewer).is_dismissed
    with reading() as session:  # a new report does not waste its places on it
        listed = quality_figures.compute(session, split.project.id)["disagreements"]
        assert [entry["task"] for entry in listed] == [str(split.tasks[1].id)]
    with transaction() as session:
        cleo = make_user(session, "cleo@example.org", "labeler")
        rank(session, split.tasks[2], cleo, [[0], [1], [2]])
    assert queued(split, split.reviewer)[0] == (2, 1.0)


def test_nobody_settles_a_task_that_they_have_ranked(split: Split) -> None:
    with transaction() as session:
        rank(session, split.tasks[2], split.reviewer, [[0], [1], [2]])
    assert [place for place, _ in queued(split, split.reviewer)] == [1]
    with pytest.raises(ConflictError, match="ranked this task yourself"):
        opened(split, split.tasks[2], split.reviewer)
    assert opened(split, split.tasks[2], split.admin).verdict is None


def test_half_a_ranking_and_a_foreign_task_are_refused(split: Split) -> None:
    case = opened(split, split.tasks[2], split.reviewer)
    with pytest.raises(InvalidInputError, match="Give every answer a rank"):
        decide(split, case, split.reviewer, "Good.")
    with transaction() as session:
        other = make_project(session, split.admin, "Other")
    with pytest.raises(NotFoundError), transaction() as session:
        adjudications.case(session, other, case.task_id, split.reviewer)


def test_a_verdict_is_not_undone_as_a_labelers_answer_would_be(split: Split) -> None:
    case = opened(split, split.tasks[2], split.reviewer)
    verdict = decide(split, case, split.reviewer, "Good.", "Fair.", "Poor.")
    with pytest.raises(ConflictError, match="as a reviewer"), transaction() as session:
        rankings.undo(session, verdict.assignment_id, split.reviewer)
    with transaction() as session:
        assert session.get_one(Assignment, verdict.assignment_id).state == "done"
        assert len(completion_ids(session, split.tasks[2])) == 3
