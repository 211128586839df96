"""The supervisor with the real trainer where it can be brought to behave so, and with a stand-in where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from run_builders import make_model
from silent_proxy import SilentProxy
from sqlalchemy import select, text, update
from supervision import Supervision, World, child_pid, stored, wait_for

from app.db import reset_engine, transaction
from app.models import Checkpoint, Completion, ModelVersion, Project, RunAttempt, RunEvent, RunMetric, Task, TaskScore
from app.services.training import registry, run_states, runs
from app.services.training.run_states import NewCheckpoint
from app.settings import get_settings
from app.worker import supervise as module
from app.worker.checkpoint_watch import CheckpointWatch
from app.worker.child import Child, NewerAttemptError
from trainer.manifest import file_sha256, write_manifest

STAND_IN = (sys.executable, str(Path(__file__).parent / "stand_in.py"))


def folder(run_id: UUID) -> Path:
    return get_settings().runs_dir / str(run_id)


def kinds(run_id: UUID) -> list[str]:
    with transaction() as session:
        query = select(RunEvent.kind).where(RunEvent.run_id == run_id).order_by(RunEvent.id)
        return [kind for kind in session.scalars(query) if kind != "checkpoint"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_trainer_is_started_again_and_resumes_to_a_model(world: World) -> None:
    run_id = world.queue_sft(steps=200, checkpoint_steps=10)
    first = Supervision(run_id)
    first.start()
    wait_for("a checkpoint", lambda: any(folder(run_id).glob("checkpoints/step_*/manifest.json")))
    os.kill(child_pid(folder(run_id)), signal.SIGKILL)
    run = first.end()
    assert (run.state, run.attempt) == ("queued", 1)
    assert "SIGKILL" in run.state_reason
    with transaction() as session:
        assert session.scalars(select(Checkpoint)).all(), "no checkpoint was registered"

    second = Supervision(run_id)
    second.start()
    run = second.end()
    assert (run.state, run.attempt) == ("succeeded", 2), run.log_tail
    assert kinds(run_id) == ["created", "claimed", "crashed", "claimed", "finished"]
    assert run.progress_step == run.progress_total == 200
    assert run.report["summary"]
    with transaction() as session:
        steps = list(session.scalars(select(RunMetric.step).order_by(RunMetric.step)))
        assert steps == list(range(1, 201))
        model = session.scalars(select(ModelVersion).where(ModelVersion.run_id == run_id)).one()
        assert (model.name, model.kind, model.parent_id) == ("sft-1", "policy", world.model.id)
        assert model.snapshot_id == world.snapshot.id
        registry.check_files(model)
        assert registry.promote(session, model, world.admin).state == "promoted"


def test_a_running_trainer_is_cancelled_and_leaves_a_checkpoint(world: World) -> None:
    run_id = world.queue_sft(steps=100_000, checkpoint_steps=100_000)
    supervision = Supervision(run_id)
    supervision.start()
    wait_for("progress", lambda: (stored(run_id).progress_step or 0) > 0)
    with transaction() as session:
        run_states.request_cancel(session, run_id, world.admin.id)
    run = supervision.end()
    assert run.state == "cancelled"
    assert any(folder(run_id).glob("checkpoints/step_*/manifest.json"))
    assert kinds(run_id) == ["created", "claimed", "cancel_requested", "cancelled"]
    with transaction() as session:
        assert session.scalars(select(RunAttempt.exit_code)).one() == 3


def test_a_sampling_run_gives_answers_to_be_ranked(world: World) -> None:
    with transaction() as session:
        run = runs.create_sampling_run(
            session, world.project, world.model, world.admin, temperature=1.0, max_new_tokens=8, prompts="held_out"
        )
    supervision = Supervision(run.id)
    supervision.start()
    assert supervision.end().state == "succeeded", stored(run.id).log_tail
    with transaction() as session:
        tasks = session.scalars(select(Task).where(Task.sampling_run_id == run.id)).all()
        assert len(tasks) == len(run.inputs["prompts"]) > 0
        sources = set(session.scalars(select(Completion.model_version_id).where(Completion.run_id == run.id)))
        assert sources == {world.model.id}


def test_an_evaluation_notes_its_figures_on_the_models_it_judged(world: World) -> None:
    with transaction() as session:
        other = make_model(session, world.project, world.admin, world.model.uri, "dpo-1", method="dpo")
        run = runs.create_evaluation_run(
            session,
            world.project,
            world.admin,
            baseline=world.model,
            policies=[other],
            snapshot=world.snapshot,
            options={"sampling": {"max_new_tokens": 4}},
        )
    supervision = Supervision(run.id)
    supervision.start()
    run = supervision.end()
    assert run.state == "succeeded", run.log_tail
    with transaction() as session:
        for model in session.scalars(select(ModelVersion)):
            found = model.metrics["evaluation"]
            assert found.pop("run_id") == str(run.id)
            assert found == run.report["summary"]["policies"][model.name]


@pytest.mark.parametrize(
    ("code", "state"), [("2", "failed"), ("4", "failed"), ("1", "queued"), ("3", "queued"), ("5", "queued")]
)
def test_the_exit_code_decides_what_becomes_of_the_run(world: World, code: str, state: str) -> None:
    """A stand-in: the real trainer gives 2 only for data that creation refuses, and 4 or 1 only by accident."""
    run_id = world.queue_sft()
    supervision = Supervision(run_id, (*STAND_IN, code))
    supervision.start()
    run = supervision.end()
    assert run.state == state
    if code in "24":
        assert run.state_reason == f"The reason is {code}."
    if code in "15":
        assert run.state_reason == f"The trainer ended with code {code}: The reason is {code}."
    assert run.attempt == (0 if code == "3" else 1)
    assert run.log_tail.splitlines() == ["Working on it.", f"The reason is {code}."]
    with transaction() as session:
        row = session.scalars(select(RunMetric)).one()
        assert row.values == {"loss": None, "total_steps": 5}


def test_a_trainer_that_claims_success_without_results_is_not_believed(world: World) -> None:
    run_id = world.queue_sft()
    supervision = Supervision(run_id, (*STAND_IN, "0"))
    supervision.start()
    run = supervision.end()
    assert run.state == "queued"
    assert "results are not complete" in run.state_reason
    with transaction() as session:
        assert session.scalar(select(ModelVersion).where(ModelVersion.run_id == run_id)) is None


def test_a_trainer_that_does_not_hear_is_killed_after_the_grace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACKETT_CANCEL_GRACE_SECONDS", "0.5")
    get_settings.cache_clear()
    run_id = world.queue_sft()
    supervision = Supervision(run_id, (*STAND_IN, "deaf"))
    supervision.start()
    pid = child_pid(folder(run_id))
    wait_for("progress", lambda: stored(run_id).progress_step == 1)
    with transaction() as session:
        run_states.request_cancel(session, run_id, world.admin.id)
    assert supervision.end().state == "cancelled"
    assert not is_alive(pid)


def test_a_worker_that_is_asked_to_stop_gives_the_run_back(world: World) -> None:
    run_id = world.queue_sft()
    supervision = Supervision(run_id, (*STAND_IN, "polite"))
    supervision.start()
    wait_for("progress", lambda: stored(run_id).progress_step == 1)
    supervision.drain.set()
    run = supervision.end()
    assert (run.state, run.attempt) == ("queued", 0)
    assert kinds(run_id)[-1] == "given_back"


@pytest.mark.parametrize(
    ("limit", "state", "words"), [("STALL", "queued", "no progress"), ("WALL", "failed", "longer")]
)
def test_a_trainer_that_hangs_or_never_ends_is_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: str, state: str, words: str
) -> None:
    monkeypatch.setenv(f"PLACKETT_RUN_{limit}_SECONDS", "1")
    get_settings.cache_clear()
    run_id = world.queue_sft()
    supervision = Supervision(run_id, (*STAND_IN, "polite"))
    supervision.start()
    run = supervision.end()
    assert run.state == state
    assert words in run.state_reason


def test_a_supervisor_that_lost_its_lease_kills_its_child_and_writes_nothing(world: World) -> None:
    run_id = world.queue_sft()
    supervision = Supervision(run_id, (*STAND_IN, "polite"))
    supervision.start()
    pid = child_pid(folder(run_id))
    wait_for("progress", lambda: stored(run_id).progress_step == 1)
    with transaction() as session:
        session.execute(text("UPDATE runs SET lease_until = clock_timestamp() - interval '1 s'"))
        run_states.expire_leases(session, 3600)
    run = supervision.end()
    assert (run.state, run.state_reason) == ("queued", "The worker stopped answering.")
    assert not is_alive(pid)
    assert kinds(run_id) == ["created", "claimed", "lease_expired"]


def test_without_postgres_the_child_is_stopped_before_the_lease_can_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACKETT_RUN_LEASE_SECONDS", "3")
    get_settings.cache_clear()
    run_id = world.queue_sft()
    supervision = Supervision(run_id, (*STAND_IN, "polite"))
    supervision.start()
    pid = child_pid(folder(run_id))
    wait_for("progress", lambda: stored(run_id).progress_step == 1)
    with transaction() as session:
        # What an unreachable server looks like from here: no statement on this table comes back in time.
        session.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
        wait_for("the end of the child", lambda: not is_alive(pid), seconds=10)
        lease_left = "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM runs"
        assert session.execute(text(lease_left)).scalar_one() > 0
    assert supervision.end().state == "running"


def test_a_postgres_that_falls_silent_does_not_hold_up_the_end_of_the_child(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped server or a dead link: no error and no answer, so only our own clock can tell."""
    monkeypatch.setenv("PLACKETT_RUN_LEASE_SECONDS", "3")
    with SilentProxy(os.environ["DATABASE_URL"]) as proxy:
        monkeypatch.setenv("DATABASE_URL", proxy.url)
        get_settings.cache_clear()
        reset_engine()
        run_id = world.queue_sft()
        supervision = Supervision(run_id, (*STAND_IN, "deaf"))
        supervision.start()
        pid = child_pid(folder(run_id))
        wait_for("progress", lambda: stored(run_id).progress_step == 1)
        proxy.fall_silent()
        wait_for("the end of the child", lambda: not is_alive(pid), seconds=10)
        proxy.speak()
        supervision.join(30)
    assert not supervision.is_alive()


