"""The schema that the migrations make is the one that the models describe."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.orm import Session

from app.db import Base


def test_the_migrations_make_what_the_models_describe(session: Session) -> None:
    context = MigrationContext.configure(session.connection(), opts={"compare_server_default": True})
    assert compare_metadata(context, Base.metadata) == []
