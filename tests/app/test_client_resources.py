"""The client's methods for the routes of the API, against the application behind a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from api_world import ApiWorld, make_api_world
from evaluation_world import make_scene
from fastapi import FastAPI
from run_builders import make_user
from test_client import address

from app.client import Client, Found, StillRunningError, connection
from app.client.connection import Id
from app.db import transaction
from app.errors import InvalidInputError, PlackettError
from app.models import User
from app.services.accounts import tokens
from app.services.accounts.tokens import SCOPES
from app.settings import get_settings
from app.worker import job_child

__all__ = ["address"]

LEFT_OUT = {("POST", "/api/v1/projects/{project_id}/import")}
"""`upload` sends files of every size."""


@pytest.fixture
def world(database: str, redis_url: str, tmp_path: Path) -> ApiWorld:
    return make_api_world(tmp_path)


@contextmanager
def connected(address: str, token: str) -> Iterator[tuple[Client, set[tuple[str, str]]]]:
    """Yield a client, and what it has asked for so far."""
    asked: set[tuple[str, str]] = set()
    with Client(address, token) as client:
        client._http.event_hooks = {"request": [lambda request: asked.add((request.method, request.url.path))]}
        yield client, asked


def operation_of(asked: tuple[str, str], operations: set[tuple[str, str]]) -> tuple[str, str]:
    """Return the operation that a request was one of: the one with most words of its own."""
    fits = [
        (method, path)
        for method, path in operations
        if method == asked[0] and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), asked[1])
    ]
    return min(fits, key=lambda found: found[1].count("{"))


def test_there_is_a_method_for_every_operation(address: str, world: ApiWorld, app: FastAPI, tmp_path: Path) -> None:
    ids = world.ids
    project = ids["project_id"]
    with transaction() as session:
        labeler = make_user(session, "grace@example.org", "labeler").id
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n')
    with connected(address, world.token(list(SCOPES), everywhere=True)) as (client, asked):
        assert client.token()["scopes"] == sorted(SCOPES)
        made = client.create_project("Made here", "Be kind.", k=3)
        assert client.project(made["id"]) == made
        assert client.change_project(made["id"], if_match=made.etag, overlap=3)["overlap"] == 3
        assert client.set_member(project, labeler, "active")["state"] == "active"
        assert [member["email"] for member in client.members(project)] == ["grace@example.org"]
        assert len(list(client.labelers(project))) == 2

        answers = [{"text": "Tea.", "model": "a"}, {"text": "Coffee."}]
        (added,) = client.add_prompts(
            project, [{"messages": [{"role": "user", "content": "Tea?"}], "completions": answers}]
        )
        completion = client.add_completion(added["prompt_id"], "Neither.", model="b")
        assert client.completion(completion["id"]) == completion
        assert len(list(client.completions(project, prompt_id=added["prompt_id"]))) == 3
        assert client.prompt(added["prompt_id"])["id"] in {prompt["id"] for prompt in client.prompts(project)}
        task = client.make_task(project, added["completion_ids"], open=False)
        assert client.open_tasks(project, "ranking") == 1
        assert client.change_task(task["id"], priority=7)["priority"] == 7
        assert client.task(task["id"])["state"] == "open"
        assert task["id"] in {found["id"] for found in client.tasks(project, kind="ranking")}

        assert client.ranking(ids["ranking_id"])["id"] in {found["id"] for found in client.rankings(project)}
        (demonstration, *_) = client.demonstrations(project)
        assert client.demonstration(demonstration["id"]) == demonstration
        (turn,) = client.chat_turns(project)
        assert client.chat_turn(turn["id"]) == turn

        report = client.upload(project, file, "trl-text", "pairs")
        assert (report["of"], report["added"]) == ("rankings", 1)
        where = client.send(project, file)
        assert client._offset(where, 0) == file.stat().st_size
        client.forget(where)
        snapshot = client.freeze(project)
        assert client.snapshot(snapshot["id"]) == snapshot
        assert client.difference(ids["snapshot_id"], snapshot["id"])["comparisons"]["added"] == 1
        assert [found["number"] for found in client.snapshots(project)] == [1, 2]
        assert list(client.rows(project)) != []
        assert client.manifest(project)["records"] == len(list(client.rows(project)))

        run = client.queue_run(project, "sample", ids["model_id"], prompts="all")
        assert client.cancel_run(run["id"])["state"] == "cancelled"
        assert client.finished_run(run["id"])["state"] == "cancelled"
        assert len(list(client.runs(project))) == 2
        assert client.model(ids["model_id"])["id"] in {model["id"] for model in client.models(project)}
        assert client.promote(ids["model_id"])["state"] == "promoted"
        assert [found["model_id"] for found in client.promotions(project)] == [str(ids["model_id"])]
        with pytest.raises(PlackettError):
            client.roll_back(project, ids["model_id"])

        with pytest.raises(PlackettError):
            client.start_blind_evaluation(project, ids["run_id"], ids["model_id"], ids["model_id"])
        with pytest.raises(PlackettError):
            client.blind_evaluation(ids["run_id"])
        with pytest.raises(PlackettError):
            client.stop_blind_evaluation(ids["run_id"])
        assert list(client.blind_evaluations(project)) == []
        assert client.set_gate(project, if_match=client.gate(project).etag, max_kl=8.0)["max_kl"] == 8.0
        verdict = client.judge(ids["model_id"])
        assert list(client.verdicts(project)) == [verdict]

        recipe = {"stages": [{"kind": "snapshot", "name": "freeze"}]}
        schedule = client.create_schedule(project, "nightly", "0 3 * * *", "UTC", recipe, min_new_rankings=9)
        assert client.schedule(schedule["id"]) == schedule
        assert client.change_schedule(schedule["id"], paused=True)["paused"] is True
        assert len(list(client.schedules(project))) == 2
        assert client.cancel_pipeline(ids["pipeline_id"])["state"] == "cancelled"
        assert [client.pipeline(found["id"]) for found in client.pipelines(project)] == list(client.pipelines(project))
        assert client.job(ids["job_id"])["state"] == "queued"
        client.projects()
    document = app.openapi()["paths"]
    operations = {
        (method.upper(), path) for path, found in document.items() for method in found if path.startswith("/api/v1/")
    }
    assert operations - {operation_of(request, operations) for request in asked} == LEFT_OUT


def test_what_somebody_else_has_changed_is_not_overwritten(address: str, world: ApiWorld) -> None:
    project = world.ids["project_id"]
    with Client(address, world.token(list(SCOPES))) as client:
        seen = client.project(project)
        client.change_project(project, overlap=5)
        with pytest.raises(PlackettError, match="has been changed since"):
            client.change_project(project, if_match=seen.etag, overlap=6)
        assert client.change_project(project, overlap=6)["overlap"] == 6


def test_policies_are_judged_and_gone_back_from(address: str, database: str, redis_url: str) -> None:
    scene = make_scene(questions=20, same=2)
    project = scene.project.id
    with transaction() as session:
        admin = session.query(User).filter_by(role="admin").first() or make_user(session)
        _, token = tokens.create(session, admin, name="t", scopes=list(SCOPES), project_id=project, days=1)
    with Client(address, token) as client:
        made = client.start_blind_evaluation(project, scene.run.id, scene.new.id, scene.old.id)
        assert client.blind_evaluation(made["id"]) == made
        assert client.stop_blind_evaluation(made["id"])["state"] == "stopped"
        for model in (scene.old, scene.new):
            client.promote(model.id)
        assert client.roll_back(project, scene.new.id)["id"] == str(scene.old.id)
        assert [found["how"] for found in client.promotions(project, order="newest")] == ["rollback", "admin", "admin"]


def test_a_job_that_takes_too_long_is_named_and_can_be_waited_for_again(
    address: str, world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LOOK_SECONDS", 0.05)
    job = world.ids["job_id"]
    with Client(address, world.token(list(SCOPES))) as client:
        with pytest.raises(StillRunningError, match=rf"^The job {job} is still queued after 0 seconds"):
            client.outcome(job, seconds=0.2)
        while job_child.do_next():
            pass
        assert client.snapshot(client.outcome(job)["snapshot_id"])["project_id"] == str(world.ids["project_id"])


def test_a_large_file_and_a_large_snapshot_wait_for_a_worker(
    address: str, world: ApiWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LOOK_SECONDS", 0.05)
    for name in ("PLACKETT_IMPORT_AT_ONCE_BYTES", "PLACKETT_FREEZE_AT_ONCE_ROWS"):
        monkeypatch.setenv(name, "1")
    get_settings.cache_clear()
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n')
    project = world.ids["project_id"]
    with Client(address, world.token(list(SCOPES))) as client:
        with pytest.raises(StillRunningError, match="is still queued"):
            client.upload(project, file, "trl-text", "pairs", seconds=0)
        look = client.job

        def worked(job_id: Id) -> Found:
            job_child.do_next()
            return look(job_id)

        monkeypatch.setattr(client, "job", worked)
        assert client.freeze(project)["project_id"] == str(project)
        file.write_text("{}\n")
        with pytest.raises(InvalidInputError, match="Nothing was imported") as refused:
            client.upload(project, file, "trl-text", "pairs")
        assert refused.value.details == ("Line 1 needs a non-empty list of messages as “chosen”.",)
        assert len(list(client.rankings(project, origin="import"))) == 1


def test_a_request_whose_answer_got_lost_is_sent_again_and_done_once(
    address: str, world: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(address, world.token(list(SCOPES), everywhere=True)) as client:
        send, sent = client._http.request, []

        def lossy(*arguments: object, **options: object) -> httpx.Response:
            answer = send(*arguments, **options)  # type: ignore[arg-type]  # they go on as they came
            sent.append(answer.status_code)
            if len(sent) == 1:
                raise httpx.ReadError("the answer got lost")
            return answer

        monkeypatch.setattr(client._http, "request", lossy)
        made = client.create_project("Made once", "Be kind.")
        assert (sent, UUID(made["id"]).version) == ([201, 201], 7)
        monkeypatch.setattr(client._http, "request", send)
        assert [found["name"] for found in client.projects()].count("Made once") == 1