def test_a_supervisor_that_was_held_up_does_not_end_the_child_of_a_later_attempt(world: World, tmp_path: Path) -> None:
    newer = Child([*STAND_IN, "deaf", "sft", "--run", str(tmp_path)], tmp_path, fence=8)
    try:
        with pytest.raises(NewerAttemptError):
            Child([*STAND_IN, "2", "sft", "--run", str(tmp_path)], tmp_path, fence=7)
        assert newer.code is None
    finally:
        newer.kill()
    with pytest.raises(NewerAttemptError):  # the later attempt's child is gone, its claim to the folder is not
        Child([*STAND_IN, "2", "sft", "--run", str(tmp_path)], tmp_path, fence=7)
    assert Child([*STAND_IN, "2", "sft", "--run", str(tmp_path)], tmp_path, fence=9).wait(30) == 2


def test_a_checkpoint_is_registered_once_and_only_if_its_hashes_are_right(tmp_path: Path) -> None:
    def write(step: int, text: str) -> Path:
        path = tmp_path / "checkpoints" / f"step_{step:06d}"
        path.mkdir(parents=True)
        (path / "state.jsonl").write_text(text)
        write_manifest(path, step=step)
        return path

    first, damaged = write(10, "a\n"), write(20, "b\n")
    (damaged / "state.jsonl").write_text("c\n")
    known = NewCheckpoint(10, str(first), file_sha256(first / "manifest.json"))
    watch = CheckpointWatch(tmp_path, [])
    watch.finish()
    assert watch.take() == [known]
    assert watch.take() == []
    watch.bring_back([known])
    assert watch.take() == [known]
    later = CheckpointWatch(tmp_path, [known])
    write(30, "d\n")
    later.finish()
    assert [found.step for found in later.take()] == [30]


