"""Lists a page at a time, by the key of the last row seen: steady while rows are added, as fast at the end as at first.

Keys are ids that grow with time (UUIDv7), so a page is a range of the primary key. A row whose transaction commits
late, while its id is older than the page's last, is not seen by whoever has passed it; an export sees one moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import NotFoundError
from app.services.accounts.tokens import NOTHING

Fields = dict[str, Any]
Query = Select[*tuple[Any, ...]]


@dataclass(frozen=True)
class Part:
    """Which part of a list: `limit` rows after the key `after`, the oldest first or the newest."""

    limit: int
    after: UUID | None = None
    newest: bool = False


@dataclass(frozen=True)
class Listing:
    """A page of rows, as the columns of the query name them. `last` is the key to go on from, None at the end."""

    rows: Sequence[Fields]
    last: UUID | None


def page(session: Session, query: Query, key: InstrumentedAttribute[UUID], part: Part) -> Listing:
    """Return a part of what the query finds; `key` is a unique column of it."""
    if part.after is not None:
        query = query.where(key < part.after if part.newest else key > part.after)
    query = query.order_by(key.desc() if part.newest else key).limit(part.limit + 1)
    found = session.execute(query.add_columns(key.label("key_of_page"))).all()
    rows = [dict(row._mapping) for row in found[: part.limit]]
    keys = [row.pop("key_of_page") for row in rows]
    return Listing(rows, keys[-1] if len(found) > part.limit else None)


def one(session: Session, query: Query, key: InstrumentedAttribute[UUID], wanted: UUID) -> Fields:
    """Return the one row with this key, or raise `NotFoundError`."""
    row = session.execute(query.where(key == wanted)).one_or_none()
    if row is None:
        raise NotFoundError(NOTHING)
    return dict(row._mapping)
