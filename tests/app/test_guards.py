"""Who may call what: no route without a guard, roles, and no unsafe request that our own pages did not send."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from browsers import Browser, MakeUser, SignIn
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from app import db, main
from app.auth import SAFE_METHODS, local_path
from app.main import PUBLIC, create_app, is_guarded


def unsafe_routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every (method, path) of the pages that changes something, with made-up ids."""
    for context in iter_route_contexts(app.routes):
        if context.path is None or context.path.startswith("/api/"):
            continue
        for method in sorted(set(context.methods or ()) - SAFE_METHODS):
            parts = [str(uuid4()) if part.startswith("{") else part for part in context.path.split("/")]
            yield method, "/".join(parts)


def row_counts() -> dict[str, int]:
    with db.transaction() as session:
        tables = session.scalars(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'sign_in_attempts'")
        ).all()
        return {table: session.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables}  # noqa: S608


def test_every_route_has_a_guard_or_is_public_on_purpose(app: FastAPI) -> None:
    contexts = list(iter_route_contexts(app.routes))
    assert {context.path for context in contexts if not is_guarded(context)} <= PUBLIC
    assert any(is_guarded(context) for context in contexts)
    assert {context.path for context in contexts} >= PUBLIC


def test_the_application_refuses_to_start_with_an_unguarded_route(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten = APIRouter()
    forgotten.add_api_route("/forgotten", lambda: None)
    create_app()
    monkeypatch.setattr(main, "ROUTERS", (*main.ROUTERS, forgotten))
    with pytest.raises(RuntimeError, match="/forgotten has no guard"):
        create_app()


def test_importing_the_application_loads_neither_torch_nor_numpy() -> None:
    heavy = ("torch", "transformers", "peft", "numpy")
    code = f"import sys, app.main; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_stranger_is_led_to_the_sign_in_and_back(client: Browser) -> None:
    answer = client.get("/people?done=role-changed")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fpeople%3Fdone%3Drole-changed"
    assert client.get("/people", headers={"HX-Request": "true"}).status_code == 401
    assert client.post("/account/password", data={}).status_code == 401


@pytest.mark.parametrize(("role", "status"), [("labeler", 403), ("reviewer", 403), ("admin", 200)])
def test_only_admins_see_people(make_user: MakeUser, sign_in: SignIn, role: str, status: int) -> None:
    assert sign_in(make_user(role)).get("/people").status_code == status


@pytest.mark.parametrize("role", ["labeler", "reviewer"])
def test_nobody_but_an_admin_changes_people(make_user: MakeUser, sign_in: SignIn, role: str) -> None:
    user = make_user(role)
    browser = sign_in(user)
    for path in (f"/people/{user.id}/role", f"/people/{user.id}/disable", "/people/invitations"):
        answer = browser.post_form(path, {"role": "admin", "email": "kim@example.org"})
        assert answer.status_code == 403, path
    with db.transaction() as session:
        assert session.scalar(text("SELECT role FROM users WHERE id = :id"), {"id": user.id}) == role


ATTACKS: dict[str, Callable[[str], tuple[dict[str, str], dict[str, str]]]] = {
    "no token": lambda token: ({}, {}),
    "a wrong token": lambda token: ({"X-CSRF-Token": "x" * len(token)}, {}),
    "a token in the address": lambda token: ({}, {"params": token}),
    "a foreign origin": lambda token: ({"X-CSRF-Token": token, "Origin": "https://evil.example"}, {}),
    "an origin that begins like ours": lambda token: (
        {"X-CSRF-Token": token, "Origin": "http://testserver.evil.example"},
        {},
    ),
    "another port": lambda token: ({"X-CSRF-Token": token, "Origin": "http://testserver:8080"}, {}),
    "no origin to speak of": lambda token: ({"X-CSRF-Token": token, "Origin": "null"}, {}),
    "a cross-site form": lambda token: ({"X-CSRF-Token": token, "Sec-Fetch-Site": "cross-site"}, {}),
    "a sister domain": lambda token: ({"X-CSRF-Token": token, "Sec-Fetch-Site": "same-site"}, {}),
    "text that looks like JSON": lambda token: ({"Content-Type": "text/plain"}, {}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_unsafe_page_route_refuses_a_forged_request(
    app: FastAPI, make_user: MakeUser, sign_in: SignIn, attack: str
) -> None:
    browser = sign_in(make_user("admin"))
    headers, extra = ATTACKS[attack](browser.csrf_token)
    params = {"csrf_token": extra["params"]} if extra else None
    before = row_counts()
    allowed = []
    for method, path in unsafe_routes(app):
        if path.startswith(("/sign-in", "/invite/")) and "Origin" not in headers and "Sec-Fetch-Site" not in headers:
            continue  # Before sign-in there is no token: these two rest on the origin alone.
        answer = browser.request(method, path, headers=headers, params=params, content=b'{"role": "admin"}')
        if answer.status_code != 403:
            allowed.append((method, path, answer.status_code))
    assert allowed == []
    assert row_counts() == before


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://testserver"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
)
def test_our_own_pages_may_send(make_user: MakeUser, sign_in: SignIn, headers: dict[str, str]) -> None:
    browser = sign_in(make_user("admin"))
    form = {"email": "kim@example.org", "role": "labeler"}
    assert browser.post_form("/people/invitations", form, headers=headers).status_code == 200
    with_header = {**headers, "X-CSRF-Token": browser.csrf_token}
    assert browser.post("/people/invitations", data=form, headers=with_header).status_code == 200


def test_the_token_of_another_session_does_not_pass(make_user: MakeUser, sign_in: SignIn) -> None:
    admin = make_user("admin")
    first, second = sign_in(admin), sign_in(admin)
    form = {"email": "kim@example.org", "role": "labeler"}
    assert first.post("/people/invitations", data={**form, "csrf_token": second.csrf_token}).status_code == 403
    assert first.post("/people/invitations", data={**form, "csrf_token": first.csrf_token}).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
        "javascript:alert(1)", "evil.example", "", "/a\nb", " //evil.example", "/\r\nSet-Cookie:x", "http:evil.example",
    ],
)  # fmt: skip
def test_next_never_leads_to_another_site(target: str) -> None:
    assert local_path(target) == "/"


def test_next_leads_to_our_own_pages() -> None:
    assert local_path("/work/assignments/1?x=1#y") == "/work/assignments/1?x=1#y"
    assert local_path(None) == "/"
