"""Tables of people and what they sign in with: users, sessions, invitations, API tokens, sign-in attempts, audit."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, IdPk, Now

ROLES = ("labeler", "reviewer", "admin")


class User(Base):
    """A person, or a simulated labeler (`is_simulated`), who can sign in. Never deleted, only disabled.

    `is_imported` is a labeler of rankings from elsewhere, who never signs in. `tags` name what they can judge, such as
    `lang:de`; a task that asks for tags goes only to who has them all.
    """

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("role IN ('labeler', 'reviewer', 'admin')", name="role"),
        CheckConstraint("NOT is_imported OR disabled_at IS NOT NULL", name="is_imported"),
        Index("uq_users_email_lower", func.lower(text("email")), unique=True),
    )

    id: Mapped[IdPk]
    email: Mapped[str]
    name: Mapped[str]
    role: Mapped[str]
    password_hash: Mapped[str]
    is_simulated: Mapped[bool] = mapped_column(server_default=text("false"))
    is_imported: Mapped[bool] = mapped_column(server_default=text("false"))
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[Now]


class WebSession(Base):
    """A signed-in browser. The cookie holds 256 random bits, the table only their SHA-256."""

    __tablename__ = "web_sessions"

    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    csrf_token: Mapped[str]
    user_agent: Mapped[str]
    created_at: Mapped[Now]
    last_seen_at: Mapped[Now]
    expires_at: Mapped[datetime]

    user: Mapped[User] = relationship(lazy="raise")


class Invitation(Base):
    """The only way to an account: single-use, expiring; the link holds the secret, the table its SHA-256."""

    __tablename__ = "invitations"
    __table_args__ = (CheckConstraint("role IN ('labeler', 'reviewer', 'admin')", name="role"),)

    id: Mapped[IdPk]
    email: Mapped[str]
    role: Mapped[str]
    is_simulated: Mapped[bool] = mapped_column(server_default=text("false"))
    token_sha256: Mapped[bytes] = mapped_column(unique=True)
    invited_by: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[Now]
    expires_at: Mapped[datetime]
    redeemed_at: Mapped[datetime | None]
    redeemed_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))


class ApiToken(Base):
    """A token for the REST API: shown once, stored as SHA-256, scoped, expiring, revocable."""

    __tablename__ = "api_tokens"

    id: Mapped[IdPk]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str]
    public_id: Mapped[str] = mapped_column(unique=True)
    secret_sha256: Mapped[bytes]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[Now]
    expires_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SignInAttempt(Base):
    """A failed sign-in, counted per account and per address to slow guessing down."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (Index("ix_sign_in_attempts_subject_at", "subject", "at"),)

    id: Mapped[IdPk]
    subject: Mapped[str]
    at: Mapped[Now]


class AuditEvent(Base):
    """Append-only: who did what to which object, written in the transaction of the change."""

    __tablename__ = "audit_events"

    id: Mapped[IdPk]
    actor_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    action: Mapped[str]
    object_type: Mapped[str]
    object_id: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    at: Mapped[Now]
