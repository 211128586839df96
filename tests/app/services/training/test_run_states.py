"""The state machine of runs, on a real Postgres."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from run_builders import fake_model_folder, fill_project, freeze, make_model, make_project, make_user
from sqlalchemy import select, text

from app.db import transaction
from app.errors import ConflictError, NotFoundError
from app.models import Checkpoint, Run, RunAttempt, RunEvent, RunMetric
from app.services.training import run_states, runs
from app.services.training.run_states import Beat, Due, Lease, LostLeaseError, NewCheckpoint

LEASE = 60.0


@pytest.fixture
def run_id(database: str, redis_url: str, tmp_path: Path) -> UUID:
    """A queued run."""
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
        fill_project(session, project, [admin], [f"Is it {n}?" for n in range(8)])
    with transaction() as session:
        snapshot = freeze(session, project, admin)
        return runs.create_training_run(session, project, "sft", admin, model=model, snapshot=snapshot).id


def claim(run_id: UUID, worker: str = "w1") -> Lease:
    with transaction() as session:
        lease = run_states.claim(session, run_id, worker, LEASE)
    assert lease is not None
    return lease


def beat(lease: Lease, **seen: object) -> bool:
    with transaction() as session:
        return run_states.heartbeat(session, lease, LEASE, Beat(**seen))  # type: ignore[arg-type]


def stored(run_id: UUID) -> Run:
    with transaction() as session:
        return session.get_one(Run, run_id)


def kinds(run_id: UUID) -> list[str]:
    with transaction() as session:
        query = select(RunEvent.kind).where(RunEvent.run_id == run_id).order_by(RunEvent.id)
        return list(session.scalars(query))


def end_lease(run_id: UUID) -> list[UUID]:
    """Let the lease be over by the database's clock, and reconcile."""
    with transaction() as session:
        session.execute(
            text("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s' WHERE id = :id"), {"id": run_id}
        )
    with transaction() as session:
        return run_states.expire_leases(session, pause_seconds=0)


def test_a_run_goes_from_queued_to_succeeded_with_one_event_for_each_step(run_id: UUID) -> None:
    lease = claim(run_id)
    assert stored(run_id).state == "running"
    beat(lease, step=2, total=10, log_tail="hello", metrics={1: {"loss": 2.0}, 2: {"loss": 1.5}})
    with transaction() as session:
        run_states.finish(session, lease, {"summary": {}})
    run = stored(run_id)
    assert (run.state, run.progress_step, run.progress_total, run.log_tail) == ("succeeded", 2, 10, "hello")
    assert run.lease_until is None
    assert run.finished_at is not None
    assert kinds(run_id) == ["created", "claimed", "finished"]
    with transaction() as session:
        attempt = session.scalars(select(RunAttempt)).one()
        assert (attempt.outcome, attempt.exit_code) == ("succeeded", 0)


def test_of_many_workers_that_claim_at_once_one_gets_the_run(run_id: UUID) -> None:
    def attempt(number: int) -> Lease | None:
        with transaction() as session:
            return run_states.claim(session, run_id, f"w{number}", LEASE)

    with ThreadPoolExecutor(8) as pool:
        leases = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
    assert len(leases) == 1
    assert kinds(run_id) == ["created", "claimed"]


def test_a_message_for_a_run_that_does_not_exist_claims_nothing(database: str) -> None:
    with transaction() as session:
        assert run_states.claim(session, uuid4(), "w1", LEASE) is None


def test_a_run_whose_pause_is_not_over_cannot_be_claimed(run_id: UUID) -> None:
    lease = claim(run_id)
    with transaction() as session:
        assert run_states.retry(session, lease, "Out of memory.", 1, pause_seconds=3600) == "queued"
    with transaction() as session:
        assert run_states.claim(session, run_id, "w2", LEASE) is None


def test_the_pause_doubles_with_each_attempt(run_id: UUID) -> None:
    pauses = []
    for _ in range(2):
        lease = claim(run_id)
        with transaction() as session:
            run_states.retry(session, lease, "It crashed.", 1, pause_seconds=100)
            query = text("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM runs")
            pauses.append(float(session.execute(query).scalar_one()))
            session.execute(text("UPDATE runs SET not_before = clock_timestamp()"))
    assert pauses == pytest.approx([100, 200], abs=1)


def crash(run_id: UUID, *steps: int) -> str:
    """One attempt that registers checkpoints of these steps and then crashes; the state it leaves."""
    lease = claim(run_id)
    beat(lease, checkpoints=[NewCheckpoint(step, f"/runs/x/step_{step}", "ab" * 32) for step in steps])
    with transaction() as session:
        return run_states.retry(session, lease, "It crashed.", 1, pause_seconds=0)


