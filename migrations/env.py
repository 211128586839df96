"""Alembic's environment: one transaction a migration, with short timeouts, so that it fails rather than blocks."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, text

from app import models  # noqa: F401  (registers every table with the metadata)
from app.db import Base, normalise_url

LOCK_TIMEOUT = "4s"
STATEMENT_TIMEOUT = "60s"


def run(connection: Connection) -> None:
    """Upgrade or downgrade over one connection; a second migrator waits for the first (advisory lock)."""
    connection.execute(text("SELECT pg_advisory_lock(727274)"))
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Connect to `sqlalchemy.url` of the Alembic configuration and run."""
    url = context.config.get_main_option("sqlalchemy.url")
    if url is None:
        raise SystemExit("Use `plackett migrate`: it hands the database's address to Alembic.")
    engine = create_engine(normalise_url(url))
    try:
        with engine.connect() as connection:
            run(connection)
    finally:
        # After a failure, too: the advisory lock is the connection's, and a second try would wait for it for ever.
        engine.dispose()


main()
