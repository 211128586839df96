"""Workers on hosts that share nothing with us but the two URLs and the artifact store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import Browser, SignIn
from run_builders import fill_project, freeze, make_project, make_user
from sqlalchemy import select
from supervision import World, child_pid, stored, wait_for

from app import queue
from app.db import transaction
from app.errors import ConflictError
from app.models import Checkpoint, ModelVersion
from app.services.training import artifacts, registry, run_files
from app.settings import get_settings
from app.worker import tasks
from trainer.manifest import file_sha256, verify_manifest

STEPS, EACH = 120, 10


class Host:
    """A machine of its own, as far as files go: another data folder, another working folder."""

    def __init__(self, folder: Path) -> None:
        self.var = folder / "var"
        self._log = folder / "worker.log"
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir(parents=True)
        environment = os.environ | {"PLACKETT_VAR": str(self.var), "PYTHONPATH": str(Path.cwd())}
        with self._log.open("wb") as log:
            self.worker = subprocess.Popen(
                queue.worker_command(queue.GPU_QUEUE),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=elsewhere,
                env=environment,
            )

    def lose(self) -> None:
        """Let the machine burn down."""
        self.worker.send_signal(signal.SIGKILL)
        self.worker.wait()
        self.var.rename(self.var.with_name("ashes"))

    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    found: list[Host] = []
    yield found
    for host in found:
        if host.worker.poll() is None:
            host.worker.kill()
        host.worker.wait()


@pytest.fixture
def stored_world(
    database: str, redis_url: str, tiny_policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """A project whose base model and snapshot are in the store."""
    monkeypatch.setenv("PLACKETT_ARTIFACTS", f"file://{tmp_path / 'store'}")
    get_settings.cache_clear()
    queue.reset_broker()
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        uri = artifacts.publish_folder(Path(tiny_policy))
        model = registry.register_base(session, project, admin, name="base", uri=uri)
        fill_project(session, project, [admin], [f"Is it {n}?" for n in range(10)])
    with transaction() as session:
        return World(project, admin, model, freeze(session, project, admin))


def test_a_run_that_lost_its_host_goes_on_from_the_store_to_the_same_model(
    stored_world: World, hosts: list[Host], tmp_path: Path
) -> None:
    assert artifacts.is_stored(stored_world.snapshot.uri)
    run_id = stored_world.queue_sft(steps=STEPS, checkpoint_steps=EACH)
    hosts.append(Host(tmp_path / "first"))

    def checkpoints() -> list[Checkpoint]:
        with transaction() as session:
            return list(session.scalars(select(Checkpoint).order_by(Checkpoint.step)))

    wait_for("a checkpoint in the store", lambda: len(checkpoints()) >= 2, 120)
    child_pid(hosts[0].var / "runs" / str(run_id))
    hosts[0].lose()
    reached = checkpoints()[-1]
    assert artifacts.is_stored(reached.uri)

    hosts.append(Host(tmp_path / "second"))
    fence = stored(run_id).fence
    wait_for("the lease to end", lambda: tasks.tick() is None and stored(run_id).fence != fence, 90)
    wait_for("the end", lambda: stored(run_id).state not in ("queued", "running"), 120)
    run = stored(run_id)
    assert (run.state, run.attempt) == ("succeeded", 2), run.log_tail + hosts[1].log()

    # It went on from the last checkpoint that the first host had registered: no step before that was done again.
    folder = hosts[1].var / "runs" / str(run_id)
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["step"]
    assert first == reached.step + 1
    with transaction() as session:
        model = session.scalars(select(ModelVersion).where(ModelVersion.run_id == run_id)).one()
        registry.check_files(model)
    found = artifacts.local(model.uri)
    verify_manifest(found)
    assert found.is_relative_to(get_settings().var.resolve())
    assert file_sha256(found / "model.safetensors") == uninterrupted(folder, tmp_path)

    # What is left in the store is what somebody may still ask for.
    kept = {stored_world.model.uri, stored_world.snapshot.uri, model.uri, str(stored(run_id).files_uri)}
    store = tmp_path / "store"
    wait_for("its checkpoints to be gone", lambda: {f"artifact:{one.name}" for one in store.iterdir()} == kept)


def test_the_page_shows_what_another_host_has_left_in_the_store(
    stored_world: World, hosts: list[Host], tmp_path: Path, client: Browser, sign_in: SignIn
) -> None:
    run_id = stored_world.queue_sft(steps=4)
    hosts.append(Host(tmp_path / "far"))
    wait_for("the end", lambda: stored(run_id).finished_at is not None, 240)
    run = stored(run_id)
    assert run.state == "succeeded", run.log_tail + hosts[0].log()
    assert not (get_settings().runs_dir / str(run_id)).exists(), "nothing of the run is here"
    hosts[0].lose()

    browser = sign_in(stored_world.admin)
    page = browser.get(f"/runs/{run_id}").text
    plots = re.findall(rf"/runs/{run_id}/plots/[\w.-]+\.svg", page)
    assert plots
    shown = browser.get(plots[0])
    assert (shown.status_code, shown.headers["content-type"].split(";")[0]) == (200, "image/svg+xml")
    assert "<svg" in shown.text
    assert browser.get(f"/runs/{run_id}/plots/none.svg").status_code == 404

    brought = tmp_path / "brought"
    run_files.bring(run, brought)
    names = {path.name for path in brought.rglob("*")}
    assert {"report.json", "report.md", "metrics.jsonl"} <= names
    assert any(name.startswith("events.out.tfevents.") for name in names)
    with pytest.raises(ConflictError, match="exists already"):
        run_files.bring(run, brought)


def uninterrupted(folder: Path, tmp_path: Path) -> str:
    """Train the same in one go, by hand, and return the hash of the weights."""
    again = tmp_path / "again"
    again.mkdir()
    for name in ("data", "models"):
        (again / name).symlink_to(folder / name)
    (again / "run.json").write_text((folder / "run.json").read_text())
    command = [sys.executable, "-m", "trainer", "sft", "--run", str(again)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return file_sha256(again / "final" / "model.safetensors")