def test_a_run_that_crashes_three_times_without_a_new_checkpoint_is_set_aside(run_id: UUID) -> None:
    assert [crash(run_id) for _ in range(3)] == ["queued", "queued", "failed"]
    said = "It crashed. The run is set aside after 3 attempts without a new checkpoint."
    assert stored(run_id).state_reason == said
    assert kinds(run_id)[-1] == "crashed"
    with transaction() as session:
        assert run_states.claim(session, run_id, "w1", LEASE) is None


def test_attempts_that_come_further_do_not_use_a_run_up(run_id: UUID) -> None:
    """Hours on machines that are taken away again and again: each attempt makes its checkpoint, and the run goes on."""
    assert [crash(run_id, 50 * number) for number in range(1, 7)] == ["queued"] * 6
    # The same step again is no progress: what kills it stands behind that step.
    assert [crash(run_id, 300) for _ in range(3)] == ["queued", "queued", "failed"]
    assert stored(run_id).attempt == 9


def test_a_worker_that_is_lost_costs_no_pause_at_first_and_sets_the_run_aside_in_the_end(run_id: UUID) -> None:
    pauses = []
    for _ in range(3):
        claim(run_id)
        with transaction() as session:
            session.execute(text("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s'"))
            run_states.expire_leases(session, pause_seconds=100)
            pauses.append(session.scalar(text("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM runs")))
            session.execute(text("UPDATE runs SET not_before = clock_timestamp()"))
    assert [float(pause) for pause in pauses] == pytest.approx([0, 100, 300], abs=1)
    assert stored(run_id).state == "failed"
    assert "set aside" in stored(run_id).state_reason


def test_a_run_waits_for_a_worker_with_as_many_gpus_as_it_asks_for(run_id: UUID) -> None:
    with transaction() as session:
        session.execute(text("UPDATE runs SET gpus = 4, dispatched_at = NULL"))
    with transaction() as session:
        assert run_states.take_for_dispatch(session, 30) == [Due(run_id, 4)]
        assert run_states.claim(session, run_id, "small", LEASE, gpus=2) is None
    assert kinds(run_id) == ["created"]
    with transaction() as session:
        assert run_states.claim(session, run_id, "large", LEASE, gpus=8) is not None


def test_the_registered_checkpoints_come_newest_first_and_of_a_step_the_latest_attempts(run_id: UUID) -> None:
    crash(run_id, 50, 100)
    beat(claim(run_id), checkpoints=[NewCheckpoint(100, "/runs/x/again", "cd" * 32)])
    with transaction() as session:
        found = run_states.registered(session, run_id)
    assert [(one.step, one.uri) for one in found] == [(100, "/runs/x/again"), (50, "/runs/x/step_50")]


def test_a_fatal_failure_is_not_tried_again(run_id: UUID) -> None:
    lease = claim(run_id)
    with transaction() as session:
        run_states.fail(session, lease, "There is no such data.", 2)
    assert stored(run_id).state == "failed"
    assert stored(run_id).attempt == 1


def test_a_run_given_back_does_not_lose_an_attempt(run_id: UUID) -> None:
    lease = claim(run_id)
    with transaction() as session:
        run_states.give_back(session, lease, "The worker was stopped.", 3)
    run = stored(run_id)
    assert (run.state, run.attempt, run.dispatched_at) == ("queued", 0, None)


def test_when_the_lease_is_over_another_worker_takes_the_run_with_a_larger_fence(run_id: UUID) -> None:
    first = claim(run_id)
    assert end_lease(run_id) == [run_id]
    second = claim(run_id, "w2")
    assert second.fence > first.fence
    assert second.attempt == 2
    assert kinds(run_id) == ["created", "claimed", "lease_expired", "claimed"]


def test_a_lease_that_is_not_over_is_left_alone(run_id: UUID) -> None:
    claim(run_id)
    with transaction() as session:
        assert run_states.expire_leases(session, 0) == []
    assert stored(run_id).state == "running"


@pytest.mark.parametrize("write", ["heartbeat", "finish", "fail", "retry", "give_back", "confirm_cancel"])
def test_whatever_a_worker_writes_after_it_lost_its_lease_is_refused(run_id: UUID, write: str) -> None:
    writes = {
        "heartbeat": lambda s, lease: run_states.heartbeat(s, lease, LEASE, Beat(step=9, metrics={9: {"loss": 0}})),
        "finish": lambda s, lease: run_states.finish(s, lease, {"stale": True}),
        "fail": lambda s, lease: run_states.fail(s, lease, "stale", 2),
        "retry": lambda s, lease: run_states.retry(s, lease, "stale", 1, 0),
        "give_back": lambda s, lease: run_states.give_back(s, lease, "stale", 3),
        "confirm_cancel": lambda s, lease: run_states.confirm_cancel(s, lease, 3),
    }
    stale = claim(run_id)
    end_lease(run_id)
    current = claim(run_id, "w2")
    before, events = stored(run_id), kinds(run_id)
    with pytest.raises(LostLeaseError), transaction() as session:
        writes[write](session, stale)
    after = stored(run_id)
    assert (after.state, after.fence, after.report, after.progress_step) == ("running", current.fence, None, None)
    assert after.lease_until == before.lease_until
    assert kinds(run_id) == events
    with transaction() as session:
        writes[write](session, current)  # the same write by who holds the lease goes through
    assert (stored(run_id).state, stored(run_id).progress_step) != ("running", None)


