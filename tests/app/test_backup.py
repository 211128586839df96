"""Backups come back: taken under load, restored into a fresh server, equal row for row and export for export."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event, Thread

import pytest
from run_builders import (
    fake_model_folder,
    fill_project,
    freeze,
    make_model,
    make_project,
    make_user,
    queue_training_run,
)
from sqlalchemy import text
from typer.testing import CliRunner

from app import cli, db
from app.db import transaction
from app.embedded import backup
from app.embedded.access import using
from app.embedded.folder import make_var
from app.embedded.postgres import PostgresServer
from app.errors import SetupError
from app.models import Project, User
from app.services.accounts import audit
from app.services.training import run_states, snapshots
from app.settings import get_settings


@pytest.fixture
def project(database: str, redis_url: str, tmp_path: Path) -> Project:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        fill_project(session, project, [admin], [f"Is it {n}? ünïcode \u2028" for n in range(6)])
        model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
    with transaction() as session:
        run = queue_training_run(session, project, admin, model, freeze(session, project, admin))
    with transaction() as session:
        assert run_states.claim(session, run.id, "w1", 60) is not None  # moves the sequence of fences
    return project


def busy(ended: Event) -> None:
    """Write for as long as the backup takes."""
    number = 0
    while not ended.is_set():
        number += 1
        with transaction() as session:
            audit.record(session, None, "test.written", "test", str(number))


def test_a_backup_under_load_is_restored_equal_and_exports_the_same_bytes(project: Project, tmp_path: Path) -> None:
    var, folder, ended = get_settings().var, tmp_path / "backup", Event()
    writer = Thread(target=busy, args=(ended,))
    writer.start()
    try:
        facts = backup.make(str(get_settings().database_url), var, folder)
    finally:
        ended.set()
        writer.join()
    assert facts.tables["rankings"].rows == 6
    assert facts.sequences["run_fence"] >= 1
    assert any(name.startswith("snapshots/") for name in facts.artifacts)
    assert backup.missing_artifacts(facts, var) == []
    with transaction() as session:
        written = session.scalar(text("SELECT count(*) FROM audit_events WHERE action = 'test.written'"))
        before = _frozen(session.get_one(Project, project.id))
    assert written > 0

    with PostgresServer(make_var(tmp_path / "other" / "var")) as server:
        assert backup.restore(folder, server.url) == facts
        with using({"DATABASE_URL": server.url}):
            with transaction() as session:
                after = _frozen(session.get_one(Project, project.id))
            db.reset_engine()
        assert after == before
        with pytest.raises(SetupError, match="not empty"):
            backup.restore(folder, server.url)


def _frozen(project: Project) -> str:
    """The address of a snapshot frozen now: the hash of every byte of what would be exported."""
    with transaction() as session:
        admin = session.query(User).filter(User.role == "admin").first()
        assert admin is not None
        return snapshots.create(session, project, admin).sha256


def test_verify_runs_the_application_on_what_came_back_and_notes_it(project: Project, tmp_path: Path) -> None:
    folder, runner = tmp_path / "backup", CliRunner()
    assert runner.invoke(cli.app, ["backup", str(folder)]).exit_code == 0
    assert folder.stat().st_mode & 0o077 == 0
    said = runner.invoke(cli.app, ["restore", str(folder), "--verify"])
    assert said.exit_code == 0, said.output
    assert "come back, and the application runs on them" in " ".join(said.output.split())
    with transaction() as session:
        event = session.execute(text("SELECT detail FROM audit_events WHERE action = 'backup.verified'")).scalar_one()
    assert event == {"made_at": json.loads((folder / "backup.json").read_text())["made_at"]}


def test_a_backup_that_was_changed_or_is_none_is_refused(project: Project, tmp_path: Path) -> None:
    folder, url = tmp_path / "backup", str(get_settings().database_url)
    facts = backup.make(url, get_settings().var, folder)
    with pytest.raises(SetupError, match="exists already"):
        backup.make(url, get_settings().var, folder)
    (folder / "backup.json").write_text((folder / "backup.json").read_text().replace('"rows": 6', '"rows": 7'))
    with (
        PostgresServer(make_var(tmp_path / "other" / "var"), durable=False) as server,
        pytest.raises(SetupError, match=r"differs from what was saved, in:.*rankings"),
    ):
        backup.restore(folder, server.url)
    (folder / "database.dump").write_bytes(b"x")
    with pytest.raises(SetupError, match="not the file"):
        backup.read(folder)
    with pytest.raises(SetupError, match="no backup"):
        backup.read(tmp_path)
    first = next(iter(facts.artifacts))
    (get_settings().var / first).write_bytes(b"x")
    assert backup.missing_artifacts(facts, get_settings().var) == [first]


def test_a_dump_program_older_than_the_server_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 17.2'\n")
    old.chmod(0o755)
    monkeypatch.setattr(backup, "programs", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert backup._tool("pg_dump", 17) == str(old)
    with pytest.raises(SetupError, match="no pg_dump of that version"):
        backup._tool("pg_dump", 18)
