"""Tasks with known answers: how they are made, who gets them, what a trial leads to; and no snapshot takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest
from labeling_world import World, counters_are_right, make_world, rank, stored_rankings, take
from sqlalchemy import func, select, update

from app import db
from app.errors import ConflictError, ForbiddenError, InvalidInputError
from app.models import Assignment, Demonstration, Membership, Project, Ranking, Snapshot, Task, TaskCompletion, User
from app.services.labeling import progress, rankings
from app.services.projects import memberships, project_overview, projects
from app.services.quality import references, trials
from app.services.quality.references import Purpose, agreement
from app.services.training import snapshots
from trainer.records import read_comparisons, read_demonstrations


@pytest.fixture
def world(database: str) -> World:
    return make_world(number_of_prompts=4, number_of_labelers=3)


def tasks_of(world: World, purpose: str = "collect") -> list[Task]:
    with db.transaction() as session:
        query = select(Task).where(Task.project_id == world.project_id, Task.purpose == purpose)
        return list(session.scalars(query.order_by(Task.sort_key, Task.id)))


def answers_of(task_id: UUID) -> list[str]:
    with db.transaction() as session:
        query = select(TaskCompletion.completion_id).where(TaskCompletion.task_id == task_id)
        return [str(item) for item in session.scalars(query.order_by(TaskCompletion.position))]


def make_reference(world: World, task: Task, purpose: Purpose = "gold") -> UUID:
    """The stored order of the answers becomes the reference."""
    with db.transaction() as session:
        groups = [[completion] for completion in answers_of(task.id)]
        return references.create(session, task.id, world.admin, groups, purpose)


def configure(world: World, **values: object) -> None:
    with db.transaction() as session:
        session.execute(update(Project).where(Project.id == world.project_id).values(**values))


def rank_as(assignment: Assignment, user: User, order: Sequence[str]) -> None:
    place = {completion: rank for rank, completion in enumerate(order, start=1)}
    letters = "ABCDEFGHI"
    rank(assignment, user, **{letters[n]: place[str(item)] for n, item in enumerate(assignment.shown_order)})


def freeze(world: World) -> Snapshot:
    with db.transaction() as session:
        return snapshots.create(session, projects.get(session, world.project_id), world.admin)


@pytest.mark.parametrize(
    ("given", "points"),
    [
        ([["a"], ["b"], ["c"]], 3.0),
        ([["c"], ["b"], ["a"]], 0.0),
        ([["a", "b", "c"]], 1.5),
        ([["b"], ["a"], ["c"]], 2.0),
        ([["a", "b"], ["c"]], 2.5),
    ],
)
def test_agreement_with_a_reference_by_hand(given: list[list[str]], points: float) -> None:
    assert agreement(given, [["a"], ["b"], ["c"]]) == (points, 3)


def test_agreement_leaves_out_pairs_that_a_partial_ranking_does_not_order() -> None:
    assert agreement([["a"]], [["a"], ["b"], ["c"]]) == (2.0, 2)


def test_a_task_that_nobody_has_begun_becomes_a_gold_task_itself(world: World) -> None:
    first, *_ = tasks_of(world)
    assert make_reference(world, first) == first.id
    assert len(tasks_of(world)) == 3
    configure(world, gold_percent=50)
    seen = set()
    for _ in range(40):  # whoever gave the reference is never measured by it
        taken = take(world, world.admin)
        if taken is not None:
            seen.add(taken.task_id)
            rank(taken, world.admin)
    assert seen == {task.id for task in tasks_of(world)}
    with pytest.raises(ConflictError, match="known already"):
        make_reference(world, first)


def test_a_task_with_answers_is_copied_and_whoever_saw_it_does_not_get_the_copy(world: World) -> None:
    ada, bob, _ = world.labelers
    held = take(world, ada)
    assert held is not None
    rank(held, ada)
    [original] = [task for task in tasks_of(world) if task.id == held.task_id]
    copy = make_reference(world, original)
    assert copy != original.id
    assert answers_of(copy) == answers_of(original.id)
    configure(world, gold_percent=50)
    seen: dict[UUID, set[UUID]] = {ada.id: set(), bob.id: set()}
    for user in (ada, bob):
        while (taken := take(world, user)) is not None and len(seen[user.id]) < 20:
            seen[user.id].add(taken.task_id)
            rank(taken, user)
    assert copy not in seen[ada.id]
    assert original.id not in seen[bob.id]  # it is closed: nobody is shown the same answers twice
    [kept] = [task for task in tasks_of(world) if task.id == original.id]
    assert (kept.state, kept.done_count) == ("closed", 1)
    assert counters_are_right()


@pytest.mark.parametrize("damage", ["missing", "twice", "foreign", "tied"])
def test_a_reference_that_is_no_ranking_of_the_task_is_refused(world: World, damage: str) -> None:
    first, second, *_ = tasks_of(world)
    ids = answers_of(first.id)
    groups = {
        "missing": [[ids[0]], [ids[1]]],
        "twice": [[ids[0]], [ids[1]], [ids[2]], [ids[0]]],
        "foreign": [[ids[0]], [ids[1]], [answers_of(second.id)[0]]],
        "tied": [ids],
    }[damage]
    with pytest.raises(InvalidInputError), db.transaction() as session:
        references.create(session, first.id, world.admin, groups, "gold")
    assert make_reference(world, first) == first.id


def test_gold_and_trial_answers_are_in_no_snapshot_and_in_no_count_of_what_waits(world: World) -> None:
    gold, trial, *rest = tasks_of(world)
    make_reference(world, gold)
    make_reference(world, trial, "screening")
    ada, bob, _ = world.labelers
    with db.transaction() as session:
        assert progress.mine(session, world.project_id, ada).rankings_waiting == len(rest)
    for _ in rest:
        taken = take(world, ada)
        assert taken is not None
        rank(taken, ada)
    configure(world, gold_percent=50)
    # Every second claim looks for a gold task, so that a hundred without one would be a miracle.
    golden = next(taken for taken in (take(world, ada) for _ in range(100)) if taken is not None)
    rank(golden, ada)
    configure(world, screening_tasks=1)
    tried = take(world, bob)
    assert tried is not None
    rank(tried, bob)
    answered = {ranking.task_id for ranking in stored_rankings(world)}
    assert {gold.id, trial.id} <= answered
    rows = read_comparisons(Path(freeze(world).uri) / "comparisons.jsonl")
    assert len(rows) == len(rest)
    with db.transaction() as session:
        assert project_overview.overview(session, world.project_id).ranking.answers_wanted == len(rest)


def test_a_text_improved_on_a_task_that_measures_is_kept_and_is_in_no_snapshot(world: World) -> None:
    ada, bob, _ = world.labelers
    make_reference(world, tasks_of(world)[0], "screening")
    configure(world, screening_tasks=1)
    for labeler in (ada, bob):  # Ada on trial, Bob at work
        taken = take(world, labeler)
        assert taken is not None
        fields = {"rank_A": "1", "rank_B": "2", "rank_C": "3", "edit_A": f"Better, says {labeler.name}."}
        with db.transaction() as session:
            rankings.submit(session, taken.id, labeler, taken.submit_id, fields)
        configure(world, screening_tasks=0)
    folder = Path(freeze(world).uri)
    assert [row.completion for row in read_demonstrations(folder / "demonstrations.jsonl")] == [
        f"Better, says {bob.name}."
    ]
    assert len(read_comparisons(folder / "comparisons.jsonl")) == 2  # Bob's ranking and his edit
    with db.transaction() as session:
        kept = session.scalars(select(Demonstration).where(Demonstration.user_id == ada.id)).one()
        assert (kept.counted, kept.text) == (False, f"Better, says {ada.name}.")


def on_trial(world: World, *, tasks: int = 2, threshold: float = 0.75) -> None:
    for task in tasks_of(world)[:tasks]:
        make_reference(world, task, "screening")
    configure(world, screening_tasks=tasks, screening_threshold=threshold)


def test_a_good_trial_lets_a_labeler_in(world: World) -> None:
    on_trial(world)
    ada = world.labelers[0]
    for done in range(2):
        with db.transaction() as session:
            project = projects.get(session, world.project_id)
            assert trials.of(session, project, ada) == trials.Trial(done, 2)
        taken = take(world, ada)
        assert taken is not None
        assert taken.task_id in [task.id for task in tasks_of(world, "screening")]
        rank_as(taken, ada, answers_of(taken.task_id))
    with db.transaction() as session:
        project = projects.get(session, world.project_id)
        assert trials.of(session, project, ada) is None
        found = session.get_one(Membership, (world.project_id, ada.id))
        assert (found.state, found.score) == ("active", 1.0)
    taken = take(world, ada)
    assert taken is not None
    assert taken.task_id in [task.id for task in tasks_of(world)]


def test_a_poor_trial_turns_a_labeler_down_and_a_reviewer_can_decide_otherwise(world: World) -> None:
    on_trial(world)
    ada = world.labelers[0]
    for _ in range(2):
        taken = take(world, ada)
        assert taken is not None
        rank_as(taken, ada, answers_of(taken.task_id)[::-1])
    with pytest.raises(ForbiddenError, match="Thank you"):
        take(world, ada)
    with db.transaction() as session:
        [line] = progress.my_work(session, ada)
        assert "a reviewer can look at it again" in line.refusal
        assert line.progress.trial is None
        memberships.set_state(session, projects.get(session, world.project_id), ada.id, world.admin, "active")
    assert take(world, ada) is not None


def test_a_trial_ends_with_the_tasks_there_are(world: World) -> None:
    on_trial(world, tasks=2)
    configure(world, screening_tasks=5)
    ada = world.labelers[0]
    first = take(world, ada)
    assert first is not None
    rank_as(first, ada, answers_of(first.task_id))
    second = take(world, ada)
    assert second is not None
    rank_as(second, ada, answers_of(second.task_id))
    with db.transaction() as session:
        assert session.get_one(Membership, (world.project_id, ada.id)).state == "active"


def test_a_task_with_a_known_answer_changes_its_use_and_is_closed(world: World) -> None:
    task_id = make_reference(world, tasks_of(world)[0])
    with db.transaction() as session:
        project = projects.get(session, world.project_id)
        references.change(session, project, world.admin, task_id, purpose="screening", state="closed")
        [line] = references.listed(session, world.project_id)
        assert (line.purpose, line.state, line.answers) == ("screening", "closed", 0)
        assert session.scalar(select(func.count()).select_from(Ranking)) == 0
