"""Quarantines: a labeler's work, or everyone's, of a time range, left out of snapshots until it is lifted."""

from __future__ import annotations

from sqlalchemy import ColumnElement, exists, or_

from app.models import Demonstration, Quarantine, Ranking


def is_set_aside(table: type[Ranking] | type[Demonstration]) -> ColumnElement[bool]:
    """Return the condition that a row falls under a quarantine that holds. Snapshots and previews use this one."""
    return exists().where(
        Quarantine.project_id == table.project_id,
        Quarantine.lifted_at.is_(None),
        or_(Quarantine.user_id.is_(None), Quarantine.user_id == table.user_id),
        or_(Quarantine.starts_at.is_(None), Quarantine.starts_at <= table.created_at),
        or_(Quarantine.ends_at.is_(None), Quarantine.ends_at > table.created_at),
    )
