"""Changing and taking back an answer, and improving one: further rows, one chain, counters that stay right."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from labeling_world import expire, make_world, rank, take, task_of
from sqlalchemy import func, select, text

from app import db
from app.errors import ConflictError, InvalidInputError
from app.models import Assignment, Completion, Demonstration, Project, Ranking, Task, User
from app.services.labeling import assignments, demonstrations, drafts, rankings, tasks
from app.services.labeling.answered import next_submit_id
from app.services.projects import guidelines
from app.services.projects.questions import Questions
from app.services.training import snapshots

RANKS = {"rank_A": "1", "rank_B": "2", "rank_C": "2"}
OTHER_RANKS = {"rank_A": "3", "rank_B": "2", "rank_C": "1"}


@pytest.fixture
def leased(database: str) -> tuple[Assignment, User]:
    world = make_world(number_of_prompts=1)
    assignment = take(world, world.labelers[0])
    assert assignment is not None
    return assignment, world.labelers[0]


def send(assignment: Assignment, user: User, fields: dict[str, str], submit_id: UUID | None = None) -> rankings.Stored:
    with db.transaction() as session:
        return rankings.submit(session, assignment.id, user, submit_id or assignment.submit_id, fields)


def undo(assignment: Assignment, user: User) -> Assignment:
    with db.transaction() as session:
        return rankings.undo(session, assignment.id, user)


def chain(assignment: Assignment) -> list[Ranking]:
    with db.transaction() as session:
        query = select(Ranking).where(Ranking.assignment_id == assignment.id, Ranking.origin == "task")
        return list(session.scalars(query.order_by(Ranking.id)))


def edit_rankings() -> list[Ranking]:
    with db.transaction() as session:
        return list(session.scalars(select(Ranking).where(Ranking.origin == "edit").order_by(Ranking.id)))


def next_id(assignment: Assignment) -> UUID:
    return next_submit_id(chain(assignment)[-1].id)


def test_a_change_is_a_new_row_that_supersedes_the_old_and_takes_no_further_place(
    leased: tuple[Assignment, User],
) -> None:
    assignment, labeler = leased
    send(assignment, labeler, RANKS)
    later = next_id(assignment)
    assert not send(assignment, labeler, OTHER_RANKS, later).is_replay
    assert send(assignment, labeler, OTHER_RANKS, later).is_replay

    first, second = chain(assignment)
    assert (second.supersedes, second.counted) == (first.id, True)
    assert task_of(assignment).done_count == 1
    assert counters_are_right_for_the_latest()


def test_of_two_tabs_that_change_the_same_answer_the_second_is_told_so(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    send(assignment, labeler, RANKS)
    later = next_id(assignment)
    send(assignment, labeler, OTHER_RANKS, later)
    with pytest.raises(ConflictError, match="a different one was sent"):
        send(assignment, labeler, {**RANKS, "rank_B": "3"}, later)
    with pytest.raises(ConflictError, match="does not belong"):
        send(assignment, labeler, RANKS, uuid4())
    assert len(chain(assignment)) == 2
    # The first send of all, once more, still finds its own row.
    assert send(assignment, labeler, RANKS).is_replay


def test_undo_takes_the_answer_back_and_leases_the_task_again_as_it_was_filled_in(
    leased: tuple[Assignment, User],
) -> None:
    assignment, labeler = leased
    send(assignment, labeler, {**RANKS, "reason": "The first is right."})
    assert undo(assignment, labeler).id == assignment.id
    undo(assignment, labeler)

    first, second = chain(assignment)
    assert (second.retracts, second.counted, second.supersedes, second.groups) == (True, False, first.id, [])
    task = task_of(assignment)
    assert (task.open_leases, task.done_count) == (1, 0)
    with db.transaction() as session:
        again = session.get_one(Assignment, assignment.id)
        assert again.state == "leased"
        assert drafts.of(session, assignment.id) == {
            "rank_A": "1",
            "rank_B": "2",
            "rank_C": "2",
            "reason": "The first is right.",
        }

    send(assignment, labeler, OTHER_RANKS, next_id(assignment))
    assert [row.counted for row in chain(assignment)] == [True, False, True]
    assert task_of(assignment).done_count == 1
    with db.transaction() as session:
        assert drafts.of(session, assignment.id) == {}


def test_an_answer_that_was_taken_back_is_in_no_snapshot(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    send(assignment, labeler, RANKS)
    undo(assignment, labeler)
    with db.transaction() as session:
        project = session.get_one(Project, task_of(assignment).project_id)
        with pytest.raises(InvalidInputError, match="nothing to freeze"):
            snapshots.create(session, project, labeler)
    send(assignment, labeler, OTHER_RANKS, next_id(assignment))
    with db.transaction() as session:
        assert snapshots.create(session, project, labeler).manifest["files"]["comparisons.jsonl"]["rows"] == 1


def test_undo_has_its_time_and_wants_an_answer(
    leased: tuple[Assignment, User], monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment, labeler = leased
    with pytest.raises(ConflictError, match="nothing to take back"):
        undo(assignment, labeler)
    send(assignment, labeler, RANKS)
    monkeypatch.setattr(rankings, "UNDO_SECONDS", -rankings.UNDO_GRACE)
    with pytest.raises(ConflictError, match="too late to take this back"):
        undo(assignment, labeler)
    assert len(chain(assignment)) == 1
    monkeypatch.undo()
    undo(assignment, labeler)
    assert len(chain(assignment)) == 2


def test_undo_of_work_that_did_not_count_takes_nobodys_place(database: str) -> None:
    world = make_world(number_of_prompts=1)
    late, in_time = world.labelers
    assignment = take(world, late)
    assert assignment is not None
    expire(assignment)
    with db.transaction() as session:
        assignments.expire_due(session)
    other = take(world, in_time)
    assert other is not None
    rank(other, in_time)
    assert send(assignment, late, RANKS).not_counted_reason is not None
    assert undo(assignment, late).state == "expired"
    task = task_of(assignment)
    assert (task.open_leases, task.done_count) == (0, 1)


def test_a_change_names_the_guidelines_it_was_made_under(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    send(assignment, labeler, RANKS)
    with db.transaction() as session:
        project = session.get_one(Project, task_of(assignment).project_id)
        guidelines.revise(session, project, labeler, "Be kinder.", Questions(reason="required"))
    later = next_id(assignment)
    with pytest.raises(InvalidInputError, match="why you judge so"):
        send(assignment, labeler, {**OTHER_RANKS, "guidelines": "2"}, later)
    with pytest.raises(InvalidInputError, match="does not have"):
        send(assignment, labeler, {**OTHER_RANKS, "guidelines": "7"}, later)
    changed = {**OTHER_RANKS, "guidelines": "2", "reason": "Kinder."}
    send(assignment, labeler, changed, later)
    assert send(assignment, labeler, changed, later).is_replay
    with db.transaction() as session:
        found = [guidelines.get(session, row.guideline_version_id).version for row in chain(assignment)]
    assert found == [1, 2]


def test_a_demonstration_is_changed_and_taken_back_the_same_way(database: str) -> None:
    world = make_world(number_of_prompts=1)
    labeler = world.labelers[0]
    with db.transaction() as session:
        tasks.open_demonstration_tasks(session, session.get_one(Project, world.project_id))
    assignment = take(world, labeler, "demonstration")
    assert assignment is not None

    def write(body: str, submit_id: UUID) -> None:
        with db.transaction() as session:
            demonstrations.submit(session, assignment.id, labeler, submit_id, {"text": body})

    def latest() -> Demonstration:
        with db.transaction() as session:
            found = demonstrations.latest(session, assignment.id)
            assert found is not None
            return found

    write("One.", assignment.submit_id)
    write("Two.", next_submit_id(latest().id))
    with db.transaction() as session:
        demonstrations.undo(session, assignment.id, labeler)
    assert latest().retracts
    assert task_of(assignment).done_count == 0
    write("Three.", next_submit_id(latest().id))
    assert (latest().text, latest().counted) == ("Three.", True)
    assert task_of(assignment).done_count == 1
    with db.transaction() as session:
        frozen = snapshots.create(session, session.get_one(Project, world.project_id), labeler)
    assert frozen.manifest["files"]["demonstrations.jsonl"]["rows"] == 1


def test_an_improved_answer_is_a_comparison_over_its_original_and_a_demonstration(
    leased: tuple[Assignment, User],
) -> None:
    assignment, labeler = leased
    send(assignment, labeler, {**RANKS, "edit_B": "A better answer.\r\n"})

    original = assignment.shown_order[1]
    (edit,) = edit_rankings()
    with db.transaction() as session:
        edited = session.scalars(select(Completion).where(Completion.source == "edit")).one()
        written = session.scalars(select(Demonstration)).one()
    assert (edited.parent_id, edited.created_by, edited.text) == (original, labeler.id, "A better answer.")
    assert edit.groups == [[str(edited.id)], [str(original)]]
    assert (edit.counted, written.text, written.completion_id) == (True, "A better answer.", edited.id)
    with db.transaction() as session:
        frozen = snapshots.create(session, session.get_one(Project, edit.project_id), labeler)
    assert {name: facts["rows"] for name, facts in frozen.manifest["files"].items()} == {
        "prompts.jsonl": 1,
        "comparisons.jsonl": 2,
        "demonstrations.jsonl": 1,
    }


def test_an_edit_that_changes_nothing_is_none(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    with db.transaction() as session:
        unchanged = session.get_one(Completion, assignment.shown_order[0]).text
    send(assignment, labeler, {**RANKS, "edit_A": f"{unchanged} \n", "edit_B": "Really better."})
    assert len(edit_rankings()) == 1


def test_edits_follow_the_answer_they_were_sent_with(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    send(assignment, labeler, {**RANKS, "edit_A": "First.", "edit_B": "Second."})
    send(assignment, labeler, {**OTHER_RANKS, "edit_A": "First.", "edit_B": "Third."}, next_id(assignment))
    assert standing_edits() == ["First.", "Third."]
    undo(assignment, labeler)
    assert standing_edits() == []
    send(assignment, labeler, {**RANKS, "edit_C": "Fourth."}, next_id(assignment))
    assert standing_edits() == ["Fourth."]
    with db.transaction() as session:
        texts = select(Demonstration.text).where(Demonstration.counted, ~taken_back())
        assert session.scalars(texts).all() == ["Fourth."]


def test_undo_and_change_at_the_same_moment_leave_one_chain(leased: tuple[Assignment, User]) -> None:
    assignment, labeler = leased
    send(assignment, labeler, RANKS)
    later = next_id(assignment)

    def one(number: int) -> str:
        try:
            if number % 2:
                undo(assignment, labeler)
            else:
                send(assignment, labeler, OTHER_RANKS, later)
        except ConflictError:
            return "conflict"
        return "done"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, range(16)))
    assert "done" in outcomes
    rows = chain(assignment)
    assert [row.supersedes for row in rows] == [None, *(row.id for row in rows[:-1])]
    assert counters_are_right_for_the_latest()


def counters_are_right_for_the_latest() -> bool:
    """Return whether each ranking task's done counter equals its counted rankings that nothing supersedes."""
    with db.transaction() as session:
        wrong = session.scalar(
            text(
                "SELECT count(*) FROM tasks t WHERE kind = 'ranking' AND done_count <> (SELECT count(*) FROM rankings r"
                " WHERE r.task_id = t.id AND r.counted"
                " AND NOT EXISTS (SELECT 1 FROM rankings l WHERE l.supersedes = r.id))"
            )
        )
        leases = session.scalar(select(func.sum(Task.open_leases)))
        held = session.scalar(select(func.count()).where(Assignment.state == "leased"))
    return (wrong, leases or 0) == (0, held)


def taken_back() -> object:
    return (
        select(1)
        .where(text("later.supersedes = demonstrations.id"))
        .select_from(text("demonstrations AS later"))
        .exists()
    )


def standing_edits() -> list[str]:
    with db.transaction() as session:
        rows = session.execute(
            text(
                "SELECT c.text FROM rankings r JOIN completions c ON c.id::text = r.groups->0->>0 "
                "WHERE r.origin = 'edit' AND NOT r.retracts "
                "AND NOT EXISTS (SELECT 1 FROM rankings l WHERE l.supersedes = r.id) ORDER BY c.text"
            )
        )
        return [row[0] for row in rows]
