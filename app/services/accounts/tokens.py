"""Tokens of the REST API: `pkt_<public id>_<secret>`, shown once, stored as a hash, scoped, expiring, revocable.

The public id finds the row; the secret is 256 random bits, so a plain SHA-256 is enough and is compared in constant
time. The prefix lets scanners of leaked secrets recognise one of ours.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.errors import ForbiddenError, InvalidInputError, NotFoundError, NotSignedInError
from app.models import ApiToken, Project, User
from app.services.accounts import audit

SCOPES = {
    "export:read": "Read projects, prompts, tasks and answers, and export them",
    "people:read": "See the names of labelers and addresses beside their pseudonyms",
    "import:write": "Add prompts and answers, and import files",
    "tasks:write": "Make and change tasks, projects, their settings and members",
    "snapshots:write": "Freeze snapshots",
    "runs:read": "Read runs, snapshots, model versions, schedules and rounds",
    "runs:write": "Queue and cancel runs, start and stop blind evaluations",
    "schedules:write": "Make, change and pause schedules, cancel their rounds",
    "models:write": "Promote model versions, set the gate, go back to the policy before",
}
NOTHING = "There is nothing with this id, or it belongs to a project that this token may not see."
MOST_DAYS = 365
NOTE_USE_SECONDS = 60
_SHAPE = re.compile(r"pkt_([0-9a-f]{16})_([0-9a-f]{64})")
_REFUSED = "This token is not valid: it is unknown, revoked or has ended. Ask an admin for a new one."


@dataclass(frozen=True)
class Caller:
    """Who calls the API: what the token allows, and in which project (None: all of them)."""

    token_id: UUID
    scopes: frozenset[str]
    project_id: UUID | None
    name: str
    expires_at: datetime

    def require(self, scope: str) -> None:
        """Raise `ForbiddenError` unless the token has the scope."""
        if scope not in self.scopes:
            raise ForbiddenError(f"This token lacks the scope {scope}; ask an admin for one that has it.")

    def require_project(self, project_id: UUID) -> None:
        """Raise `NotFoundError` when the token belongs to another project: it may not know what else there is."""
        if self.project_id not in (None, project_id):
            raise NotFoundError(NOTHING)


def create(
    session: Session, user: User, *, name: str, scopes: Collection[str], project_id: UUID | None, days: int
) -> tuple[ApiToken, str]:
    """Make a token and return it with its text, which nobody can read again later."""
    if not scopes or set(scopes) - SCOPES.keys():
        raise InvalidInputError(f"A token has at least one of the scopes {', '.join(SCOPES)}.")
    if not 1 <= days <= MOST_DAYS:
        raise InvalidInputError(f"A token lasts from 1 to {MOST_DAYS} days.")
    if project_id is not None and session.get(Project, project_id) is None:
        raise NotFoundError("There is no such project.")
    public_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    token = ApiToken(
        user_id=user.id,
        name=name,
        public_id=public_id,
        secret_sha256=_digest(secret),
        scopes=sorted(scopes),
        project_id=project_id,
        expires_at=func.clock_timestamp() + timedelta(days=days),
    )
    session.add(token)
    session.flush()
    audit.record(session, user, "token.created", "api_token", token.id, scopes=sorted(scopes), days=days)
    return token, f"pkt_{public_id}_{secret}"


def authenticate(session: Session, text: str) -> Caller:
    """Return who calls with this token; raise `NotSignedInError` for one that is not good (any more)."""
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise NotSignedInError(_REFUSED)
    row = session.scalar(
        select(ApiToken)
        .join(User, User.id == ApiToken.user_id)
        .where(
            ApiToken.public_id == shape[1],
            ApiToken.revoked_at.is_(None),
            ApiToken.expires_at > func.clock_timestamp(),
            # A token is worth no more than its maker: it dies when their account is disabled or is no admin's.
            User.disabled_at.is_(None),
            User.role == "admin",
        )
    )
    if row is None or not hmac.compare_digest(row.secret_sha256, _digest(shape[2])):
        raise NotSignedInError(_REFUSED)
    now = func.clock_timestamp()
    stale = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < now - timedelta(seconds=NOTE_USE_SECONDS))
    # Never by waiting for another request with the same token, which may take as long as an export.
    free = select(ApiToken.id).where(ApiToken.id == row.id, stale).with_for_update(skip_locked=True)
    session.execute(
        update(ApiToken)
        .where(ApiToken.id.in_(free))
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )
    return Caller(row.id, frozenset(row.scopes), row.project_id, row.name, row.expires_at)


def maker(session: Session, caller: Caller) -> User:
    """Return the admin whose token it is."""
    return session.scalars(
        select(User).join(ApiToken, ApiToken.user_id == User.id).where(ApiToken.id == caller.token_id)
    ).one()


def listed(session: Session) -> Sequence[tuple[ApiToken, User, str | None]]:
    """Return all tokens, the newest first, with who made them and the name of their project."""
    rows = session.execute(
        select(ApiToken, User, Project.name)
        .join(User, User.id == ApiToken.user_id)
        .outerjoin(Project, Project.id == ApiToken.project_id)
        .order_by(ApiToken.id.desc())
    )
    return [(token, user, name) for token, user, name in rows]


def ended(session: Session) -> Sequence[UUID]:
    """Return the ids of the tokens whose time is over, by the database's clock."""
    return session.scalars(select(ApiToken.id).where(ApiToken.expires_at <= func.clock_timestamp())).all()


def revoke(session: Session, token_id: UUID, user: User) -> None:
    """End a token now. Ending it twice is the same as once."""
    token = session.get(ApiToken, token_id)
    if token is None:
        raise NotFoundError("There is no such token.")
    revoked = session.scalar(
        update(ApiToken)
        .where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(ApiToken.id)
    )
    if revoked is not None:
        audit.record(session, user, "token.revoked", "api_token", token_id)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
