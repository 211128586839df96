"""The admin's page of people over HTTP: invitations that work once, roles, and accounts that can be shut at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from browsers import PASSWORD, Browser, MakeUser, SignIn
from sqlalchemy import text

from app import db


def scalar(query: str, **values: object):
    with db.transaction() as session:
        return session.scalar(text(query), values)


def link_in(page: str) -> str:
    found = re.search(r'id="invitation-link"[^>]* value="http://testserver(/invite/[^"]+)"', page)
    assert found, page
    return found.group(1)


@pytest.fixture
def admin(make_user: MakeUser, sign_in: SignIn) -> Browser:
    return sign_in(make_user("admin"))


def invite(admin: Browser, email: str = "kim@example.org", role: str = "labeler") -> str:
    answer = admin.post_form("/people/invitations", {"email": email, "role": role})
    assert answer.status_code == 200, answer.text
    return link_in(answer.text)


def test_an_invitation_becomes_an_account_that_is_signed_in(admin: Browser, client: Browser) -> None:
    link = invite(admin)
    assert "kim@example.org" in client.get(link).text
    answer = client.post(link, data={"name": " Kim  Lee ", "password": "walnut tram"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?done=welcome")
    assert "Kim Lee" in client.get("/account").text
    assert scalar("SELECT role FROM users WHERE email = 'kim@example.org'") == "labeler"


def test_the_link_is_shown_once_and_stored_nowhere(admin: Browser) -> None:
    token = invite(admin).rpartition("/")[2]
    assert token not in admin.get("/people").text
    assert token not in str(scalar("SELECT string_agg(invitations::text, ' ') FROM invitations"))
    assert token not in str(scalar("SELECT string_agg(audit_events::text, ' ') FROM audit_events"))


def test_fifty_redemptions_at_once_make_one_account(admin: Browser, browser: Callable[..., Browser]) -> None:
    link = invite(admin)
    before = scalar("SELECT count(*) FROM users")
    clients = [browser() for _ in range(50)]

    def redeem(client: Browser) -> int:
        return client.post(link, data={"name": "Kim", "password": "walnut tram"}).status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = sorted(pool.map(redeem, clients))
    assert statuses == [303] + [410] * 49
    assert scalar("SELECT count(*) FROM users") == before + 1


def test_a_refused_password_leaves_the_invitation_open_and_the_name_in_the_form(
    admin: Browser, client: Browser
) -> None:
    link = invite(admin, role="reviewer")
    short = client.post(link, data={"name": "Kim", "password": "walnut tram"})
    assert short.status_code == 422
    assert "at least 15 characters" in short.text
    assert 'value="Kim"' in short.text
    assert "walnut tram" not in short.text
    assert client.post(link, data={"name": "", "password": "walnut tram river stone"}).status_code == 422
    assert client.post(link, data={"name": "Kim", "password": "walnut tram river stone"}).status_code == 303


@pytest.mark.parametrize(
    "ending",
    [
        "UPDATE invitations SET expires_at = now() - interval '1 second'",
        "UPDATE invitations SET redeemed_at = now()",
        "DELETE FROM invitations",
    ],
)
def test_an_ended_invitation_says_so(admin: Browser, client: Browser, ending: str) -> None:
    link = invite(admin)
    assert client.get(link).status_code == 200
    with db.transaction() as session:
        session.execute(text(ending))
    for answer in (client.get(link), client.post(link, data={"name": "Kim", "password": "walnut tram"})):
        assert answer.status_code == 410
        assert "Ask an admin for a new link" in answer.text
    assert scalar("SELECT count(*) FROM users WHERE role = 'labeler'") == 0


def test_a_revoked_invitation_and_one_that_was_replaced_are_closed(admin: Browser, client: Browser) -> None:
    first = invite(admin)
    second = invite(admin)
    assert client.get(first).status_code == 410
    identity = scalar("SELECT id FROM invitations WHERE expires_at > now()")
    assert (
        admin.post_form(f"/people/invitations/{identity}/revoke").headers["location"]
        == "/people?done=invitation-revoked"
    )
    assert client.get(second).status_code == 410
    assert admin.post_form(f"/people/invitations/{identity}/revoke").status_code == 303
    assert admin.post_form(f"/people/invitations/{uuid4()}/revoke").status_code == 404


def test_bad_invitations_are_refused_beside_the_field(admin: Browser, make_user: MakeUser) -> None:
    taken = make_user().email
    for email, role, status, sentence in (
        ("not an address", "labeler", 422, "Enter an e-mail address such as"),
        (taken.upper(), "labeler", 409, "There is an account with this e-mail address already."),
        ("kim@example.org", "owner", 422, "Choose one of the values offered."),
        ("", "labeler", 422, "Please fill this in."),
    ):
        answer = admin.post_form("/people/invitations", {"email": email, "role": role})
        assert (answer.status_code, sentence in answer.text) == (status, True), email
    assert scalar("SELECT count(*) FROM invitations") == 0


def test_a_form_cannot_set_what_it_does_not_offer(admin: Browser, client: Browser) -> None:
    link = invite(admin)
    answer = client.post(link, data={"name": "Kim", "password": "walnut tram", "role": "admin", "is_simulated": "true"})
    assert answer.status_code == 422
    assert scalar("SELECT count(*) FROM users WHERE email = 'kim@example.org'") == 0


def test_a_disabled_user_is_out_at_once_and_back_when_enabled(
    admin: Browser, make_user: MakeUser, sign_in: SignIn, client: Browser
) -> None:
    user = make_user()
    browser = sign_in(user)
    assert admin.post_form(f"/people/{user.id}/disable").headers["location"] == "/people?done=user-disabled"
    assert browser.get("/account").status_code == 303
    assert client.post("/sign-in", data={"email": user.email, "password": PASSWORD}).status_code == 401
    assert admin.post_form(f"/people/{user.id}/enable").status_code == 303
    assert browser.get("/account").status_code == 303  # the old session stays dead
    assert client.post("/sign-in", data={"email": user.email, "password": PASSWORD}).status_code == 303


def test_a_new_role_takes_effect_at_once(admin: Browser, make_user: MakeUser, sign_in: SignIn) -> None:
    user = make_user("admin")
    browser = sign_in(user)
    assert admin.post_form(f"/people/{user.id}/role", {"role": "labeler"}).status_code == 303
    assert browser.get("/people").status_code == 303
    assert sign_in(user).get("/people").status_code == 403
    assert admin.post_form(f"/people/{user.id}/role", {"role": "owner"}).status_code == 422


def test_the_last_admin_stays(make_user: MakeUser, sign_in: SignIn) -> None:
    user = make_user("admin")
    browser = sign_in(user)
    for path, form in ((f"/people/{user.id}/role", {"role": "labeler"}), (f"/people/{user.id}/disable", {})):
        answer = browser.post_form(path, form)
        assert answer.status_code == 409
        assert "last active admin" in answer.text
    other = make_user("admin")
    assert browser.post_form(f"/people/{other.id}/disable").status_code == 303


def test_two_admins_who_remove_each_other_at_once_leave_one(make_user: MakeUser, sign_in: SignIn) -> None:
    for _ in range(5):
        with db.transaction() as session:
            session.execute(text("UPDATE users SET disabled_at = now()"))
        first, second = make_user("admin"), make_user("admin")
        attacks = [(sign_in(first), second), (sign_in(second), first)]
        with ThreadPoolExecutor(2) as pool:
            statuses = list(
                pool.map(lambda pair: pair[0].post_form(f"/people/{pair[1].id}/disable").status_code, attacks)
            )
        assert scalar("SELECT count(*) FROM users WHERE role = 'admin' AND disabled_at IS NULL") == 1
        assert 303 in statuses


def test_each_change_leaves_one_audit_event_with_its_actor(admin: Browser, make_user: MakeUser) -> None:
    user = make_user()
    admin.post_form(f"/people/{user.id}/role", {"role": "reviewer"})
    admin.post_form(f"/people/{user.id}/role", {"role": "reviewer"})
    admin.post_form(f"/people/{user.id}/disable")
    invite(admin)
    with db.transaction() as session:
        rows = session.execute(
            text("SELECT action, actor_id IS NOT NULL FROM audit_events WHERE action <> 'session.opened' ORDER BY id")
        ).all()
    assert [tuple(row) for row in rows] == [
        ("user.role_changed", True),
        ("user.disabled", True),
        ("invitation.created", True),
    ]


def test_there_is_no_registration_and_no_account_to_begin_with(client: Browser) -> None:
    assert scalar("SELECT count(*) FROM users") == 0
    assert {client.get(path).status_code for path in ("/register", "/signup", "/sign-up", "/invite")} == {404}
