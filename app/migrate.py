"""Bring a database to the newest schema with Alembic, from inside the package."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

import migrations


def alembic_config(database_url: str) -> Config:
    """Return Alembic's configuration for our migrations and this database."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run all migrations up to `revision`; nothing happens when the database is there already."""
    command.upgrade(alembic_config(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    """Take migrations back down to `revision` ("base" for all of them)."""
    command.downgrade(alembic_config(database_url), revision)


def is_current(engine: Engine) -> bool:
    """Return whether the database is at the newest revision that this code knows."""
    head = ScriptDirectory.from_config(alembic_config("")).get_current_head()
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except ProgrammingError:
        return False
    return bool(found == head)