def test_a_child_that_outlived_its_supervisor_is_ended_by_the_next_attempt(world: World) -> None:
    """A supervisor that was stopped (SIGSTOP, a frozen machine) leaves a child that still writes."""
    run_id = world.queue_sft()
    where = folder(run_id)
    where.mkdir(parents=True)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from app.worker.child import Child; "
        "import ctypes; import app.worker.child as c; c._libc = None; "
        "print(Child(sys.argv[3:], Path(sys.argv[2]), 0).pid)"
    )
    command = [sys.executable, "-c", script, str(Path.cwd()), str(where), *STAND_IN, "deaf", "sft", "--run", str(where)]
    orphan = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    try:
        assert is_alive(orphan)
        supervision = Supervision(run_id, (*STAND_IN, "2"))
        supervision.start()
        assert supervision.end().state == "failed"
        wait_for("the end of the orphan", lambda: not is_alive(orphan), seconds=5)
    finally:
        if is_alive(orphan):
            os.kill(orphan, signal.SIGKILL)


def test_a_missing_snapshot_fails_the_run_with_a_sentence(world: World) -> None:
    run_id = world.queue_sft()
    shutil.rmtree(world.snapshot.uri)
    supervision = Supervision(run_id)
    supervision.start()
    run = supervision.end()
    assert run.state == "failed"
    assert "no manifest.json" in run.state_reason


