"""When something breaks: the right status, one clear sentence, nothing half-done, nothing given away."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from browsers import Browser, MakeUser, SignIn
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from app import db
from app.error_pages import is_passing
from app.main import create_app
from app.settings import get_settings

INVITATION = {"email": "kim@example.org", "role": "labeler"}


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """A second door to the database, beside the application's own pool."""
    engine = create_engine(db.normalise_url(database))
    yield engine
    engine.dispose()


def invitations(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM invitations")) or 0)


@contextmanager
def failing_commit(engine: Engine, code: str) -> Iterator[None]:
    """While this lasts, a transaction that adds an invitation fails at its COMMIT, and not before."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION fail_at_commit() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION 'the disk is made of cheese' USING ERRCODE = '{code}'; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER fail_at_commit AFTER INSERT ON invitations DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION fail_at_commit()"
            )
        )
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP FUNCTION fail_at_commit CASCADE"))


@pytest.mark.parametrize(("code", "status"), [("P0001", 500), ("23505", 409), ("40001", 503)])
def test_a_commit_that_fails_is_never_answered_with_success(
    engine: Engine, make_user: MakeUser, sign_in: SignIn, code: str, status: int
) -> None:
    browser = sign_in(make_user("admin"))
    with failing_commit(engine, code):
        answer = browser.post_form("/people/invitations", INVITATION)
    assert answer.status_code == status
    assert "/invite/" not in answer.text
    assert "cheese" not in answer.text
    assert invitations(engine) == 0
    assert browser.post_form("/people/invitations", INVITATION).status_code == 200
    assert invitations(engine) == 1


@pytest.fixture
def dead_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings that name a Postgres nobody listens for."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    get_settings.cache_clear()
    db.reset_engine()
    yield
    db.reset_engine()


@pytest.mark.usefixtures("dead_database")
def test_without_postgres_every_page_asks_for_patience() -> None:
    with Browser(create_app()) as browser:
        browser.hold("x")
        for answer in (
            browser.get("/people"),
            browser.post("/sign-in", data={"email": "kim@example.org", "password": "x"}),
            browser.post("/account/password", data={}),
        ):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert "Nothing was lost" in answer.text
            assert "127.0.0.1" not in answer.text
        fragment = browser.get("/people", headers={"HX-Request": "true"})
        assert fragment.status_code == 503
        assert fragment.text.startswith('<div class="error-text">')
        assert browser.get("/livez").status_code == 200
        assert browser.get("/static/plackett.css").status_code == 200


def test_a_locked_row_is_waited_for_only_shortly(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, make_user: MakeUser, sign_in: SignIn
) -> None:
    user, browser = make_user(), sign_in(make_user("admin"))
    monkeypatch.setenv("PLACKETT_LOCK_TIMEOUT_MS", "50")
    get_settings.cache_clear()
    db.reset_engine()
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM users WHERE id = :id FOR UPDATE"), {"id": user.id})
        answer = browser.post_form(f"/people/{user.id}/disable")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert browser.post_form(f"/people/{user.id}/disable").status_code == 303


def test_when_all_connections_are_taken_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch, make_user: MakeUser, sign_in: SignIn
) -> None:
    browser = sign_in(make_user("admin"))
    monkeypatch.setenv("PLACKETT_DATABASE_POOL_SIZE", "1")
    get_settings.cache_clear()
    db.reset_engine()
    with db.transaction() as session:
        session.execute(text("SELECT 1"))
        answer = browser.get("/people")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert browser.get("/people").status_code == 200


@pytest.mark.parametrize(
    ("code", "passing"),
    [
        ("40001", True),  # serialization failure
        ("40P01", True),  # deadlock
        ("57014", True),  # statement timeout
        ("57P01", True),  # the server is stopping
        ("53300", True),  # too many connections
        ("53100", True),  # disk full
        ("55P03", True),  # lock timeout
        ("23505", False),  # unique
        ("22012", False),  # division by zero
        ("P0001", False),
    ],
)
def test_what_passes_by_itself_is_told_from_what_does_not(engine: Engine, code: str, passing: bool) -> None:
    with pytest.raises(DBAPIError) as raised, engine.connect() as connection:
        connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$"))
    assert is_passing(raised.value) is passing


@pytest.mark.parametrize("method", ["get", "post"])
def test_an_unexpected_error_gives_nothing_away_and_is_logged_once(
    database: str, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    def broken() -> None:
        raise ValueError("the secret is xyzzy")

    app = create_app()
    app.add_api_route("/broken", broken, methods=["GET", "POST"])
    with caplog.at_level(logging.INFO):
        answer = getattr(Browser(app), method)("/broken")
    assert answer.status_code == 500
    assert "xyzzy" not in answer.text
    assert "Traceback" not in answer.text
    number = answer.headers["x-request-id"]
    assert number in answer.text
    assert [number in record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [True]


def test_the_log_names_routes_and_never_secrets(
    client: Browser, make_user: MakeUser, sign_in: SignIn, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="app"):
        client.get("/invite/a-secret-token")
        client.get("/nowhere/another-secret")
        client.post("/sign-in", data={"email": "kim@example.org", "password": "hunter-secret"})
        browser = sign_in(make_user("admin"))
        browser.get("/people")
    assert "GET /invite/{token} 410" in caplog.text
    assert "GET /people 200" in caplog.text
    assert "secret" not in caplog.text
    assert browser.csrf_token not in caplog.text


def test_a_wrong_address_method_or_id_is_one_clear_sentence(
    client: Browser, make_user: MakeUser, sign_in: SignIn
) -> None:
    assert "There is nothing at this address." in client.get("/nowhere").text
    assert client.delete("/sign-in").status_code == 405
    admin = sign_in(make_user("admin"))
    answer = admin.post_form("/people/not-an-id/disable")
    assert answer.status_code == 404
    assert "There is nothing at this address." in answer.text


def test_the_api_answers_failures_as_problem_json(client: Browser) -> None:
    answer = client.get("/api/v1/nowhere")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem.pop("request_id") == answer.headers["x-request-id"]
    assert problem == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is nothing at this address. It may have been moved, or belong to somebody else.",
    }
