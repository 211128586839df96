"""`plackett snapshot|runs|models|token`, as somebody at a terminal or another program uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_builders import fake_model_folder, fill_project, make_model, make_project, make_user, rank
from typer.testing import CliRunner, Result

from app.cli import app
from app.db import transaction
from app.errors import ConflictError, InvalidInputError, NotFoundError, NotSignedInError
from app.models import Project, Task, User
from app.services.accounts import tokens

Command = Callable[..., Result]
BY = ("--by", "admin@example.org")
OF = ("--project", "Kindness")


@pytest.fixture
def plackett(redis_url: str, database: str, tmp_path: Path) -> Command:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        fill_project(session, project, [make_user(session, "ada@example.org", "labeler")], ["One?", "Two?", "Three?"])
        make_model(session, project, admin, fake_model_folder(tmp_path / "model"))

    def run(*words: str) -> Result:
        found = CliRunner().invoke(app, words)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == 0, found.output
        return found

    return run


def test_snapshots_are_made_listed_shown_and_compared(plackett: Command) -> None:
    assert plackett("snapshot", "create", *OF, *BY).stdout.startswith("Snapshot 1: ")
    with transaction() as session:
        task = session.query(Task).filter_by(kind="ranking").first()
        rank(session, task, make_user(session, "bob@example.org", "labeler"), [[0], [1], [2]])
    assert plackett("snapshot", "create", *OF, *BY).stdout.startswith("Snapshot 2: ")
    assert plackett("snapshot", "create", *OF, *BY).stdout.startswith("Snapshot 2: ")
    listed = [line.split("\t") for line in plackett("snapshot", "list", *OF).stdout.splitlines()]
    assert [line[:4] for line in listed] == [["2", "3", "4", "3"], ["1", "3", "3", "3"]]
    assert "| Rankings | 3 |" in plackett("snapshot", "show", "1", *OF).stdout
    assert (
        json.loads(plackett("snapshot", "show", "1", *OF, "--json").stdout)["files"]["comparisons.jsonl"]["rows"] == 3
    )
    assert "rankings: 1 added, 0 removed, 3 in both" in plackett("snapshot", "diff", "2", "1", *OF).stdout
    assert json.loads(plackett("snapshot", "diff", "1", "2", *OF, "--json").stdout)["comparisons"]["added"] == 1
    with pytest.raises(NotFoundError, match="has no snapshot 7"):
        plackett("snapshot", "show", "7", *OF)


def test_runs_are_started_listed_shown_and_cancelled(plackett: Command, tmp_path: Path) -> None:
    start = ("runs", "start", "sft", *OF, *BY, "--model", "base")
    with pytest.raises(NotFoundError, match="freeze one first"):
        plackett(*start)
    plackett("snapshot", "create", *OF, *BY)
    run = plackett(*start, "--seed", "3").stdout.strip()
    assert plackett("runs", "list", *OF).stdout.split("\t")[:4:3] == [run, "queued"]
    shown = json.loads(plackett("runs", "show", run).stdout)
    assert (shown["method"], shown["state"], shown["config"]["seed"]) == ("sft", "queued", 3)
    assert plackett("runs", "cancel", run, *BY).stdout == "The run is cancelled.\n"
    file = tmp_path / "options.json"
    file.write_text('{"optim": {"epochs": 2}}')
    run = plackett(*start, "--seed", "4", "--options", str(file)).stdout.strip()
    assert json.loads(plackett("runs", "show", run).stdout)["config"]["options"]["optim"]["epochs"] == 2
    for content, problem in (("[1]", "holds no object of options"), ("{", "cannot be read as JSON")):
        file.write_text(content)
        with pytest.raises(InvalidInputError, match=problem):
            plackett(*start, "--options", str(file))
    with pytest.raises(NotFoundError, match="no model named “other”"):
        plackett("runs", "start", "sft", *OF, *BY, "--model", "other")


def test_models_are_listed_promoted_and_gone_back_from(plackett: Command, tmp_path: Path) -> None:
    with transaction() as session:
        project = session.query(Project).one()
        admin = session.query(User).filter_by(role="admin").one()
        make_model(session, project, admin, fake_model_folder(tmp_path / "other"), "tuned")
    listed = [line.split("\t") for line in plackett("models", "list", *OF).stdout.splitlines()]
    assert [(line[0], line[3]) for line in listed] == [("tuned", "candidate"), ("base", "candidate")]
    for name in ("base", "tuned"):
        assert plackett("models", "promote", name, *OF, *BY).stdout == f"{name} is in use.\n"
    assert plackett("models", "roll-back", "tuned", *OF, *BY).stdout == "base is in use.\n"
    with pytest.raises(ConflictError, match="tuned is not in use, base is"):
        plackett("models", "roll-back", "tuned", *OF, *BY)
    with pytest.raises(NotFoundError, match="no model named “other”"):
        plackett("models", "promote", "other", *OF, *BY)


def test_tokens_are_made_listed_and_revoked(plackett: Command) -> None:
    made = plackett("token", "create", "nightly", *OF, *BY, "--scope", "export:read", "--scope", "runs:read")
    secret = made.stdout.strip()
    with transaction() as session:
        assert tokens.authenticate(session, secret).scopes == {"export:read", "runs:read"}
    (line,) = plackett("token", "list").stdout.splitlines()
    assert secret not in line
    token, name, owner, scopes, project, *_ = line.split("\t")
    assert (name, owner, scopes, project) == ("nightly", "admin@example.org", "export:read runs:read", "Kindness")
    plackett("token", "revoke", token, *BY)
    assert "revoked" in plackett("token", "list").stdout
    with transaction() as session, pytest.raises(NotSignedInError):
        tokens.authenticate(session, secret)
    with pytest.raises(InvalidInputError, match="at least one of the scopes"):
        plackett("token", "create", "bad", *BY, "--scope", "everything")
