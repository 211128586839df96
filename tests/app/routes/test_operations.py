"""The page of operations: a calm warning until a backup was proved to come back, and again when that is long ago."""

from __future__ import annotations

from browsers import MakeUser, SignIn
from sqlalchemy import text

from app.db import transaction
from app.services.accounts import backups
from app.services.training import workers

WARNING = "No backup was proved to come back in the last 8 days."


def test_the_page_warns_until_a_backup_was_proved_and_when_that_is_long_ago(
    make_user: MakeUser, sign_in: SignIn, redis_url: str
) -> None:
    admin = sign_in(make_user("admin"))
    page = admin.get("/operations").text
    assert WARNING in page
    assert page.count(">never<") == 2
    assert "of that moment" not in page
    with transaction() as session:
        backups.note_made(session, "0" * 64, "2026-11-01T03:00:00+00:00")
    assert WARNING in admin.get("/operations").text, "a backup that nobody has restored is a hope"
    with transaction() as session:
        backups.note_verified(session, "0" * 64, "2026-11-01T03:00:00+00:00")
        workers.seen(session, "host-a:1")
    page = admin.get("/operations").text
    assert WARNING not in page
    assert "never" not in page
    assert 'datetime="2026-11-01T03:00' in page
    assert "host-a:1" in page
    with transaction() as session:
        session.execute(text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
        session.execute(text("UPDATE audit_events SET at = at - interval '9 days'"))
        session.execute(text("ALTER TABLE audit_events ENABLE TRIGGER USER"))
    assert WARNING in admin.get("/operations").text


def test_the_page_is_for_admins(make_user: MakeUser, sign_in: SignIn) -> None:
    assert sign_in(make_user("admin")).get("/operations").status_code == 200
    assert sign_in(make_user("reviewer")).get("/operations").status_code == 403
