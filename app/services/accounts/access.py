"""Signing in and staying signed in: throttled attempts, and sessions kept on the server.

The cookie holds 256 random bits, the table their SHA-256, so a copy of the database opens no session. Postgres' clock
decides what has ended. Failed attempts are counted before the password is checked, under a lock on the counters, so
that a hundred guesses sent at once count as a hundred.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session, contains_eager

from app.errors import NotSignedInError, TooManyAttemptsError
from app.models import SignInAttempt, User, WebSession
from app.services.accounts import audit
from app.settings import get_settings

WRONG = "That e-mail address and password do not belong to an active account. Check both and try again."
WINDOW = timedelta(minutes=15)
# Failures that cost nothing, and the longest wait in seconds after more: for one account from one address, for one
# address, for one account from anywhere. The second leaves room for a whole office that signs in through one address
# in the same minute; the last is lenient, so that nobody can shut another person out for long.
FREE_PAIR, LONGEST_PAIR = 5, 300
FREE_ADDRESS, LONGEST_ADDRESS = 300, 300
FREE_ACCOUNT, LONGEST_ACCOUNT = 100, 30
TOUCH_EVERY = timedelta(minutes=5)


@dataclass(frozen=True)
class Attempt:
    """An admitted sign-in attempt: whom it is for, and the rows that count it as failed until it succeeds."""

    user_id: UUID | None
    password_hash: str | None
    pair: str
    rows: tuple[UUID, ...]


@dataclass(frozen=True)
class Viewer:
    """What a page shows of whoever looks at it: plain values, which outlive the transaction that read them."""

    name: str
    email: str
    role: str
    is_simulated: bool
    created_at: datetime


def viewer_of(user: User) -> Viewer:
    """Return what the layout shows of a user."""
    return Viewer(user.name, user.email, user.role, user.is_simulated, user.created_at)


def digest(token: str) -> bytes:
    """Return what is stored of a secret token. It is random already, so one SHA-256 suffices."""
    return hashlib.sha256(token.encode()).digest()


def normal_email(email: str) -> str:
    """Return the address as it is stored and compared."""
    return email.strip().lower()


def admit_attempt(session: Session, email: str, address: str) -> Attempt:
    """Count an attempt as failed for now and return whose password to check; raise TooManyAttemptsError to slow down.

    `address` is the client's network address. The answer tells no one whether the account exists.
    """
    account = "account:" + hashlib.sha256(normal_email(email).encode()).hexdigest()
    source = "address:" + address_block(address)
    limits = {
        f"{account} {source}": (FREE_PAIR, LONGEST_PAIR),
        source: (FREE_ADDRESS, LONGEST_ADDRESS),
        account: (FREE_ACCOUNT, LONGEST_ACCOUNT),
    }
    for subject in sorted(limits):  # always in one order, so that two attempts cannot wait for each other
        session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:subject, 0))"), {"subject": subject})
    wait = max(_wait(session, subject, *limit) for subject, limit in limits.items())
    if wait > 0:
        raise TooManyAttemptsError(
            f"Too many attempts. Please wait {_spoken(wait)}, then try again; your account is not locked.", wait
        )
    rows = tuple(_count(session, subject) for subject in limits)
    _forget_old_attempts(session)
    user = session.scalar(select(User).where(func.lower(User.email) == normal_email(email), User.disabled_at.is_(None)))
    return Attempt(
        user_id=user.id if user else None,
        password_hash=user.password_hash if user else None,
        pair=f"{account} {source}",
        rows=rows,
    )


def _wait(session: Session, subject: str, free: int, longest: int) -> int:
    """Return the seconds until the next attempt is allowed: 1, 2, 4 … after the free ones, counted from the last."""
    failures, since = session.execute(
        select(func.count(), func.extract("epoch", func.clock_timestamp() - func.max(SignInAttempt.at))).where(
            SignInAttempt.subject == subject, SignInAttempt.at > func.clock_timestamp() - WINDOW
        )
    ).one()
    if failures < free:
        return 0
    pause = min(longest, 2 ** min(failures - free, 20))
    return max(0, int(pause - float(since) + 0.999))


def _count(session: Session, subject: str) -> UUID:
    row = SignInAttempt(subject=subject)
    session.add(row)
    session.flush()
    return row.id


def _forget_old_attempts(session: Session) -> None:
    """Delete some attempts that no longer count, without waiting for another request that does the same."""
    old = (
        select(SignInAttempt.id)
        .where(SignInAttempt.at < func.clock_timestamp() - WINDOW)
        .limit(100)
        .with_for_update(skip_locked=True)
    )
    session.execute(delete(SignInAttempt).where(SignInAttempt.id.in_(old)).execution_options(synchronize_session=False))


def _spoken(seconds: int) -> str:
    return f"{seconds} seconds" if seconds < 120 else f"{seconds // 60 + 1} minutes"


def address_block(address: str) -> str:
    """Return the address, or for IPv6 its /64: one customer holds all of that."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def finish_attempt(
    session: Session, attempt: Attempt, *, password_fits: bool, user_agent: str, previous_token: str | None
) -> str:
    """Open a session for a checked attempt and return its token; raise NotSignedInError in the one wording.

    The attempt no longer counts as failed, and a session this browser held before ends, so no known token lives on.
    """
    user = session.get(User, attempt.user_id, with_for_update=True) if attempt.user_id and password_fits else None
    if user is None or user.disabled_at is not None or user.password_hash != attempt.password_hash:
        raise NotSignedInError(WRONG)
    session.execute(
        delete(SignInAttempt).where((SignInAttempt.id.in_(attempt.rows)) | (SignInAttempt.subject == attempt.pair))
    )
    if previous_token:
        end_session(session, previous_token)
    return open_session(session, user, user_agent)


