"""Accounts without the web: the first admin, simulated labelers, and addresses that differ in case only."""

from __future__ import annotations

import pytest
from browsers import MakeUser
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError
from app.services.accounts import access, accounts, passwords

GOOD = "gravel umbrella sideways"


def test_create_admin_makes_an_active_admin(session: Session) -> None:
    user = accounts.create_admin(session, " Kim@Example.org ", "Kim", GOOD)
    assert (user.email, user.role, user.is_simulated, user.disabled_at) == ("kim@example.org", "admin", False, None)
    assert passwords.matches(user.password_hash, GOOD)
    assert session.scalar(text("SELECT action FROM audit_events")) == "user.created"


def test_create_admin_refuses_what_will_not_do(session: Session) -> None:
    for email, name, password in (
        ("kim", "Kim", GOOD),
        ("kim@example.org", " ", GOOD),
        ("kim@example.org", "K\x00", GOOD),
        ("kim@example.org", "Kim", "short"),
    ):
        with pytest.raises(InvalidInputError):
            accounts.create_admin(session, email, name, password)
    assert session.scalar(text("SELECT count(*) FROM users")) == 0


def test_an_address_belongs_to_one_account_whatever_its_case(session: Session) -> None:
    accounts.create_admin(session, "kim@example.org", "Kim", GOOD)
    with pytest.raises(ConflictError, match="account with this e-mail"):
        accounts.create_admin(session, "KIM@example.org", "Kim", GOOD)
    assert session.scalar(text("SELECT count(*) FROM users")) == 1


def test_an_invitation_for_a_program_marks_the_account(session: Session) -> None:
    admin = accounts.create_admin(session, "kim@example.org", "Kim", GOOD)
    token, _ = accounts.invite(session, admin, "robot@example.org", "labeler", is_simulated=True)
    assert accounts.redeem(session, token, "Robot", "walnut tram").is_simulated


def test_ended_sessions_are_swept_and_live_ones_stay(session: Session, make_user: MakeUser) -> None:
    user = make_user()
    tokens = [access.open_session(session, user, "browser") for _ in range(3)]
    for token, change in (
        (tokens[0], "UPDATE web_sessions SET last_seen_at = now() - interval '13 hours' WHERE token_sha256 = :digest"),
        (tokens[1], "UPDATE web_sessions SET expires_at = now() - interval '1 second' WHERE token_sha256 = :digest"),
    ):
        session.execute(text(change), {"digest": access.digest(token)})
    assert access.discard_ended_sessions(session) == 2
    assert session.scalars(text("SELECT token_sha256 FROM web_sessions")).all() == [access.digest(tokens[2])]


def test_attempts_that_no_longer_count_are_forgotten(session: Session) -> None:
    session.execute(
        text(
            "INSERT INTO sign_in_attempts (subject, at) SELECT 'account:' || n, now() - interval '1 day' "
            "FROM generate_series(1, 150) AS n"
        )
    )
    for left in (50, 0):
        access.admit_attempt(session, "kim@example.org", "192.0.2.1")
        assert (
            session.scalar(text("SELECT count(*) FROM sign_in_attempts WHERE at < now() - interval '1 hour'")) == left
        )


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_an_ipv6_customer_counts_as_one_address(address: str, block: str) -> None:
    assert access.address_block(address) == block
