"""The authorisation matrix: what each route answers to everybody, for objects of their own, foreign and deleted ones.

`authorisation/pages.csv` and `authorisation/api.csv` are the matrix: one line for each route and kind of object, one
column for each caller. A new route without its lines fails here. To write them:

    PLACKETT_WRITE_MATRIX=1 python -m pytest tests/app/test_authorisation.py

writes both files anew from what the application answers now; then read every line that has changed, for this is where
a mistake becomes a hole. `yes` is anything but a refusal, `input` a refusal of what was sent, by somebody who may send.
"""

from __future__ import annotations

import asyncio
import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from authorisation_world import OBJECTS, PEOPLE, STRANGER, Caller, Scene, make_scene
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy.orm import Session

from app import db
from app.main import PUBLIC, create_app
from app.routes import chat
from app.services.accounts.tokens import SCOPES

FOLDER = Path(__file__).parent / "authorisation"
AT_ONCE = 4
PAGE_COLUMNS = (STRANGER, *PEOPLE)
API_COLUMNS = (STRANGER, *SCOPES)
BODIES: dict[str, Any] = {
    "PATCH /api/v1/projects/{project_id}": {"state": "paused"},
    "PUT /api/v1/projects/{project_id}/members/{user_id}": {"state": "active"},
    "PUT /api/v1/projects/{project_id}/gate": {"max_kl": 10.0},
    "PATCH /api/v1/tasks/{task_id}": {"priority": 1},
    "POST /api/v1/projects/{project_id}/prompts": {"prompts": [{"messages": [{"role": "user", "content": "New?"}]}]},
    "POST /api/v1/prompts/{prompt_id}/completions": {"text": "So."},
    "PATCH /api/v1/schedules/{schedule_id}": {"paused": True},
    "POST /api/v1/projects/{project_id}/schedules": {
        "name": "nightly",
        "cron": "0 3 * * *",
        "timezone": "UTC",
        "recipe": {"stages": [{"kind": "snapshot", "name": "freeze"}]},
    },
    "POST /api/v1/projects/{project_id}/tasks/open": {"kind": "ranking"},
}
"""What fits, so that a request is refused for who asks and not for what is sent. Ids of the first project are added."""

BOARD = {"submit_id": "0198c0de-0000-7000-8000-000000000000", "rank_A": "1", "rank_B": "2", "rank_C": "3"}
FORMS: dict[str, dict[str, str]] = {
    "POST /people/{user_id}/role": {"role": "reviewer"},
    "POST /projects/{project_id}/state": {"state": "paused"},
    "POST /projects/{project_id}/flags/{flag_id}": {"resolution": "closed"},
    "POST /projects/{project_id}/quality/known/{task_id}": {"purpose": "gold", "state": "open"},
    "POST /projects/{project_id}/quality/known/new/{task_id}/ranking": BOARD,
    "POST /projects/{project_id}/quality/disagreements/{task_id}/ranking": BOARD,
    "POST /projects/{project_id}/quality/trials/{user_id}": {"state": "active"},
    "POST /schedules/{schedule_id}/run": {"form_id": "once"},
    "POST /work/{project_id}/guidelines": {"version": "1"},
    "POST /work/assignments/{assignment_id}/skip": {"reason": "unclear"},
    "POST /work/chats/{chat_id}/turns/{number}": {"message": "Hello?"},
}
"""The same for pages, where without them a foreign object would be refused for the form and not for whose it is."""

NEEDED = {"If-Match": "*", "Upload-Length": "10", "Upload-Offset": "0"}
"""Headers that some routes cannot do without."""

Line = tuple[str, str, str]
"""Method, path and kind of object."""


def routes(app: FastAPI, *, api: bool) -> Iterator[tuple[str, str]]:
    """Every method and path of the API, or of everything else."""
    for context in iter_route_contexts(app.routes):
        if context.path and context.path.startswith("/api/v1/") == api:
            methods = set(context.methods or ())
            for method in sorted(methods - {"HEAD"} if "GET" in methods else methods):  # HEAD is then the same route
                yield method, context.path


def answer_of(response: httpx.Response) -> str:
    sent_to_sign_in = (
        response.status_code == 303
        and response.request.method == "GET"
        and urlsplit(response.headers["location"]).path == "/sign-in"
    )
    if sent_to_sign_in:
        return "401"
    if response.status_code in (401, 403, 404, 410):
        return str(response.status_code)
    if response.status_code == 422:
        return "input"
    assert response.status_code < 500 or response.url.path == "/readyz", (response.request.method, response.url)
    return "yes"


async def ask(app: FastAPI, scene: Scene, lines: list[Line], callers: dict[str, Caller]) -> dict[Line, list[str]]:
    """Return what each line answers to each caller. Nothing is stored, so no request changes the next one's answer."""
    free = asyncio.Semaphore(AT_ONCE)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:

        async def one(line: Line, caller: Caller) -> str:
            method, template, kind = line
            path = scene.path(template, kind)
            assert path is not None
            options: dict[str, Any] = {"headers": caller.headers | NEEDED}
            if template.startswith("/api/v1/") and method != "GET":
                body = scene.bodies.get(f"{method} {template}", BODIES.get(f"{method} {template}"))
                options |= {"json": body} if body is not None else {}
            elif method != "GET":
                options["data"] = FORMS.get(f"{method} {template}", {})
            async with free:
                return answer_of(await client.request(method, path, **options))

        answers = await asyncio.gather(*(one(line, caller) for line in lines for caller in callers.values()))
    width = len(callers)
    return {line: list(answers[place * width : (place + 1) * width]) for place, line in enumerate(lines)}


