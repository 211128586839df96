"""Handing out work: nobody gets too much, nothing is handed out too often, and late work is never lost."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from labeling_world import World, counters_are_right, expire, make_world, rank, stored_rankings, take, task_of
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from app import db
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Assignment, Project, Task, User
from app.services.labeling import assignments
from app.services.projects import projects
from app.settings import get_settings

pytestmark = pytest.mark.usefixtures("database")


def test_tasks_come_in_their_order_and_each_labeler_gets_a_task_once() -> None:
    world = make_world(number_of_prompts=3, overlap=2)
    first, second = world.labelers

    seen = []
    while (taken := take(world, first)) is not None:
        seen.append(task_of(taken).sort_key)
        rank(taken, first)

    assert seen == [0, 1, 2]
    other = take(world, second)
    assert other is not None
    assert task_of(other).sort_key == 0
    assert counters_are_right()


def test_who_is_far_ahead_goes_on_behind_their_last_task_until_nothing_is_left_there() -> None:
    world = make_world(number_of_prompts=70, k=2, overlap=2)
    ahead = world.labelers[0]
    open_or_not = text("UPDATE tasks SET state = :state WHERE sort_key = 67")
    with db.transaction() as session:
        session.execute(open_or_not, {"state": "draft"})
    assert [take_and_rank(world, ahead) for _ in range(68)] == [*range(67), 68]
    with db.transaction() as session:
        session.execute(open_or_not, {"state": "open"})
    assert [take_and_rank(world, ahead) for _ in range(2)] == [69, 67]
    assert take(world, ahead) is None
    assert counters_are_right()


def test_a_task_that_became_urgent_comes_first_for_who_is_far_ahead_too() -> None:
    world = make_world(number_of_prompts=70, k=2, overlap=2)
    ahead = world.labelers[0]
    for _ in range(66):
        take_and_rank(world, ahead)
    with db.transaction() as session:
        session.execute(text("UPDATE tasks SET priority = 1 WHERE sort_key = 69"))
    assert [take_and_rank(world, ahead) for _ in range(3)] == [69, 66, 67]


def take_and_rank(world: World, labeler: User) -> int:
    taken = take(world, labeler)
    assert taken is not None
    rank(taken, labeler)
    return task_of(taken).sort_key


def test_a_labeler_who_holds_a_lease_gets_that_one_back() -> None:
    world = make_world()
    labeler = world.labelers[0]
    first, again = take(world, labeler), take(world, labeler)
    assert first is not None
    assert again is not None
    assert first.id == again.id
    assert first.shown_order == again.shown_order


def test_two_clicks_at_the_same_moment_take_one_task() -> None:
    world = make_world(number_of_prompts=8, number_of_labelers=1)
    together = Barrier(8)

    def click(_: int) -> object:
        together.wait()
        taken = take(world, world.labelers[0])
        assert taken is not None
        return taken.id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(click, range(8)))) == 1


def test_each_labeler_sees_a_random_order_that_is_stored() -> None:
    world = make_world(number_of_prompts=1, k=9, overlap=16, number_of_labelers=12)
    orders = set()
    for labeler in world.labelers:
        taken = take(world, labeler)
        assert taken is not None
        orders.add(tuple(taken.shown_order))
    assert len({tuple(sorted(order)) for order in orders}) == 1
    assert len(orders) > 8  # of 362,880 orders; twelve equal draws would be a broken shuffle


def test_a_paused_project_hands_out_nothing_and_takes_what_is_in_hand() -> None:
    world = make_world()
    first, second = world.labelers
    taken = take(world, first)
    assert taken is not None
    with db.transaction() as session:
        projects.set_state(session, session.get_one(Project, world.project_id), world.admin, "paused")

    assert take(world, second) is None
    assert rank(taken, first).not_counted_reason is None
    assert take(world, first) is None


def test_drafts_are_not_handed_out() -> None:
    world = make_world(open_tasks=False)
    assert take(world, world.labelers[0]) is None


def test_an_expired_lease_frees_its_place_for_another() -> None:
    world = make_world(number_of_prompts=1)
    first, second = world.labelers
    mine = take(world, first)
    assert mine is not None
    assert take(world, second) is None
    expire(mine)

    theirs = take(world, second)  # hand-out itself frees what is due in the project

    assert theirs is not None
    assert theirs.task_id == mine.task_id
    assert counters_are_right()


def test_the_tick_frees_expired_leases_once() -> None:
    world = make_world(number_of_prompts=2)
    held = [take(world, labeler) for labeler in world.labelers]
    expire(*[item for item in held if item is not None])
    with db.transaction() as session:
        assert assignments.expire_due(session) == 2
    with db.transaction() as session:
        assert assignments.expire_due(session) == 0
        assert session.scalars(select(Task.open_leases)).all() == [0, 0]


def test_a_labeler_whose_lease_ran_out_can_be_handed_the_task_again() -> None:
    world = make_world(number_of_prompts=1, number_of_labelers=1)
    labeler = world.labelers[0]
    first = take(world, labeler)
    assert first is not None
    expire(first)

    again = take(world, labeler)

    assert again is not None
    assert (again.id, again.state) == (first.id, "leased")
    assert rank(again, labeler).not_counted_reason is None
    assert counters_are_right()


def test_late_work_counts_while_there_is_a_free_place() -> None:
    world = make_world(number_of_prompts=1)
    labeler = world.labelers[0]
    mine = take(world, labeler)
    assert mine is not None
    expire(mine)
    with db.transaction() as session:
        assignments.expire_due(session)

    assert rank(mine, labeler).not_counted_reason is None
    assert task_of(mine).done_count == 1
    assert counters_are_right()


def test_late_work_is_kept_but_not_counted_when_the_place_is_taken() -> None:
    world = make_world(number_of_prompts=1)
    first, second = world.labelers
    mine = take(world, first)
    assert mine is not None
    expire(mine)
    theirs = take(world, second)
    assert theirs is not None

    late = rank(mine, first)
    in_time = rank(theirs, second)

    assert late.not_counted_reason == assignments.LATE
    assert in_time.not_counted_reason is None
    assert [(item.counted, item.not_counted_reason) for item in stored_rankings(world)] == [
        (False, assignments.LATE),
        (True, None),
    ]
    assert counters_are_right()


def test_late_work_of_many_at_once_fills_the_free_places_and_no_more() -> None:
    world = make_world(number_of_prompts=1, overlap=2, number_of_labelers=8)
    held = []
    for labeler in world.labelers:
        taken = take(world, labeler)
        assert taken is not None
        held.append((taken, labeler))
        expire(taken)
    with db.transaction() as session:
        assignments.expire_due(session)
    together = Barrier(8)

    def submit(mine: tuple[Assignment, User]) -> str | None:
        together.wait()
        return rank(*mine).not_counted_reason

    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(submit, held))
    assert (reasons.count(None), reasons.count(assignments.LATE)) == (2, 6)
    assert counters_are_right()


def test_a_skipped_task_goes_to_others_and_not_back_to_the_same_labeler() -> None:
    world = make_world(number_of_prompts=1)
    first, second = world.labelers
    mine = take(world, first)
    assert mine is not None
    for _ in range(2):  # a second click changes nothing
        with db.transaction() as session:
            assignments.skip(session, mine.id, first, "unclear")

    assert take(world, first) is None
    assert take(world, second) is not None
    with db.transaction() as session:
        skipped = session.get_one(Assignment, mine.id)
        assert (skipped.state, skipped.skip_reason) == ("skipped", "unclear")
    assert counters_are_right()


def test_skipping_wants_a_known_reason_and_an_open_task() -> None:
    world = make_world(number_of_prompts=1)
    labeler = world.labelers[0]
    mine = take(world, labeler)
    assert mine is not None
    with db.transaction() as session, pytest.raises(InvalidInputError, match="Choose a reason"):
        assignments.skip(session, mine.id, labeler, "bored")
    rank(mine, labeler)
    with db.transaction() as session, pytest.raises(ConflictError, match="answered this task already"):
        assignments.skip(session, mine.id, labeler, "unclear")


def test_an_assignment_of_somebody_else_does_not_exist_for_me() -> None:
    world = make_world()
    owner, stranger = world.labelers
    theirs = take(world, owner)
    assert theirs is not None
    with db.transaction() as session:
        assert assignments.access_assignment(session, theirs.id, owner).id == theirs.id
        with pytest.raises(NotFoundError):
            assignments.access_assignment(session, theirs.id, stranger)
        with pytest.raises(NotFoundError):
            assignments.lock_assignment(session, theirs.id, stranger)
        with pytest.raises(NotFoundError):
            assignments.skip(session, theirs.id, stranger, "unclear")


def test_the_table_refuses_more_answers_than_a_task_wants() -> None:
    world = make_world(number_of_prompts=1, overlap=2)
    statement = text("UPDATE tasks SET open_leases = :leases WHERE project_id = :project")
    with db.transaction() as session:
        session.execute(statement, {"leases": 2, "project": world.project_id})
    with pytest.raises(IntegrityError, match="ck_tasks_overlap"), db.transaction() as session:
        session.execute(statement, {"leases": 3, "project": world.project_id})


def test_a_storm_of_labelers_never_gets_more_than_the_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 labelers take, rank, skip and let leases run out on 100 tasks that want 3 answers each."""
    monkeypatch.setenv("PLACKETT_DATABASE_POOL_SIZE", "24")
    monkeypatch.setenv("PLACKETT_LOCK_TIMEOUT_MS", "20000")
    monkeypatch.setenv("PLACKETT_STATEMENT_TIMEOUT_MS", "30000")
    db.reset_engine()
    get_settings.cache_clear()
    world = make_world(number_of_prompts=100, k=2, overlap=3, number_of_labelers=24)
    with db.transaction() as session:
        before = session.scalar(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
    together = Barrier(24)

    def work(number: int) -> Counter[str]:
        chance = random.Random(number)
        done: Counter[str] = Counter()
        labeler = world.labelers[number]
        together.wait()
        while (taken := take(world, labeler)) is not None and done.total() < 60:
            draw = chance.random()
            if draw < 0.1:
                with db.transaction() as session:
                    assignments.skip(session, taken.id, labeler, "other")
                done["skipped"] += 1
            elif draw < 0.2:
                expire(taken)
                done["expired"] += 1
            else:
                done["ranked"] += 1
                rank(taken, labeler)
                if draw < 0.3:
                    rank(taken, labeler)  # a double click
        return done

    with ThreadPoolExecutor(24) as pool:
        total = sum(pool.map(work, range(24)), Counter())

    assert total["ranked"] == len(stored_rankings(world))
    assert total["ranked"] > 250
    assert counters_are_right()
    with db.transaction() as session:
        # The constraint would have raised in a thread; this says that it was never even tried.
        assert session.scalar(select(Task.id).where(Task.done_count > Task.target_overlap)) is None
        after = session.scalar(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
    assert after == before
