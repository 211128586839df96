"""Accounts by invitation only: invite, redeem once, change roles, disable; never register, never delete."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import ConflictError, GoneError, InvalidInputError, NotFoundError
from app.models import Invitation, User
from app.models.accounts import ROLES
from app.services.accounts import access, audit, passwords
from app.services.projects import tags

INVITATION_DAYS = 7
_EMAIL = re.compile(r"[^@\s<>\"'(),;:\\]{1,64}@[^@\s<>\"'(),;:\\]+\.[^@\s<>\"'(),;:\\.]{2,}")
_ENDED = "This invitation was used, revoked or has expired. Ask an admin for a new link."


def create_admin(session: Session, email: str, name: str, password: str) -> User:
    """Create an admin without an invitation, for the command line; raise if the address or password will not do."""
    address, name = check_email(email), check_name(name)
    passwords.check_strength(password, "admin", email=address, name=name)
    return _create_user(session, address, name, "admin", password, is_simulated=False)


def _create_user(session: Session, email: str, name: str, role: str, password: str, *, is_simulated: bool) -> User:
    user = User(
        email=email, name=name, role=role, password_hash=passwords.hash_password(password), is_simulated=is_simulated
    )
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError as error:
        raise ConflictError("There is an account with this e-mail address already. Sign in with it.") from error
    audit.record(session, user, "user.created", "user", user.id, role=role)
    return user


def check_email(email: str) -> str:
    """Return the address as it is stored; raise InvalidInputError if it does not look like one."""
    normal = access.normal_email(email)
    if len(normal) > 254 or not _EMAIL.fullmatch(normal):
        raise InvalidInputError("Enter an e-mail address such as kim@example.org.")
    return normal


def check_name(name: str) -> str:
    """Return the name without outer or doubled spaces; raise InvalidInputError if it is empty, long or unprintable."""
    clean = " ".join(name.split())
    if not 1 <= len(clean) <= 80 or not clean.isprintable():
        raise InvalidInputError("Enter a name of 1 to 80 characters.")
    return clean


def check_role(role: str) -> str:
    """Return the role; raise InvalidInputError if there is none of that name."""
    if role not in ROLES:
        raise InvalidInputError("Choose one of the roles labeler, reviewer and admin.")
    return role


def invite(session: Session, actor: User, email: str, role: str, *, is_simulated: bool = False) -> tuple[str, datetime]:
    """Create an invitation and return its secret token and its end. An earlier open one for the address ends.

    `is_simulated` marks accounts that a program will use; every answer they give is marked as well.
    """
    address, role = check_email(email), check_role(role)
    if session.scalar(select(User.id).where(func.lower(User.email) == address)):
        raise ConflictError("There is an account with this e-mail address already.")
    session.execute(
        update(Invitation)
        .where(
            Invitation.email == address,
            Invitation.redeemed_at.is_(None),
            Invitation.expires_at > func.clock_timestamp(),
        )
        .values(expires_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
    token = secrets.token_urlsafe(32)
    invitation = Invitation(
        email=address,
        role=role,
        is_simulated=is_simulated,
        token_sha256=access.digest(token),
        invited_by=actor.id,
        expires_at=func.clock_timestamp() + timedelta(days=INVITATION_DAYS),
    )
    session.add(invitation)
    session.flush()
    session.refresh(invitation)
    audit.record(session, actor, "invitation.created", "invitation", invitation.id, role=role, email=address)
    return token, invitation.expires_at


def find_invitation(session: Session, token: str) -> Invitation:
    """Return the open invitation of this token; raise GoneError if it is none (any more)."""
    found = session.scalar(
        select(Invitation).where(
            Invitation.token_sha256 == access.digest(token),
            Invitation.redeemed_at.is_(None),
            Invitation.expires_at > func.clock_timestamp(),
        )
    )
    if found is None:
        raise GoneError(_ENDED)
    return found


def redeem(session: Session, token: str, name: str, password: str) -> User:
    """Turn an invitation into an account. Of many attempts at once exactly one succeeds, the others raise GoneError.

    The invitation is taken before the password is hashed: the others wait for its row and cost no hash. A password that
    will not do raises InvalidInputError; the caller's savepoint then gives the invitation back.
    """
    name = check_name(name)
    taken = session.execute(
        update(Invitation)
        .where(
            Invitation.token_sha256 == access.digest(token),
            Invitation.redeemed_at.is_(None),
            Invitation.expires_at > func.clock_timestamp(),
        )
        .values(redeemed_at=func.clock_timestamp())
        .returning(Invitation.id, Invitation.email, Invitation.role, Invitation.is_simulated)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        raise GoneError(_ENDED)
    passwords.check_strength(password, taken.role, email=taken.email, name=name)
    user = _create_user(session, taken.email, name, taken.role, password, is_simulated=taken.is_simulated)
    session.execute(
        update(Invitation)
        .where(Invitation.id == taken.id)
        .values(redeemed_by=user.id)
        .execution_options(synchronize_session=False)
    )
    return user


def revoke_invitation(session: Session, actor: User, invitation_id: UUID) -> None:
    """End an open invitation; a second revocation changes nothing. Raise NotFoundError for an unknown one."""
    invitation = session.get(Invitation, invitation_id, with_for_update=True)
    if invitation is None:
        raise NotFoundError("There is no such invitation.")
    if invitation.redeemed_at is not None:
        raise ConflictError("This invitation was used already. Disable the account instead.")
    invitation.expires_at = func.least(Invitation.expires_at, func.clock_timestamp())
    audit.record(session, actor, "invitation.revoked", "invitation", invitation.id)


def open_invitations(session: Session) -> Sequence[Invitation]:
    """Return the invitations that can still be used, the newest first."""
    return session.scalars(
        select(Invitation)
        .where(Invitation.redeemed_at.is_(None), Invitation.expires_at > func.clock_timestamp())
        .order_by(Invitation.created_at.desc())
    ).all()


def list_users(session: Session) -> Sequence[User]:
    """Return everyone, active accounts first, then by name."""
    return session.scalars(
        select(User).where(~User.is_imported).order_by(User.disabled_at.is_not(None), func.lower(User.name), User.id)
    ).all()


def change_role(session: Session, actor: User, user_id: UUID, role: str) -> None:
    """Give a user another role and end their sessions; the last active admin keeps theirs (ConflictError)."""
    role = check_role(role)
    user = _user_for_change(session, user_id, keeps_admin=role == "admin")
    if user.role == role:
        return
    audit.record(session, actor, "user.role_changed", "user", user.id, before=user.role, after=role)
    user.role = role
    access.end_all_sessions(session, user.id)


def set_disabled(session: Session, actor: User, user_id: UUID, *, disabled: bool) -> None:
    """Disable a user, which ends their sessions at once, or enable them again. The last active admin stays."""
    user = _user_for_change(session, user_id, keeps_admin=not disabled)
    if (user.disabled_at is not None) == disabled:
        return
    user.disabled_at = func.clock_timestamp() if disabled else None
    audit.record(session, actor, "user.disabled" if disabled else "user.enabled", "user", user.id)
    if disabled:
        access.end_all_sessions(session, user.id)


def set_tags(session: Session, actor: User, user_id: UUID, text: str) -> None:
    """Say what a person can judge; tasks that ask for tags go only to who has them all. The same again is no change."""
    wanted = tags.from_text(text)
    user = session.get(User, user_id, with_for_update=True)
    if user is None:
        raise NotFoundError("There is no such account.")
    if list(user.tags) != wanted:
        audit.record(session, actor, "user.tagged", "user", user.id, before=list(user.tags), after=wanted)
        user.tags = wanted


def _user_for_change(session: Session, user_id: UUID, *, keeps_admin: bool) -> User:
    """Return the user, locked, with all active admins: two admins cannot take the role from each other at once."""
    admins = session.scalars(
        select(User).where(User.role == "admin", User.disabled_at.is_(None)).order_by(User.id).with_for_update()
    ).all()
    user = session.get(User, user_id, with_for_update=True)
    if user is None:
        raise NotFoundError("There is no such account.")
    if not keeps_admin and [admin.id for admin in admins] == [user.id]:
        raise ConflictError("This is the last active admin. Make somebody else an admin first.")
    return user


def change_password(session: Session, user: User, current: str, new: str) -> None:
    """Set a new password and end all the user's sessions, this one too; raise InvalidInputError if one will not do."""
    if not passwords.matches(user.password_hash, current):
        raise InvalidInputError("The current password is not right.")
    passwords.check_strength(new, user.role, email=user.email, name=user.name)
    session.execute(
        update(User)
        .where(User.id == user.id)
        .values(password_hash=passwords.hash_password(new))
        .execution_options(synchronize_session=False)
    )
    access.end_all_sessions(session, user.id)
    audit.record(session, user, "user.password_changed", "user", user.id)


def admin_named(session: Session, email: str) -> User:
    """Return the active admin with this address, or raise `NotFoundError`."""
    user = session.scalar(
        select(User).where(
            func.lower(User.email) == email.strip().lower(), User.role == "admin", User.disabled_at.is_(None)
        )
    )
    if user is None:
        raise NotFoundError(f"There is no active admin with the address {email}.")
    return user