def test_metrics_of_a_step_computed_again_replace_the_first(run_id: UUID) -> None:
    lease = claim(run_id)
    beat(lease, step=2, metrics={1: {"loss": 2.0}, 2: {"loss": 1.0}})
    beat(lease, step=2, metrics={2: {"loss": 1.25}})
    with transaction() as session:
        rows = {row.step: row.values["loss"] for row in session.scalars(select(RunMetric))}
    assert rows == {1: 2.0, 2: 1.25}


def test_progress_time_moves_only_with_the_step(run_id: UUID) -> None:
    lease = claim(run_id)
    beat(lease, step=1)
    first = stored(run_id).progress_at
    beat(lease, step=1)
    assert stored(run_id).progress_at == first
    beat(lease, step=2)
    assert stored(run_id).progress_at > first


def test_a_checkpoint_is_registered_once(run_id: UUID) -> None:
    lease = claim(run_id)
    found = NewCheckpoint(50, "/runs/x/checkpoints/step_000050", "ab" * 32)
    beat(lease, checkpoints=[found])
    beat(lease, checkpoints=[found])
    with transaction() as session:
        assert [(row.step, row.fence) for row in session.scalars(select(Checkpoint))] == [(50, lease.fence)]


def test_a_queued_run_is_cancelled_at_once(run_id: UUID) -> None:
    with transaction() as session:
        assert run_states.request_cancel(session, run_id, stored(run_id).created_by) == "cancelled"
    assert stored(run_id).state == "cancelled"
    with transaction() as session:
        assert run_states.claim(session, run_id, "w1", LEASE) is None


def test_a_running_run_learns_of_the_cancel_at_its_next_heartbeat(run_id: UUID) -> None:
    lease = claim(run_id)
    assert beat(lease) is False
    with transaction() as session:
        assert run_states.request_cancel(session, run_id, stored(run_id).created_by) == "running"
        assert run_states.request_cancel(session, run_id, stored(run_id).created_by) == "running"
    assert beat(lease) is True
    with transaction() as session:
        run_states.confirm_cancel(session, lease, 3)
    assert stored(run_id).state == "cancelled"
    assert kinds(run_id) == ["created", "claimed", "cancel_requested", "cancelled"]


@pytest.mark.parametrize("ending", ["lease over", "crash", "given back"])
def test_a_cancel_asked_for_is_kept_however_the_attempt_ends(run_id: UUID, ending: str) -> None:
    lease = claim(run_id)
    with transaction() as session:
        run_states.request_cancel(session, run_id, stored(run_id).created_by)
    if ending == "lease over":
        end_lease(run_id)
    else:
        with transaction() as session:
            if ending == "crash":
                run_states.retry(session, lease, "It crashed.", 1, 0)
            else:
                run_states.give_back(session, lease, "Stopping.", 3)
    assert stored(run_id).state == "cancelled"


def test_a_finished_run_cannot_be_cancelled(run_id: UUID) -> None:
    lease = claim(run_id)
    with transaction() as session:
        run_states.finish(session, lease, None)
    with pytest.raises(ConflictError, match="already succeeded"), transaction() as session:
        run_states.request_cancel(session, run_id, stored(run_id).created_by)
    with pytest.raises(NotFoundError), transaction() as session:
        run_states.request_cancel(session, uuid4(), stored(run_id).created_by)


def test_a_queued_run_is_sent_again_only_after_a_while(run_id: UUID) -> None:
    with transaction() as session:
        session.execute(text("UPDATE runs SET dispatched_at = NULL"))
    with transaction() as session:
        assert run_states.take_for_dispatch(session, 30) == [Due(run_id, 1)]
    with transaction() as session:
        assert run_states.take_for_dispatch(session, 30) == []
        session.execute(text("UPDATE runs SET dispatched_at = clock_timestamp() - interval '31 s'"))
        assert run_states.take_for_dispatch(session, 30) == [Due(run_id, 1)]


def test_two_dispatchers_at_once_send_a_run_once(run_id: UUID) -> None:
    with transaction() as session:
        session.execute(text("UPDATE runs SET dispatched_at = NULL"))

    def take(_: int) -> list[Due]:
        with transaction() as session:
            return run_states.take_for_dispatch(session, 30)

    with ThreadPoolExecutor(6) as pool:
        assert [taken for found in pool.map(take, range(6)) for taken in found] == [Due(run_id, 1)]


def test_events_are_never_changed(run_id: UUID) -> None:
    with pytest.raises(Exception, match="never changed"), transaction() as session:
        session.execute(text("DELETE FROM run_events"))
