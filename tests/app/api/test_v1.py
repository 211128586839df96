"""The REST API: who may read what, and the shape and steadiness of the export."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from run_builders import (
    fake_model_folder,
    fill_project,
    freeze,
    make_model,
    make_project,
    make_prompts,
    make_task,
    make_user,
    rank,
)
from sqlalchemy import func, select, text, update

from app.db import transaction
from app.models import ApiToken, Project, Run, User
from app.services.accounts import tokens
from app.services.data import copying, exports
from app.services.data.exports import ExportedRanking
from app.services.training import runs
from app.settings import get_settings

Get = Callable[..., Any]


@dataclass(frozen=True)
class Scene:
    """Two projects with rankings, one run, and tokens by name."""

    admin: User
    project: Project
    other: Project
    run: Run
    tokens: dict[str, str]


@pytest.fixture
def scene(database: str, redis_url: str, tmp_path: Path) -> Scene:
    with transaction() as session:
        admin = make_user(session)
        ada = make_user(session, "ada@example.org", "labeler")
        project, other = (make_project(session, admin, name) for name in ("Kindness", "Honesty"))
        model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
        for place in (project, other):
            fill_project(session, place, [ada], [f"Is it {n}?" for n in range(6)])
    with transaction() as session:
        run = runs.create_training_run(
            session, project, "sft", admin, model=model, snapshot=freeze(session, project, admin)
        )
        wanted: dict[str, tuple[list[str], Any, int]] = {
            "export": (["export:read"], None, 30),
            "runs": (["runs:read"], None, 30),
            "both": (["export:read", "runs:read"], None, 30),
            "other project": (["export:read", "runs:read"], other.id, 30),
            "this project": (["export:read", "runs:read"], project.id, 30),
            "expired": (["export:read", "runs:read"], None, 30),
            "revoked": (["export:read", "runs:read"], None, 30),
        }
        made = {}
        for name, (scopes, project_id, days) in wanted.items():
            token, made[name] = tokens.create(
                session, admin, name=name, scopes=scopes, project_id=project_id, days=days
            )
            if name == "expired":
                session.execute(update(ApiToken).where(ApiToken.id == token.id).values(expires_at=func.now()))
            if name == "revoked":
                tokens.revoke(session, token.id, admin)
    good = made["both"]
    made |= {"wrong secret": good[:-4] + "0000", "no token of ours": "hello", "public id only": good[:20]}
    return Scene(admin, project, other, run, made)


@pytest.fixture
def get(scene: Scene, app: FastAPI, client: Any) -> Get:
    """GET with the named token (or none)."""

    def call(path: str, token: str | None = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {scene.tokens[token]}"} if token else {}
        return client.get(path, headers=headers, **options)

    return call


MATRIX = {
    # token: (projects, this project's comparisons, run)
    None: (401, 401, 401),
    "export": (200, 200, 403),
    "runs": (403, 403, 200),
    "both": (200, 200, 200),
    "this project": (200, 200, 200),
    "other project": (200, 404, 404),
    "expired": (401, 401, 401),
    "revoked": (401, 401, 401),
    "wrong secret": (401, 401, 401),
    "no token of ours": (401, 401, 401),
    "public id only": (401, 401, 401),
}


@pytest.mark.parametrize("token", MATRIX)
def test_a_token_opens_exactly_what_its_scopes_and_project_say(scene: Scene, get: Get, token: str | None) -> None:
    paths = ("/projects", f"/projects/{scene.project.id}/export", f"/runs/{scene.run.id}")
    answers = [get(f"/api/v1{path}", token) for path in paths]
    assert tuple(answer.status_code for answer in answers) == MATRIX[token]
    for answer in answers:
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert problem["status"] == answer.status_code
            assert problem["detail"].endswith(("one.", "it.", "may not see.", "pkt_…", "one that has it."))
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_token_of_one_project_sees_only_that_one(scene: Scene, get: Get) -> None:
    assert {item["name"] for item in get("/api/v1/projects", "both").json()["items"]} == {"Kindness", "Honesty"}
    assert [item["name"] for item in get("/api/v1/projects", "other project").json()["items"]] == ["Honesty"]


def test_a_token_in_the_address_and_a_cookie_are_not_read(scene: Scene, get: Get, sign_in: Any, make_user: Any) -> None:
    good = scene.tokens["both"]
    assert get(f"/api/v1/projects?token={good}&access_token={good}").status_code == 401
    assert sign_in(make_user("admin")).get("/api/v1/projects").status_code == 401
    assert get("/api/v1/projects", "both").status_code == 200


def test_a_token_dies_with_its_makers_account(scene: Scene, get: Get) -> None:
    with transaction() as session:
        session.execute(update(User).where(User.id == scene.admin.id).values(role="reviewer"))
    assert get("/api/v1/projects", "both").status_code == 401
    with transaction() as session:
        session.execute(update(User).where(User.id == scene.admin.id).values(role="admin"))
    assert get("/api/v1/projects", "both").status_code == 200
    with transaction() as session:
        session.execute(update(User).where(User.id == scene.admin.id).values(disabled_at=func.now()))
    assert get("/api/v1/projects", "both").status_code == 401


def test_the_database_holds_no_usable_token(scene: Scene) -> None:
    with transaction() as session:
        dump = " ".join(str(tuple(row)) for row in session.execute(text("SELECT t.*, t::text FROM api_tokens t")))
    for name in ("export", "runs", "both", "this project", "other project"):
        _, public_id, secret = scene.tokens[name].split("_")
        assert public_id in dump
        assert secret not in dump


def test_what_does_not_exist_is_404_also_for_ids_that_are_none(scene: Scene, get: Get) -> None:
    for path in (f"/projects/{uuid4()}/export", "/projects/1/export", f"/runs/{uuid4()}", "/runs/x"):
        assert get(f"/api/v1{path}", "both").status_code == 404, path


def test_the_export_loses_nothing(scene: Scene, get: Get) -> None:
    with transaction() as session:
        labeler = make_user(session, "zoe@example.org", "labeler", is_simulated=True)
        prompt = make_prompts(session, make_project(session, scene.admin, "Ties"), ["Tea?"])[0]
        task = make_task(session, prompt, ["A", "B", "C"])
        first = rank(
            session,
            task,
            labeler,
            [[0], [1, 2]],
            is_simulated=True,
            strengths=[3],
            acceptable=1,
            reason="A is right.",
        )
        second = rank(session, task, labeler, [[2], [0, 1]], supersedes=first.id, is_simulated=True)
        third = rank(session, task, scene.admin, [[1], [0], [2]], counted=False, not_counted_reason="late")
    answer = get(f"/api/v1/projects/{prompt.project_id}/export", "both")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [ExportedRanking.model_validate_json(line) for line in answer.content.splitlines()]
    assert [line.id for line in lines] == [first.id, second.id, third.id]
    texts = {item.id: item.text for item in lines[0].completions}
    assert [[texts[item] for item in group] for group in lines[0].ranking] == [["A"], ["B", "C"]]
    assert [texts[item] for item in lines[0].shown_order] == ["C", "B", "A"]
    assert [message.content for message in lines[0].prompt.messages] == ["Tea?"]
    assert [(line.superseded, line.supersedes) for line in lines] == [(True, None), (False, first.id), (False, None)]
    assert [(line.counted, line.not_counted_reason) for line in lines] == [(True, None), (True, None), (False, "late")]
    assert [line.simulated for line in lines] == [True, True, False]
    assert lines[0].labeler == lines[1].labeler != lines[2].labeler
    assert "example.org" not in answer.text
    assert lines[0].guideline_version == 1
    assert (lines[0].strengths, lines[0].acceptable, lines[0].reason) == ([3], 1, "A is right.")
    assert (lines[1].strengths, lines[1].acceptable, lines[1].reason) == (None, None, "")
    assert {(line.origin, line.purpose, line.retracts, line.quarantined) for line in lines} == {
        ("task", "collect", False, False)
    }


def test_the_export_has_the_same_bytes_twice_and_in_batches_of_any_size(
    scene: Scene, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/v1/projects/{scene.project.id}/export"
    whole = get(path, "both").content
    assert whole.count(b"\n") == 6
    for size in (1, 4_000):
        monkeypatch.setattr(copying, "CHUNK_BYTES", size)
        assert get(path, "both").content == whole


def test_a_ranking_that_comes_during_an_export_is_not_in_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.db import reading
    from app.models import Task

    monkeypatch.setattr(copying, "CHUNK_BYTES", 1)
    with reading() as moment:
        lines = exports.ranking_lines(moment, scene.project.id)
        count = next(lines).count(b"\n")
        with transaction() as session:
            task = session.scalars(
                select(Task).where(Task.project_id == scene.project.id, Task.kind == "ranking")
            ).first()
            assert task is not None
            rank(session, task, scene.admin, [[0], [1], [2]])
        count += sum(line.count(b"\n") for line in lines)
    assert count == 6


def test_exports_use_no_more_connections_than_theirs(scene: Scene, get: Get) -> None:
    path = f"/api/v1/projects/{scene.project.id}/export"
    for _ in range(5):  # more than the pool has: each has given its connection back
        assert get(path, "both").status_code == 200
    from app.db import get_reading_engine

    assert get_reading_engine().pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool


def export_scope(scene: Scene) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "path": f"/api/v1/projects/{scene.project.id}/export", "raw_path": b"", "root_path": "",
        "query_string": b"", "scheme": "http", "server": ("testserver", 80), "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"testserver"), (b"authorization", f"Bearer {scene.tokens['both']}".encode())],
    }  # fmt: skip


def test_twenty_clients_that_read_slowly_are_all_served_and_nobody_else_waits(
    scene: Scene, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_BYTES", 1)

    async def download(begun: list[int], all_have_begun: asyncio.Event) -> bytes:
        body: list[bytes] = []
        asked: list[bool] = []

        async def receive() -> dict[str, Any]:
            if asked:
                await asyncio.Event().wait()
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                begun.append(message["status"])
                return
            body.append(message["body"])
            if len(begun) == 20:
                all_have_begun.set()
            await all_have_begun.wait()  # a client that reads no further until all the others have begun

        await app(export_scope(scene), receive, send)  # type: ignore[arg-type]  # plain ASGI messages
        return b"".join(body)

    async def all_of_them() -> tuple[list[int], set[bytes]]:
        begun: list[int] = []
        all_have_begun = asyncio.Event()
        return begun, set(await asyncio.gather(*(download(begun, all_have_begun) for _ in range(20))))

    statuses, bodies = asyncio.run(asyncio.wait_for(all_of_them(), 120))
    assert statuses == [200] * 20
    assert [body.count(b"\n") for body in bodies] == [6]


def test_an_export_that_the_client_leaves_gives_its_connection_back(scene: Scene, app: FastAPI) -> None:
    from app.db import get_reading_engine

    async def leave_after_the_first_lines() -> list[str]:
        sent: list[str] = []
        started = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not sent:
                sent.append("request")
                return {"type": "http.request", "body": b"", "more_body": False}
            await started.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message["type"])
            if message["type"] == "http.response.body":
                started.set()
                await asyncio.sleep(3600)  # a client that reads no further; the disconnect ends this

        await app(export_scope(scene), receive, send)  # type: ignore[arg-type]  # plain ASGI messages
        return sent

    sent = asyncio.run(asyncio.wait_for(leave_after_the_first_lines(), 30))
    assert sent == ["request", "http.response.start", "http.response.body"]
    assert get_reading_engine().pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool


def test_when_all_export_connections_are_taken_the_answer_is_503_and_not_half_a_file(scene: Scene, get: Get) -> None:
    from contextlib import ExitStack

    from app.db import reading

    with ExitStack() as stack:
        for _ in range(get_settings().export_streams):
            stack.enter_context(reading()).connection()
        answer = get(f"/api/v1/projects/{scene.project.id}/export", "both")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_a_run_can_be_followed(scene: Scene, get: Get) -> None:
    run = get(f"/api/v1/runs/{scene.run.id}", "runs").json()
    assert (run["state"], run["method"], run["attempt"], run["model_id"]) == ("queued", "sft", 0, None)


def test_the_description_names_every_route_with_its_errors(scene: Scene, client: Any) -> None:
    document = json.loads(client.get("/api/openapi.json").content)
    assert {path for path in document["paths"] if path.startswith("/api/v1/")} == set(document["paths"])
    for path in document["paths"].values():
        for method, operation in path.items():
            answers = set(operation["responses"])
            assert {"400", "401", "403", "404", "413", "422", "503"} <= answers
            assert answers & {"200", "201", "204"}
            if method not in ("get", "head"):
                assert {"409", "415"} <= answers
            if (
                method == "patch" and "application/json" in operation["requestBody"]["content"]
            ):  # an edit, no piece of a file
                assert {"412", "428"} <= answers
            assert operation["security"]
            assert operation["summary"]
            assert operation["description"]
    assert document["components"]["schemas"]["Problem"]["additionalProperties"] is False
    lines = document["paths"]["/api/v1/projects/{project_id}/export"]["get"]["responses"]["200"]["content"]
    assert "ranking" in lines["application/x-ndjson"]["schema"]["properties"]
