"""Runs on a Ray cluster of two nodes: a head that computes nothing, and one that trains, with the real trainer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select
from supervision import Supervision, World, stored, wait_for

from app.db import transaction
from app.models import Checkpoint, ModelVersion, RunMetric
from app.services.training import registry, run_states
from app.settings import get_settings
from app.worker import ray_child
from trainer.manifest import file_sha256

pytest.importorskip("ray", reason="Ray is an optional part: pip install 'plackett[ray]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]  # Ray has warnings

RAY = (sys.executable, "-m", "ray.scripts.scripts")
FAR_FOLDER = "plackett-run-"


def node(*words: str) -> subprocess.Popen[bytes]:
    """Start the processes of one node; they end with the one that is returned."""
    command = [*RAY, "start", *words, "--block", "--object-store-memory", str(80 << 20), "--disable-usage-stats"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "RAY_DISABLE_IMPORT_WARNING": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of the cluster."""
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        quiet = ("--include-dashboard", "false", "--temp-dir", folder)
        head = node("--head", "--port", str(port), "--num-cpus", "0", *quiet)
        worker = None
        try:
            wait_for("the head", lambda: reachable(port), 120)
            worker = node("--address", address, "--num-cpus", "1")
            yield address
        finally:
            ray.shutdown()
            for process in (worker, head):
                if process is not None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(60)


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def _on_the_cluster(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACKETT_RAY_ADDRESS", cluster)
    monkeypatch.setenv("PLACKETT_RUN_LEASE_SECONDS", "60")
    get_settings.cache_clear()


def far_trainers() -> list[int]:
    """Process ids of the trainers that work in folders of the far end."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if "trainer" in words and any(FAR_FOLDER in word for word in words):
            found.append(int(path.parent.name))
    return found


def supervised(run_id: UUID) -> Supervision:
    supervision = Supervision(run_id)
    supervision.start()
    return supervision


def weights(run_id: UUID) -> str:
    with transaction() as session:
        model = session.scalars(select(ModelVersion).where(ModelVersion.run_id == run_id)).one()
        registry.check_files(model)
    return file_sha256(Path(model.uri) / "model.safetensors")


@pytest.mark.usefixtures("_on_the_cluster")
def test_a_run_on_the_cluster_survives_the_death_of_its_trainer_with_the_same_result(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.queue_sft(steps=120, checkpoint_steps=10)
    first = supervised(run_id)

    def registered() -> int:
        with transaction() as session:
            return len(session.scalars(select(Checkpoint).where(Checkpoint.run_id == run_id)).all())

    wait_for("a checkpoint from the far end", lambda: registered() > 0, 240)
    (trainer,) = far_trainers()
    os.kill(trainer, signal.SIGKILL)
    assert first.end(120).state == "queued"
    assert "SIGKILL" in stored(run_id).state_reason
    run = supervised(run_id).end(240)
    assert (run.state, run.attempt) == ("succeeded", 2), run.log_tail
    assert far_trainers() == []
    folder = get_settings().runs_dir / str(run_id)
    assert (folder / "report.md").exists()
    assert list((folder / "plots").glob("*.svg"))
    with transaction() as session:
        steps = session.scalars(select(RunMetric.step).where(RunMetric.run_id == run_id).order_by(RunMetric.step))
        assert list(steps) == list(range(1, 121))

    monkeypatch.delenv("PLACKETT_RAY_ADDRESS")
    get_settings.cache_clear()
    here = world.queue_sft(steps=120, checkpoint_steps=10)
    assert supervised(here).end(240).state == "succeeded"
    assert weights(run_id) == weights(here)


@pytest.mark.usefixtures("_on_the_cluster")
def test_what_the_cluster_adds_to_a_run(cluster: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same whole run in turns there and here. Prints what each took; only that they end alike is asserted."""
    took: dict[str, list[float]] = {"cluster": [], "here": []}
    results = set()
    for _ in range(4):
        for where, seconds in took.items():
            if where == "cluster":
                monkeypatch.setenv("PLACKETT_RAY_ADDRESS", cluster)
            else:
                monkeypatch.delenv("PLACKETT_RAY_ADDRESS")
            get_settings.cache_clear()
            run_id = world.queue_sft(steps=200, checkpoint_steps=50)
            began = time.monotonic()
            assert supervised(run_id).end(240).state == "succeeded"
            seconds.append(time.monotonic() - began)
            results.add(weights(run_id))
    assert len(results) == 1
    for where, seconds in took.items():
        print(f"{where}: {' '.join(f'{one:.1f}' for one in seconds)} s, at least {min(seconds):.1f} s")


@pytest.mark.usefixtures("_on_the_cluster")
def test_a_run_on_the_cluster_is_cancelled_and_leaves_its_checkpoint_here(world: World) -> None:
    run_id = world.queue_sft(steps=100_000, checkpoint_steps=100_000)
    supervision = supervised(run_id)
    wait_for("progress", lambda: (stored(run_id).progress_step or 0) > 0, 240)
    with transaction() as session:
        run_states.request_cancel(session, run_id, world.admin.id)
    assert supervision.end(120).state == "cancelled"
    assert any((get_settings().runs_dir / str(run_id)).glob("checkpoints/step_*/manifest.json"))
    assert far_trainers() == []


@pytest.mark.usefixtures("_on_the_cluster")
def test_a_run_waits_without_losing_an_attempt_until_the_cluster_has_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACKETT_TRAINER_DEVICE", "cuda")  # of which this cluster has none
    get_settings.cache_clear()
    monkeypatch.setattr(ray_child, "PLACE_SECONDS", 3.0)
    run = supervised(world.queue_sft()).end(60)
    assert (run.state, run.attempt, run.fruitless) == ("queued", 0, 0)
    assert "no room for 1 GPU" in run.state_reason


@pytest.mark.usefixtures("_on_the_cluster")
def test_a_run_that_waits_for_room_is_cancelled_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACKETT_TRAINER_DEVICE", "cuda")
    monkeypatch.setenv("PLACKETT_RUN_HEARTBEAT_SECONDS", "0.5")
    get_settings.cache_clear()
    run_id = world.queue_sft()
    supervision = supervised(run_id)
    wait_for("the claim", lambda: stored(run_id).state == "running")
    with transaction() as session:
        run_states.request_cancel(session, run_id, world.admin.id)
    run = supervision.end(30)
    assert (run.state, run.state_reason) == ("cancelled", "Cancelled on request.")
    assert far_trainers() == []


def test_a_run_waits_without_losing_an_attempt_while_the_cluster_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    ray.shutdown()  # the last test here: Ray goes on trying the silent address for minutes
    monkeypatch.setattr(ray_child, "CONNECT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("PLACKETT_RAY_ADDRESS", address)
        get_settings.cache_clear()
        run_id = world.queue_sft()
        for _ in range(2):
            run = supervised(run_id).end(60)
            assert (run.state, run.attempt, run.fruitless) == ("queued", 0, 0)
            assert run.state_reason == f"The Ray cluster at {address} has not answered in 2 s."
