"""The whole path: a row, the bell, a real Celery worker with the real trainer, and everything that gets lost on it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from supervision import World, child_pid, stored, wait_for

from app import queue
from app.db import transaction
from app.models import ModelVersion, RunAttempt
from app.services.training import workers
from app.settings import get_settings
from app.worker import tasks

StartWorker = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start_worker(world: World, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts GPU workers as `plackett up` does; all are gone at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / f"worker{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(
                queue.worker_command(queue.GPU_QUEUE), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _broker(redis_url: str) -> Iterator[None]:
    queue.reset_broker()
    yield
    queue.reset_broker()


def make_due() -> None:
    """Let the half-minute between two sendings pass, by the database's clock."""
    with transaction() as session:
        session.execute(text("UPDATE runs SET dispatched_at = NULL WHERE state = 'queued'"))


def test_a_run_survives_the_death_of_its_worker(
    world: World, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start_worker()
    run_id = world.queue_sft(steps=200, checkpoint_steps=10)
    folder = get_settings().runs_dir / str(run_id)
    wait_for("a checkpoint", lambda: any(folder.glob("checkpoints/step_*/manifest.json")), 90)
    trainer = child_pid(folder)
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for("the trainer to die with its supervisor", lambda: not Path(f"/proc/{trainer}").exists(), 5)
    fence = stored(run_id).fence

    monkeypatch.setenv("PLACKETT_GPUS", "2")
    second = start_worker()
    wait_for("the lease to end", lambda: tasks.tick() is None and stored(run_id).fence != fence, 60)
    wait_for("the end", lambda: stored(run_id).state not in ("queued", "running"), 90)
    run = stored(run_id)
    assert (run.state, run.attempt) == ("succeeded", 2), run.log_tail
    with transaction() as session:
        outcomes = list(session.scalars(select(RunAttempt.outcome).order_by(RunAttempt.fence)))
        assert outcomes == ["lease over", "succeeded"]
        assert session.scalars(select(ModelVersion).where(ModelVersion.run_id == run_id)).one().name == "sft-1"
        assert workers.any_recent(session)

    # The same worker, which offers two devices, is asked to stop in the middle of a run of two processes: they save, it
    # gives the run back, and goes.
    run_id = world.queue_sft(steps=100_000, checkpoint_steps=100_000, gpus=2)
    wait_for("progress", lambda: (stored(run_id).progress_step or 0) > 0, 120)
    os.kill(second.pid, signal.SIGTERM)
    second.wait(60)
    run = stored(run_id)
    assert (run.state, run.attempt) == ("queued", 0)
    assert any((get_settings().runs_dir / str(run_id)).glob("checkpoints/step_*/manifest.json"))


def test_with_redis_down_a_run_is_stored_and_sent_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    up = os.environ["REDIS_URL"]
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
        get_settings.cache_clear()
        queue.reset_broker()
        run_id = world.queue_sft()
        assert (stored(run_id).state, stored(run_id).dispatched_at) == ("queued", None)
        tasks.tick()
    monkeypatch.setenv("REDIS_URL", up)
    get_settings.cache_clear()
    queue.reset_broker()
    make_due()
    tasks.tick()
    assert messages(up) == 1


def test_a_new_run_is_sent_at_once_and_not_again_by_the_next_tick(world: World, redis_url: str) -> None:
    run_id = world.queue_sft()
    assert stored(run_id).dispatched_at is not None
    tasks.tick()
    tasks.tick()
    assert messages(redis_url) == 1


def test_a_message_that_names_no_run_is_dropped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    tasks.run("not a run; rm -rf /")
    assert "names no run" in caplog.text
    run_id = world.queue_sft()
    assert stored(run_id).attempt == 0


def messages(redis_url: str) -> int:
    """How many messages wait in the GPU queue."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        return int(client.llen(queue.GPU_QUEUE))
