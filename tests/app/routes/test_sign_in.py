"""Signing in and out over HTTP: sessions end when they should, guesses become slow, answers tell nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import pytest
from browsers import PASSWORD, Browser, MakeUser, SignIn, csrf_token_in
from sqlalchemy import text

from app import db
from app.services.accounts import passwords
from app.settings import get_settings


def submit(browser: Browser, email: str, password: str = PASSWORD, **extra: str):
    return browser.post("/sign-in", data={"email": email, "password": password, **extra})


def execute(statement: str, **values: object) -> None:
    with db.transaction() as session:
        session.execute(text(statement), values)


def test_the_right_password_opens_a_session(client: Browser, make_user: MakeUser) -> None:
    user = make_user("admin", email="kim@example.org")
    assert client.get("/people").status_code == 303
    answer = submit(client, "  KIM@example.org ", next="/people")
    assert (answer.status_code, answer.headers["location"]) == (303, "/people")
    page = client.get("/people")
    assert page.status_code == 200
    assert user.name in page.text


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(client: Browser, make_user: MakeUser) -> None:
    cookie = submit(client, make_user().email).headers["set-cookie"]
    assert cookie.startswith("plackett_session=")
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}


def test_behind_https_the_cookie_is_tied_to_the_host(
    monkeypatch: pytest.MonkeyPatch, database: str, make_user: MakeUser
) -> None:
    from app.main import create_app

    monkeypatch.setenv("PLACKETT_SECURE_COOKIES", "true")
    get_settings.cache_clear()
    with Browser(create_app()) as browser:
        answer = submit(browser, make_user().email)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-plackett=")
    assert "Secure" in cookie
    assert "Domain" not in cookie
    assert answer.headers["strict-transport-security"].startswith("max-age=")


def test_only_a_digest_of_the_token_is_stored(client: Browser, make_user: MakeUser) -> None:
    submit(client, make_user().email)
    token = client.token
    assert len(token) >= 43  # 256 bits in base64
    with db.transaction() as session:
        stored = session.execute(text("SELECT * FROM web_sessions")).one()
    assert token not in str(stored)


def test_signing_in_never_keeps_the_token_the_browser_came_with(client: Browser, make_user: MakeUser) -> None:
    user = make_user("admin")
    client.hold("planted-by-somebody")
    submit(client, user.email)
    first = client.token
    assert first != "planted-by-somebody"
    submit(client, user.email)
    assert client.token != first
    client.hold(first)
    assert client.get("/people").status_code == 303


def test_next_is_kept_when_the_password_is_wrong_and_never_leaves_the_site(
    client: Browser, make_user: MakeUser
) -> None:
    user = make_user("admin")
    page = client.get("/sign-in?next=%2Fpeople")
    assert 'name="next" value="/people"' in page.text
    refused = submit(client, user.email, "wrong", next="/people")
    assert 'name="next" value="/people"' in refused.text
    answer = submit(client, user.email, next="https://evil.example/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.get("/sign-in?next=//evil.example").headers["location"] == "/"


def test_a_wrong_password_keeps_the_address_and_never_the_password(client: Browser, make_user: MakeUser) -> None:
    user = make_user()
    answer = submit(client, user.email, "not the password")
    assert answer.status_code == 401
    assert f'value="{user.email}"' in answer.text
    assert "not the password" not in answer.text
    assert "set-cookie" not in answer.headers
    empty = client.post("/sign-in", data={"email": "", "password": ""})
    assert empty.status_code == 422
    assert empty.text.count("Please fill this in.") == 2


def test_an_unknown_a_disabled_and_a_known_account_answer_alike(client: Browser, make_user: MakeUser) -> None:
    known, disabled = make_user(email="known00@example.org"), make_user(email="disable@example.org")
    execute("UPDATE users SET disabled_at = now() WHERE id = :id", id=disabled.id)
    answers = [
        submit(client, known.email, "wrong"),
        submit(client, "nobody0@example.org", "wrong"),
        submit(client, disabled.email, PASSWORD),
    ]
    assert {answer.status_code for answer in answers} == {401}
    bodies = {
        answer.text.replace(email, "EMAIL")
        for answer, email in zip(answers, (known.email, "nobody0@example.org", disabled.email), strict=True)
    }
    assert len(bodies) == 1
    headers = [
        {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "content-length")}
        for answer in answers
    ]
    assert headers[0] == headers[1] == headers[2]


def test_an_unknown_account_costs_the_same_work(password_hash: str) -> None:
    def seconds(stored: str | None) -> float:
        started_at = time.thread_time()  # the work of this thread, whatever else the machine does
        assert passwords.matches(stored, "wrong") is False
        return time.thread_time() - started_at

    seconds(None)  # makes nobody's hash
    known, unknown = zip(*((seconds(password_hash), seconds(None)) for _ in range(15)), strict=True)
    assert median(unknown) == pytest.approx(median(known), rel=0.5)


def test_guesses_become_slow_and_the_owner_elsewhere_is_not_shut_out(
    browser: Callable[..., Browser], make_user: MakeUser
) -> None:
    user = make_user()
    guesser, owner = browser("198.51.100.7"), browser("203.0.113.9")
    statuses = [submit(guesser, user.email, f"guess {number}").status_code for number in range(12)]
    assert statuses[:5] == [401] * 5
    assert statuses[5:] == [429] * 7
    throttled = submit(guesser, user.email, PASSWORD)
    assert throttled.status_code == 429
    assert 0 < int(throttled.headers["retry-after"]) <= 300
    assert "your account is not locked" in throttled.text
    assert submit(owner, user.email).status_code == 303
    execute("UPDATE sign_in_attempts SET at = at - interval '16 minutes'")
    assert submit(guesser, user.email).status_code == 303


def test_waiting_grows_with_each_further_guess(browser: Callable[..., Browser], make_user: MakeUser) -> None:
    user = make_user()
    guesser = browser("198.51.100.7")
    waits = []
    for number in range(9):
        answer = submit(guesser, user.email, f"guess {number}")
        if answer.status_code == 429:
            waits.append(int(answer.headers["retry-after"]))
            execute("UPDATE sign_in_attempts SET at = at - make_interval(secs => :wait)", wait=waits[-1])
            assert submit(guesser, user.email, "again").status_code == 401
    assert waits == [1, 2, 4, 8]


def test_guesses_sent_at_once_all_count(browser: Callable[..., Browser], make_user: MakeUser) -> None:
    from concurrent.futures import ThreadPoolExecutor

    user = make_user()
    guessers = [browser("198.51.100.7") for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(lambda guesser: submit(guesser, user.email, "wrong").status_code, guessers))
    assert sorted(statuses) == [401] * 5 + [429] * 15


def test_an_address_is_slowed_down_whatever_account_it_tries(
    browser: Callable[..., Browser], make_user: MakeUser
) -> None:
    execute("INSERT INTO sign_in_attempts (subject) SELECT 'address:198.51.100.7' FROM generate_series(1, 300)")
    user = make_user()
    assert submit(browser("198.51.100.7"), user.email).status_code == 429
    assert submit(browser("198.51.100.8"), user.email).status_code == 303


def test_success_clears_what_was_counted_for_this_browser(client: Browser, make_user: MakeUser) -> None:
    user = make_user()
    for _ in range(3):
        for _ in range(4):
            assert submit(client, user.email, "typo").status_code == 401
        assert submit(client, user.email).status_code == 303


def test_a_session_does_not_outlive_the_sign_out(client: Browser, make_user: MakeUser) -> None:
    submit(client, make_user("admin").email)
    token = client.token
    page = client.get("/people")
    answer = client.post("/sign-out", data={"csrf_token": csrf_token_in(page.text)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?done=signed-out")
    assert answer.headers["clear-site-data"] == '"cache", "storage"'
    assert "You are signed out." in client.get(answer.headers["location"]).text
    client.hold(token)
    assert client.get("/people").status_code == 303


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE web_sessions SET last_seen_at = now() - interval '12 hours 1 minute'",
        "UPDATE web_sessions SET expires_at = now() - interval '1 second'",
        "UPDATE users SET disabled_at = now()",
        "DELETE FROM web_sessions",
    ],
)
def test_an_ended_session_opens_nothing(make_user: MakeUser, sign_in: SignIn, change: str) -> None:
    browser = sign_in(make_user("admin"))
    assert browser.get("/people").status_code == 200
    execute(change)
    assert browser.get("/people").status_code == 303
    assert browser.post_form("/people/invitations", {"email": "a@example.org", "role": "admin"}).status_code == 401


def test_use_keeps_a_session_alive_and_is_noted_every_five_minutes(make_user: MakeUser, sign_in: SignIn) -> None:
    browser = sign_in(make_user("admin"))

    def idle_seconds() -> float:
        with db.transaction() as session:
            query = "SELECT extract(epoch FROM clock_timestamp() - last_seen_at) FROM web_sessions"
            return float(session.scalar(text(query)))

    execute("UPDATE web_sessions SET last_seen_at = now() - interval '4 minutes'")
    browser.get("/account")
    assert idle_seconds() > 230
    execute("UPDATE web_sessions SET last_seen_at = now() - interval '6 minutes'")
    browser.get("/account")
    assert idle_seconds() < 60


def test_a_new_password_signs_out_all_other_browsers(make_user: MakeUser, sign_in: SignIn, client: Browser) -> None:
    user = make_user("admin")
    here, elsewhere = sign_in(user), sign_in(user)
    old_token = here.token
    new = "harbour violet thirteen spoons"
    answer = here.post_form("/account/password", {"current_password": PASSWORD, "new_password": new})
    assert (answer.status_code, answer.headers["location"]) == (303, "/account?done=password-changed")
    assert here.get("/people").status_code == 200
    assert elsewhere.get("/people").status_code == 303
    elsewhere.hold(old_token)
    assert elsewhere.get("/people").status_code == 303
    assert submit(client, user.email).status_code == 401
    assert submit(client, user.email, new).status_code == 303


def test_a_new_password_that_will_not_do_changes_nothing(make_user: MakeUser, sign_in: SignIn, client: Browser) -> None:
    user = make_user("labeler")
    browser = sign_in(user)
    wrong = browser.post_form("/account/password", {"current_password": "wrong", "new_password": "harbour violet"})
    assert wrong.status_code == 422
    assert "The current password is not right." in wrong.text
    weak = browser.post_form("/account/password", {"current_password": PASSWORD, "new_password": "password2026"})
    assert weak.status_code == 422
    assert "among the first" in weak.text
    assert browser.get("/account").status_code == 200
    assert submit(client, user.email).status_code == 303


def test_sign_out_everywhere_ends_every_session(make_user: MakeUser, sign_in: SignIn) -> None:
    user = make_user()
    here, elsewhere, other = sign_in(user), sign_in(user), sign_in(make_user())
    assert "2 browsers" in here.get("/account").text
    assert here.post_form("/account/sign-out-everywhere").status_code == 303
    assert [browser.get("/account").status_code for browser in (here, elsewhere, other)] == [303, 303, 200]


@pytest.mark.parametrize(("role", "start"), [("labeler", "/work"), ("reviewer", "/projects"), ("admin", "/projects")])
def test_the_front_door_leads_to_where_the_work_starts(
    make_user: MakeUser, sign_in: SignIn, client: Browser, role: str, start: str
) -> None:
    assert client.get("/").headers["location"] == "/sign-in"
    assert sign_in(make_user(role)).get("/?done=welcome").headers["location"] == f"{start}?done=welcome"