def open_session(session: Session, user: User, user_agent: str) -> str:
    """Create a session for the user and return the token for the cookie, which is stored nowhere."""
    token = secrets.token_urlsafe(32)
    settings = get_settings()
    session.add(
        WebSession(
            token_sha256=digest(token),
            user_id=user.id,
            csrf_token=secrets.token_urlsafe(32),
            user_agent=user_agent[:200],
            expires_at=func.clock_timestamp() + timedelta(days=settings.session_absolute_days),
        )
    )
    audit.record(session, user, "session.opened", "user", user.id)
    session.flush()
    return token


def find_session(session: Session, token: str) -> WebSession | None:
    """Return the live session of this token with its active user, or None.

    Notes that it was used, at most once in five minutes and never by waiting for another request of the same browser.
    This is the one write a GET may cause.
    """
    idle = timedelta(hours=get_settings().session_idle_hours)
    now = func.clock_timestamp()
    found = session.execute(
        select(WebSession, now.label("now"))
        .join(WebSession.user)
        .options(contains_eager(WebSession.user))
        .where(
            WebSession.token_sha256 == digest(token),
            WebSession.expires_at > now,
            WebSession.last_seen_at > now - idle,
            User.disabled_at.is_(None),
        )
    ).one_or_none()
    if found is None:
        return None
    web_session: WebSession = found[0]
    seen: datetime = found[1]
    if web_session.last_seen_at < seen - TOUCH_EVERY:
        _touch(session, web_session, seen)
    return web_session


def _touch(session: Session, web_session: WebSession, seen: datetime) -> None:
    free = (
        select(WebSession.token_sha256)
        .where(WebSession.token_sha256 == web_session.token_sha256)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        update(WebSession)
        .where(WebSession.token_sha256.in_(free))
        .values(last_seen_at=seen)
        .execution_options(synchronize_session=False)
    )


def end_session(session: Session, token: str) -> None:
    """End the session of this token; nothing happens if it has ended already."""
    session.execute(delete(WebSession).where(WebSession.token_sha256 == digest(token)))


def end_all_sessions(session: Session, user_id: UUID) -> None:
    """Sign the user out of every browser."""
    session.execute(delete(WebSession).where(WebSession.user_id == user_id))


def count_sessions(session: Session, user_id: UUID) -> int:
    """Return how many browsers the user is signed in with."""
    return (
        session.scalar(
            select(func.count())
            .select_from(WebSession)
            .where(WebSession.user_id == user_id, WebSession.expires_at > func.clock_timestamp())
        )
        or 0
    )


def discard_ended_sessions(session: Session) -> int:
    """Delete sessions that have ended by themselves, and return how many. The workers' tick calls it."""
    idle = timedelta(hours=get_settings().session_idle_hours)
    now = func.clock_timestamp()
    gone = session.execute(
        delete(WebSession)
        .where((WebSession.expires_at <= now) | (WebSession.last_seen_at <= now - idle))
        .returning(WebSession.user_id)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())