def test_the_trainer_is_not_told_how_to_reach_the_database(world: World) -> None:
    run_id = world.queue_sft()
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    supervision = Supervision(run_id, (sys.executable, "-c", show))
    supervision.start()
    seen = json.loads(supervision.end().log_tail)
    assert "PATH" in seen
    assert not [name for name in seen if name in ("DATABASE_URL", "REDIS_URL") or name.startswith("PLACKETT_")]


def test_a_late_or_repeated_message_does_nothing(world: World) -> None:
    run_id = world.queue_sft()
    for _ in range(2):
        supervision = Supervision(run_id, (*STAND_IN, "2"))
        supervision.start()
        assert supervision.end().attempt == 1
    assert kinds(run_id) == ["created", "claimed", "failed"]


def test_the_supervisor_never_imports_torch() -> None:
    script = "import sys, app.worker.tasks, app.main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert module.TRAINER[1:] == ("-m", "trainer")


def test_a_scoring_run_puts_the_waiting_tasks_in_order(world: World) -> None:
    with transaction() as session:
        project = session.get_one(Project, world.project.id)
        project.queue_order = "uncertainty"
        training = runs.create_training_run(
            session, project, "reward", world.admin, model=world.model, snapshot=world.snapshot,
            max_length=128, options={"heads": 3, "optim": {"max_steps": 3, "learning_rate": 1e-3}},
        )  # fmt: skip
    supervision = Supervision(training.id)
    supervision.start()
    assert supervision.end().state == "succeeded", stored(training.id).log_tail
    with transaction() as session:
        session.execute(update(Task).where(Task.kind == "ranking").values(state="open", done_count=0))
        reward_model = session.scalars(select(ModelVersion).where(ModelVersion.kind == "reward")).one()
        run = runs.create_scoring_run(session, project, world.admin, reward_model=reward_model)
    supervision = Supervision(run.id)
    supervision.start()
    assert supervision.end().state == "succeeded", stored(run.id).log_tail
    with transaction() as session:
        found = session.execute(
            select(TaskScore.picked, TaskScore.information)
            .join(Task, Task.id == TaskScore.task_id)
            .order_by(Task.priority.desc(), Task.sort_key)
        ).all()
        assert len(found) == len(run.inputs["tasks"]) > 2
        asked = [row.information for row in found if row.picked == "uncertainty"]
        assert asked == sorted(asked, reverse=True)