def never_committed() -> Iterator[Session]:
    """Stand in for `db.get_session`: whatever the request did is rolled back."""
    with Session(db.get_engine(), expire_on_commit=False) as session:
        yield session
        session.flush()
        session.expunge_all()  # what was read is read again while the answer is made, as after a commit
        session.rollback()


@pytest.fixture
def rolled_back(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(chat, "PLAIN_WAIT_SECONDS", 0.1)  # for answers that nobody gives, once they are rolled back
    app = create_app()
    app.dependency_overrides[db.get_session] = never_committed
    return app


@pytest.fixture
def scene(rolled_back: FastAPI, tmp_path: Path) -> Scene:
    return make_scene(tmp_path)


def lines_of(app: FastAPI, scene: Scene, *, api: bool) -> list[Line]:
    return [
        (method, path, kind)
        for method, path in routes(app, api=api)
        for kind in OBJECTS
        if scene.path(path, kind) is not None
    ]


def as_table(columns: tuple[str, ...], answers: dict[Line, list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "path", "object", *columns))
    writer.writerows((*line, *found) for line, found in answers.items())
    return text.getvalue()


@pytest.mark.parametrize(("name", "columns"), [("pages", PAGE_COLUMNS), ("api", API_COLUMNS)])
def test_every_route_answers_everybody_as_the_matrix_says(
    rolled_back: FastAPI, scene: Scene, name: str, columns: tuple[str, ...]
) -> None:
    everybody = scene.people | scene.tokens
    lines = lines_of(rolled_back, scene, api=name == "api")
    answers = asyncio.run(ask(rolled_back, scene, lines, {caller: everybody[caller] for caller in columns}))
    file = FOLDER / f"{name}.csv"
    if os.environ.get("PLACKETT_WRITE_MATRIX"):
        file.write_text(as_table(columns, answers))
    written = list(csv.reader(file.read_text().splitlines()))
    assert written[0] == ["method", "path", "object", *columns]
    expected = {(row[0], row[1], row[2]): row[3:] for row in written[1:]}
    assert sorted(set(answers) - set(expected)) == [], "routes without a line"
    assert sorted(set(expected) - set(answers)) == [], "lines without a route"
    wrong = [
        f"{' '.join(line)}: {caller} gets {found}, not {wanted}"
        for line in answers
        for caller, found, wanted in zip(columns, answers[line], expected[line], strict=True)
        if found != wanted
    ]
    assert wrong == []


def test_a_token_opens_no_page_and_a_session_no_part_of_the_api(rolled_back: FastAPI, scene: Scene) -> None:
    token, session = scene.tokens["export:read"], scene.people["admin"]
    stranger = scene.people[STRANGER]
    pages = [line for line in lines_of(rolled_back, scene, api=False) if line[2] == "own"]
    for line, (with_token, without) in asyncio.run(
        ask(rolled_back, scene, pages, {"token": token, "stranger": stranger})
    ).items():
        assert with_token == without, line
    api = [line for line in lines_of(rolled_back, scene, api=True) if line[2] == "own"]
    assert {
        answer for found in asyncio.run(ask(rolled_back, scene, api, {"admin": session})).values() for answer in found
    } == {"401"}


def rows_of(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((FOLDER / name).read_text().splitlines()))


NOT_FOR_LABELERS = (
    "/projects",
    "/people",
    "/runs",
    "/models",
    "/snapshots",
    "/tokens",
    "/webhooks",
    "/blind",
    "/schedules",
    "/pipelines",
)
REFUSALS = {"401", "403", "404", "410"}


def test_no_line_of_the_pages_lets_through_what_the_rules_forbid() -> None:
    """Rules for whole columns, read from the file: so a wrong line cannot be written there by mistake."""
    for row in rows_of("pages.csv"):
        people = {row[name] for name in PEOPLE}
        if row["path"].startswith(NOT_FOR_LABELERS):
            assert {row["labeler A"], row["labeler B"]} == {"403"}, row
        elif row["path"].startswith("/work/") and "{" in row["path"]:
            assert row["labeler B"] in REFUSALS or row["path"].endswith("/keep"), row
            if row["object"] != "own":
                assert row["labeler A"] in REFUSALS or row["path"].endswith("/keep"), row
        if row["object"] == "mixed" or (row["object"] == "deleted" and row["stranger"] == "401"):
            assert people <= REFUSALS | {"input"} or row["path"].endswith("/keep"), row
        if row["admin"] == "403":
            assert people == {"403"}, row
        if row["stranger"] != "401":
            assert row["path"] in PUBLIC | {"/sign-out", "/metrics"}, row  # there are none without a token


def test_no_line_of_the_api_lets_through_what_the_rules_forbid() -> None:
    for row in rows_of("api.csv"):
        assert row["stranger"] == "401", row
        answers = [row[scope] for scope in SCOPES]
        if row["object"] != "own":
            assert set(answers) <= {"403", "404"}, row
        elif (row["method"], row["path"]) == ("POST", "/api/v1/projects"):
            assert set(answers) == {"403"}, row  # the tokens are for one project, and such ones make no other
        elif row["path"] != "/api/v1/token":
            assert [answer for answer in answers if answer != "403"] in (["yes"], ["input"]), row
